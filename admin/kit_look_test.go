package admin_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"countersign/admin"
	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// lookNow is the time in the tests of what only looks.
var lookNow = time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC)

// A looker is an installation whose tables a test fills as it likes.
type looker struct {
	*admin.Site
	t    testing.TB
	exec func(query string, args ...any)
}

// onBothSites runs a test on PostgreSQL and on SQLite.
func onBothSites(t *testing.T, test func(l *looker)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(newLooker(t, "postgres", pgtest.URL(t), pgtest.URL(t)))
	})
	t.Run("sqlite3", func(t *testing.T) {
		t.Parallel()
		test(sqliteLooker(t))
	})
}

func sqliteLooker(t testing.TB) *looker {
	dir := t.TempDir()
	return newLooker(t, "sqlite3", filepath.Join(dir, "server.db"), filepath.Join(dir, "signer.db"))
}

func newLooker(t testing.TB, backend, server, signer string) *looker {
	t.Helper()
	open := func(url string, schema migrations.Schema) *sqldb.DB {
		db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: backend, URL: url, MaxOpen: 4})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		if err := migrations.Apply(t.Context(), db, schema); err != nil {
			t.Fatal(err)
		}
		return db
	}
	site := &admin.Site{Metadata: metadb.New(open(server, migrations.Server)), Keys: keydb.New(open(signer, migrations.Signer))}
	site.Now = func() time.Time { return lookNow }
	driver, url := "postgres", server
	if backend == "sqlite3" {
		driver, url = "sqlite", "file:"+server+"?_busy_timeout=5000"
	}
	raw, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	raw.SetMaxOpenConns(1)
	t.Cleanup(func() { raw.Close() })
	return &looker{Site: site, t: t, exec: func(query string, args ...any) {
		t.Helper()
		if _, err := raw.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}}
}

// put stores the files of a repository as they are, right or wrong.
func (l *looker) put(r *tuftest.Repo) {
	l.t.Helper()
	for _, role := range r.Roles() {
		l.row(r.GUN, role, r.File(role))
	}
}

func (l *looker) row(gun tuf.GUN, role tuf.RoleName, data []byte) {
	l.t.Helper()
	version := tuf.Version(1)
	if env, err := tuf.ParseEnvelope(data); err == nil {
		version = tuf.Version(env.Version)
	}
	l.exec(`insert into tuf_files (created_at, gun, role, version, data, sha256) values ($1, $2, $3, $4, $5, $6)`,
		sqldb.Stamp(lookNow.Add(-time.Hour)), string(gun), string(role), int64(version), data, tuf.Sum(data).String())
}

// key lets the signer hold k.
func (l *looker) key(gun tuf.GUN, role tuf.RoleName, k tuf.Key) {
	l.t.Helper()
	_, err := l.Keys.AddUnused(l.t.Context(), storage.Key{ID: k.ID(), GUN: gun, Role: role, Algorithm: k.Type, Public: k.Public,
		Sealed: []byte("sealed"), Alias: "alias", EncryptionAlg: "A256GCM", KeywrapAlg: "PBES2-HS256+A128KW", CreatedAt: lookNow})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *looker) show(gun tuf.GUN) *admin.Repository {
	l.t.Helper()
	r, err := l.Show(l.t.Context(), gun)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// fsck is what a client finds.
func (l *looker) fsck(gun tuf.GUN) error {
	err := publish.Fsck(l.t.Context(), l.Metadata, gun, lookNow)
	if errors.Is(err, storage.ErrUnavailable) {
		l.t.Fatal(err)
	}
	return err
}

// newRepo makes a repository with a signer alice, and another of nobody.
func newRepo(t testing.TB, gun tuf.GUN) *tuftest.Repo {
	r := tuftest.New(t, gun, tuftest.Options{Now: lookNow.Add(-24 * time.Hour), Delegations: []tuf.RoleName{"targets/releases", "targets/alice"}})
	r.AddTarget("targets", "1.0", []byte("one"))
	r.AddTarget("targets/releases", "1.1", []byte("two"))
	r.AddTarget("targets/alice", "1.1", []byte("two"))
	return r
}

// role finds a role.
func role(t testing.TB, r *admin.Repository, name tuf.RoleName) *admin.RoleState {
	t.Helper()
	for _, s := range r.Roles {
		if s.Role == name {
			return s
		}
	}
	t.Fatalf("%s has no %s", r.GUN, name)
	return nil
}
