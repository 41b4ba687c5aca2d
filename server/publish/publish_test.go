package publish_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

func TestFirstPublish(t *testing.T) {
	bothBackends(t, func(t *testing.T, backend string) {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("clientSnapshot=%v", client), func(t *testing.T) {
				s := stackOn(t, backend)
				repo := s.repo(client, "targets/releases", "targets/alice", "targets/alice/ci")
				s.must(repo, repo.Upload())
				want := []string{"root", "targets", "targets/alice", "targets/alice/ci", "targets/releases"}
				if diff := cmp.Diff(want, s.names(repo.GUN)); diff != "" {
					t.Error(diff)
				}
				gen := s.generation(repo.GUN, tuf.RoleRoot, tuf.RoleSnapshot)
				if gen.Timestamp.Version != 1 || gen.Snapshot.Version != 1 {
					t.Errorf("timestamp %d, snapshot %d, want 1 and 1", gen.Timestamp.Version, gen.Snapshot.Version)
				}
			})
		}
	})
}

// What the server signs has upstream's form, versions and lifetimes.
func TestServerMadeRoles(t *testing.T) {
	s := newStack(t)
	repo := s.repo(false)
	s.must(repo, repo.Upload())
	repo.AddTarget(tuf.RoleTargets, "v1", []byte("image"))
	s.must(repo, repo.Next(tuf.RoleTargets))
	gen := s.generation(repo.GUN, tuf.RoleSnapshot, tuf.RoleTargets, tuf.RoleRoot)
	env, err := tuf.ParseEnvelope(gen.Timestamp.Data)
	if err != nil {
		t.Fatal(err)
	}
	ts, err := env.Timestamp()
	if err != nil {
		t.Fatal(err)
	}
	if want := s.clock.Now().Add(14 * 24 * time.Hour); ts.Version != 2 || !ts.Expires.Equal(want) {
		t.Errorf("timestamp version %d until %v, want 2 until %v", ts.Version, ts.Expires, want)
	}
	if want := s.clock.Now().Add(3 * 365 * 24 * time.Hour); gen.Snapshot.Version != 2 || !gen.Snapshot.Expires.Equal(want) {
		t.Errorf("snapshot version %d until %v, want 2 until %v", gen.Snapshot.Version, gen.Snapshot.Expires, want)
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
		if diff := cmp.Diff(tuf.MetaOf(gen.Files[role].Data), gen.Snapshot.Meta[role]); diff != "" {
			t.Errorf("%s: %s", role, diff)
		}
		if string(gen.Files[role].Data) != string(repo.File(role)) {
			t.Errorf("%s is not stored byte for byte", role)
		}
	}
}

// An upload of nothing renews both server-made roles, as upstream does.
func TestEmptyUpload(t *testing.T) {
	s := newStack(t)
	repo := s.repo(false)
	s.must(repo, repo.Upload())
	for _, files := range []map[tuf.RoleName][]byte{{}, {tuf.RoleTimestamp: []byte(`{"signed":{},"signatures":[]}`)}} {
		before := s.generation(repo.GUN, tuf.RoleSnapshot)
		s.must(repo, files)
		after := s.generation(repo.GUN, tuf.RoleSnapshot)
		if after.Timestamp.Version != before.Timestamp.Version+1 || after.Snapshot.Version != before.Snapshot.Version+1 {
			t.Errorf("versions %d and %d after %d and %d", after.Timestamp.Version, after.Snapshot.Version, before.Timestamp.Version, before.Snapshot.Version)
		}
	}
}

// Hashes are over the bytes as stored: a file in an unusual layout is found,
// and verifies, like any other.
func TestUnusualLayout(t *testing.T) {
	for _, client := range []bool{false, true} {
		s := newStack(t)
		repo := s.repo(client, "targets/releases")
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, "targets/releases", tuf.RoleSnapshot} {
			if role == tuf.RoleSnapshot && !client {
				continue
			}
			repo.Edit[role] = func(signed map[string]any) { signed["x-unknown"] = map[string]any{"b": 1, "a": "<&>"} }
			file := string(repo.File(role))
			file = strings.Replace(file, `{"signed":`, "{ \"signed\" :\t", 1)
			file = strings.Replace(file, `"method":"ecdsa"`, `"method":"ECDSA", "x": [null]`, 1)
			repo.Raw[role] = []byte(" \n" + file + "\n\n ")
		}
		s.must(repo, repo.Upload())
		if got := s.generation(repo.GUN, tuf.RoleTargets).Files[tuf.RoleTargets].Data; string(got) != string(repo.Raw[tuf.RoleTargets]) {
			t.Error("targets are not stored byte for byte")
		}
	}
}

