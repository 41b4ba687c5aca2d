package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/proctest"
)

func TestMain(m *testing.M) { proctest.Main(m, "trust-admin", "trust-server", "trust-signer") }

func path() string { return proctest.Path("trust-admin") }

func TestCommandLine(t *testing.T) {
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // regular expressions
	}{
		"nothing":           {nil, 0, `(?s)Usage:.*dev .*version`, `^$`},
		"help":              {[]string{"--help"}, 0, `trust-admin dev --dir /tmp/try`, `^$`},
		"help of dev":       {[]string{"dev", "--help"}, 0, `(?s)Examples:\n  trust-admin dev\n.*--addr string .*"localhost:4443".*--dir string .*"dev"`, `^$`},
		"version":           {[]string{"version"}, 0, `^trust-admin Version: \S+, Git commit: \S+, Go version: go\S+\n$`, `^$`},
		"version as a flag": {[]string{"--version"}, 0, `^trust-admin Version: \S+, Git commit: \S+, Go version: go\S+\n$`, `^$`},
		"unknown command":   {[]string{"dve"}, 2, `^$`, `(?s)^trust-admin: unknown command "dve".*Did you mean this\?\n(\t\w+\n)*\tdev\n.*Try trust-admin --help\.\n$`},
		"unknown flag":      {[]string{"dev", "--dri=x"}, 2, `^$`, `^trust-admin: unknown flag: --dri\nTry trust-admin dev --help\.\n$`},
		"argument":          {[]string{"dev", "x"}, 2, `^$`, `Try trust-admin dev --help\.\n$`},
		"no port":           {[]string{"dev", "--addr", "localhost"}, 1, `^$`, `^trust-admin: address localhost: missing port in address; write the address as HOST:PORT\n$`},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := proctest.Run(t, path(), nil, c.args...)
			if code != c.code || !regexp.MustCompile(c.stdout).MatchString(stdout) || !regexp.MustCompile(c.stderr).MatchString(stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, c.code, stdout, stderr)
			}
		})
	}
}

// A pair is a running trust-admin dev.
type pair struct {
	*proctest.Process
	dir, addr string
}

// startDev starts a pair and waits until it says that it is ready.
func startDev(t *testing.T, dir, addr string) *pair {
	t.Helper()
	env := []string{
		// None of these may reach the two programs.
		"NOTARY_SERVER_STORAGE_BACKEND=mysql", "NOTARY_SIGNER_STORAGE_BACKEND=mysql", "NOTARY_SIGNER_DEV=other", "DB_URL=postgres://no/where",
	}
	p := &pair{Process: proctest.Start(t, path(), env, "dev", "--dir", dir, "--addr", addr), dir: dir, addr: addr}
	p.Await(t, "the pair to be ready", func() error {
		lines := strings.Split(strings.TrimSuffix(p.Stdout.String(), "\n"), "\n")
		if !strings.HasPrefix(lines[len(lines)-1], "ready") {
			return errors.New("the last line does not say so")
		}
		return nil
	})
	return p
}

func (p *pair) client(t *testing.T) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	raw, err := os.ReadFile(filepath.Join(p.dir, "certs/ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// key asks the server for a key, which only the signer can have made.
func (p *pair) key(t *testing.T) string {
	t.Helper()
	resp, err := p.client(t).Get("https://" + p.addr + "/v2/example.com/app/_trust/tuf/timestamp.key")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("asking for a key: %s %s, %v", resp.Status, body, err)
	}
	return string(body)
}

// children finds the two programs by their configuration files.
func (p *pair) children(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range procs {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		args := strings.Split(string(raw), "\x00")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"trust-server", "trust-signer"} {
			if args[0] == proctest.Path(name) && len(args) > 1 && args[1] == "-config="+filepath.Join(p.dir, strings.TrimPrefix(name, "trust-")+".json") {
				found[name] = pid
			}
		}
	}
	return found
}

