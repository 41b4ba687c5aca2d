package sqldb_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage/sqldb"
)

// TestView: nothing can be written in it, and it sees one moment.
func TestView(t *testing.T) {
	t.Parallel()
	for backend, u := range map[string]string{"postgres": pgtest.URL(t), "sqlite3": filepath.Join(t.TempDir(), "x.db")} {
		db := open(t, sqldb.Config{Backend: backend, URL: u})
		if _, err := db.Exec(t.Context(), `create table counted (n integer)`); err != nil {
			t.Fatal(err)
		}
		count := func(tx *sqldb.Tx) int64 {
			n, err := sqldb.One(t.Context(), tx, func(r *sql.Rows) (n int64, err error) { err = r.Scan(&n); return n, err }, `select count(*) from counted`)
			if err != nil {
				t.Fatalf("%s: %v", backend, err)
			}
			return n
		}
		err := db.View(t.Context(), func(tx *sqldb.Tx) error {
			before := count(tx)
			if _, err := db.Exec(t.Context(), `insert into counted values (1)`); err != nil {
				t.Errorf("%s: beside it: %v", backend, err)
			}
			if after := count(tx); after != before {
				t.Errorf("%s: %d rows, then %d", backend, before, after)
			}
			if _, err := tx.Exec(t.Context(), `insert into counted values (2)`); err == nil {
				t.Errorf("%s: it wrote", backend)
			}
			return nil
		})
		if err != nil && backend == "sqlite3" {
			t.Errorf("%s: %v", backend, err)
		}
	}
}

// TestSessionTimeZone: a time that is written without a zone means UTC, also in
// a column with one, whatever the server's and the URL's zones are.
func TestSessionTimeZone(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "postgres", URL: pgtest.URL(t) + "&timezone=America/Lima"})
	if _, err := db.Exec(t.Context(), `create table times (at timestamptz)`); err != nil {
		t.Fatal(err)
	}
	now := db.Now()
	if _, err := db.Exec(t.Context(), `insert into times values ($1)`, sqldb.Stamp(now)); err != nil {
		t.Fatal(err)
	}
	got, err := sqldb.One(t.Context(), db, func(r *sql.Rows) (v sqldb.Time, err error) { err = r.Scan(&v); return v, err }, `select at from times`)
	if err != nil || !time.Time(got).Equal(now) {
		t.Errorf("%v was read back as %v: %v", now, time.Time(got), err)
	}
}
