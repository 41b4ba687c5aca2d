package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/theupdateframework/notary/client"
	"github.com/theupdateframework/notary/client/changelist"
	"github.com/theupdateframework/notary/cryptoservice"
	"github.com/theupdateframework/notary/passphrase"
	"github.com/theupdateframework/notary/storage"
	"github.com/theupdateframework/notary/trustmanager"
	"github.com/theupdateframework/notary/trustpinning"
	"github.com/theupdateframework/notary/tuf/data"
	"github.com/theupdateframework/notary/tuf/signed"
	"github.com/theupdateframework/notary/tuf/utils"
)

// signedKeys is what a client signs with.
type signedKeys = signed.CryptoService

// newKeys is an empty key store in memory, which several clients may share.
func newKeys() signed.CryptoService {
	return cryptoservice.NewCryptoService(trustmanager.NewKeyMemoryStore(passphrase.ConstantRetriever("client passphrase")))
}

// An answer is what a server said to one request; the body is kept of refusals only.
type answer struct {
	method, path string
	status       int // 0 when none came
	body         string
	retryAfter   string // the header
	err          error
}

// code is the error code of a refusal.
func (a answer) code() string {
	var b struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal([]byte(a.body), &b) != nil || len(b.Errors) != 1 {
		return ""
	}
	return b.Errors[0].Code
}

func (a answer) String() string {
	return fmt.Sprintf("%s %s: %d %s %v", a.method, a.path, a.status, a.body, a.err)
}

// A recorder passes requests on and keeps the answers. The client library makes
// of most of them a bare "rejected" or "unreachable".
type recorder struct {
	next http.RoundTripper

	mu      sync.Mutex          // guards what follows; not held while a request runs
	answers []answer            // all, in order of arrival
	before  func(*http.Request) // called ahead of each request, may wait
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		before(req)
	}
	resp, err := r.next.RoundTrip(req)
	a := answer{method: req.Method, path: req.URL.Path, err: err}
	if err == nil {
		a.status, a.retryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
		if a.status >= 400 {
			raw, readErr := io.ReadAll(resp.Body)
			resp.Body.Close()
			a.body, a.err = strings.TrimSpace(string(raw)), readErr
			resp.Body = io.NopCloser(bytes.NewReader(raw))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, a)
	return resp, err
}

// take returns the answers since the last call.
func (r *recorder) take() []answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.answers
	r.answers = nil
	return out
}

