package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"countersign/internal/pgtest"
	"countersign/internal/proctest"
	"countersign/storage/sqldb"
)

// TestDatabaseLater: a database that is down is told at once, without its
// password, and waited for.
func TestDatabaseLater(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t)
	s := newSetup(t)
	s.cfg["storage"] = map[string]any{"backend": "postgres", "db_url": cluster.URL(t)}
	cluster.Stop(t)
	p := proctest.Start(t, path(), nil, "-config="+s.write(t))
	p.AwaitText(t, "opening the database: not possible yet, trying on")
	if !strings.Contains(p.Stderr.String(), "connection refused") {
		t.Error("the log does not tell why")
	}
	if _, _, err := s.get("/v2/"); err == nil {
		t.Error("it listens without a database")
	}
	cluster.Start(t)
	p.Await(t, "the server to listen", func() error { _, _, err := s.get("/v2/"); return err })
	p.AwaitText(t, "opening the database: it works now")

	cluster.Stop(t)
	p.Await(t, "the health to tell of the database", func() error {
		_, body, err := s.get("/_notary_server/health")
		if !strings.Contains(body, `"DB operational":"the database cannot be reached"`) {
			return fmt.Errorf("%s, %v", body, err)
		}
		return nil
	})
	cluster.Start(t)
	p.Await(t, "the health to recover", func() error {
		_, body, err := s.get("/_notary_server/health")
		if err == nil && strings.Contains(body, "DB operational") {
			err = errors.New(body)
		}
		return err
	})
	if strings.Contains(p.Stderr.String(), pgtest.Password) {
		t.Error("the log holds the password")
	}
}

// TestEndsWhileWaiting: a program that waits for its database can be ended.
func TestEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.cfg["storage"] = map[string]any{"backend": "postgres", "db_url": "postgres://u@" + proctest.FreeAddr(t) + "/db?sslmode=disable"}
	p := proctest.Start(t, path(), nil, "-config="+s.write(t))
	p.AwaitText(t, "trying on")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestStorage(t *testing.T) {
	t.Parallel()
	t.Run("tables are missing and must not be made", func(t *testing.T) {
		s := newSetup(t)
		s.cfg["storage"]["migrate"] = false
		code, _, stderr := proctest.Run(t, path(), nil, "-config="+s.write(t))
		if code != 1 || !strings.Contains(stderr, "table tuf_files is missing") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		s.cfg["storage"]["migrate"] = "true"
		s.start(t, nil).Signal(t, syscall.SIGKILL)
		s.cfg["storage"]["migrate"] = false
		s.start(t, nil)
	})
	t.Run("without the audit log", func(t *testing.T) {
		s := newSetup(t)
		file := filepath.Join(t.TempDir(), "server.db")
		s.cfg["storage"]["db_url"] = file
		s.start(t, nil).Signal(t, syscall.SIGKILL)
		db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: file})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(t.Context(), `drop table countersign_audit`); err != nil {
			t.Fatal(err)
		}
		s.cfg["storage"]["migrate"] = false
		p := s.start(t, nil)
		p.AwaitText(t, "table countersign_audit is missing")
		p.AwaitText(t, "the audit log is off")
	})
	t.Run("memory", func(t *testing.T) {
		s := newSetup(t)
		s.cfg["storage"] = map[string]any{"backend": "memory", "migrate": false} // whose tables else can be missing only
		tmp := t.TempDir()
		p := s.start(t, []string{"TMPDIR=" + tmp})
		p.AwaitText(t, "nothing is kept")
		p.Signal(t, syscall.SIGTERM)
		if code := p.Wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	t.Run("a folder that is not there", func(t *testing.T) {
		s := newSetup(t)
		s.cfg["storage"]["db_url"] = "no/server.db"
		code, _, stderr := proctest.Run(t, path(), nil, "-config="+s.write(t))
		if want := "storage.db_url: the folder of the database file cannot be used: no such file or directory"; code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
}
