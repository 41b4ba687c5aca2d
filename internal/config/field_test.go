package config_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/internal/config"
)

// Variables that programs find in the field beside their settings. None of them
// may disturb.
var (
	composeEnv = []string{"MIGRATIONS_PATH=migrations/server/postgresql", "DB_URL=postgres://other@elsewhere/x", "NOTARY_SIGNER_DEFAULTALIAS=Ab3dEf9h"}
	imageEnv   = []string{"SERVICE_NAME=notary_signer", "NOTARY_SIGNER_DEFAULT_ALIAS=timestamp_1", "NOTARY_SIGNER_TIMESTAMP_1=testpassword"}
	helmEnv    = append([]string{
		"NOTARY_SERVER_PORT=tcp://10.43.0.7:4443", "NOTARY_SERVER_PORT_4443_TCP=tcp://10.43.0.7:4443", "NOTARY_SERVER_PORT_4443_TCP_ADDR=10.43.0.7",
		"NOTARY_SERVER_PORT_4443_TCP_PORT=4443", "NOTARY_SERVER_PORT_4443_TCP_PROTO=tcp", "NOTARY_SERVER_SERVICE_HOST=10.43.0.7", "NOTARY_SERVER_SERVICE_PORT=4443",
		"NOTARY_SIGNER_PORT=tcp://10.43.0.8:7899", "NOTARY_SIGNER_PORT_7899_TCP=tcp://10.43.0.8:7899", "NOTARY_SIGNER_PORT_7899_TCP_ADDR=10.43.0.8",
		"NOTARY_SIGNER_PORT_7899_TCP_PORT=7899", "NOTARY_SIGNER_PORT_7899_TCP_PROTO=tcp", "NOTARY_SIGNER_SERVICE_HOST=10.43.0.8", "NOTARY_SIGNER_SERVICE_PORT=7899",
	}, composeEnv...)
)

// A site is a deployment's file system below a root of its own.
type site struct {
	root string
	env  []string
}

// newSite makes the files that the configuration names; what they hold does not
// matter here.
func newSite(t *testing.T, env []string, mounts ...string) *site {
	t.Helper()
	s := &site{root: t.TempDir(), env: env}
	for _, m := range mounts {
		if err := os.MkdirAll(filepath.Dir(s.at(m)), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, s.at(m), "any")
	}
	return s
}

// at is where a path of the deployment is here.
func (s *site) at(path string) string { return filepath.Join(s.root, path) }

// mount puts a fixture to where the deployment has it. Nothing in it changes but
// that absolute paths begin at the root of the site.
func (s *site) mount(t *testing.T, fixture, as string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata/field", fixture))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(s.at(as)), 0o700); err != nil {
		t.Fatal(err)
	}
	return write(t, s.at(as), strings.ReplaceAll(string(raw), `"/`, `"`+s.root+`/`))
}

// wantReport checks what is told: for each fault its key and a part of its
// words, for each warning its beginning.
func wantReport(t *testing.T, r *config.Report, faults [][2]string, warnings []string) {
	t.Helper()
	var keys []string
	for _, f := range faults {
		keys = append(keys, f[0])
	}
	if diff := cmp.Diff(keys, faultKeys(r)); diff != "" {
		t.Fatalf("settings at fault (-want +got):\n%s%v", diff, r.Err())
	}
	for i, f := range faults {
		if !strings.Contains(r.Faults[i].String(), f[1]) {
			t.Errorf("the fault is told as %q, want %q in it", r.Faults[i], f[1])
		}
	}
	if len(r.Warnings) != len(warnings) {
		t.Fatalf("warnings %q, want %q", r.Warnings, warnings)
	}
	for i, w := range warnings {
		if !strings.HasPrefix(r.Warnings[i], w) {
			t.Errorf("warning %q, want %q", r.Warnings[i], w)
		}
	}
}

