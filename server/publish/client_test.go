package publish_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/notary/client"
	"github.com/theupdateframework/notary/client/changelist"
	"github.com/theupdateframework/notary/cryptoservice"
	"github.com/theupdateframework/notary/passphrase"
	notarystorage "github.com/theupdateframework/notary/storage"
	"github.com/theupdateframework/notary/trustmanager"
	"github.com/theupdateframework/notary/trustpinning"
	"github.com/theupdateframework/notary/tuf/data"
	"github.com/theupdateframework/notary/tuf/signed"
	"github.com/theupdateframework/notary/tuf/utils"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// A remote is the server as the real client library sees it, without HTTP
// between: every answer comes from the Publisher and its store.
type remote struct {
	s   *stack
	gun tuf.GUN
}

var _ notarystorage.RemoteStore = remote{}

func (r remote) GetSized(name string, size int64) ([]byte, error) {
	m, err := r.get(name)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notarystorage.ErrMetaNotFound{Resource: name}
	}
	if err == nil && size != notarystorage.NoSizeLimit && int64(len(m.Data)) > size {
		return nil, notarystorage.ErrMaliciousServer{}
	}
	return m.Data, err
}

func (r remote) get(name string) (storage.Metadata, error) {
	ctx, role := r.s.Context(), tuf.RoleName(name)
	if before, sum, ok := strings.Cut(name, "."); ok {
		if version, err := strconv.Atoi(before); err == nil {
			return r.s.store.ByVersion(ctx, r.gun, tuf.RoleName(sum), tuf.Version(version))
		}
		checksum, err := tuf.ParseChecksum(sum)
		if err != nil {
			return storage.Metadata{}, err
		}
		return r.s.store.ByChecksum(ctx, r.gun, tuf.RoleName(before), checksum)
	}
	switch role {
	case tuf.RoleTimestamp:
		return r.s.Timestamp(ctx, r.gun)
	case tuf.RoleSnapshot:
		return r.s.Snapshot(ctx, r.gun)
	}
	gen, err := r.s.store.Generation(ctx, r.gun, role)
	if err != nil {
		return storage.Metadata{}, err
	}
	m, ok := gen.Files[role]
	if !ok {
		return m, storage.ErrNotFound
	}
	return m, nil
}

func (r remote) SetMulti(parts map[string][]byte) error {
	up := publish.Upload{}
	for role, content := range parts {
		up[tuf.RoleName(role)] = publish.Part{Data: content}
	}
	return r.s.Publish(r.s.Context(), r.gun, up)
}

func (r remote) Set(name string, blob []byte) error {
	return r.SetMulti(map[string][]byte{name: blob})
}

func (r remote) GetKey(role data.RoleName) ([]byte, error) {
	return keyJSON(r.s.Key(r.s.Context(), r.gun, tuf.RoleName(role)))
}

func (r remote) RotateKey(role data.RoleName) ([]byte, error) {
	return keyJSON(r.s.RotateKey(r.s.Context(), r.gun, tuf.RoleName(role)))
}

func keyJSON(k tuf.Key, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(data.NewPublicKey(k.Type, k.Public))
}

func (remote) RemoveAll() error    { return errors.ErrUnsupported }
func (remote) Remove(string) error { return errors.ErrUnsupported }
func (remote) Location() string    { return "the publisher under test" }

// A person publishes with the real client library. Several may share keys.
type person struct {
	client.Repository
	s    *stack
	gun  tuf.GUN
	keys signed.CryptoService
}

func newKeyStore() signed.CryptoService {
	return cryptoservice.NewCryptoService(trustmanager.NewKeyMemoryStore(passphrase.ConstantRetriever("passphrase")))
}

// person returns a client that has never seen gun.
func (s *stack) person(gun tuf.GUN, keys signed.CryptoService) *person {
	s.Helper()
	r, err := client.NewRepository(data.GUN(gun), "", remote{s, gun}, notarystorage.NewMemoryStore(nil),
		trustpinning.TrustPinConfig{}, keys, changelist.NewMemChangelist())
	if err != nil {
		s.Fatal(err)
	}
	return &person{r, s, gun, keys}
}

func (p *person) do(what string, err error) {
	p.s.Helper()
	if err != nil {
		p.s.Fatalf("%s: %v", what, err)
	}
}

// send publishes what is staged, which must be accepted.
func (p *person) send(what string) {
	p.s.Helper()
	p.do(what, p.Publish())
	p.s.fsck(p.gun)
}

func (p *person) init(serverSnapshot bool) {
	p.s.Helper()
	var managed []data.RoleName
	if serverSnapshot {
		managed = append(managed, data.CanonicalSnapshotRole)
	}
	root, err := p.keys.Create(data.CanonicalRootRole, "", data.ECDSAKey)
	p.do("making a root key", err)
	p.do("initialising", p.Initialize([]string{root.ID()}, managed...))
}

