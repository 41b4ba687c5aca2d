package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// A deployment is how a site of the field runs Notary on PostgreSQL.
type deployment struct {
	server, signer string            // fixtures of internal/config, or of upstream's module
	dir            string            // where they are mounted
	hostname       string            // the signer's, as the server's file says it
	realm          string            // of the challenge; "" is for no authentication
	mounts         map[string]string // the other files, and what of the authority's they hold
	env            []string
	dbInEnv        bool // the database is named by the environment, not by the files
}

// Variables that the images, compose files and charts set, for both programs
// alike. DB_URL and MIGRATIONS_PATH are for upstream's migrations; the database
// of DB_URL is one that is not there, for the files name another.
var (
	fieldCompose = []string{"MIGRATIONS_PATH=migrations/server/postgresql", "DB_URL=postgres://nobody@127.0.0.1:1/none?sslmode=disable", "NOTARY_SIGNER_DEFAULTALIAS=Ab3dEf9h"}
	fieldHelm    = slices.Concat(fieldCompose, []string{
		"NOTARY_SERVER_PORT=tcp://10.43.0.7:4443", "NOTARY_SERVER_PORT_4443_TCP=tcp://10.43.0.7:4443", "NOTARY_SERVER_PORT_4443_TCP_ADDR=10.43.0.7",
		"NOTARY_SERVER_SERVICE_HOST=10.43.0.7", "NOTARY_SERVER_SERVICE_PORT=4443", "KUBERNETES_SERVICE_HOST=10.43.0.1",
		"NOTARY_SIGNER_PORT=tcp://10.43.0.8:7899", "NOTARY_SIGNER_PORT_7899_TCP_PORT=7899", "NOTARY_SIGNER_SERVICE_HOST=10.43.0.8", "NOTARY_SIGNER_SERVICE_PORT=7899",
	})
	fieldImage = []string{"SERVICE_NAME=notary_signer", "NOTARY_SIGNER_DEFAULT_ALIAS=timestamp_1", "NOTARY_SIGNER_TIMESTAMP_1=testpassword"}
)

// mutual is the files of a deployment where server and signer know each other by
// certificate. The server's own holds its whole chain, and is the signer's CA file.
func mutual(dir string) map[string]string {
	return map[string]string{
		dir + "notary-server.crt": "chain", dir + "notary-server.key": "server.key", dir + "root-ca.crt": "ca.crt",
		dir + "notary-signer.crt": "signer.crt", dir + "notary-signer.key": "signer.key",
	}
}

// oneWay is the files of Harbor's deployments, where the server shows nothing.
func oneWay(bundle, ca, cert, key string) map[string]string {
	return map[string]string{bundle: "ca.crt", ca: "ca.crt", cert: "signer.crt", key: "signer.key"}
}

func deployments() map[string]deployment {
	harbor := func(version, realm string) deployment {
		return deployment{
			server: version + "/server-config.postgres.json", signer: version + "/signer-config.postgres.json", dir: "/etc/notary/",
			hostname: "notarysigner", realm: realm, env: fieldCompose,
			mounts: oneWay("/etc/notary/root.crt", "/etc/notary/notary-signer-ca.crt", "/etc/notary/notary-signer.crt", "/etc/notary/notary-signer.key"),
		}
	}
	chart := func(name, hostname, realm, ca, cert, key string) deployment {
		d := harbor(name, realm)
		d.hostname, d.env, d.mounts = hostname, fieldHelm, oneWay("/root.crt", ca, cert, key)
		return d
	}
	return map[string]deployment{
		"Harbor 1.6": harbor("harbor-1.6", "http://harbor.example.com/service/token"),
		"Harbor 2.0": harbor("harbor-2.0", "https://harbor.example.com:8443/service/token"),
		"Harbor's chart, old": chart("helm-1.0", "notary-harbor-notary-signer", "https://core.harbor.example/service/token",
			"/etc/notary/notary-signer-ca.crt", "/etc/notary/notary-signer.crt", "/etc/notary/notary-signer.key"),
		"Harbor's chart": chart("helm-1.2", "my-harbor-notary-signer", "https://core.harbor.example/service/token",
			"/etc/ssl/notary/ca.crt", "/etc/ssl/notary/tls.crt", "/etc/ssl/notary/tls.key"),
		"Bitnami's chart": chart("bitnami", "harbor-notary-signer", "https://core.harbor.domain/service/token",
			"/etc/notary/notary-signer-ca.crt", "/etc/ssl/notary/cert/notary-signer.crt", "/etc/ssl/notary/cert/notary-signer.key"),
		"Notary's chart": {
			server: "notary-chart/server-config.json", signer: "notary-chart/signer-config.json", dir: "/etc/notary/", hostname: "notarysigner",
			mounts: mutual("/tls/"), env: append(slices.Clone(fieldHelm), "NOTARY_SIGNER_ALIAS=alias123"),
		},
		"Docker's image": {
			server: "docker-image/server-config.json", signer: "docker-image/signer-config.json", dir: "/notary/", hostname: "notarysigner",
			mounts: mutual("/certs/"), env: fieldImage, dbInEnv: true,
		},
		"Notary's compose file": {
			server: "upstream/server-config.postgres.json", signer: "upstream/signer-config.postgres.json", dir: "/fixtures/", hostname: "notarysigner",
			mounts: mutual("/fixtures/"), env: append(slices.Clone(fieldImage), fieldCompose[:2]...),
		},
	}
}