// Rotations as the clients do them: each is one publish.
func TestRotations(t *testing.T) {
	s := newStack(t)
	repo := s.repo(false, "targets/releases")
	s.must(repo, repo.Upload())

	repo.Rotate(tuf.RoleTargets)
	s.must(repo, repo.Next(tuf.RoleRoot, tuf.RoleTargets))

	repo.Rotate(tuf.RoleRoot)
	s.must(repo, repo.Next(tuf.RoleRoot))

	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
		k, err := s.RotateKey(t.Context(), repo.GUN, role)
		if err != nil {
			t.Fatal(err)
		}
		repo.Manage(role, k)
		s.must(repo, repo.Next(tuf.RoleRoot))
	}

	// The client takes the snapshot back, and hands it over again.
	version := s.generation(repo.GUN, tuf.RoleSnapshot).Snapshot.Version
	repo.SetKeys(tuf.RoleSnapshot, 1, repo.NewKey(tuf.RoleSnapshot))
	repo.Snapshot.Version = version
	s.must(repo, repo.Next(tuf.RoleRoot))
	s.must(repo, repo.Next("targets/releases"))
	repo.Manage(tuf.RoleSnapshot, *s.rotated(repo.GUN, tuf.RoleSnapshot))
	s.must(repo, repo.Next(tuf.RoleRoot))
	if got := s.generation(repo.GUN, tuf.RoleSnapshot).Snapshot.Version; got != version+3 {
		t.Errorf("snapshot version %d, want %d", got, version+3)
	}
}

func (s *stack) rotated(gun tuf.GUN, role tuf.RoleName) *tuf.Key {
	s.Helper()
	k, err := s.RotateKey(s.Context(), gun, role)
	if err != nil {
		s.Fatal(err)
	}
	return &k
}

func TestExpiredRepositoryCanBeMended(t *testing.T) {
	s := newStack(t)
	repo := s.repo(false, "targets/releases", "targets/releases/ci")
	repo.Root.Expires = s.clock.Now().Add(time.Hour)
	for _, targets := range repo.Targets {
		targets.Expires = s.clock.Now().Add(time.Hour)
	}
	s.must(repo, repo.Upload())
	s.clock.Advance(20 * 24 * time.Hour) // the timestamp too
	mend := func(role tuf.RoleName) {
		t.Helper()
		if role == tuf.RoleRoot {
			repo.Root.Expires = s.clock.Now().Add(time.Hour)
		} else {
			repo.Targets[role].Expires = s.clock.Now().Add(time.Hour)
		}
		if err := s.Publish(t.Context(), repo.GUN, upload(repo.Next(role))); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
	}
	// From the bottom up: everything above is still expired.
	for _, role := range []tuf.RoleName{"targets/releases/ci", "targets/releases", tuf.RoleTargets, tuf.RoleRoot} {
		mend(role)
	}
	s.fsck(repo.GUN)
}

// A root whose certificate has expired is replaced by one that the old key and
// a new certificate sign, and nothing else can be published before.
func TestRootCertificateExpired(t *testing.T) {
	s := newStack(t)
	repo := s.repo(false)
	old := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{
		CN: string(repo.GUN), NotBefore: s.clock.Now().Add(-time.Hour), NotAfter: s.clock.Now().Add(time.Hour),
	})
	repo.SetKeys(tuf.RoleRoot, 1, old)
	s.must(repo, repo.Upload())
	s.clock.Advance(2 * time.Hour)
	err := s.Publish(t.Context(), repo.GUN, upload(repo.Next(tuf.RoleTargets)))
	wantRejection(t, err, publish.KindBadRoot, "certificate of the root stored on the server has expired")
	repo.Targets[tuf.RoleTargets].Version--

	repo.Now = s.clock.Now()
	repo.Rotate(tuf.RoleRoot)
	s.must(repo, repo.Next(tuf.RoleRoot))
	s.must(repo, repo.Next(tuf.RoleTargets))
}