func (p *person) target(name string, roles ...data.RoleName) {
	p.s.Helper()
	meta, err := data.NewFileMeta(strings.NewReader(name), data.NotaryDefaultHashes...)
	p.do("hashing", err)
	p.do("adding a target", p.AddTarget(&client.Target{Name: name, Hashes: meta.Hashes, Length: meta.Length}, roles...))
}

// delegate stages a delegation to a new key, which keys get.
func (p *person) delegate(role data.RoleName, keys signed.CryptoService) string {
	p.s.Helper()
	private, err := utils.GenerateECDSAKey(nil)
	p.do("making a key", err)
	now := time.Now()
	cert, err := cryptoservice.GenerateCertificate(private, data.GUN(role), now.Add(-time.Hour), now.AddDate(5, 0, 0))
	p.do("making a certificate", err)
	public := utils.CertToKey(cert)
	p.do("keeping a key", keys.AddKey(role, data.GUN(p.gun), private))
	p.do("delegating", p.AddDelegation(role, []data.PublicKey{public}, []string{""}))
	return public.ID()
}

// sees returns what a client that comes for the first time finds, as "role: name".
func (s *stack) sees(gun tuf.GUN) []string {
	s.Helper()
	p := s.person(gun, newKeyStore())
	roles, err := p.ListRoles()
	p.do("listing roles", err)
	var found []string
	for _, role := range roles {
		list, err := p.ListTargets(role.Name)
		if err != nil {
			continue // root, snapshot, timestamp
		}
		for _, t := range list {
			if entry := fmt.Sprintf("%s: %s", t.Role, t.Name); !slices.Contains(found, entry) {
				found = append(found, entry)
			}
		}
	}
	slices.Sort(found)
	return found
}

func (s *stack) wantSeen(gun tuf.GUN, want ...string) {
	s.Helper()
	if got := s.sees(gun); !slices.Equal(got, want) {
		s.Errorf("a new client sees %q, want %q", got, want)
	}
}

// Everything that the real client produces is accepted, and seen by the next one.
func TestRealClient(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for _, server := range []bool{true, false} {
			t.Run(fmt.Sprintf("serverSnapshot=%v", server), func(t *testing.T) {
				t.Parallel()
				testRealClient(stackOn(t, backend), server)
			})
		}
	})
}

func testRealClient(s *stack, serverSnapshot bool) {
	owner := s.person(testGUN, newKeyStore())
	owner.init(serverSnapshot)
	owner.send("first publish")
	owner.target("v1")
	owner.send("a target")
	s.wantSeen(testGUN, "targets: v1")

	// docker trust signer add: delegations without files at first.
	owner.delegate("targets/releases", owner.keys)
	alice := newKeyStore()
	if !serverSnapshot {
		alice = owner.keys // who signs a delegation must sign the snapshot too
	}
	owner.delegate("targets/alice", alice)
	owner.send("delegations")
	owner.target("v2", "targets/releases")
	owner.send("a target in a delegation")
	byAlice := s.person(testGUN, alice)
	byAlice.target("v3", "targets/alice")
	byAlice.send("a target by another client")
	byAlice.delegate("targets/alice/ci", alice)
	byAlice.send("a delegation of a delegation")
	byAlice.target("nightly", "targets/alice/ci")
	byAlice.send("a target below")
	s.wantSeen(testGUN, "targets/alice/ci: nightly", "targets/alice: v3", "targets/releases: v2", "targets: v1")

	// A second key for a delegation, signing again, taking the first away.
	first := owner.delegateAgain("targets/releases")
	owner.send("another key for a delegation")
	owner.witness("targets/releases")
	owner.send("signing it again")
	owner.do("removing a key", owner.RemoveDelegationKeys("targets/releases", first))
	owner.witness("targets/releases")
	owner.send("removing a key and signing again")
	s.wantSeen(testGUN, "targets/alice/ci: nightly", "targets/alice: v3", "targets/releases: v2", "targets: v1")

	// A delegation goes, with what is below it, and comes back with another key.
	owner.do("removing a delegation", owner.RemoveDelegationRole("targets/alice"))
	owner.send("removing a delegation")
	s.wantSeen(testGUN, "targets/releases: v2", "targets: v1")
	owner.delegate("targets/alice", alice)
	owner.send("adding it again")
	byAlice = s.person(testGUN, alice)
	byAlice.target("v4", "targets/alice")
	byAlice.send("using it again")
	s.wantSeen(testGUN, "targets/alice: v4", "targets/releases: v2", "targets: v1")

	for _, role := range []data.RoleName{data.CanonicalTargetsRole, data.CanonicalRootRole} {
		owner.do("rotating "+role.String(), owner.RotateKey(role, false, nil))
		s.fsck(testGUN)
	}
	owner.do("rotating timestamp", owner.RotateKey(data.CanonicalTimestampRole, true, nil))
	owner.do("giving the snapshot to the server", owner.RotateKey(data.CanonicalSnapshotRole, true, nil))
	owner.target("v5")
	owner.send("a target with the server's snapshot")
	owner.do("taking the snapshot back", owner.RotateKey(data.CanonicalSnapshotRole, false, nil))
	owner.target("v6")
	owner.send("a target with the client's snapshot")
	owner.do("removing a target", owner.RemoveTarget("v1"))
	owner.send("a target less")
	s.wantSeen(testGUN, "targets/alice: v4", "targets/releases: v2", "targets: v5", "targets: v6")

	// A client whose cache is from before all that.
	byAlice.target("v7", "targets/alice")
	if serverSnapshot {
		// He has no snapshot key, and the server has none any more.
		wantRejection(s, byAlice.Publish(), publish.KindBadHierarchy, noSnapshotKey)
	} else {
		byAlice.send("a client with an old cache")
	}
	s.fsck(testGUN)
}

