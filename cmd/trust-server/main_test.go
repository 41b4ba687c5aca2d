package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"countersign/certs"
	"countersign/internal/proctest"
	"countersign/internal/service"
)

func TestMain(m *testing.M) { proctest.Main(m, "trust-server") }

func path() string { return proctest.Path("trust-server") }

// A setup is a folder with certificates and a configuration.
type setup struct {
	dir, addr string
	cfg       map[string]map[string]any
}

// newSetup configures a server with SQLite and plain HTTP, whose signer is not
// there.
func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{dir: t.TempDir(), addr: proctest.FreeAddr(t)}
	if err := certs.EnsureDev(certs.DevConfig{Dir: s.dir}); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(proctest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = map[string]map[string]any{
		"server": {"http_addr": s.addr},
		"trust_service": {
			"type": "remote", "hostname": "127.0.0.1", "port": port, "key_algorithm": "ecdsa",
			"tls_ca_file": "ca.crt", "tls_client_cert": "client.crt", "tls_client_key": "client.key",
		},
		"storage": {"backend": "sqlite3", "db_url": "server.db"},
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
	file := filepath.Join(s.dir, "config.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start starts the server, and waits until it serves.
func (s *setup) start(t *testing.T, env []string, args ...string) *proctest.Process {
	t.Helper()
	p := proctest.Start(t, path(), env, append([]string{"-config=" + s.write(t)}, args...)...)
	p.Await(t, "the server to listen", func() error { _, _, err := s.get("/v2/"); return err })
	return p
}

func (s *setup) get(url string) (int, string, error) {
	return get(http.DefaultClient, "http://"+s.addr+url)
}

// getAs logs in as user, which is "" or "name:password@".
func (s *setup) getAs(user, url string) (int, string, error) {
	r, err := http.NewRequest(http.MethodGet, "http://"+s.addr+url, nil)
	if err != nil {
		return 0, "", err
	}
	if name, password, ok := strings.Cut(strings.TrimSuffix(user, "@"), ":"); ok {
		r.SetBasicAuth(name, password)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

func get(c *http.Client, url string) (int, string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(body)), err
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
	s.cfg["logging"]["level"] = "loud"
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.Rename(s.write(t), bad); err != nil {
		t.Fatal(err)
	}
	delete(s.cfg["logging"], "level")
	good := s.write(t)
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // regular expressions
	}{
		"version":             {[]string{"-version"}, 0, `^trust-server Version: \S+, Git commit: \S+, Go version: go\S+\n$`, `^$`},
		"help":                {[]string{"--help"}, 0, `^usage: trust-server -config=PATH`, `^$`},
		"unknown flag":        {[]string{"-confg", "x"}, 2, `^$`, `^trust-server: flag provided but not defined: -confg\nTry trust-server -help\.\n$`},
		"argument":            {[]string{"x.json"}, 2, `^$`, `unexpected argument "x.json"`},
		"format":              {[]string{"-logf", "xml"}, 2, `^$`, `want json, logfmt or text`},
		"nothing":             {nil, 1, `^$`, `no configuration file is given`},
		"missing file":        {[]string{"-config=/no/such.json"}, 1, `^$`, `reading /no/such.json: no such file`},
		"bootstrap":           {[]string{"-config", good, "-bootstrap"}, 1, `^$`, `store does not support bootstrapping\n$`},
		"check":               {[]string{"-check-config", "--config", good}, 0, `^config ok: ` + regexp.QuoteMeta(good) + `\n$`, `^$`},
		"check finds":         {[]string{"-check-config", "--config=" + bad}, 1, `^$`, `logging\.level = "loud": not a valid log level`},
		"start finds as much": {[]string{"--config=" + bad}, 1, `^$`, `logging\.level = "loud": not a valid log level`},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := proctest.Run(t, path(), nil, c.args...)
			if code != c.code || !regexp.MustCompile(c.stdout).MatchString(stdout) || !regexp.MustCompile(c.stderr).MatchString(stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, c.code, stdout, stderr)
			}
		})
	}
}