// A delegation that is removed leaves a server-made snapshot, with all below
// it, and can start again at version 1.
func TestDelegationComesBack(t *testing.T) {
	bothBackends(t, func(t *testing.T, backend string) {
		s := stackOn(t, backend)
		repo := s.repo(false, "targets/a", "targets/a/b", "targets/c")
		s.must(repo, repo.Upload())
		s.must(repo, repo.Next("targets/a", "targets/a/b"))
		repo.RemoveDelegation("targets/a/b")
		repo.RemoveDelegation("targets/a")
		s.must(repo, repo.Next(tuf.RoleTargets))
		if diff := cmp.Diff([]string{"root", "targets", "targets/c"}, s.names(repo.GUN)); diff != "" {
			t.Error(diff)
		}
		repo.AddDelegation("targets/a")
		s.must(repo, repo.Next(tuf.RoleTargets))
		s.must(repo, repo.Upload("targets/a"))
		repo.AddDelegation("targets/a/b")
		files := repo.Next("targets/a")
		files["targets/a/b"] = repo.File("targets/a/b")
		s.must(repo, files)
		gen := s.generation(repo.GUN, "targets/a", "targets/a/b")
		if a, b := gen.Files["targets/a"].Version, gen.Files["targets/a/b"].Version; a != 2 || b != 1 {
			t.Errorf("versions %d and %d, want 2 and 1", a, b)
		}
	})
}

// The same with a snapshot of the client, which drops the delegation itself,
// but not what stood below it.
func TestDelegationComesBackClientSnapshot(t *testing.T) {
	s := newStack(t)
	repo := s.repo(true, "targets/a", "targets/a/b")
	s.must(repo, repo.Upload())
	s.must(repo, repo.Next("targets/a"))
	repo.RemoveDelegation("targets/a") // targets/a/b stays in repo.Targets, as in the client's memory
	s.must(repo, repo.Next(tuf.RoleTargets))
	if diff := cmp.Diff([]string{"root", "targets", "targets/a/b"}, s.names(repo.GUN)); diff != "" {
		t.Error(diff)
	}
	delete(repo.Targets, "targets/a/b")
	s.must(repo, repo.Next(tuf.RoleTargets))
	repo.AddDelegation("targets/a")
	s.must(repo, repo.Next(tuf.RoleTargets, "targets/a")) // version 2 in its second life
	repo.RemoveDelegation("targets/a")
	s.must(repo, repo.Next(tuf.RoleTargets))
	repo.AddDelegation("targets/a")
	repo.Targets[tuf.RoleTargets].Version++
	repo.Snapshot.Version++
	s.must(repo, repo.Upload(tuf.RoleTargets, "targets/a", tuf.RoleSnapshot)) // and 1 in its third
}

// Where an upstream server has kept a removed delegation in its snapshot.
func TestSnapshotWithDeadDelegation(t *testing.T) {
	for _, client := range []bool{false, true} {
		t.Run(fmt.Sprintf("clientSnapshot=%v", client), func(t *testing.T) {
			s := newStack(t)
			repo := s.repo(client, "targets/dead", "targets/dead/child", "targets/live")
			var old *tuftest.Key
			if !client {
				old = tuftest.NewKey(t, tuf.KeyECDSA)
				s.signer.add(old, repo.GUN, tuf.RoleSnapshot)
				repo.SetKeys(tuf.RoleSnapshot, 1, old)
			}
			s.storeDead(repo)

			// Publishing something else is possible, and tidies up what the server may.
			if !client {
				repo.Snapshot = nil
			}
			if err := s.Publish(t.Context(), repo.GUN, upload(repo.Next("targets/live"))); err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(s.names(repo.GUN), "targets/dead"); got != client {
				t.Errorf("snapshot names the dead delegation: %v", got)
			}
			// Its name can be used again, from version 1, in one publish or two.
			clear(repo.Raw)
			if client {
				delete(repo.Targets, "targets/dead")
				delete(repo.Targets, "targets/dead/child")
				repo.Snapshot.Version++
				s.must(repo, repo.Upload(tuf.RoleSnapshot))
			}
			repo.AddDelegation("targets/dead")
			repo.Targets[tuf.RoleTargets].Version++
			files := []tuf.RoleName{tuf.RoleTargets, "targets/dead"}
			if client {
				repo.Snapshot.Version++
				files = append(files, tuf.RoleSnapshot)
			}
			s.must(repo, repo.Upload(files...))
		})
	}
}