// delegateAgain adds a key to role and returns the IDs of those it had.
func (p *person) delegateAgain(role data.RoleName) []string {
	p.s.Helper()
	roles, err := p.GetDelegationRoles()
	p.do("listing delegations", err)
	for _, r := range roles {
		if r.Name == role {
			ids := slices.Clone(r.KeyIDs)
			p.delegate(role, p.keys)
			return ids
		}
	}
	p.s.Fatalf("no delegation %s", role)
	return nil
}

func (p *person) witness(role data.RoleName) {
	p.s.Helper()
	_, err := p.Witness(role)
	p.do("witnessing", err)
}

// To take a delegation's key away without having its file signed again first is
// refused, with the way to do it; AllowUnvouched lets it pass, as upstream does.
func TestRealClientTakesKeyAway(t *testing.T) {
	t.Parallel()
	for _, allow := range []bool{false, true} {
		for _, server := range []bool{true, false} {
			t.Run(fmt.Sprintf("allow=%v/serverSnapshot=%v", allow, server), func(t *testing.T) {
				t.Parallel()
				s := newStack(t, func(c *publish.Config) { c.AllowUnvouched = allow })
				owner := s.person(testGUN, newKeyStore())
				owner.init(server)
				owner.delegate("targets/releases", owner.keys)
				owner.target("v1", "targets/releases")
				owner.send("first publish")
				first := owner.delegateAgain("targets/releases")
				owner.do("removing a key", owner.RemoveDelegationKeys("targets/releases", first))
				err := owner.Publish()
				if !allow {
					wantRejection(t, err, publish.KindBadTargets, "notary witness")
					s.wantSeen(testGUN, "targets/releases: v1")
					owner.witness("targets/releases")
					owner.send("the same, and signing again")
				} else {
					owner.do("removing a key", err)
					s.wantSeen(testGUN)
					owner.witness("targets/releases")
					owner.send("signing again later")
				}
				s.wantSeen(testGUN, "targets/releases: v1")
			})
		}
	}
}

// Every file that is stored verifies for the library in the walk of a client
// that trusts nothing yet; here the same of Fsck and of the library.
func TestFsckAgreesWithRealClient(t *testing.T) {
	s := newStack(t)
	r := s.repo(false, "targets/a", "targets/a/b")
	s.must(r, r.Upload())
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleSnapshot, tuf.RoleTargets} {
		gen := s.generation(r.GUN, role)
		file := gen.Files[role]
		p := s.person(r.GUN, newKeyStore())
		if _, err := p.ListTargets(); err != nil {
			t.Fatalf("before: %v", err)
		}
		bad := append(slices.Clone(file.Data), ' ')
		s.exec(`update tuf_files set data = $1 where sha256 = $2`, bad, hex.EncodeToString(file.Checksum[:]))
		if _, err := s.person(r.GUN, newKeyStore()).ListTargets(); err == nil {
			t.Errorf("%s: the library reads a file that was changed", role)
		}
		if err := publish.Fsck(t.Context(), s.store, r.GUN, s.clock.Now()); err == nil {
			t.Errorf("%s: Fsck does not see that a file was changed", role)
		}
		s.exec(`update tuf_files set data = $1 where sha256 = $2`, file.Data, hex.EncodeToString(file.Checksum[:]))
		s.fsck(r.GUN)
	}
}
