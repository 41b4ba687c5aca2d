package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

// notAuthenticated is a message for which the signer must listen to the network.
// TestMigratingHarbor comes by it, on a machine whose network is its own.
const notAuthenticated = "callers are not authenticated"

// troubles are the messages of the document's table.
func troubles(t testing.TB) []string {
	t.Helper()
	raw, err := os.ReadFile("../docs/migrating-from-notary.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(raw), "\n## Trouble\n")
	if !found {
		t.Fatal("the document has no section on trouble")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var messages []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		messages = append(messages, m[1])
	}
	return messages
}

// A trouble is a message of the table and how to come by it.
type trouble struct {
	says string
	// spoil changes valid configurations of a pair on SQLite.
	spoil func(server, signer object)
	env   []string
	// runs are the programs that are started; else the configurations are checked.
	runs []string
}

// TestMigratingTrouble holds the table of troubles to what the programs print:
// each of its messages is provoked.
func TestMigratingTrouble(t *testing.T) {
	t.Parallel()
	d := newTroubled(t)
	seen := append(d.tokens(), notAuthenticated)
	both := []string{"signer", "server"}
	for _, c := range []trouble{
		{says: "there is no such setting", spoil: func(server, _ object) { server["servr"] = object{} }},
		{says: "MySQL is not supported", spoil: func(server, _ object) {
			server["storage"] = object{"backend": "mysql", "db_url": "server@tcp(mysql:3306)/notaryserver"}
		}},
		{says: "unable to open token auth root certificate bundle file …", spoil: func(server, _ object) { useTokens(server, "/nonexistent/root.crt") }},
		{says: "its password is not encoded as in a URL; it is read as …", spoil: func(server, _ object) { usePostgres(server, "postgres://server:pass#word@db.example.com/notaryserver") }},
		{says: "pq: SSL is not enabled on the server", runs: both[1:],
			spoil: func(server, _ object) { usePostgres(server, strings.Replace(d.url, "sslmode=disable", "", 1)) }},
		{says: `pq: password authentication failed for user "…"`, runs: both[1:], spoil: func(server, _ object) {
			usePostgres(server, d.url)
			server["storage"].(object)["db_password_file"] = d.file("wrong-password")
		}},
		{says: "opening the database: not possible yet, trying on", runs: both[1:],
			spoil: func(server, _ object) { usePostgres(server, "postgres://server@"+loopback(port(t))+"/notaryserver") }},
		{says: "marked dirty", runs: both[1:], spoil: func(server, _ object) { usePostgres(server, d.dirty) }},
		{says: "role … may not SELECT, INSERT, UPDATE, DELETE on table …", runs: both[1:], spoil: func(server, _ object) { usePostgres(server, d.foreign) }},
		{says: "table … is in use by …", runs: both[1:], spoil: func(server, _ object) { usePostgres(server, d.vacuumed()) }},
		{says: "table … is in the database schema …, where role … does not look", runs: both[1:], spoil: func(server, _ object) {
			hidden := pgtest.URL(t)
			migrateUpstream(t, hidden, "server")
			sql(t, hidden, "create schema old; alter table tuf_files set schema old")
			usePostgres(server, hidden)
		}},
		{says: `has only a common name ("…"); it must be issued anew`, runs: both, spoil: func(server, signer object) {
			useCertificate(signer, "cn")
			server["trust_service"].(object)["tls_ca_file"] = "cn.crt"
		}},
		{says: "certificate signed by unknown authority", runs: both, spoil: func(server, _ object) { server["trust_service"].(object)["tls_ca_file"] = "cn.crt" }},
		{says: "tls: certificate required", runs: both, spoil: func(_, signer object) { signer["server"].(object)["client_ca_file"] = "ca.crt" }},
		{says: `no passphrase for the alias "…"`, env: []string{"NOTARY_SIGNER_DEFAULTALIAS="}},
		{says: `the passphrase of the alias "…" is weak`},
		{says: "key cannot be opened: wrong passphrase", runs: both, env: []string{"NOTARY_SIGNER_DEFAULTALIAS=another"}},
	} {
		seen = append(seen, c.says)
		d.provoke(c)
	}
	if want := troubles(t); !slices.Equal(slices.Sorted(slices.Values(seen)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the document's table has other messages than are provoked here:\n%s\n--- here\n%s", strings.Join(want, "\n"), strings.Join(seen, "\n"))
	}
}

// A troubled is a folder with a valid pair of configurations, and what spoils them.
type troubled struct {
	t          *testing.T
	dir        string
	ca         *authority
	signerAddr string
	serverAddr string
	url        string // of a database
	dirty      string // of one where upstream's tool has broken off
	foreign    string // of one with tables of another role
	passphrase string
}

func newTroubled(t *testing.T) *troubled {
	t.Helper()
	d := &troubled{t: t, dir: t.TempDir(), signerAddr: loopback(port(t)), serverAddr: loopback(port(t)), passphrase: "NOTARY_SIGNER_DEFAULTALIAS=right"}
	d.ca = newAuthority(t, d.dir)
	d.ca.issue(t, "signer")
	cn := &tokenService{dir: d.dir}
	cn.makeKey(t, "cn", newEC(t), time.Hour)
	d.url, d.dirty, d.foreign = pgtest.URL(t), pgtest.URL(t), pgtest.URL(t)
	migrateUpstream(t, d.dirty, "server")
	sql(t, d.dirty, "create table schema_migrations (version bigint primary key, dirty boolean not null); insert into schema_migrations values (2, true)")
	super, err := url.Parse(d.foreign)
	if err != nil {
		t.Fatal(err)
	}
	super.User = url.UserPassword("postgres", pgtest.Password)
	migrateUpstream(t, super.String(), "server")
	if err := os.WriteFile(d.file("wrong-password"), []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A key that is sealed under the right passphrase.
	d.provoke(trouble{says: "key created", runs: []string{"signer", "server"}})
	return d
}

// vacuumed is a database of upstream's in which somebody holds a table as VACUUM does.
func (d *troubled) vacuumed() string {
	d.t.Helper()
	u := pgtest.URL(d.t)
	migrateUpstream(d.t, u, "server")
	cmd := exec.Command("psql", "-X", "-q", "-d", u)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { in.Close(); cmd.Wait() })
	fmt.Fprintln(in, "begin; lock table tuf_files in share update exclusive mode;")
	if err := waitFor(20*time.Second, "the lock", func() error {
		if n := sql(d.t, u, "select count(*) from pg_locks where relation = 'tuf_files'::regclass and mode = 'ShareUpdateExclusiveLock' and granted"); n != "1" {
			return fmt.Errorf("%s locks", n)
		}
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	return u
}

func (d *troubled) file(name string) string { return filepath.Join(d.dir, name) }

// configs are valid.
func (d *troubled) configs() (server, signer object) {
	host, signerPort, _ := strings.Cut(d.signerAddr, ":")
	if host != "127.0.0.1" {
		d.t.Fatalf("the signer is at %s", d.signerAddr)
	}
	return object{
			"server":        object{"http_addr": d.serverAddr},
			"trust_service": object{"type": "remote", "hostname": "localhost", "port": signerPort, "key_algorithm": "ecdsa", "tls_ca_file": "ca.crt"},
			"storage":       object{"backend": "sqlite3", "db_url": "server.db"},
			"logging":       object{"level": "info"},
		}, object{
			"server":  object{"grpc_addr": d.signerAddr, "tls_cert_file": "signer.crt", "tls_key_file": "signer.key"},
			"storage": object{"backend": "sqlite3", "db_url": "signer.db", "default_alias": "defaultalias"},
			"logging": object{"level": "info"},
		}
}

func useCertificate(signer object, name string) {
	signer["server"].(object)["tls_cert_file"], signer["server"].(object)["tls_key_file"] = name+".crt", name+".key"
}

func usePostgres(server object, address string) {
	server["storage"] = object{"backend": "postgres", "db_url": address}
}

func useTokens(server object, bundle string) {
	server["auth"] = object{"type": "token", "options": object{
		"realm": "https://harbor.example.com/service/token", "service": notaryService, "issuer": tokenIssuer, "rootcertbundle": bundle}}
}

// provoke holds that a trouble leads to its message.
func (d *troubled) provoke(c trouble) {
	d.t.Helper()
	server, signer := d.configs()
	if c.spoil != nil {
		c.spoil(server, signer)
	}
	for name, config := range map[string]object{"server": server, "signer": signer} {
		raw, err := json.Marshal(config)
		if err != nil {
			d.t.Fatal(err)
		}
		if err := os.WriteFile(d.file(name+".json"), raw, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	says := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(c.says), "…", ".*"))
	if c.runs == nil {
		out := d.check("server") + d.check("signer", c.env...)
		if !says.MatchString(out) {
			d.t.Errorf("the document tells of %q, but -check-config says:\n%s", c.says, out)
		}
		return
	}
	log := filepath.Join(d.t.TempDir(), "log")
	var running []*process
	for _, which := range c.runs {
		cmd := exec.Command(program(d.t, "trust-"+which), "-config="+d.file(which+".json"), "-logf=logfmt")
		cmd.Env = append(append(os.Environ(), d.passphrase), c.env...)
		p, err := start(which, log, cmd)
		if err != nil {
			d.t.Fatal(err)
		}
		running = append(running, p)
	}
	err := waitFor(30*time.Second, "the message", func() error {
		// Asking for a key makes the server ask the signer.
		if resp, err := http.Get("http://" + d.serverAddr + "/v2/example.com/app/_trust/tuf/timestamp.key"); err == nil {
			resp.Body.Close()
		}
		// The quotes in a logged text are escaped.
		if out := strings.ReplaceAll(readText(d.t, log), `\`, ""); !says.MatchString(out) {
			return fmt.Errorf("the log has no %q:\n%s", c.says, running[0].tail(12))
		}
		return nil
	})
	for _, p := range running {
		if e := p.end(syscall.SIGTERM, 20*time.Second); err == nil {
			err = e
		}
	}
	if err != nil {
		d.t.Error(err)
	}
}

func (d *troubled) check(which string, env ...string) string {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), program(d.t, "trust-"+which), "-check-config", "-config="+d.file(which+".json"))
	cmd.Env = append(append(os.Environ(), d.passphrase), env...)
	out, _ := cmd.CombinedOutput() // it fails where there is a fault
	return string(out)
}

// tokens holds the messages on tokens to what "trust-admin auth explain" says, and
// returns them.
func (d *troubled) tokens() []string {
	d.t.Helper()
	s := &stack{t: d.t, dir: d.dir, ca: d.ca}
	ts := newTokenService(d.t, s)
	server, _ := d.configs()
	useTokens(server, ts.bundle(d.t, "bundle.crt", "default"))
	s.writeConfig("tokens.json", server)
	var seen []string
	for _, c := range []struct {
		word, says string
		action     string
	}{
		{"issuer", `issuer is "…", want "…"`, "pull"},
		{"audience", `audience is …, want "…"`, "pull"},
		{"key-next", `kid is "…", which is no key of the bundle`, "pull"},
		{"expired", "it expired at …, now is …", "pull"},
		{"", "the token grants … on …, want …", "*"},
	} {
		gun := "harbor.example.com/" + privateProject + "/app"
		token := ts.token(d.t, pusher, []string{c.word}, "repository:"+gun+":pull,push")
		cmd := exec.CommandContext(d.t.Context(), program(d.t, "trust-admin"), "auth", "explain", "--server-config", d.file("tokens.json"), "--gun", gun, "--action", c.action)
		cmd.Stdin = strings.NewReader(token)
		out, _ := cmd.CombinedOutput() // it fails for such a token
		if !regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(c.says), "…", ".*")).Match(out) {
			d.t.Errorf("the document tells of %q, but the token is explained so:\n%s", c.says, out)
		}
		seen = append(seen, c.says)
	}
	return seen
}