// harbor is what the files of all of Harbor's releases say, but for paths, names
// and the database.
func harbor(level, hostname, ca, dbURL, realm, bundle string) *config.Server {
	return &config.Server{
		Server:       config.HTTP{HTTPAddr: ":4443"},
		TrustService: config.TrustService{Type: "remote", Hostname: hostname, Port: "7899", KeyAlgorithm: "ecdsa", TLSCAFile: ca},
		Storage:      config.Storage{Backend: "postgres", DBURL: dbURL, Migrate: true},
		Auth: config.Auth{Type: "token", Options: config.AuthOptions{
			Realm: realm, Service: "harbor-notary", Issuer: "harbor-token-issuer", RootCertBundle: bundle,
		}},
		Logging: config.Logging{Level: level, Format: "json"},
		Caching: config.Caching{MaxAge: config.MaxAge{CurrentMetadata: 300, ConsistentMetadata: 2592000}},
	}
}

// What the backends of most deployments of old need, and where Harbor's files are.
const (
	movePostgres = `move the data to PostgreSQL and set it to "postgres"`
	etcServer    = "/etc/notary/server-config.postgres.json"
	etcSigner    = "/etc/notary/signer-config.postgres.json"
)

// A serverFile is a file of the field, and what must come of it.
type serverFile struct {
	fixture, as string
	mounts      []string
	env         []string
	want        func(s *site) *config.Server // nil if only the report counts
	faults      [][2]string
	warnings    []string
}

