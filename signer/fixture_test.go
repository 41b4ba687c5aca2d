package signer_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/signer"
	"countersign/signer/rpc"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

var _ rpc.KeyService = (*signer.Service)(nil)

const (
	gun  tuf.GUN = "registry.example.com:5000/team/app"
	role         = tuf.RoleTimestamp
)

// A stand is a signer on a database, with what tests change about it.
type stand struct {
	*signer.Service
	db          *sqldb.DB
	config      signer.Config
	passphrases *passphrases
	log         *logBuffer
}

// passphrases may change while they are in use.
type passphrases struct {
	mu sync.Mutex // guards m
	m  map[string]string
}

func (p *passphrases) set(alias, pass string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m[alias] = pass
}

func (p *passphrases) get(alias string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pass, ok := p.m[alias]; ok {
		return pass, nil
	}
	return "", errors.New("not configured")
}

type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// backends runs test on both databases.
func backends(t *testing.T, test func(*testing.T, *stand)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, onSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, onPostgres(t)) })
}

func onSQLite(t testing.TB) *stand {
	t.Helper()
	return newStand(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "signer.db")})
}

func onPostgres(t testing.TB) *stand {
	t.Helper()
	return newStand(t, sqldb.Config{Backend: "postgres", URL: pgtest.URL(t)})
}

func newStand(t testing.TB, c sqldb.Config) *stand {
	t.Helper()
	db, err := sqldb.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := migrations.Apply(t.Context(), db, migrations.Signer); err != nil {
		t.Fatal(err)
	}
	s := &stand{db: db, log: &logBuffer{}, passphrases: &passphrases{m: map[string]string{"main": "correct horse", "other": "battery staple"}}}
	store := keydb.New(db)
	s.config = signer.Config{
		Store:        store,
		DefaultAlias: "main",
		Check:        store.Check,
		Log:          slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	s.restart(t, nil)
	return s
}

// restart makes the signer anew, as a new process would be: nothing is cached.
func (s *stand) restart(t testing.TB, change func(*signer.Config)) {
	t.Helper()
	sealer, err := seal.New(seal.Config{Passphrase: s.passphrases.get, Iterations: seal.MinIterations})
	if err != nil {
		t.Fatal(err)
	}
	s.config.Sealer = sealer
	if change != nil {
		change(&s.config)
	}
	if s.Service, err = signer.New(s.config); err != nil {
		t.Fatal(err)
	}
}

// sql runs a statement as an operator would type it.
func (s *stand) sql(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.db.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// create makes a key, or hands out the unused one.
func (s *stand) create(t testing.TB, algorithm string) storage.Key {
	t.Helper()
	k, err := s.CreateKey(t.Context(), gun, role, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mustSign signs with k and verifies what comes out.
func (s *stand) mustSign(t testing.TB, k storage.Key) {
	t.Helper()
	content := []byte(`{"_type":"Timestamp"}`)
	row, sig, err := s.Sign(t.Context(), k.GUN, k.Role, k.ID, content)
	if err != nil {
		t.Errorf("signing with %s: %v", k.ID, err)
		return
	}
	if row.ID != k.ID || sig.KeyID != k.ID {
		t.Errorf("signed with %s and %s instead of %s", row.ID, sig.KeyID, k.ID)
	}
	if err := (tuf.Key{Type: k.Algorithm, Public: k.Public}).VerifySignature(sig.Method, content, sig.Sig); err != nil {
		t.Errorf("signature by %s: %v", k.ID, err)
	}
}

// refused holds that neither Key nor Sign gives anything for k but want.
func (s *stand) refused(t testing.TB, k storage.Key, want error) {
	t.Helper()
	if _, err := s.Key(t.Context(), "", "", k.ID); !errors.Is(err, want) {
		t.Errorf("Key: got %v, want %v", err, want)
	}
	_, sig, err := s.Sign(t.Context(), "", "", k.ID, []byte("x"))
	if !errors.Is(err, want) || sig.Sig != nil {
		t.Errorf("Sign: got %x, %v, want %v", sig.Sig, err, want)
	}
	if want != storage.ErrNotFound && errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Sign: %v is a NotFound too", err)
	}
}

// rows returns the IDs of the live keys, sorted.
func (s *stand) rows(t testing.TB) []tuf.KeyID {
	t.Helper()
	ids, err := sqldb.Collect(t.Context(), s.db, scanID, `select key_id from private_keys where deleted_at is null`)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

// fault is a way in which a write can go wrong.
type fault int

const (
	none fault = iota
	lose       // the write fails and nothing is stored
	keep       // the write is stored, and the answer is lost
	down       // nothing can be asked or written
)

// faulty is a store that fails on demand.
type faulty struct {
	storage.KeyStore
	mu                sync.Mutex // guards the faults
	add, mark, delete fault
}

// hit breaks the next call.
func hit(f *fault, mu *sync.Mutex, write func() error) error {
	mu.Lock()
	now := *f
	if now != down {
		*f = none
	}
	mu.Unlock()
	switch now {
	case none:
		return write()
	case keep:
		if err := write(); err != nil {
			return err
		}
	}
	return storage.ErrUnavailable
}

func (f *faulty) AddUnused(ctx context.Context, k storage.Key) (stored storage.Key, err error) {
	err = hit(&f.add, &f.mu, func() (err error) {
		stored, err = f.KeyStore.AddUnused(ctx, k)
		return err
	})
	if err != nil {
		stored = storage.Key{}
	}
	return stored, err
}

func (f *faulty) MarkUsed(ctx context.Context, id tuf.KeyID, at time.Time) error {
	return hit(&f.mark, &f.mu, func() error { return f.KeyStore.MarkUsed(ctx, id, at) })
}

func (f *faulty) Delete(ctx context.Context, id tuf.KeyID) error {
	return hit(&f.delete, &f.mu, func() error { return f.KeyStore.Delete(ctx, id) })
}
