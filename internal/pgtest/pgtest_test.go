package pgtest_test

import (
	"database/sql"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

func one(t *testing.T, url, query string) string {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var s string
	if err := db.QueryRowContext(t.Context(), query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

func TestURL(t *testing.T) {
	a, b := pgtest.URL(t), pgtest.URL(t)
	if one(t, a, "select current_database()") == one(t, b, "select current_database()") {
		t.Error("two tests got the same database")
	}
	if got := one(t, a, "select current_user"); got != "trust" {
		t.Errorf("user %q", got)
	}
	if got := one(t, a, "select rolsuper::text from pg_roles where rolname = current_user"); got != "false" {
		t.Errorf("superuser: %s; tests must live with the rights of an ordinary owner", got)
	}
}

// TestKill shows that committed data survives SIGKILL, and that the same URL
// works after the restart.
func TestKill(t *testing.T) {
	c := pgtest.New(t)
	url := c.URL(t)
	one(t, url, "create table x as select 1 as n; select 'made'")
	c.Kill(t)
	if db, err := sql.Open("postgres", url); err != nil || db.PingContext(t.Context()) == nil {
		t.Fatalf("a killed server answers (%v)", err)
	}
	c.Start(t)
	if got := one(t, url, "select count(*)::text from x"); got != "1" {
		t.Errorf("after the crash: %s rows", got)
	}
	c.Stop(t)
	c.Start(t)
	c.Pause(t)
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	done := make(chan error, 1)
	go func() { done <- db.PingContext(t.Context()) }()
	select {
	case err := <-done:
		t.Errorf("a paused server answers: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	c.Resume(t)
	if err := <-done; err != nil {
		t.Errorf("after Resume: %v", err)
	}
}