var serverFiles = map[string]serverFile{
	"Harbor 1.2": {
		fixture: "harbor-1.2/server-config.json", as: "/config/server-config.json", env: composeEnv,
		mounts: []string{"/config/notary-signer-ca.crt", "/config/root.crt"},
		faults: [][2]string{{"storage.backend", movePostgres}},
	},
	"Harbor 1.6": {
		fixture: "harbor-1.6/server-config.postgres.json", as: etcServer, env: composeEnv,
		mounts: []string{"/etc/notary/notary-signer-ca.crt", "/etc/notary/root.crt"},
		want: func(s *site) *config.Server {
			return harbor("debug", "notarysigner", s.at("/etc/notary/notary-signer-ca.crt"), "postgres://server:password@postgresql:5432/notaryserver?sslmode=disable",
				"http://harbor.example.com/service/token", s.at("/etc/notary/root.crt"))
		},
	},
	"Harbor 2.0": {
		fixture: "harbor-2.0/server-config.postgres.json", as: etcServer, env: composeEnv,
		mounts: []string{"/etc/notary/notary-signer-ca.crt", "/etc/notary/root.crt"},
		want: func(s *site) *config.Server {
			return harbor("debug", "notarysigner", s.at("/etc/notary/notary-signer-ca.crt"), "postgres://harbor_notary:s!crit,(x)@db.example.com:5432/notary_server?sslmode=disable",
				"https://harbor.example.com:8443/service/token", s.at("/etc/notary/root.crt"))
		},
	},
	"Harbor's chart, old": {
		fixture: "helm-1.0/server-config.postgres.json", as: etcServer, env: helmEnv,
		mounts: []string{"/etc/notary/notary-signer-ca.crt", "/root.crt"},
		want: func(s *site) *config.Server {
			return harbor("debug", "notary-harbor-notary-signer", s.at("/etc/notary/notary-signer-ca.crt"), "postgres://postgres:changeit@notary-harbor-database:5432/notaryserver?sslmode=disable",
				"https://core.harbor.example/service/token", s.at("/root.crt"))
		},
	},
	"Harbor's chart": {
		fixture: "helm-1.2/server-config.postgres.json", as: etcServer, env: helmEnv,
		mounts: []string{"/etc/ssl/notary/ca.crt", "/root.crt"},
		want: func(s *site) *config.Server {
			return harbor("info", "my-harbor-notary-signer", s.at("/etc/ssl/notary/ca.crt"), "postgres://user:not%2Fso%40secret%23@pg.example.com:5432/notary_server?sslmode=disable",
				"https://core.harbor.example/service/token", s.at("/root.crt"))
		},
	},
	"Harbor's chart, without the token service's certificate": {
		fixture: "helm-1.2/server-config.postgres.json", as: etcServer, env: helmEnv,
		mounts: []string{"/etc/ssl/notary/ca.crt"},
		faults: [][2]string{{"auth.options.rootcertbundle", "/root.crt: no such file"}},
	},
	"Bitnami's chart": {
		fixture: "bitnami/server-config.postgres.json", as: etcServer, env: helmEnv,
		mounts: []string{"/etc/notary/notary-signer-ca.crt", "/root.crt"},
		want: func(s *site) *config.Server {
			return harbor("debug", "harbor-notary-signer", s.at("/etc/notary/notary-signer-ca.crt"), "postgres://postgres:not-secure-database-password@harbor-postgresql:5432/notary_server?sslmode=disable",
				"https://core.harbor.domain/service/token", s.at("/root.crt"))
		},
	},
	"Notary's chart": {
		fixture: "notary-chart/server-config.json", as: "/etc/notary/server-config.json", env: helmEnv,
		mounts: []string{"/tls/notary-server.crt", "/tls/notary-server.key", "/tls/root-ca.crt"},
		want: func(s *site) *config.Server {
			cfg := harbor("debug", "notarysigner", s.at("/tls/root-ca.crt"), "postgres://server@notary-db:5432/notaryserver?sslmode=disable", "", "")
			cfg.Auth = config.Auth{}
			cfg.Server.TLSCertFile, cfg.Server.TLSKeyFile = s.at("/tls/notary-server.crt"), s.at("/tls/notary-server.key")
			cfg.TrustService.TLSClientCert, cfg.TrustService.TLSClientKey = cfg.Server.TLSCertFile, cfg.Server.TLSKeyFile
			cfg.Repositories.GUNPrefixes = []string{"docker.io/", "mydomain.com/"}
			return cfg
		},
	},
	"Docker's image": {
		fixture: "docker-image/server-config.json", as: "/notary/server/server-config.json", env: imageEnv,
		mounts: []string{"/certs/notary-server.crt", "/certs/notary-server.key", "/certs/root-ca.crt"},
		faults: [][2]string{{"storage.backend", movePostgres}},
	},
	"Docker's image, on PostgreSQL": {
		fixture: "docker-image/server-config.json", as: "/notary/server/server-config.json",
		env:    append([]string{"NOTARY_SERVER_STORAGE_BACKEND=postgres", "NOTARY_SERVER_STORAGE_DB_URL=postgres://server@pg/notaryserver"}, imageEnv...),
		mounts: []string{"/certs/notary-server.crt", "/certs/notary-server.key", "/certs/root-ca.crt"},
		want: func(s *site) *config.Server {
			cfg := harbor("info", "notarysigner", s.at("/certs/root-ca.crt"), "postgres://server@pg/notaryserver", "", "")
			cfg.Auth = config.Auth{}
			cfg.Server.TLSCertFile, cfg.Server.TLSKeyFile = s.at("/certs/notary-server.crt"), s.at("/certs/notary-server.key")
			cfg.TrustService.TLSClientCert, cfg.TrustService.TLSClientKey = cfg.Server.TLSCertFile, cfg.Server.TLSKeyFile
			return cfg
		},
	},
	"Notary's manual": {
		fixture: "docs-sample/server-config.json", as: "/etc/notary/server-config.json",
		faults: [][2]string{{"", "line 40: invalid character '}'"}},
	},
	"a kustomization": {
		fixture: "kustomize/server-config.json", as: "/etc/notary/server.json", env: helmEnv,
		mounts: []string{"/etc/notary/tls/tls.crt", "/etc/notary/tls/tls.key", "/etc/ssl/notary/ca.crt"},
		faults: [][2]string{
			{"trust_service.tls_cert_file", `did you mean "trust_service.tls_client_cert"?`},
			{"trust_service.tls_key_file", `did you mean "trust_service.tls_client_key"?`},
		},
	},
	"keys in the server": {
		fixture: "local-keys/server-config.json", as: "/etc/notary/server.json",
		mounts: []string{"/etc/ssl/notary/notary-server.crt", "/etc/ssl/notary/notary-server.key"},
		faults: [][2]string{{"trust_service.type", "run trust-signer"}},
	},
}