// TestFieldConfigs has our programs take over the deployments of the field by
// their own files: unchanged but for ports, host names, databases, and the root
// of their file system.
func TestFieldConfigs(t *testing.T) {
	t.Parallel()
	for name, d := range deployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := d.start(t)
			s.probe(t)
			s.wantChallenge(t)
			s.wantKeys(t)
			s.wantLogfmt(t)
		})
	}
}

// A fieldStack is a deployment that runs here.
type fieldStack struct {
	*stack
	d    deployment
	base string // the server's URL
}

func (d deployment) start(t *testing.T) *fieldStack {
	t.Helper()
	s := &fieldStack{d: d, stack: &stack{t: t, cfg: stackConfig{server: ours, signer: ours, backend: onPostgres, servers: 1}, dir: t.TempDir()}}
	s.createDatabases()
	t.Cleanup(s.close)
	s.secrets = []string{"Ab3dEf9h", "alias123", "testpassword"}
	made := filepath.Join(s.dir, "made")
	if err := os.Mkdir(made, 0o700); err != nil {
		t.Fatal(err)
	}
	s.ca = newAuthority(t, made)
	for _, name := range []string{"server", "signer", "client"} {
		s.ca.issue(t, name)
	}
	for path, what := range d.mounts {
		s.write(path, s.held(what))
	}
	s.signerPort, s.serverPorts = port(t), []int{port(t)}
	s.signer = s.daemon("signer", s.mount(d.signer, s.signerPatches()))
	if err := waitForPort(s.signer, s.signerAddr(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	file := s.mount(d.server, s.serverPatches())
	s.servers = []*process{s.daemon("server", file)}
	if err := waitForPort(s.servers[0], s.serverAddr(0), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + s.serverAddr(0)
	if d.hasTLS() {
		s.base = s.url(0)
	}
	return s
}

// held is what a mounted file holds.
func (s *fieldStack) held(what string) string {
	s.t.Helper()
	var content []byte
	names := []string{what}
	if what == "chain" {
		names = []string{"server.crt", "ca.crt"}
	}
	for _, name := range names {
		raw, err := os.ReadFile(s.ca.file(name))
		if err != nil {
			s.t.Fatal(err)
		}
		content = append(content, raw...)
	}
	return string(content)
}

func (s *fieldStack) write(path, content string) string {
	s.t.Helper()
	path = filepath.Join(s.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// signerPatches and serverPatches are all that changes in the files, besides the
// root of absolute paths.

func (s *fieldStack) signerPatches() map[string]string {
	return map[string]string{"grpc_addr": s.signerAddr(), "db_url": s.signerDB}
}

func (s *fieldStack) serverPatches() map[string]string {
	return map[string]string{"http_addr": s.serverAddr(0), "db_url": s.serverDB, "hostname": "localhost", "port": strconv.Itoa(s.signerPort)}
}

// mount puts a fixture to its place and returns that.
func (s *fieldStack) mount(fixture string, patches map[string]string) string {
	s.t.Helper()
	source := filepath.Join("../internal/config/testdata/field", fixture)
	if rest, ok := strings.CutPrefix(fixture, "upstream/"); ok {
		module, err := upstreamModule()
		if err != nil {
			s.t.Fatal(err)
		}
		source = filepath.Join(module, "fixtures", rest)
	}
	raw, err := os.ReadFile(source)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), `"/`, `"`+s.dir+`/`)
	for key, value := range patches {
		if key == "db_url" && s.d.dbInEnv {
			continue
		}
		text = patchValue(s.t, text, key, value)
	}
	return s.write(s.d.dir+filepath.Base(fixture), text)
}

// patchValue replaces the value of the one key of that name, a string, and
// leaves every other byte alone.
func patchValue(t testing.TB, text, key, value string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, `"`+key+`":`)
	_, after, closed := strings.Cut(strings.TrimLeft(rest, " \t"), `"`)
	_, after, ended := strings.Cut(after, `"`)
	if !found || !closed || !ended || strings.Contains(after, `"`+key+`":`) {
		t.Fatalf("there is not one %q in\n%s", key, text)
	}
	quoted, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return before + `"` + key + `": ` + string(quoted) + after
}

// daemon starts a program as the image does, in no other environment than the
// field's.
func (s *fieldStack) daemon(which, file string) *process {
	s.t.Helper()
	cmd := exec.Command(s.binary(ours, which), "-config="+file, "-logf=logfmt")
	cmd.Dir = s.dir
	cmd.Env = slices.Clone(s.d.env)
	if s.d.dbInEnv {
		cmd.Env = append(cmd.Env, "NOTARY_SERVER_STORAGE_BACKEND=postgres", "NOTARY_SERVER_STORAGE_DB_URL="+s.serverDB,
			"NOTARY_SIGNER_STORAGE_BACKEND=postgres", "NOTARY_SIGNER_STORAGE_DB_URL="+s.signerDB)
	}
	p, err := start(which+"-ours", filepath.Join(s.dir, which+".log"), cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.started = append(s.started, p)
	return p
}

func (d deployment) hasTLS() bool { return d.realm == "" } // Harbor's server stands behind a proxy

// probe asks what Harbor's chart has the kubelet ask, which checks no certificate.
func (s *fieldStack) probe(t *testing.T) {
	t.Helper()
	err := waitFor(20*time.Second, "a healthy server", func() error {
		status, body := get(t, s.client(), s.base+"/_notary_server/health")
		if status != http.StatusOK || string(body) != "{}" {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	cert, err := tls.LoadX509KeyPair(s.ca.file("client.crt"), s.ca.file("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{
			// #nosec G402 -- the kubelet's probes do not look either
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}, ForceAttemptHTTP2: h2, DisableKeepAlives: true,
		}
		if status, body := get(t, &http.Client{Transport: tr, Timeout: 10 * time.Second}, "https://"+s.signerAddr()+"/"); status != http.StatusOK {
			t.Errorf("the signer, HTTP/2 %v: %d %s", h2, status, body)
		}
	}
}

// wantChallenge: a server that its file protects tells where to get a token, in
// upstream's words; one that is not protected says that it is there.
func (s *fieldStack) wantChallenge(t *testing.T) {
	t.Helper()
	resp, err := s.client().Get(s.base + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	status, challenge := http.StatusOK, ""
	if s.d.realm != "" {
		status, challenge = http.StatusUnauthorized, `Bearer realm="`+s.d.realm+`",service="harbor-notary",scope="registry:catalog:*"`
	}
	if got := resp.Header.Get("Www-Authenticate"); resp.StatusCode != status || got != challenge {
		t.Errorf("GET /v2/: %d, challenge %s, want %d, %s\n%s", resp.StatusCode, got, status, challenge, body)
	}
}

// wantKeys: the signer makes a key under the alias and the passphrase of the
// field, and signs with it.
func (s *fieldStack) wantKeys(t *testing.T) {
	t.Helper()
	w := s.newWire(t)
	create := field(field(field(nil, 1, []byte("ecdsa")), 2, []byte("docker.io/library/x")), 3, []byte("timestamp"))
	if _, st := w.call(t, "/proto.KeyManagement/CreateKey", create); st.Code() != codes.OK {
		t.Fatalf("creating a key: %v", st)
	}
	id := sql(t, s.signerDB, "select key_id from private_keys")
	if st := w.sign(t, id, "content"); st.Code() != codes.OK {
		t.Errorf("signing: %v", st)
	}
	for variable, alias := range map[string]string{"NOTARY_SIGNER_DEFAULTALIAS=": "defaultalias", "NOTARY_SIGNER_ALIAS=": "alias", "NOTARY_SIGNER_TIMESTAMP_1=": "timestamp_1"} {
		given := slices.ContainsFunc(s.d.env, func(kv string) bool { return strings.HasPrefix(kv, variable) })
		if got := sql(t, s.signerDB, "select count(*) from private_keys where passphrase_alias = '%s'", alias); given && got == "1" {
			return
		}
	}
	t.Errorf("the key is under none of the aliases that %q gives", s.d.env)
}

// wantLogfmt: the flag of Harbor's images counts, and nothing in the environment
// is taken for a setting.
func (s *fieldStack) wantLogfmt(t *testing.T) {
	t.Helper()
	for _, p := range s.started {
		raw, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		if log := string(raw); !strings.HasPrefix(log, "time=") || strings.Contains(log, "the variable NOTARY_") {
			t.Errorf("%s logs\n%s", p.name, log)
		}
	}
}
