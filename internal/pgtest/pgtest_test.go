package pgtest_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// TestChosenPrograms: COUNTERSIGN_PGBIN decides which programs make a cluster and
// run it. The ones here tell that they were called.
func TestChosenPrograms(t *testing.T) {
	installed, err := pgtest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for the user postgres, if we are root
		t.Fatal(err)
	}
	write := func(name, arguments string) {
		script := fmt.Sprintf("#!/bin/sh\nexec '%s/%s' \"$@\" %s\n", installed, name, arguments)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(value, why string) {
		t.Setenv("COUNTERSIGN_PGBIN", value)
		if bin, err := pgtest.Programs(); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("COUNTERSIGN_PGBIN=%s: %q, %v", value, bin, err)
		}
	}
	refused("some/folder", "absolute path")
	refused(dir, "initdb")
	write("initdb", "--data-checksums")
	refused(dir, "postgres")
	write("postgres", "-c cluster_name=chosen")

	t.Setenv("COUNTERSIGN_PGBIN", dir)
	url := pgtest.New(t).URL(t)
	if got := one(t, url, "select current_setting('cluster_name') || ' ' || current_setting('data_checksums')"); got != "chosen on" {
		t.Errorf("%q; another server was started", got)
	}
}

// TestDrop: when a test ends, its database is gone, and with it the connections
// that the test has left open.
func TestDrop(t *testing.T) {
	c := pgtest.New(t)
	other := c.URL(t)
	var name string
	var left *sql.DB // its pool keeps the connection
	t.Run("leaving a connection", func(t *testing.T) {
		url := c.URL(t)
		name = one(t, url, "select current_database()")
		db, err := sql.Open("postgres", url)
		if err != nil {
			t.Fatal(err)
		}
		left = db
		if err := db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if got := one(t, other, "select count(*)::text from pg_database where datname = '"+name+"'"); got != "0" {
		t.Errorf("database %s outlives its test", name)
	}
	left.Close()
}