// hold sets what happens ahead of each request.
func (r *recorder) hold(before func(*http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = before
}

// A publisher is the real client library for one GUN, with its cache in memory.
type publisher struct {
	client.Repository
	gun string
	rec *recorder
}

// newPublisher is a client of server i that has never seen the GUN.
func (s *stack) newPublisher(t testing.TB, i int, gun string, keys signed.CryptoService) *publisher {
	t.Helper()
	tr := s.transport()
	t.Cleanup(tr.CloseIdleConnections)
	p, err := newPublisher(s.url(i), gun, tr, keys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newPublisher(url, gun string, tr http.RoundTripper, keys signed.CryptoService) (*publisher, error) {
	rec := &recorder{next: tr}
	remote, err := storage.NewNotaryServerStore(url, data.GUN(gun), rec)
	if err != nil {
		return nil, err
	}
	repo, err := client.NewRepository(data.GUN(gun), url, remote, storage.NewMemoryStore(nil),
		trustpinning.TrustPinConfig{}, keys, changelist.NewMemChangelist())
	if err != nil {
		return nil, err
	}
	return &publisher{Repository: repo, gun: gun, rec: rec}, nil
}

// must fails the test at an error, with what the server said.
func (p *publisher) must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s of %s: %v\nthe server: %v", what, p.gun, err, p.refusals())
	}
}

func (p *publisher) refusals() []answer {
	var out []answer
	for _, a := range p.rec.take() {
		if a.status >= 400 || a.err != nil {
			out = append(out, a)
		}
	}
	return out
}

// initialize makes and publishes the repository as docker does, with the
// snapshot key at the server, or as the notary command line does, without.
func (p *publisher) initialize(t testing.TB, serverSnapshot bool) {
	t.Helper()
	var managed []data.RoleName
	if serverSnapshot {
		managed = append(managed, data.CanonicalSnapshotRole)
	}
	root, err := p.GetCryptoService().Create(data.CanonicalRootRole, "", data.ECDSAKey)
	p.must(t, "making a root key", err)
	p.must(t, "initialising", p.Initialize([]string{root.ID()}, managed...))
	p.must(t, "first publish", p.Publish())
}

// delegate adds a delegation with a fresh key, which it puts in the client's
// key store. It is published with the next publish.
func (p *publisher) delegate(t testing.TB, role string) {
	t.Helper()
	name := data.RoleName(role)
	key, err := utils.GenerateECDSAKey(nil)
	p.must(t, "making a key", err)
	now := time.Now()
	cert, err := cryptoservice.GenerateCertificate(key, data.GUN(role), now.Add(-time.Hour), now.AddDate(5, 0, 0))
	p.must(t, "making a certificate", err)
	p.must(t, "storing a key", p.GetCryptoService().AddKey(name, data.GUN(p.gun), key))
	p.must(t, "delegating", p.AddDelegation(name, []data.PublicKey{utils.CertToKey(cert)}, []string{""}))
}

// add stages a target of a role.
func (p *publisher) add(t testing.TB, role, name string) {
	t.Helper()
	meta, err := data.NewFileMeta(strings.NewReader(name), data.NotaryDefaultHashes...)
	p.must(t, "hashing", err)
	p.must(t, "adding", p.AddTarget(&client.Target{Name: name, Hashes: meta.Hashes, Length: meta.Length}, data.RoleName(role)))
}

// A view is what a client that sees a GUN for the first time finds: for each
// role its target names.
type view map[string]map[string]bool

func (v view) count() int {
	n := 0
	for _, names := range v {
		n += len(names)
	}
	return n
}

// verify downloads a GUN as a fresh client and verifies the whole chain: root,
// timestamp, snapshot, targets, and every delegation, with signatures and hashes.
// A delegation that does not verify is only a warning to the library, so the
// caller names the roles that must have been found.
func verify(url, gun string, tr http.RoundTripper, roles ...string) (view, error) {
	p, err := newPublisher(url, gun, tr, newKeys())
	if err != nil {
		return nil, err
	}
	v, err := p.view()
	if err != nil {
		return nil, fmt.Errorf("%w; the server: %v", err, p.refusals())
	}
	for _, role := range roles {
		if v[role] == nil {
			return nil, fmt.Errorf("%s is missing or did not verify", role)
		}
	}
	return v, nil
}

// view downloads what is new to the client, verifies it, and lists all targets.
func (p *publisher) view() (view, error) {
	all, err := p.GetAllTargetMetadataByName("")
	var none client.ErrNoSuchTarget
	if err != nil && !errors.As(err, &none) {
		return nil, err
	}
	v := view{}
	for _, target := range all {
		role := target.Role.Name.String()
		if len(target.Signatures) == 0 {
			return nil, fmt.Errorf("%s is not signed", role)
		}
		if v[role] == nil {
			v[role] = map[string]bool{}
		}
		v[role][target.Target.Name] = true
	}
	return v, nil
}

// mustVerify is verify at server i, together with a walk that finds every file named.
func (s *stack) mustVerify(t testing.TB, i int, gun string, roles ...string) (view, generation) {
	t.Helper()
	tr := s.transport()
	defer tr.CloseIdleConnections()
	v, err := verify(s.url(i), gun, tr, roles...)
	if err != nil {
		t.Fatal(err)
	}
	return v, s.walk(t, i, gun)
}
