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

func TestProxy(t *testing.T) {
	direct := pgtest.URL(t)
	p, url := pgtest.NewProxy(t, direct)
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := p.Requests()
	if _, err := conn.ExecContext(t.Context(), "create table x (n int)"); err != nil {
		t.Fatal(err)
	}
	if got := p.Requests() - before; got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
	conn.Close()
	for fault, rows := range map[pgtest.Fault]string{pgtest.LoseRequest: "0", pgtest.LoseAnswer: "1"} {
		one(t, direct, "delete from x; select 'empty'")
		if conn, err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.Set(fault)
		if _, err := conn.ExecContext(t.Context(), "insert into x values (1)"); err == nil {
			t.Errorf("fault %d: no error", fault)
		}
		conn.Close()
		if got := one(t, direct, "select count(*)::text from x"); got != rows {
			t.Errorf("fault %d: %s rows, want %s", fault, got, rows)
		}
	}
	p.Set(pgtest.Refuse)
	if err := db.PingContext(t.Context()); err == nil {
		t.Error("refused, and yet there")
	}
	p.Set(pgtest.None)
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("healed: %v", err)
	}
}
