package admin_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/admin"
	"countersign/internal/proctest"
)

// program writes a shell script that stands for one of the programs.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// runDev expects that the pair does not become ready.
func runDev(t *testing.T, cfg admin.DevConfig) error {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	err := admin.RunDev(t.Context(), cfg, func(admin.DevInfo) { t.Error("it says that it is ready") })
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

func TestProgramFailsAtStart(t *testing.T) {
	signer := program(t, `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo line $i; done; echo the reason >&2; exit 3`)
	server := program(t, `exit 0`)
	dir := t.TempDir()
	for range 2 { // the second time the log has lines of the first
		err := runDev(t, admin.DevConfig{Dir: dir, Signer: signer, Server: server})
		want := "trust-signer ended by itself (exit status 3); the end of its log, " + filepath.Join(dir, "signer.log") + ":\nline 3\nline 4\n"
		if got := err.Error(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\nline 16\nthe reason") {
			t.Errorf("got %q", got)
		}
	}
}

func TestProgramCannotStart(t *testing.T) {
	dir := t.TempDir()
	err := runDev(t, admin.DevConfig{Dir: dir, Signer: filepath.Join(dir, "no"), Server: program(t, "exit 0")})
	if !strings.HasPrefix(err.Error(), "starting trust-signer: ") {
		t.Error(err)
	}
}

// TestEndedWhileStarting: a pair that is told to end before it is ready ends
// without an error.
func TestEndedWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	done := make(chan error, 1)
	go func() {
		done <- admin.RunDev(ctx, admin.DevConfig{
			Dir: filepath.Join(dir, "dev"), Addr: "127.0.0.1:0", Server: program(t, "exit 0"),
			Signer: program(t, `trap 'exit 0' TERM; echo $$ > `+pid+`; while :; do sleep 0.05; done`),
		}, func(admin.DevInfo) { t.Error("it says that it is ready") })
	}()
	proctest.Eventually(t, "the signer to run", func() error {
		_, err := os.Stat(pid)
		return err
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestFoldersOfOthers are not taken over.
func TestFoldersOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runDev(t, admin.DevConfig{Dir: dir}); !strings.Contains(err.Error(), "holds other things") {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder now holds %v, %v", entries, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	file := filepath.Join(dir, "thesis.tex")
	if err := runDev(t, admin.DevConfig{Dir: file}); !strings.Contains(err.Error(), "not a directory") {
		t.Error(err)
	}
}

// TestLostPassphrase: with keys in the database a new one would be of no use.
func TestLostPassphrase(t *testing.T) {
	dir := t.TempDir()
	cfg := admin.DevConfig{Dir: dir, Signer: program(t, "exit 1"), Server: program(t, "exit 1")}
	_ = runDev(t, cfg)
	first, err := os.ReadFile(filepath.Join(dir, "passphrase"))
	if err != nil || len(first) != 65 {
		t.Fatalf("passphrase of %d bytes, %v", len(first), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "signer.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "passphrase")); err != nil {
		t.Fatal(err)
	}
	if err := runDev(t, cfg); !strings.Contains(err.Error(), "without it the keys in signer.db cannot be opened") {
		t.Error(err)
	}
}

func TestBrokenConfig(t *testing.T) {
	for _, broken := range []string{"", "{", "null", "[]"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "server.json"), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := runDev(t, admin.DevConfig{Dir: dir}); !strings.Contains(err.Error(), "mend it, or remove it") {
			t.Errorf("%q: %v", broken, err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "server.json")); err != nil || string(raw) != broken {
			t.Errorf("it now holds %q, %v", raw, err)
		}
	}
}

// TestLongLog: a log does not grow for ever.
func TestLongLog(t *testing.T) {
	dir := t.TempDir()
	cfg := admin.DevConfig{Dir: dir, Signer: program(t, "echo new; exit 1"), Server: program(t, "exit 1")}
	_ = runDev(t, cfg)
	log := filepath.Join(dir, "signer.log")
	if err := os.Truncate(log, 11<<20); err != nil {
		t.Fatal(err)
	}
	_ = runDev(t, cfg)
	if raw, err := os.ReadFile(log); err != nil || string(raw) != "new\n" {
		t.Errorf("the log holds %d bytes, %v", len(raw), err)
	}
	if info, err := os.Stat(log + ".1"); err != nil || info.Size() != 11<<20 {
		t.Errorf("the old log: %v", err)
	}
}