// TestAllFaultsAtOnce: of settings and of the files that they name.
func TestAllFaultsAtOnce(t *testing.T) {
	s := newSetup(t)
	s.cfg["server"]["tls_cert_file"], s.cfg["server"]["tls_key_file"] = "server.crt", "client.key"
	s.cfg["trust_service"]["tls_ca_file"] = "ca.key"
	s.cfg["auth"] = map[string]any{"type": "token"}
	s.cfg["reporting"] = map[string]any{"bugsnag": map[string]any{"api_key": "s3cret"}}
	code, stdout, stderr := proctest.Run(t, path(), []string{"NOTARY_SERVER_CACHING_MAX_AGE_CURRENT_METADATA=soon"}, "-check-config", "-config", s.write(t))
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	if want := "warning: reporting.bugsnag.api_key: ignored: there is no reporting to Bugsnag\n"; stdout != want {
		t.Errorf("stdout: %q, want %q", stdout, want)
	}
	for _, want := range []string{
		"the configuration has 7 faults:",
		"client.key does not belong to the certificate",
		"ca.key holds no PEM certificate",
		`auth.options.realm: token auth requires a valid option string: "realm"`,
		`auth.options.rootcertbundle: token auth requires a valid option string: "rootcertbundle"`,
		`caching.max_age.current_metadata = "soon" (from NOTARY_SERVER_CACHING_MAX_AGE_CURRENT_METADATA): it must be a whole number`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is missing from\n%s", want, stderr)
		}
	}
	if strings.Contains(stderr, "s3cret") {
		t.Errorf("a secret is told:\n%s", stderr)
	}
}

// TestAuthIsRefused: what does not protect does not listen, not for a moment.
func TestAuthIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		auth map[string]any
		env  []string
		want string
	}{
		"half given":     {map[string]any{"type": "htpasswd"}, nil, `requires a valid option string: "policy"`},
		"other spelling": {nil, []string{"NOTARY_SERVER_AUTH_TYPE=Token"}, "rather than serve openly"},
		"a bundle without a certificate": {map[string]any{"type": "token", "options": map[string]any{
			"realm": "https://a/token", "service": "s", "issuer": "i", "rootcertbundle": "server.key"}}, nil, "auth.options.rootcertbundle: "},
		"no bcrypt": {map[string]any{"type": "htpasswd", "options": map[string]any{"path": "server.crt", "policy": "server.crt"}}, nil, "auth.options: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t)
			if c.auth != nil {
				s.cfg["auth"] = c.auth
			}
			if o, ok := c.auth["options"].(map[string]any); ok && o["rootcertbundle"] != nil {
				o["rootcertbundle"] = filepath.Join(s.dir, "server.key") // relative to the working directory otherwise
			}
			code, _, stderr := proctest.Run(t, path(), c.env, "-config", s.write(t), "-logf=logfmt")
			if code != 1 || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "listening") {
				t.Errorf("exit code %d, want %q in\n%s", code, c.want, stderr)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "server.db")); err == nil {
				t.Error("the database was opened")
			}
		})
	}
}

