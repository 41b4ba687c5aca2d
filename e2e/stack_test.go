package e2e_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

// An impl says whose program it is.
type impl string

const (
	ours     impl = "ours"
	upstream impl = "upstream"
)

// A backend is a storage.backend of the configuration.
type backend string

const (
	onPostgres backend = "postgres"
	onSQLite   backend = "sqlite3"
)

// signerAlias is the passphrase alias of the signer's keys. The passphrase is
// long and strange enough to be found in any log that holds it.
const (
	signerAlias      = "e2ealias"
	signerPassphrase = "sealed-under-Q7#xL9/e2e"
)

// stackConfig says what a stack is made of. The zero value is our pair on
// PostgreSQL, or the pair of COUNTERSIGN_E2E_PAIR.
type stackConfig struct {
	server, signer impl
	backend        backend
	servers        int                     // server processes on one database; 0 is 1
	cluster        *pgtest.Cluster         // nil is the shared one
	pooler         func(url string) string // makes the URL that the programs get; nil is PostgreSQL's own
	// databases, if set, names PostgreSQL databases that are there already.
	databases func() (server, signer string)
	race      bool // our programs with the race detector, which slows them several times
}

// A stack is a signer and one or more servers, as processes, over TLS.
type stack struct {
	t   testing.TB
	cfg stackConfig
	dir string
	ca  *authority

	serverDB, signerDB string // storage.db_url: PostgreSQL URLs or SQLite files
	signerPort         int
	serverPorts        []int
	signer             *process
	servers            []*process
	started            []*process // everything ever started, for the logs
	secrets            []string   // what else no log of ours may hold
}

// newStack starts a stack and ends it with the test. A program of ours that
// panics, races or writes a secret to its log fails the test.
func newStack(t testing.TB, cfg stackConfig) *stack {
	t.Helper()
	s := &stack{t: t, cfg: cfg.withDefaults(t), dir: t.TempDir()}
	s.createDatabases() // before close, so that the programs end before their databases go
	t.Cleanup(s.close)
	s.ca = newAuthority(t, s.dir)
	for _, name := range []string{"server", "signer", "client"} {
		s.ca.issue(t, name)
	}
	s.signerPort = port(t)
	s.writeSignerConfig()
	s.startSigner()
	for i := range s.cfg.servers {
		s.serverPorts = append(s.serverPorts, port(t))
		s.servers = append(s.servers, nil)
		s.writeServerConfig(i)
		s.startServer(i)
	}
	return s
}

func (cfg stackConfig) withDefaults(t testing.TB) stackConfig {
	if cfg.server == "" {
		cfg.server, cfg.signer = ours, ours
		if pair := os.Getenv("COUNTERSIGN_E2E_PAIR"); pair != "" {
			server, signer, ok := strings.Cut(pair, "/")
			if !ok {
				t.Fatalf("COUNTERSIGN_E2E_PAIR is %q, want server/signer", pair)
			}
			cfg.server, cfg.signer = impl(server), impl(signer)
		}
	}
	if cfg.backend == "" {
		cfg.backend = onPostgres
	}
	cfg.servers = max(cfg.servers, 1)
	return cfg
}

func port(t testing.TB) int {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *stack) createDatabases() {
	s.t.Helper()
	if s.cfg.backend == onSQLite {
		s.serverDB, s.signerDB = filepath.Join(s.dir, "server.db"), filepath.Join(s.dir, "signer.db")
		return
	}
	if s.cfg.databases != nil {
		s.serverDB, s.signerDB = s.cfg.databases()
		return
	}
	s.serverDB, s.signerDB = newDatabase(s.t, s.cfg.cluster), newDatabase(s.t, s.cfg.cluster)
	// Ours make their tables at the start. Upstream's never do.
	if s.cfg.server == upstream {
		migrateUpstream(s.t, s.serverDB, "server")
	}
	if s.cfg.signer == upstream {
		migrateUpstream(s.t, s.signerDB, "signer")
	}
}

type object = map[string]any

func (s *stack) writeSignerConfig() {
	s.t.Helper()
	s.writeConfig("signer.json", object{
		"server": object{
			"grpc_addr": s.signerAddr(), "tls_cert_file": "signer.crt", "tls_key_file": "signer.key", "client_ca_file": "ca.crt",
		},
		"storage": object{"backend": s.cfg.backend, "db_url": s.programURL(s.signerDB), "default_alias": signerAlias},
		"logging": object{"level": "info"},
	})
}

func (s *stack) writeServerConfig(i int) {
	s.t.Helper()
	s.writeConfig(serverConfigName(i), s.serverConfig(i))
}

func (s *stack) serverConfig(i int) object {
	return object{
		"server": object{"http_addr": s.serverAddr(i), "tls_cert_file": "server.crt", "tls_key_file": "server.key"},
		"trust_service": object{
			"type": "remote", "hostname": "localhost", "port": strconv.Itoa(s.signerPort), "key_algorithm": "ecdsa",
			"tls_ca_file": "ca.crt", "tls_client_cert": "client.crt", "tls_client_key": "client.key",
		},
		"storage": object{"backend": s.cfg.backend, "db_url": s.programURL(s.serverDB)},
		"logging": object{"level": "info"},
	}
}