func TestFieldServers(t *testing.T) {
	for name, c := range serverFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.env, c.mounts...)
			cfg, r := config.LoadServer(s.mount(t, c.fixture, c.as), s.env)
			wantReport(t, r, c.faults, c.warnings)
			if c.want == nil {
				return
			}
			if diff := cmp.Diff(c.want(s), cfg); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// noHTTP is what the signer's file of Docker's image is told.
const noHTTP = "server.http_addr: ignored: signers have had no HTTP interface since Notary 0.4"

func pair(dir string) []string { return []string{dir + "notary-signer.crt", dir + "notary-signer.key"} }

// A signerFile is a file of the field, and what must come of it.
type signerFile struct {
	fixture, as string
	mounts      []string // certificate, key, CA
	env         []string
	level       string
	dbURL       string
	alias       string
	passphrase  string
	faults      [][2]string
	warnings    []string
}

var signerFiles = map[string]signerFile{
	"Harbor 1.2": {
		fixture: "harbor-1.2/signer-config.json", as: "/config/signer-config.json", env: composeEnv, mounts: pair("/config/"),
		faults: [][2]string{{"storage.backend", movePostgres}},
	},
	"Harbor 1.6": {
		fixture: "harbor-1.6/signer-config.postgres.json", as: etcSigner, env: composeEnv, mounts: pair("/etc/notary/"),
		level: "debug", dbURL: "postgres://signer:password@postgresql:5432/notarysigner?sslmode=disable", alias: "defaultalias", passphrase: "Ab3dEf9h",
	},
	"Harbor 2.0": {
		fixture: "harbor-2.0/signer-config.postgres.json", as: etcSigner, env: composeEnv, mounts: pair("/etc/notary/"),
		level: "debug", dbURL: "postgres://harbor_notary:s!crit,(x)@db.example.com:5432/notary_signer?sslmode=disable", alias: "defaultalias", passphrase: "Ab3dEf9h",
	},
	"Harbor's chart, old": {
		fixture: "helm-1.0/signer-config.postgres.json", as: etcSigner, env: helmEnv, mounts: pair("/etc/notary/"),
		level: "debug", dbURL: "postgres://postgres:changeit@notary-harbor-database:5432/notarysigner?sslmode=disable", alias: "defaultalias", passphrase: "Ab3dEf9h",
	},
	"Harbor's chart": {
		fixture: "helm-1.2/signer-config.postgres.json", as: etcSigner, env: helmEnv, mounts: []string{"/etc/ssl/notary/tls.crt", "/etc/ssl/notary/tls.key"},
		level: "info", dbURL: "postgres://user:not%2Fso%40secret%23@pg.example.com:5432/notary_signer?sslmode=disable", alias: "defaultalias", passphrase: "Ab3dEf9h",
	},
	"Bitnami's chart": {
		fixture: "bitnami/signer-config.postgres.json", as: etcSigner, env: helmEnv, mounts: pair("/etc/ssl/notary/cert/"),
		level: "debug", dbURL: "postgres://postgres:not-secure-database-password@harbor-postgresql:5432/notary_signer?sslmode=disable", alias: "defaultalias", passphrase: "Ab3dEf9h",
	},
	"Notary's chart": {
		fixture: "notary-chart/signer-config.json", as: "/etc/notary/signer-config.json", env: append([]string{"NOTARY_SIGNER_ALIAS=alias123"}, helmEnv...),
		mounts: append(pair("/tls/"), "/tls/root-ca.crt"),
		level:  "debug", dbURL: "postgres://signer@notary-db:5432/notarysigner?sslmode=disable", alias: "alias", passphrase: "alias123",
	},
	"Docker's image": {
		fixture: "docker-image/signer-config.json", as: "/notary/signer/signer-config.json", env: imageEnv,
		mounts: append(pair("/certs/"), "/certs/notary-server.crt"),
		faults: [][2]string{{"storage.backend", movePostgres}}, warnings: []string{noHTTP},
	},
	"Docker's image, on PostgreSQL": {
		fixture: "docker-image/signer-config.json", as: "/notary/signer/signer-config.json",
		env:    append([]string{"NOTARY_SIGNER_STORAGE_BACKEND=postgres", "NOTARY_SIGNER_STORAGE_DB_URL=postgres://signer@pg/notarysigner"}, imageEnv...),
		mounts: append(pair("/certs/"), "/certs/notary-server.crt"),
		level:  "debug", dbURL: "postgres://signer@pg/notarysigner", alias: "timestamp_1", passphrase: "testpassword", warnings: []string{noHTTP},
	},
	"Notary's manual": {
		fixture: "docs-sample/signer-config.json", as: "/etc/notary/signer-config.json", env: []string{"NOTARY_SIGNER_PASSWORDALIAS1=x"},
		mounts:   append(pair("/etc/notary/fixtures/"), "/etc/notary/fixtures/notary-server.crt"),
		faults:   [][2]string{{"storage.backend", movePostgres}, {"logging.level", `"2": not a valid log level`}},
		warnings: []string{"reporting.bugsnag.api_key: ignored", "reporting.bugsnag.release_stage: ignored"},
	},
}