// TestPasswords: who has none is asked for it, and health asks nobody.
func TestPasswords(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("pa:ss"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"users":  "alice:" + string(hash) + "\n",
		"policy": `{"rules": [{"users": ["alice"], "gun_prefix": "a/", "actions": ["pull"]}]}`,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg["auth"] = map[string]any{"type": "htpasswd", "options": map[string]any{"path": "users", "policy": "policy"}}
	s.start(t, nil, "-logf=logfmt")
	for _, c := range []struct {
		user, target string
		want         int
	}{
		{"", "/v2/", 401}, {"alice:pa:ss@", "/v2/", 200}, {"alice:wrong@", "/v2/", 401},
		{"", "/v2/a/b/_trust/tuf/root.json", 401}, {"alice:pa:ss@", "/v2/a/b/_trust/tuf/root.json", 404},
		{"alice:pa:ss@", "/v2/b/_trust/tuf/root.json", 401}, {"alice:pa:ss@", "/v2/a/b/_trust/tuf/timestamp.key", 401},
	} {
		if code, body, err := s.getAs(c.user, c.target); code != c.want || err != nil {
			t.Errorf("%q %s: %d %q, %v", c.user, c.target, code, body, err)
		}
	}
	if code, _, err := s.getAs("", "/_notary_server/health"); code == 401 || err != nil {
		t.Errorf("health: %d, %v", code, err)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	p := s.start(t, nil, "-logf=logfmt")
	if code, body, err := s.get("/v2/"); code != 200 || body != "{}" || err != nil {
		t.Errorf("/v2/: %d %q, %v", code, body, err)
	}
	p.Await(t, "the health to tell of the signer", func() error {
		code, body, err := s.get("/_notary_server/health")
		if want := `{"Trust operational":"the signer cannot be reached, or says that it cannot sign"}`; code != 503 || body != want {
			return fmt.Errorf("%d %s, %v", code, body, err)
		}
		return nil
	})
	if code, body, err := s.get("/v2/example.com/none/_trust/tuf/root.json"); code != 404 || err != nil {
		t.Errorf("a GUN that is not there: %d %s, %v", code, body, err)
	}
	if code, body, _ := s.get("/metrics"); code != 200 || !strings.Contains(body, `notary_server_http_requests_total{code="404",method="get"`) || !strings.Contains(body, "process_open_fds") {
		t.Errorf("/metrics: %d %.300s", code, body)
	}
	p.Signal(t, syscall.SIGUSR1)
	p.AwaitText(t, "Successfully setting log level to debug\n")
	p.Signal(t, syscall.SIGUSR2)
	p.AwaitText(t, "Successfully setting log level to info\n")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	for _, want := range []string{`level=info msg="trust-server Version: `, `msg=listening address=` + s.addr + ` tls=false`, `check="Trust operational" error="`, "msg=stopped"} {
		if !strings.Contains(p.Stderr.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestQuietByDefault(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	delete(s.cfg, "logging")
	p := s.start(t, nil)
	p.AwaitText(t, `"level":"error","msg":"health check fails"`)
	p.Signal(t, syscall.SIGINT)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
	if strings.Contains(p.Stderr.String(), `"info"`) || p.Stdout.String() != "" {
		t.Errorf("it logs more than errors: %s%s", p.Stdout.String(), p.Stderr.String())
	}
}

// TestSecondSignal ends a server that is waiting for a request that does not end.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	p := s.start(t, nil)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A request that is answered shows that the server has the connection; the
	// next one stays unfinished.
	if _, err := io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nPOST /v2/gun/_trust/tuf/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGTERM)
	proctest.Eventually(t, "the listener to close", func() error {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("somebody listens"), c.Close())
	})
	if !p.Running() {
		t.Fatal("it did not wait for the request")
	}
	p.Signal(t, syscall.SIGUSR1) // does not end it even now
	p.AwaitText(t, "Successfully setting log level to debug\n")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t); code != -int(syscall.SIGTERM) {
		t.Errorf("exit code %d after the second SIGTERM", code)
	}
}

// TestReload replaces the certificate of a running server.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.cfg["server"]["tls_cert_file"], s.cfg["server"]["tls_key_file"] = "server.crt", "server.key"
	pool := x509.NewCertPool()
	raw, err := os.ReadFile(filepath.Join(s.dir, "ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	serial := func() (string, error) {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: pool, ServerName: "localhost"})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	p := proctest.Start(t, path(), nil, "-config="+s.write(t))
	var first string
	p.Await(t, "the server to listen", func() (err error) { first, err = serial(); return err })

	if err := os.Remove(filepath.Join(s.dir, "server.crt")); err != nil {
		t.Fatal(err)
	}
	if err := certs.EnsureDev(certs.DevConfig{Dir: s.dir}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.Await(t, "the new certificate", func() error {
		now, err := serial()
		if err == nil && now == first {
			err = errors.New("the old certificate is still in use")
		}
		return err
	})
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	p.AwaitText(t, "certificate files loaded anew")
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	lis, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	code, _, stderr := proctest.Run(t, path(), nil, "-config="+s.write(t))
	if want := "trust-server: listen tcp " + s.addr + ": bind: address already in use\n"; code != 1 || !strings.HasSuffix(stderr, want) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestDebug: the debug port is fixed, and if somebody has it, that is told. What
// is served there, internal/service tests on a free one.
func TestDebug(t *testing.T) {
	lis, err := net.Listen("tcp", service.DebugAddr)
	if err == nil {
		defer lis.Close()
	} // else somebody else has it, which will do
	s := newSetup(t)
	code, _, stderr := proctest.Run(t, path(), nil, "-debug", "-config="+s.write(t))
	if code != 1 || !strings.Contains(stderr, "trust-server: listening on the debug interface: ") || !strings.Contains(stderr, "address already in use") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
