package publish_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const testGUN tuf.GUN = "example.org/team/app"

// A clock is a time of day that a test moves.
type clock struct {
	mu sync.Mutex // guards t
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now().UTC().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A signer is the key service in this process: it keeps to the contract of
// publish.Signer until a test says otherwise.
type signer struct {
	tb testing.TB

	// mu guards all below; it is not held while before runs.
	mu     sync.Mutex
	keys   map[tuf.KeyID]*signerKey
	calls  map[string]int
	before func(ctx context.Context, op string, role tuf.RoleName) error // may fail or delay a call
	lie    func(role tuf.RoleName, content, sig []byte) []byte           // changes signatures
	lax    bool                                                          // signs with any key for anybody, as upstream's
}

type signerKey struct {
	*tuftest.Key
	gun  tuf.GUN
	role tuf.RoleName
	used bool
}

func newSigner(tb testing.TB) *signer {
	return &signer{tb: tb, keys: map[tuf.KeyID]*signerKey{}, calls: map[string]int{}}
}

func (s *signer) call(ctx context.Context, op string, role tuf.RoleName) error {
	s.mu.Lock()
	s.calls[op]++
	before := s.before
	s.mu.Unlock()
	if before != nil {
		return before(ctx, op, role)
	}
	return ctx.Err()
}

func (s *signer) set(before func(ctx context.Context, op string, role tuf.RoleName) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *signer) setLie(lie func(role tuf.RoleName, content, sig []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = lie
}

func (s *signer) count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// add lets the signer keep k for gun and role.
func (s *signer) add(k *tuftest.Key, gun tuf.GUN, role tuf.RoleName) *tuf.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[k.ID()] = &signerKey{Key: k, gun: gun, role: role}
	return &k.Key
}

func (s *signer) forget(id tuf.KeyID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, id)
}

func (s *signer) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (tuf.Key, error) {
	if err := s.call(ctx, "create", role); err != nil {
		return tuf.Key{}, err
	}
	s.mu.Lock()
	for _, k := range s.keys {
		if k.gun == gun && k.role == role && k.Type == algorithm && !k.used {
			s.mu.Unlock()
			return k.Key.Key, nil
		}
	}
	s.mu.Unlock()
	return *s.add(tuftest.NewKey(s.tb, algorithm), gun, role), nil
}

func (s *signer) find(gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (*signerKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[id]
	switch {
	case k == nil:
		return nil, fmt.Errorf("key %s: %w", id, storage.ErrNotFound)
	case k.gun != gun || k.role != role:
		return k, fmt.Errorf("key %s: %w", id, storage.ErrKeyForbidden)
	}
	return k, nil
}

func (s *signer) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (tuf.Key, error) {
	if err := s.call(ctx, "key", role); err != nil {
		return tuf.Key{}, err
	}
	k, err := s.find(gun, role, id)
	if err != nil {
		return tuf.Key{}, err
	}
	return k.Key.Key, nil
}

func (s *signer) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) ([]byte, error) {
	if err := s.call(ctx, "sign", role); err != nil {
		return nil, err
	}
	k, err := s.find(gun, role, id)
	if s.lax && errors.Is(err, storage.ErrKeyForbidden) {
		k, err = s.find(k.gun, k.role, id)
	}
	if err != nil {
		return nil, err
	}
	sig := k.Sign(s.tb, content).Sig
	s.mu.Lock()
	defer s.mu.Unlock()
	k.used = true
	if s.lie != nil {
		sig = s.lie(role, content, sig)
	}
	return sig, nil
}

func (s *signer) DeleteKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error {
	if err := s.call(ctx, "delete", role); err != nil {
		return err
	}
	if _, err := s.find(gun, role, id); errors.Is(err, storage.ErrKeyForbidden) {
		return err
	}
	s.forget(id)
	return nil
}

// has reports whether the signer has the key.
func (s *signer) has(id tuf.KeyID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[id] != nil
}