func (p *pair) wantNoChildren(t *testing.T) {
	t.Helper()
	proctest.Eventually(t, "both programs to end", func() error {
		if left := p.children(t); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
}

func localAddr(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(proctest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return "localhost:" + port
}

func TestDev(t *testing.T) {
	t.Parallel()
	dir, addr := filepath.Join(t.TempDir(), "a", "dev"), localAddr(t)
	p := startDev(t, dir, addr)
	for _, want := range []string{
		"\n    mkdir -p ~/.docker/tls/" + addr + "\n    cp " + dir + "/certs/ca.crt ~/.docker/tls/" + addr + "/ca.crt\n" +
			"    export DOCKER_CONTENT_TRUST=1 DOCKER_CONTENT_TRUST_SERVER=https://" + addr + "\n    docker push ",
		"\n    notary -s https://" + addr + " --tlscacert " + dir + "/certs/ca.crt -d ~/.docker/trust init ",
		"\nready: https://" + addr,
	} {
		if !strings.Contains(p.Stdout.String(), want) {
			t.Errorf("it does not print\n%s", want)
		}
	}
	key := p.key(t)
	if n := len(p.children(t)); n != 2 {
		t.Errorf("%d programs, want 2", n)
	}
	wantModes(t, dir)

	second := proctest.Start(t, path(), nil, "dev", "--dir", dir, "--addr", addr)
	if code := second.Wait(t); code != 1 || second.Stderr.String() != fmt.Sprintf("trust-admin: %s is in use by another trust-admin dev: process %d holds it\n", dir, p.Cmd.Process.Pid) {
		t.Errorf("a second one on the same folder: exit code %d: %s", code, second.Stderr.String())
	}

	before := state(t, dir)
	p.Signal(t, os.Interrupt)
	if code := p.Wait(t); code != 0 || p.Stderr.String() != "" {
		t.Errorf("exit code %d after Ctrl-C: %s", code, p.Stderr.String())
	}
	p.wantNoChildren(t)
	for _, log := range []string{"server.log", "signer.log"} {
		raw, err := os.ReadFile(filepath.Join(dir, log))
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(raw)), "stopped") {
			t.Errorf("%s does not end with the program's own end: %s %v", log, raw, err)
		}
	}

	p = startDev(t, dir, addr)
	if diff := cmp.Diff(before, state(t, dir)); diff != "" {
		t.Errorf("started again, the state differs (-before +after):\n%s", diff)
	}
	if again := p.key(t); again != key {
		t.Errorf("started again, the key is another one: %s, was %s", again, key)
	}
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	p.wantNoChildren(t)
}

func wantModes(t *testing.T, dir string) {
	t.Helper()
	for name, want := range map[string]os.FileMode{
		".": 0o700, "certs": 0o700, "passphrase": 0o600, "server.json": 0o600, "signer.json": 0o600, "server.db": 0o600, "signer.db": 0o600,
		"certs/ca.key": 0o600, "certs/ca.crt": 0o644, "server.log": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
}

// state is what must survive a restart.
func state(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "certs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, filepath.Join(dir, "passphrase"), filepath.Join(dir, "server.json"), filepath.Join(dir, "signer.json")) {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = string(raw)
	}
	return all
}

// TestProgramDies: the other one is ended, and the reason shown.
func TestProgramDies(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"trust-server", "trust-signer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startDev(t, t.TempDir(), localAddr(t))
			if err := syscall.Kill(p.children(t)[name], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if code := p.Wait(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if got := p.Stderr.String(); !strings.HasPrefix(got, "trust-admin: "+name+" ended by itself (signal: killed); the end of its log, ") || !strings.Contains(got, " listening address=") {
				t.Errorf("it says %q", got)
			}
			p.wantNoChildren(t)
		})
	}
}

