package sqldb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
)

// TestSQLitePaths: a path stands for itself, whatever is in it; a URI is read
// as one.
func TestSQLitePaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Log(dir)
	for given, want := range map[string]string{
		filepath.Join(dir, "plain.db"):                  "plain.db",
		filepath.Join(dir, "with space?and#100%.db"):    "with space?and#100%.db",
		"file:" + filepath.Join(dir, "uri.db"):          "uri.db",
		"file://" + filepath.Join(dir, "slashes.db"):    "slashes.db",
		"file://localhost" + filepath.Join(dir, "h.db"): "h.db",
		"file:" + filepath.Join(dir, "esc%20aped.db"):   "esc aped.db",
	} {
		db := open(t, sqldb.Config{Backend: "sqlite3", URL: given})
		exec(t, db, `create table x (s text)`)
		exec(t, db, `insert into x values ($1)`, want)
		if got := text(t, db, `select s from x`); got != want {
			t.Errorf("%s: read %q", given, got)
		}
		info, err := os.Stat(filepath.Join(dir, want))
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", want, info.Mode())
		}
		for _, more := range []string{"-wal", "-shm"} {
			if info, err := os.Stat(filepath.Join(dir, want+more)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v", want+more, err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 6*3 {
		t.Errorf("%d files (%v), want 18", len(entries), err)
	}
	for _, bad := range []string{"", ":memory:", "file::memory:?cache=shared", "file:", "file://example.org/x.db", "file:/x.db?mode=ro", "file:%zz", "a\x00b"} {
		_, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: bad})
		if !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: filepath.Join(dir, "no", "such", "folder.db")})
	wantErr(t, err, storage.ErrUnavailable)
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: dir})
	wantErr(t, err, storage.ErrUnavailable)
}

func TestSQLiteRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"x.db", "./y.db", "a:b.db", "file:z.db"} {
		open(t, sqldb.Config{Backend: "sqlite3", URL: path})
		if _, err := os.Stat(strings.TrimPrefix(path, "file:")); err != nil {
			t.Error(err)
		}
	}
}

// TestSQLiteSettings: what makes SQLite durable and concurrent is on, on every
// connection.
func TestSQLiteSettings(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "x.db")})
	if err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
		for name, q := range map[string]sqldb.Querier{"writer": tx, "reader": db} {
			for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"} {
				if got := text(t, q, `select * from pragma_`+pragma); got != want {
					t.Errorf("%s: %s is %s, want %s", name, pragma, got, want)
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err := sqldb.Collect(t.Context(), db, scanText, `create table x (n integer) returning 1`)
	if err == nil {
		t.Error("a reader can write")
	}
}

// TestSQLiteWriters: readers see the last commit while a transaction is open,
// and a second writer waits for its turn.
func TestSQLiteWriters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	a, b := open(t, sqldb.Config{Backend: "sqlite3", URL: path}), open(t, sqldb.Config{Backend: "sqlite3", URL: path})
	exec(t, a, `create table x (n integer primary key)`)
	inserted, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 2)
	go func() {
		done <- a.Tx(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(t.Context(), `insert into x values (1)`)
			close(inserted)
			<-goOn
			return err
		})
	}()
	<-inserted
	for _, db := range []*sqldb.DB{a, b} {
		if got := text(t, db, `select count(*) from x`); got != "0" {
			t.Errorf("uncommitted rows: %s", got)
		}
	}
	go func() {
		_, err := b.Exec(t.Context(), `insert into x select 2 where exists (select 1 from x where n = 1)`)
		done <- err
	}()
	close(goOn)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := text(t, b, `select count(*) from x`); got != "2" {
		t.Errorf("%s rows, want 2: the second writer must see the first", got)
	}
}

func TestSQLiteErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db := open(t, sqldb.Config{Backend: "sqlite3", URL: path})
	exec(t, db, `create table x (n integer primary key, s text unique check (length(s) <= 3))`)
	exec(t, db, `insert into x values (1, 'abc')`)
	for statement, want := range map[string]error{
		`insert into x values (2, 'abc')`:  sqldb.ErrUnique,
		`insert into x values (2, 'abcd')`: storage.ErrTooLarge,
	} {
		_, err := db.Exec(t.Context(), statement)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", statement, err, want)
		}
	}
	// A primary key is nothing that writers race for.
	if _, err := db.Exec(t.Context(), `insert into x values (1, 'x')`); err == nil || errors.Is(err, sqldb.ErrUnique) {
		t.Errorf("a primary key taken: %v", err)
	}
	_, err := db.Exec(t.Context(), `select nonsense`)
	if err == nil || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a mistake of ours: %v", err)
	}

	// A full disk: SQLite's own limit of pages behaves as one.
	exec(t, db, `pragma max_page_count = 1`)
	var full error
	for range 1000 {
		if _, full = db.Exec(t.Context(), `insert into x select coalesce(max(n), 0) + 1, null from x`); full != nil {
			break
		}
	}
	wantErr(t, full, storage.ErrUnavailable)
	if full != nil && !strings.Contains(full.Error(), "full") {
		t.Errorf("%q does not say that the disk is full", full)
	}

	// Another process holds the lock.
	other := open(t, sqldb.Config{Backend: "sqlite3", URL: path})
	if err := other.Tx(t.Context(), func(tx *sqldb.Tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := db.Exec(ctx, `insert into x values (5, null)`)
		wantErr(t, err, storage.ErrUnavailable)
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	// No database at all.
	junk := filepath.Join(t.TempDir(), "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: junk}); err == nil {
		t.Error("junk was opened")
	}
}

// TestTxRollsBack: a transaction whose function fails leaves nothing, and its
// error comes through.
func TestTxRollsBack(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "x.db")})
	exec(t, db, `create table x (n integer)`)
	boom := errors.New("boom")
	err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(t.Context(), `insert into x values (1)`); err != nil {
			return err
		}
		return boom
	})
	wantErr(t, err, boom)
	if got := text(t, db, `select count(*) from x`); got != "0" {
		t.Errorf("%s rows are left", got)
	}
	db.Close()
	_, err = db.Exec(t.Context(), `insert into x values (1)`)
	wantErr(t, err, storage.ErrUnavailable)
}

func TestStamp(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 123_456_999, time.FixedZone("Tokyo", 9*3600))
	if got, want := sqldb.Stamp(at), "2026-03-03 20:06:07.123456"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	db := open(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "x.db"), Now: func() time.Time { return at }})
	if got, want := db.Now(), time.Date(2026, 3, 3, 20, 6, 7, 123_456_000, time.UTC); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestReadOnlyFile: a file that is only looked at stays what it is to the byte,
// whatever its journal mode, and is not made.
func TestReadOnlyFile(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		path := filepath.Join(t.TempDir(), "x.db")
		person, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := person.ExecContext(t.Context(), `pragma journal_mode = `+mode+`; create table x (n integer); insert into x values (7)`); err != nil {
			t.Fatal(err)
		}
		if err := person.Close(); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: path, ReadOnly: true})
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if n, err := sqldb.One(t.Context(), db, scanText, `select n from x`); err != nil || n != "7" {
			t.Errorf("%s: read %s: %v", mode, n, err)
		}
		if _, err := db.Exec(t.Context(), `insert into x values (8)`); err == nil {
			t.Errorf("%s: written to", mode)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the file has changed (%v)", mode, err)
		}
	}
	path := filepath.Join(t.TempDir(), "none.db")
	if _, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: path, ReadOnly: true}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}