// The same where targets delegate to nobody any more.
func TestSnapshotWithNothingButDead(t *testing.T) {
	s := newStack(t)
	repo := s.repo(true, "targets/dead", "targets/dead/child")
	s.storeDead(repo)
	if err := s.Publish(t.Context(), repo.GUN, upload(repo.Next(tuf.RoleTargets))); err != nil {
		t.Error(err)
	}
	s.fsck(repo.GUN)
}

// The dead name taken up at once, without a publish in between that tidies up:
// its old file does not come back with it.
func TestDeadDelegationRevivedAtOnce(t *testing.T) {
	for _, withFile := range []bool{true, false} {
		s := newStack(t)
		repo := s.repo(false, "targets/dead", "targets/dead/child", "targets/live")
		k := tuftest.NewKey(t, tuf.KeyECDSA)
		s.signer.add(k, repo.GUN, tuf.RoleSnapshot)
		repo.SetKeys(tuf.RoleSnapshot, 1, k)
		s.storeDead(repo)
		clear(repo.Raw)
		repo.Snapshot = nil
		repo.AddDelegation("targets/dead")
		repo.Targets[tuf.RoleTargets].Version++
		want := []string{"root", "targets", "targets/live"}
		files := []tuf.RoleName{tuf.RoleTargets}
		if withFile {
			want = []string{"root", "targets", "targets/dead", "targets/live"}
			files = append(files, "targets/dead")
		}
		s.must(repo, repo.Upload(files...))
		if diff := cmp.Diff(want, s.names(repo.GUN)); diff != "" {
			t.Error(diff)
		}
		if !withFile {
			s.must(repo, repo.Upload("targets/dead"))
		}
	}
}

// storeDead stores a generation in which the snapshot names targets/dead and
// what is below, version 3 of them, although targets no longer delegates to it.
func (s *stack) storeDead(repo *tuftest.Repo) {
	s.Helper()
	repo.Targets["targets/dead"].Version = 3
	repo.Targets["targets/dead/child"].Version = 3
	dead, child := repo.Targets["targets/dead"], repo.Targets["targets/dead/child"]
	repo.Raw["targets/dead"] = repo.File("targets/dead")
	repo.Raw["targets/dead/child"] = repo.File("targets/dead/child")
	repo.RemoveDelegation("targets/dead")
	repo.Targets["targets/dead"], repo.Targets["targets/dead/child"] = dead, child
	k := tuftest.NewKey(s, tuf.KeyECDSA)
	s.signer.add(k, repo.GUN, tuf.RoleTimestamp)
	repo.SetKeys(tuf.RoleTimestamp, 1, k)
	s.force(repo)
	repo.Timestamp = nil
}

// force stores files of repo as they are, unchecked: all, or those of roles.
func (s *stack) force(repo *tuftest.Repo, roles ...tuf.RoleName) {
	s.Helper()
	if len(roles) == 0 {
		roles = repo.Roles()
	}
	set := storage.Set{GUN: repo.GUN}
	gen, err := s.store.Generation(s.Context(), repo.GUN)
	if err == nil {
		set.Base = &gen.Timestamp.Checksum
	}
	for _, role := range roles {
		env, err := tuf.ParseEnvelope(repo.File(role))
		if err != nil {
			s.Fatal(err)
		}
		set.Files = append(set.Files, storage.NewMetadata(role, tuf.Version(env.Version), repo.File(role)))
	}
	if err := s.store.Publish(s.Context(), set); err != nil {
		s.Fatal(err)
	}
}

func wantRejection(t testing.TB, err error, kind publish.Kind, text string) {
	t.Helper()
	var r *publish.Rejection
	if !errors.As(err, &r) {
		t.Errorf("got %v, want a %s: %s", err, kind, text)
		return
	}
	if r.Kind != kind || !strings.Contains(r.Msg, text) {
		t.Errorf("got %v, want %s: %s", r, kind, text)
	}
}
