package program_test

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/internal/config"
	"countersign/internal/pgtest"
	"countersign/internal/program"
	"countersign/migrations"
)

// A journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex // guards text; nothing else is done while it is held
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// holds waits until the log holds the word.
func (j *journal) holds(t *testing.T, word string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(j.String(), word); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never logged: %q in\n%s", word, j)
		}
	}
}

// superuser returns the database of u for the superuser, to run statements on.
func superuser(t *testing.T, u string) (run func(statements ...string), as func(role, password string) string) {
	t.Helper()
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	as = func(role, password string) string {
		c := *parsed
		c.User = url.UserPassword(role, password)
		return c.String()
	}
	db, err := sql.Open("postgres", as("postgres", pgtest.Password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return func(statements ...string) {
		t.Helper()
		for _, s := range statements {
			if _, err := db.ExecContext(context.WithoutCancel(t.Context()), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}, as
}

// TestLatePassword: a wrong password at the start, as in a rolling change of
// it, is told at once with what to do, once, and without the password. When it
// is right the program goes on, on tables that another role owns, and says what
// it could not add.
func TestLatePassword(t *testing.T) {
	u := pgtest.URL(t)
	run, as := superuser(t, u)
	log := &journal{}
	p, err := program.Begin("trust-x", nil, log, log)
	if err != nil {
		t.Fatal(err)
	}
	owner, _, _ := begin(t)
	db, err := owner.OpenDatabase(t.Context(), config.Storage{Backend: "postgres", DBURL: u, Migrate: true}, migrations.Signer)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	run(`create role late login password 'old'`, `grant select, insert, update on private_keys to late`,
		`grant usage on all sequences in schema public to late`, `drop index countersign_unused_key`)
	t.Cleanup(func() { run(`drop owned by late`, `drop role late`) })
	type opened struct {
		db  *program.Database
		err error
	}
	done := make(chan opened, 1)
	go func() {
		db, err := p.OpenDatabase(t.Context(), config.Storage{Backend: "postgres", DBURL: as("late", "n3w secret"), Migrate: true}, migrations.Signer)
		done <- opened{db, err}
	}()
	log.holds(t, "storage.db_password_file")
	run(`alter role late password 'n3w secret'`)
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	defer o.db.Close()
	text := log.String()
	for word, times := range map[string]int{"password authentication failed": 1, "countersign_unused_key is not on table private_keys": 1,
		"trust-admin db migrate --signer-config FILE --sql | psql -U trust": 1, "n3w": 0} {
		if got := strings.Count(text, word); got != times {
			t.Errorf("%q is logged %d times, want %d:\n%s", word, got, times, text)
		}
	}
}

// TestNotMigrated: with storage.migrate false the tables are not touched, and what
// is missing is told all the same.
func TestNotMigrated(t *testing.T) {
	u := pgtest.URL(t)
	run, _ := superuser(t, u)
	p, _, _ := begin(t)
	db, err := p.OpenDatabase(t.Context(), config.Storage{Backend: "postgres", DBURL: u, Migrate: true}, migrations.Server)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	run(`drop table countersign_audit`, `drop trigger countersign_changefeed_order on changefeed`)
	log := &journal{}
	p, err = program.Begin("trust-x", nil, log, log)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		db, err = p.OpenDatabase(t.Context(), config.Storage{Backend: "postgres", DBURL: u}, migrations.Server)
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		if db.Audit {
			t.Error("an audit log without its table")
		}
	}
	for _, word := range []string{"table countersign_audit is missing", "countersign_changefeed_order is not on table changefeed", "trust-admin db migrate --server-config FILE"} {
		if !strings.Contains(log.String(), word) {
			t.Errorf("not told: %q in\n%s", word, log)
		}
	}
}