// openStore opens a fresh database of that backend.
func openStore(t testing.TB, backend string, now func() time.Time) (db *sqldb.DB, url string) {
	t.Helper()
	if backend == "postgres" {
		url = pgtest.URL(t)
	} else {
		url = filepath.Join(t.TempDir(), "server.db")
		template, err := emptySQLite()
		if err == nil {
			err = os.WriteFile(url, template, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return openURL(t, backend, url, now), url
}

// emptySQLite is a database file whose tables were made once: most of the time
// of a test went into that.
var emptySQLite = sync.OnceValues(func() (file []byte, err error) {
	dir, err := os.MkdirTemp("", "publish-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	url := filepath.Join(dir, "server.db")
	db, err := sqldb.Open(context.Background(), sqldb.Config{Backend: "sqlite3", URL: url})
	if err != nil {
		return nil, err
	}
	err = migrations.Apply(context.Background(), db, migrations.Server)
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(url)
})

func openURL(t testing.TB, backend, url string, now func() time.Time) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: backend, URL: url, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	if err := migrations.Apply(t.Context(), db, migrations.Server); err != nil {
		t.Fatal(err)
	}
	return db
}

// bothBackends runs f on SQLite and on PostgreSQL.
func bothBackends(t *testing.T, f func(t *testing.T, backend string)) {
	for _, backend := range []string{"sqlite3", "postgres"} {
		t.Run(backend, func(t *testing.T) { f(t, backend) })
	}
}

// A stack is a Publisher with its store, its signer and its clock.
type stack struct {
	testing.TB
	*publish.Publisher
	store   storage.MetadataStore
	signer  *signer
	clock   *clock
	backend string
	db      *sqldb.DB
	url     string
}

// newStack makes a stack on SQLite; change may edit the configuration.
func newStack(t testing.TB, change ...func(*publish.Config)) *stack {
	t.Helper()
	return stackOn(t, "sqlite3", change...)
}

func stackOn(t testing.TB, backend string, change ...func(*publish.Config)) *stack {
	t.Helper()
	s := &stack{TB: t, signer: newSigner(t), clock: newClock(), backend: backend}
	s.db, s.url = openStore(t, backend, s.clock.Now)
	s.store = metadb.New(s.db)
	s.Publisher = s.newPublisher(change...)
	return s
}

// newPublisher makes another Publisher, such as another replica's, of the same stack.
func (s *stack) newPublisher(change ...func(*publish.Config)) *publish.Publisher {
	s.Helper()
	cfg := publish.Config{
		Store: s.store, Signer: s.signer, Now: s.clock.Now,
		Log: slog.New(slog.NewTextHandler(s.Output(), nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	s.store = cfg.Store
	p, err := publish.New(cfg)
	if err != nil {
		s.Fatal(err)
	}
	return p
}

// replica makes a Publisher of another process on the same database.
func (s *stack) replica() *publish.Publisher {
	s.Helper()
	store := s.store
	defer func() { s.store = store }()
	return s.newPublisher(func(c *publish.Config) {
		c.Store = metadb.New(openURL(s, s.backend, s.url, s.clock.Now))
	})
}

// exec runs SQL that a person has typed.
func (s *stack) exec(query string, args ...any) {
	s.Helper()
	if err := s.db.Tx(s.Context(), func(tx *sqldb.Tx) error {
		_, err := tx.Exec(s.Context(), query, args...)
		return err
	}); err != nil {
		s.Fatal(err)
	}
}

// repo makes a repository of which the server signs the timestamp and, unless
// clientSnapshot, the snapshot. Its GUN is testGUN.
func (s *stack) repo(clientSnapshot bool, delegations ...tuf.RoleName) *tuftest.Repo {
	s.Helper()
	return s.repoFor(testGUN, clientSnapshot, delegations...)
}

func (s *stack) repoFor(gun tuf.GUN, clientSnapshot bool, delegations ...tuf.RoleName) *tuftest.Repo {
	s.Helper()
	opts := tuftest.Options{Now: s.clock.Now(), Delegations: delegations}
	opts.Timestamp = s.serverKey(gun, tuf.RoleTimestamp)
	if !clientSnapshot {
		opts.Snapshot = s.serverKey(gun, tuf.RoleSnapshot)
	}
	return tuftest.New(s, gun, opts)
}

func (s *stack) serverKey(gun tuf.GUN, role tuf.RoleName) *tuf.Key {
	s.Helper()
	k, err := s.Key(s.Context(), gun, role)
	if err != nil {
		s.Fatal(err)
	}
	return &k
}

func upload(files map[tuf.RoleName][]byte) publish.Upload {
	up := publish.Upload{}
	for role, data := range files {
		up[role] = publish.Part{Data: data}
	}
	return up
}

// publish uploads files, and is what every test ends with: whatever the answer,
// the repository is whole afterwards, and a refusal has changed nothing.
func (s *stack) publish(gun tuf.GUN, files map[tuf.RoleName][]byte) error {
	s.Helper()
	before := s.current(gun)
	err := s.Publish(s.Context(), gun, upload(files))
	if after := s.current(gun); err != nil && before != after {
		s.Errorf("refused (%v), but the timestamp has changed from %.8s to %.8s", err, before, after)
	} else if err == nil && before == after {
		s.Errorf("accepted, but there is no new timestamp")
	}
	s.fsck(gun)
	return err
}

func (s *stack) current(gun tuf.GUN) string {
	s.Helper()
	gen, err := s.store.Generation(s.Context(), gun)
	if errors.Is(err, storage.ErrNotFound) {
		return ""
	}
	if err != nil {
		s.Fatal(err)
	}
	return gen.Timestamp.Checksum.String()
}

// fsck fails the test if gun is there and does not verify.
func (s *stack) fsck(gun tuf.GUN) {
	s.Helper()
	err := publish.Fsck(s.Context(), s.store, gun, s.clock.Now())
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		s.Error(err)
	}
}

// must publishes files, which must be accepted.
func (s *stack) must(repo *tuftest.Repo, files map[tuf.RoleName][]byte) {
	s.Helper()
	if err := s.publish(repo.GUN, files); err != nil {
		s.Fatalf("publishing %v: %v", roles(files), err)
	}
}

func roles(files map[tuf.RoleName][]byte) []string {
	var list []string
	for role := range files {
		list = append(list, string(role))
	}
	slices.Sort(list)
	return list
}

// generation returns the current generation with those roles.
func (s *stack) generation(gun tuf.GUN, roles ...tuf.RoleName) *storage.Generation {
	s.Helper()
	gen, err := s.store.Generation(s.Context(), gun, roles...)
	if err != nil {
		s.Fatal(err)
	}
	return gen
}

// names returns the roles that the current snapshot names.
func (s *stack) names(gun tuf.GUN) []string {
	s.Helper()
	var list []string
	for role := range s.generation(gun, tuf.RoleSnapshot).Snapshot.Meta {
		list = append(list, string(role))
	}
	slices.Sort(list)
	return list
}

func jsonSize(t testing.TB, v any) int {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// awaitQueue waits until n publishes of gun are under way or waiting in p.
func (s *stack) awaitQueue(p *publish.Publisher, gun tuf.GUN, n int) {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); p.Queue(gun) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%d in the queue, want %d", p.Queue(gun), n)
		}
	}
}
