package metadb_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
)

func open(t testing.TB, c sqldb.Config) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	if err := migrations.Apply(t.Context(), db, migrations.Server); err != nil {
		t.Fatal(err)
	}
	return db
}

// typed runs statements as psql or sqlite3 would.
func typed(t testing.TB, driver, url string) func(testing.TB, string, ...any) {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return func(t testing.TB, statement string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	storagetest.RunMetadata(t, func(t *testing.T) storagetest.MetadataDB {
		url := pgtest.URL(t)
		c := sqldb.Config{Backend: "postgres", URL: url}
		return storagetest.MetadataDB{Store: metadb.New(open(t, c)), Replica: metadb.New(open(t, c)), SQL: typed(t, "postgres", url)}
	})
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storagetest.RunMetadata(t, func(t *testing.T) storagetest.MetadataDB {
		path := filepath.Join(t.TempDir(), "server.db")
		c := sqldb.Config{Backend: "sqlite3", URL: path}
		return storagetest.MetadataDB{Store: metadb.New(open(t, c)), Replica: metadb.New(open(t, c)), SQL: typed(t, "sqlite", "file:"+path+"?_busy_timeout=5000")}
	})
}

// TestCheck: a health check passes on the tables that migrations make, and on
// nothing less.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "check.db")},
	} {
		bare, err := sqldb.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer bare.Close()
		s := metadb.New(bare)
		if err := s.Check(t.Context()); err == nil {
			t.Errorf("%s: an empty database is healthy", c.Backend)
		}
		if err := migrations.Apply(t.Context(), bare, migrations.Server); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", c.Backend, err)
		}
	}
}