func TestFieldSigners(t *testing.T) {
	for name, c := range signerFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.env, c.mounts...)
			cfg, r := config.LoadSigner(s.mount(t, c.fixture, c.as), s.env)
			wantReport(t, r, c.faults, c.warnings)
			if c.faults != nil {
				return
			}
			want := &config.Signer{
				Server:  config.GRPC{GRPCAddr: ":7899", TLSCertFile: s.at(c.mounts[0]), TLSKeyFile: s.at(c.mounts[1])},
				Storage: config.SignerStorage{Storage: config.Storage{Backend: "postgres", DBURL: c.dbURL, Migrate: true}, DefaultAlias: c.alias},
				Logging: config.Logging{Level: c.level, Format: "json"},
			}
			if len(c.mounts) > 2 {
				want.Server.ClientCAFile = s.at(c.mounts[2])
			}
			if diff := cmp.Diff(want, cfg, cmpopts.IgnoreFields(config.Signer{}, "Passphrases", "DefaultAlias")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got, err := cfg.Passphrases.Passphrase(c.alias); err != nil || got != c.passphrase {
				t.Errorf("passphrase %q, %v; want %q", got, err, c.passphrase)
			}
		})
	}
}

// TestManualWithoutItsComma: the sample of upstream's manual says more than that
// it is no JSON.
func TestManualWithoutItsComma(t *testing.T) {
	s := newSite(t, nil, "/etc/notary/fixtures/notary-server.crt", "/etc/notary/fixtures/notary-server.key", "/etc/notary/fixtures/root-ca.crt", "/path/to/auth.docker.io/cert")
	file := s.mount(t, "docs-sample/server-config.json", "/etc/notary/server-config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(raw), "31536000,", "31536000", 1))
	cfg, r := config.LoadServer(file, nil)
	wantReport(t, r, [][2]string{{"storage.backend", "MySQL is not supported"}},
		[]string{"reporting.bugsnag.api_key: ignored", "reporting.bugsnag.release_stage: ignored"})
	want := harbor("debug", "notarysigner", s.at("/etc/notary/fixtures/root-ca.crt"), "user:pass@tcp(notarymysql:3306)/databasename?parseTime=true", "", "")
	want.Storage.Backend = "mysql"
	want.Server.TLSCertFile, want.Server.TLSKeyFile = s.at("/etc/notary/fixtures/notary-server.crt"), s.at("/etc/notary/fixtures/notary-server.key")
	want.TrustService.TLSClientCert, want.TrustService.TLSClientKey = want.Server.TLSCertFile, want.Server.TLSKeyFile
	want.Auth = config.Auth{Type: "token", Options: config.AuthOptions{
		Realm: "https://auth.docker.io/token", Service: "notary-server", Issuer: "auth.docker.io", RootCertBundle: s.at("/path/to/auth.docker.io/cert"),
	}}
	want.Caching.MaxAge.ConsistentMetadata = 31536000
	want.Repositories.GUNPrefixes = []string{"docker.io/", "my-own-registry.com/"}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// upstreamFixtures is the folder of upstream's sample configurations.
func upstreamFixtures(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/theupdateframework/notary").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "fixtures")
}

// TestUpstreamSamples reads the files that upstream's compose files use.
func TestUpstreamSamples(t *testing.T) {
	const (
		mysql     = "MySQL is not supported"
		rethinkDB = "RethinkDB is not supported"
	)
	dir := upstreamFixtures(t)
	retired := []string{
		"storage.database: ignored", "storage.tls_ca_file: ignored", "storage.client_cert_file: ignored",
		"storage.client_key_file: ignored", "storage.username: ignored", "storage.password: ignored",
	}
	memory := []string{"storage.backend: nothing is kept"}
	backend := func(problem string) [][2]string { return [][2]string{{"storage.backend", problem}} }
	env := append([]string{"MIGRATIONS_PATH=x", "DB_URL=y"}, imageEnv...)
	for file, c := range map[string]struct {
		faults   [][2]string
		warnings []string
	}{
		"server-config.postgres.json": {},
		"server-config.sqlite.json":   {},
		"server-config-local.json":    {nil, memory},
		"server-config.json":          {backend(mysql), nil},
		"server-config.rethink.json":  {backend(rethinkDB), retired},
	} {
		t.Run(file, func(t *testing.T) {
			cfg, r := config.LoadServer(filepath.Join(dir, file), env)
			wantReport(t, r, c.faults, c.warnings)
			tls := config.HTTP{HTTPAddr: ":4443", TLSCertFile: filepath.Join(dir, "notary-server.crt"), TLSKeyFile: filepath.Join(dir, "notary-server.key")}
			signer := config.TrustService{
				Type: "remote", Hostname: "notarysigner", Port: "7899", KeyAlgorithm: "ecdsa", TLSCAFile: filepath.Join(dir, "root-ca.crt"),
				TLSClientCert: tls.TLSCertFile, TLSClientKey: tls.TLSKeyFile,
			}
			if diff := cmp.Diff(tls, cfg.Server) + cmp.Diff(signer, cfg.TrustService); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for file, c := range map[string]struct {
		faults   [][2]string
		warnings []string
	}{
		"signer-config.postgres.json": {},
		"signer-config-local.json":    {nil, memory},
		"signer-config.json":          {backend(mysql), nil},
		"signer-config.rethink.json":  {backend(rethinkDB), retired},
	} {
		t.Run(file, func(t *testing.T) {
			cfg, r := config.LoadSigner(filepath.Join(dir, file), env)
			wantReport(t, r, c.faults, c.warnings)
			want := config.GRPC{
				GRPCAddr: ":7899", TLSCertFile: filepath.Join(dir, "notary-signer.crt"), TLSKeyFile: filepath.Join(dir, "notary-signer.key"),
				ClientCAFile: filepath.Join(dir, "notary-server.crt"),
			}
			if diff := cmp.Diff(want, cfg.Server); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if cfg.Storage.DefaultAlias != "timestamp_1" {
				t.Errorf("default alias %q", cfg.Storage.DefaultAlias)
			}
		})
	}
}