// TestKilled: even then nothing is left running, and the state is whole.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir, addr := t.TempDir(), localAddr(t)
	p := startDev(t, dir, addr)
	key := p.key(t)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	p.wantNoChildren(t)
	p = startDev(t, dir, addr)
	if again := p.key(t); again != key {
		t.Errorf("the key is another one: %s, was %s", again, key)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	addr := localAddr(t)
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	code, stdout, stderr := proctest.Run(t, path(), nil, "dev", "--dir", t.TempDir(), "--addr", addr)
	if want := "trust-admin: the server cannot listen on " + addr + ": address already in use; end what does, or choose another address\n"; code != 1 || stdout != "" || stderr != want {
		t.Errorf("exit code %d: %q, want %q", code, stderr, want)
	}
}

// TestMoves: the signer's port was taken meanwhile, the server's address is
// another one, and somebody has edited a configuration.
func TestMoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := startDev(t, dir, localAddr(t))
	key := p.key(t)
	p.Signal(t, os.Interrupt)
	p.Wait(t)

	file := filepath.Join(dir, "signer.json")
	cfg := readJSON(t, file)
	old := cfg["server"]["grpc_addr"].(string)
	lis, err := net.Listen("tcp", old)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	cfg["logging"]["level"] = "debug"
	writeJSON(t, file, cfg)

	p = startDev(t, dir, localAddr(t))
	if again := p.key(t); again != key {
		t.Errorf("the key is another one: %s, was %s", again, key)
	}
	now := readJSON(t, file)
	if now["server"]["grpc_addr"] == old {
		t.Error("the signer's address is the same")
	}
	now["server"]["grpc_addr"] = old
	if diff := cmp.Diff(cfg, now); diff != "" {
		t.Errorf("more than the address was changed (-edited +now):\n%s", diff)
	}
}

func readJSON(t *testing.T, file string) map[string]map[string]any {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func writeJSON(t *testing.T, file string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFindsPrograms: beside itself, or else in PATH.
func TestFindsPrograms(t *testing.T) {
	t.Parallel()
	alone := t.TempDir()
	self := filepath.Join(alone, "trust-admin")
	raw, err := os.ReadFile(path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := proctest.Run(t, self, []string{"PATH=/nowhere"}, "dev", "--dir", t.TempDir(), "--addr", localAddr(t))
	if want := "trust-admin: trust-server is neither in " + alone + " nor in PATH\n"; code != 1 || stderr != want {
		t.Errorf("exit code %d: %q", code, stderr)
	}
	p := proctest.Start(t, self, []string{"PATH=" + filepath.Dir(path())}, "dev", "--dir", t.TempDir(), "--addr", localAddr(t))
	p.AwaitText(t, "\nready")
	p.Signal(t, os.Interrupt)
	p.Wait(t)
}

// TestPrintedCommands runs what is printed, as a person would who copies it.
func TestPrintedCommands(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	dir, addr := filepath.Join(t.TempDir(), "it's here"), localAddr(t)
	p := startDev(t, dir, addr)
	var script []string
	for line := range strings.Lines(p.Stdout.String()) {
		if cmd, ok := strings.CutPrefix(line, "    "); ok && !strings.HasPrefix(cmd, "docker push") {
			script = append(script, cmd)
		}
	}
	sh := exec.Command("sh", "-e", "-c", strings.Join(script, "")+"\ncmp "+`"$CA" "$HOME/.docker/tls/$ADDR/ca.crt"`+"\n"+
		strings.Replace(script[len(script)-1], "init -p example.com/hello", "list example.com/hello", 1))
	sh.Env = append(os.Environ(), "HOME="+home, "CA="+filepath.Join(dir, "certs/ca.crt"), "ADDR="+addr,
		"NOTARY_ROOT_PASSPHRASE=correct horse", "NOTARY_TARGETS_PASSPHRASE=correct horse", "NOTARY_SNAPSHOT_PASSPHRASE=correct horse", "NOTARY_DELEGATION_PASSPHRASE=correct horse")
	out, err := sh.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No targets present in this repository.") {
		t.Errorf("%v\n%s\nof\n%s", err, out, strings.Join(script, ""))
	}
	if got := p.children(t); len(got) != 2 {
		t.Errorf("afterwards there run %v", got)
	}
}
