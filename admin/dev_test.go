package admin_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
	if _, err := os.Stat(filepath.Join(dir, "dev", "server.log")); err == nil {
		t.Error("the server was started nevertheless")
	}
}

// TestAllAddresses: a server that listens on all addresses has a certificate
// for each, says how it can be reached, and that anybody can. It is played by
// the test, on the loopback address only.
func TestAllAddresses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	waits := program(t, `exec sleep 600`)
	done, ready := make(chan error, 1), make(chan admin.DevInfo, 1)
	go func() {
		done <- admin.RunDev(ctx, admin.DevConfig{Dir: dir, Addr: "0.0.0.0:0", Server: waits, Signer: waits}, func(i admin.DevInfo) { ready <- i })
	}()
	proctest.Eventually(t, "the signer to be started", func() error {
		_, err := os.Stat(filepath.Join(dir, "signer.log"))
		return err
	})
	at := func(file, key string) (host, port string) {
		var cfg struct{ Server map[string]string }
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err := errors.Join(err, json.Unmarshal(raw, &cfg)); err != nil {
			t.Fatal(err)
		}
		host, port, err = net.SplitHostPort(cfg.Server[key])
		if err != nil {
			t.Fatal(err)
		}
		return host, port
	}
	_, signerPort := at("signer.json", "grpc_addr")
	signer, err := net.Listen("tcp", "127.0.0.1:"+signerPort)
	if err != nil {
		t.Fatal(err)
	}
	defer signer.Close()
	host, port := at("server.json", "http_addr")
	if host != "0.0.0.0" {
		t.Errorf("the server listens on %s", host)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "certs", "server.crt"), filepath.Join(dir, "certs", "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.Listen("tcp", "127.0.0.1:"+port, &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { _ = http.Serve(server, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	var info admin.DevInfo
	select {
	case info = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	if info.URL != "https://localhost:"+port || !info.Open {
		t.Errorf("it says %+v", info)
	}
	wantElsewhere(t, info, port, pair)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// wantElsewhere looks for each IPv4 address of this machine.
func wantElsewhere(t *testing.T, info admin.DevInfo, port string, pair tls.Certificate) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{}
	if name, err := os.Hostname(); err == nil && name != "localhost" {
		hosts = append(hosts, name)
	}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; ip.To4() != nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			hosts = append(hosts, ip.String())
		}
	}
	urls := []string{}
	for _, host := range hosts {
		urls = append(urls, "https://"+net.JoinHostPort(host, port))
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(urls, info.Elsewhere, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("URLs elsewhere (-want +got):\n%s", diff)
	}
}

// TestFoldersOfOthers are not taken over, whatever is in them.
func TestFoldersOfOthers(t *testing.T) {
	for _, name := range []string{"thesis.tex", "lock", "certs/own.key", "passphrase", "server.json", "signer.json", "server.db", "countersign-dev", "countersign-dev/main.go"} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.Chmod(dir, 0o755), os.WriteFile(file, []byte("precious"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := runDev(t, admin.DevConfig{Dir: dir}); !strings.Contains(err.Error(), "holds other things") {
			t.Errorf("%s: %v", name, err)
		}
		if raw, err := os.ReadFile(file); err != nil || string(raw) != "precious" {
			t.Errorf("%s now holds %q, %v", name, raw, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%s: the folder now holds %v, %v", name, entries, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: the folder has mode %v, %v", name, info.Mode(), err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runDev(t, admin.DevConfig{Dir: file}); !strings.Contains(err.Error(), "not a directory") {
		t.Error(err)
	}
}

// TestOwnFolders: a crash may leave the marker alone, and half of it.
func TestOwnFolders(t *testing.T) {
	dir := t.TempDir()
	cfg := admin.DevConfig{Dir: dir, Signer: program(t, "exit 1"), Server: program(t, "exit 1")}
	_ = runDev(t, cfg)
	marker := filepath.Join(dir, "countersign-dev")
	text, err := os.ReadFile(marker)
	if err != nil || len(text) == 0 {
		t.Fatalf("marker %q, %v", text, err)
	}
	for _, left := range []int{0, 7, len(text)} {
		if err := os.WriteFile(marker, text[:left], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := runDev(t, cfg); !strings.Contains(err.Error(), "trust-signer ended by itself") {
			t.Errorf("a marker of %d bytes: %v", left, err)
		}
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
		_ = runDev(t, admin.DevConfig{Dir: dir, Signer: program(t, "exit 1"), Server: program(t, "exit 1")})
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