// addServer starts one more server on the stack's database and signer, with that
// section "auth", and returns its number. It logs all that it can.
func (s *stack) addServer(of impl, auth object) int {
	s.t.Helper()
	i := len(s.servers)
	s.serverPorts, s.servers = append(s.serverPorts, port(s.t)), append(s.servers, nil)
	cfg := s.serverConfig(i)
	cfg["auth"], cfg["logging"] = auth, object{"level": "debug"}
	s.writeConfig(serverConfigName(i), cfg)
	s.startServerOf(of, i)
	return i
}

// programURL is what the programs know a database by.
func (s *stack) programURL(db string) string {
	if s.cfg.pooler == nil {
		return db
	}
	return s.cfg.pooler(db)
}

func serverConfigName(i int) string { return fmt.Sprintf("server%d.json", i) }

func (s *stack) writeConfig(name string, v object) {
	s.t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), raw, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (s *stack) signerAddr() string      { return loopback(s.signerPort) }
func (s *stack) serverAddr(i int) string { return loopback(s.serverPorts[i]) }

// url is the base URL of server i.
func (s *stack) url(i int) string { return "https://localhost:" + strconv.Itoa(s.serverPorts[i]) }

// gunURL is where a server keeps a GUN's metadata, with a slash at the end.
func (s *stack) gunURL(i int, gun string) string { return s.url(i) + "/v2/" + gun + "/_trust/tuf/" }

// binary is the path of a program: "server" or "signer".
func (s *stack) binary(of impl, which string) string {
	if of == upstream {
		return "/usr/bin/notary-" + which
	}
	if s.cfg.race {
		return program(s.t, filepath.Join("race", "trust-"+which))
	}
	return program(s.t, "trust-"+which)
}

func (s *stack) run(of impl, which, name, config string) *process {
	s.t.Helper()
	cmd := exec.Command(s.binary(of, which), "-config="+filepath.Join(s.dir, config), "-logf=logfmt")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "NOTARY_SIGNER_"+strings.ToUpper(signerAlias)+"="+signerPassphrase)
	p, err := start(name, filepath.Join(s.dir, name+".log"), cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.started = append(s.started, p)
	return p
}

// startSigner starts the signer and waits until it listens.
func (s *stack) startSigner() {
	s.t.Helper()
	s.signer = s.run(s.cfg.signer, "signer", "signer-"+string(s.cfg.signer), "signer.json")
	if err := waitForPort(s.signer, s.signerAddr(), 20*time.Second); err != nil {
		s.t.Fatal(err)
	}
}

// startServer starts server i and waits until it answers.
func (s *stack) startServer(i int) { s.t.Helper(); s.startServerOf(s.cfg.server, i) }

func (s *stack) startServerOf(of impl, i int) {
	s.t.Helper()
	p := s.run(of, "server", fmt.Sprintf("server%d-%s", i, of), serverConfigName(i))
	s.servers[i] = p
	if err := waitForPort(p, s.serverAddr(i), 20*time.Second); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) stopAll() {
	s.t.Helper()
	for _, p := range append([]*process{s.signer}, s.servers...) {
		if p == nil {
			continue
		}
		if err := p.end(syscall.SIGTERM, 20*time.Second); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *stack) close() {
	s.stopAll()
	seen := map[string]bool{}
	for _, p := range s.started {
		if seen[p.log] {
			continue
		}
		seen[p.log] = true
		s.inspectLog(p)
		if s.t.Failed() {
			s.t.Logf("end of %s:\n%s", filepath.Base(p.log), p.tail(15))
		}
	}
}

// inspectLog looks for what must never be in a log of ours.
func (s *stack) inspectLog(p *process) {
	s.t.Helper()
	if strings.HasSuffix(p.name, string(upstream)) {
		return
	}
	raw, err := os.ReadFile(p.log)
	if err != nil {
		s.t.Error(err)
	}
	for _, word := range append(s.secrets, "panic", "fatal error:", "DATA RACE", signerPassphrase, pgtest.Password, url.QueryEscape(pgtest.Password), "PRIVATE KEY") {
		if bytes.Contains(raw, []byte(word)) {
			s.t.Errorf("the log of %s holds %q", p.name, word)
		}
	}
}

// transport speaks TLS to the stack's servers.
func (s *stack) transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: s.ca.pool()},
		MaxIdleConnsPerHost: 64,
		ForceAttemptHTTP2:   false,
	}
}

// client is an HTTP client for the stack that follows no redirects. It ends with the test.
func (s *stack) client() *http.Client {
	tr := s.transport()
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get fetches a URL and returns its status and body.
func get(t testing.TB, c *http.Client, address string) (int, []byte) {
	t.Helper()
	resp, err := c.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", address, err)
	}
	return resp.StatusCode, body
}
