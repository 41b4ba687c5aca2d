package main_test

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"countersign/certs"
	"countersign/internal/pgtest"
	"countersign/internal/proctest"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

func TestMain(m *testing.M) { proctest.Main(m, "trust-signer") }

func path() string { return proctest.Path("trust-signer") }

const (
	passphrase = "correct-horse-s3cret"
	withPass   = "NOTARY_SIGNER_MAIN=" + passphrase
)

// A setup is a folder with certificates and a configuration.
type setup struct {
	dir, addr string
	cfg       map[string]map[string]any
}

// newSetup configures a signer with SQLite that wants client certificates.
func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{dir: t.TempDir(), addr: proctest.FreeAddr(t)}
	if err := certs.EnsureDev(certs.DevConfig{Dir: s.dir}); err != nil {
		t.Fatal(err)
	}
	s.cfg = map[string]map[string]any{
		"server":  {"grpc_addr": s.addr, "tls_cert_file": "signer.crt", "tls_key_file": "signer.key", "client_ca_file": "ca.crt"},
		"storage": {"backend": "sqlite3", "default_alias": "main"},
		"logging": {"level": "info"},
	}
	return s
}

func (s *setup) write(t *testing.T) string {
	t.Helper()
	raw, err := json.Marshal(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s.file(t, "config.json", string(raw))
}

func (s *setup) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client speaks to the signer, with our certificate or without one.
func (s *setup) client(t *testing.T, certificate bool) *rpc.Client {
	t.Helper()
	files := certs.Files{CA: filepath.Join(s.dir, "ca.crt")}
	if certificate {
		files.Cert, files.Key = filepath.Join(s.dir, "client.crt"), filepath.Join(s.dir, "client.key")
	}
	store, err := certs.Load(certs.Config{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	c, err := rpc.Dial(rpc.ClientConfig{Addr: s.addr, TLS: store.Client("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// start starts the signer, and waits until it is healthy.
func (s *setup) start(t *testing.T, env []string, args ...string) (*proctest.Process, *rpc.Client) {
	t.Helper()
	p := proctest.Start(t, path(), env, append([]string{"-config=" + s.write(t)}, args...)...)
	c := s.client(t, true)
	p.Await(t, "the signer to be healthy", func() error { return c.Check(t.Context()) })
	return p, c
}

func createKey(t *testing.T, c *rpc.Client) tuf.Key {
	t.Helper()
	key, err := c.CreateKey(t.Context(), "example.com/app", tuf.RoleTimestamp, tuf.KeyECDSA)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign has the key sign something, and verifies the signature.
func sign(t *testing.T, c *rpc.Client, key tuf.Key) error {
	t.Helper()
	sig, err := c.Sign(t.Context(), "example.com/app", tuf.RoleTimestamp, key.ID(), []byte("content"))
	if err != nil {
		return err
	}
	return key.VerifySignature(key.Method(), []byte("content"), sig)
}

func TestStaticallyLinked(t *testing.T) {
	f, err := elf.Open(path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a %v segment: it is linked dynamically", p.Type)
		}
	}
}

func TestCommandLine(t *testing.T) {
	s := newSetup(t)
	good := s.write(t)
	delete(s.cfg["storage"], "default_alias")
	delete(s.cfg["server"], "tls_key_file")
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.Rename(s.write(t), bad); err != nil {
		t.Fatal(err)
	}
	s.cfg["storage"]["default_alias"], s.cfg["server"]["tls_key_file"] = "main", "signer.key"
	s.write(t)
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // regular expressions
	}{
		"version":          {[]string{"-version"}, 0, `^trust-signer Version: \S+, Git commit: \S+, Go version: go\S+\n$`, `^$`},
		"help":             {[]string{"-h"}, 0, `^usage: trust-signer -config=PATH`, `^$`},
		"unknown flag":     {[]string{"-x"}, 2, `^$`, `flag provided but not defined: -x`},
		"nothing":          {nil, 1, `^$`, `no configuration file is given`},
		"bootstrap":        {[]string{"-config", good, "-bootstrap"}, 1, `^$`, `store does not support bootstrapping\n$`},
		"check":            {[]string{"-check-config", "--config", good}, 0, `^config ok: ` + regexp.QuoteMeta(good) + `\n$`, `^$`},
		"check finds both": {[]string{"-check-config", "--config", bad}, 1, `^$`, `(?s)has \d faults:.*default_alias.*`},
		"format":           {[]string{"-config", good, "-logf", "csv"}, 2, `^$`, `want json, logfmt or text`},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := proctest.Run(t, path(), []string{withPass}, c.args...)
			if code != c.code || !regexp.MustCompile(c.stdout).MatchString(stdout) || !regexp.MustCompile(c.stderr).MatchString(stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, c.code, stdout, stderr)
			}
		})
	}
}

// TestSigns: a key is made, signs, and still does after a restart.
func TestSigns(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	p, c := s.start(t, []string{withPass}, "-logf=logfmt")
	key := createKey(t, c)
	if err := sign(t, c, key); err != nil {
		t.Fatal(err)
	}
	if err := s.client(t, false).Check(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a caller without a certificate: %v", err)
	}
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if strings.Contains(p.Stderr.String(), "not authenticated") {
		t.Error("it warns although callers show certificates")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "trust-signer.db")); err != nil {
		t.Errorf("the default database: %v", err)
	}

	_, c = s.start(t, []string{withPass})
	if err := sign(t, c, key); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestPassphraseSources(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	file := s.file(t, "pass", passphrase+"\n")
	p, c := s.start(t, []string{withPass})
	key := createKey(t, c)
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)

	t.Run("file by variable", func(t *testing.T) {
		p, c := s.start(t, []string{"NOTARY_SIGNER_MAIN_FILE=" + file})
		if err := sign(t, c, key); err != nil {
			t.Error(err)
		}
		p.Signal(t, syscall.SIGTERM)
		p.Wait(t)
	})
	t.Run("file by configuration", func(t *testing.T) {
		s.cfg["storage"]["passphrase_files"] = map[string]string{"main": "pass"}
		defer delete(s.cfg["storage"], "passphrase_files")
		p, c := s.start(t, nil)
		if err := sign(t, c, key); err != nil {
			t.Error(err)
		}
		p.Signal(t, syscall.SIGTERM)
		p.Wait(t)
	})
	t.Run("none", func(t *testing.T) {
		p := proctest.Start(t, path(), nil, "-config="+s.write(t))
		p.AwaitText(t, `no new key can be made: no passphrase for the alias \"main\": set the variable NOTARY_SIGNER_MAIN`)
		c := s.client(t, true)
		p.Await(t, "the signer to say that it cannot sign", func() error {
			if err := c.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "NOT_SERVING") {
				return errors.Join(errors.New("it does not say so"), err)
			}
			return nil
		})
		if err := sign(t, c, key); !errors.Is(err, storage.ErrKeySealed) {
			t.Errorf("signing without the passphrase: %v", err)
		}
		p.Signal(t, syscall.SIGTERM)
		p.Wait(t)
	})
	t.Run("a file that is not there", func(t *testing.T) {
		code, _, stderr := proctest.Run(t, path(), []string{"NOTARY_SIGNER_MAIN_FILE=/no/such"}, "-config="+s.write(t))
		if code != 1 || !strings.Contains(stderr, `NOTARY_SIGNER_MAIN_FILE = "/no/such"`) {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
}

// TestOpenToAll: without client_ca_file anybody may call, as upstream has it.
func TestOpenToAll(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	delete(s.cfg["server"], "client_ca_file")
	s.start(t, []string{withPass})
	if err := s.client(t, false).Check(t.Context()); err != nil {
		t.Errorf("a caller without a certificate: %v", err)
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.cfg["storage"] = map[string]any{"backend": "memory"}
	tmp := t.TempDir()
	p, c := s.start(t, []string{"TMPDIR=" + tmp})
	if err := sign(t, c, createKey(t, c)); err != nil {
		t.Error(err)
	}
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if !strings.Contains(p.Stderr.String(), "nothing is kept") {
		t.Error("it does not warn")
	}
}

// TestDatabaseLater: a database that is down is told at once, without its
// password, and waited for.
func TestDatabaseLater(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t)
	s := newSetup(t)
	s.cfg["storage"]["backend"], s.cfg["storage"]["db_url"] = "postgres", cluster.URL(t)
	cluster.Stop(t)
	p := proctest.Start(t, path(), []string{withPass}, "-config="+s.write(t))
	p.AwaitText(t, "opening the database: not possible yet, trying on")
	if conn, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("it listens without a database", conn.Close())
	}
	cluster.Start(t)
	c := s.client(t, true)
	p.Await(t, "the signer to be healthy", func() error { return c.Check(t.Context()) })
	if err := sign(t, c, createKey(t, c)); err != nil {
		t.Error(err)
	}
	for _, secret := range []string{pgtest.Password, passphrase} {
		if strings.Contains(p.Stderr.String(), secret) {
			t.Error("the log holds a secret")
		}
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	p, _ := s.start(t, []string{withPass})
	p.Signal(t, syscall.SIGUSR2)
	p.AwaitText(t, "Successfully setting log level to warning\n")
	p.Signal(t, syscall.SIGUSR1)
	p.AwaitText(t, "Successfully setting log level to info\n")
	p.Signal(t, syscall.SIGINT)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	lis, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	code, _, stderr := proctest.Run(t, path(), []string{withPass}, "-config="+s.write(t))
	if want := "trust-signer: listen tcp " + s.addr + ": bind: address already in use\n"; code != 1 || !strings.HasSuffix(stderr, want) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
