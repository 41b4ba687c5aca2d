package config_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/config"
)

// A tree is a configuration file as a test edits it.
type tree = map[string]any

// set changes one value by its dotted key; nil removes it.
func set(t tree, key string, value any) tree {
	out := maps.Clone(t)
	if out == nil {
		out = tree{}
	}
	head, rest, more := strings.Cut(key, ".")
	if more {
		below, _ := out[head].(tree)
		out[head] = set(below, rest, value)
	} else if value == nil {
		delete(out, head)
	} else {
		out[head] = value
	}
	return out
}

func validServer() tree {
	return tree{
		"server":        tree{"http_addr": "127.0.0.1:4443"},
		"trust_service": tree{"type": "remote", "hostname": "signer", "port": "7899", "key_algorithm": "ecdsa"},
		"storage":       tree{"backend": "postgres", "db_url": "postgres://server@db/notary"},
	}
}

func validSigner(t *testing.T, dir string) tree {
	t.Helper()
	for _, name := range []string{"signer.crt", "signer.key"} {
		write(t, filepath.Join(dir, name), "any")
	}
	return tree{
		"server":  tree{"grpc_addr": "127.0.0.1:7899", "tls_cert_file": "signer.crt", "tls_key_file": "signer.key"},
		"storage": tree{"backend": "postgres", "db_url": "postgres://signer@db/notary", "default_alias": "main"},
	}
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeTree(t *testing.T, dir string, v tree) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "config.json"), string(raw))
}

func loadServer(t *testing.T, v tree, env ...string) (*config.Server, *config.Report) {
	t.Helper()
	return config.LoadServer(writeTree(t, t.TempDir(), v), env)
}

// faultKeys lists which settings are at fault.
func faultKeys(r *config.Report) []string {
	var keys []string
	for _, f := range r.Faults {
		keys = append(keys, f.Key)
	}
	return keys
}

// wantFault checks that exactly one setting is at fault, in words that hold want.
func wantFault(t *testing.T, r *config.Report, key, want string) {
	t.Helper()
	if diff := cmp.Diff([]string{key}, faultKeys(r)); diff != "" {
		t.Fatalf("settings at fault (-want +got):\n%s%v", diff, r.Err())
	}
	if got := r.Faults[0].String(); !strings.Contains(got, want) {
		t.Errorf("the fault is told as %q, want %q in it", got, want)
	}
}

func wantClean(t *testing.T, r *config.Report) {
	t.Helper()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestDefaults(t *testing.T) {
	cfg, r := loadServer(t, validServer())
	wantClean(t, r)
	want := &config.Server{
		Server:       config.HTTP{HTTPAddr: "127.0.0.1:4443"},
		TrustService: config.TrustService{Type: "remote", Hostname: "signer", Port: "7899", KeyAlgorithm: "ecdsa"},
		Storage:      config.Storage{Backend: "postgres", DBURL: "postgres://server@db/notary", Migrate: true},
		Logging:      config.Logging{Level: "error", Format: "json"},
		Caching:      config.Caching{MaxAge: config.MaxAge{CurrentMetadata: 300, ConsistentMetadata: 2592000}},
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if len(r.Warnings) > 0 {
		t.Errorf("warnings: %q", r.Warnings)
	}
}

func TestLooseness(t *testing.T) {
	for name, c := range map[string]struct {
		key   string
		value any
		got   func(*config.Server) any
		want  any
	}{
		"port as a number":          {"trust_service.port", 7899, func(s *config.Server) any { return s.TrustService.Port }, "7899"},
		"port as a float":           {"trust_service.port", json.Number("7899.0"), func(s *config.Server) any { return s.TrustService.Port }, "7899"},
		"age as a string":           {"caching.max_age.current_metadata", "17", func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 17},
		"age zero":                  {"caching.max_age.current_metadata", 0, func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 0},
		"longest age":               {"caching.max_age.consistent_metadata", "31536000", func(s *config.Server) any { return s.Caching.MaxAge.ConsistentMetadata }, 31536000},
		"bool as a string":          {"storage.migrate", "false", func(s *config.Server) any { return s.Storage.Migrate }, false},
		"null is absent":            {"logging.level", json.RawMessage("null"), func(s *config.Server) any { return s.Logging.Level }, "error"},
		"empty is absent":           {"server.tls_cert_file", "", func(s *config.Server) any { return s.Server.TLSCertFile }, ""},
		"null section":              {"caching", json.RawMessage("null"), func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 300},
		"level in upper case":       {"logging.level", "DEBUG", func(s *config.Server) any { return s.Logging.Level }, "debug"},
		"warning is warn":           {"logging.level", "Warning", func(s *config.Server) any { return s.Logging.Level }, "warn"},
		"top-level key's case":      {"CACHING", tree{"max_age": tree{"current_metadata": 5}}, func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 5},
		"nested key's case":         {"caching", tree{"Max_Age": tree{"CURRENT_METADATA": 6}}, func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 6},
		"prefixes as a list":        {"repositories.gun_prefixes", []string{"a.com/", "b.com/c/"}, func(s *config.Server) any { return s.Repositories.GUNPrefixes }, []string{"a.com/", "b.com/c/"}},
		"prefixes as one string":    {"repositories.gun_prefixes", "a.com/ b.com/c/", func(s *config.Server) any { return s.Repositories.GUNPrefixes }, []string{"a.com/", "b.com/c/"}},
		"unvouched delegations":     {"repositories.allow_unvouched_delegations", true, func(s *config.Server) any { return s.Repositories.AllowUnvouched }, true},
		"vouched by default":        {"repositories", tree{}, func(s *config.Server) any { return s.Repositories.AllowUnvouched }, false},
		"no authentication, empty":  {"auth", tree{}, func(s *config.Server) any { return s.Auth.Type }, ""},
		"key=value database source": {"storage.db_url", "host=db user=server", func(s *config.Server) any { return s.Storage.DBURL }, "host=db user=server"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := loadServer(t, set(validServer(), c.key, c.value))
			wantClean(t, r)
			if diff := cmp.Diff(c.want, c.got(cfg)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// overrides are settings and, where they need something besides, that.
func TestOverrides(t *testing.T) {
	for name, c := range map[string]struct {
		env  string
		got  func(*config.Server) any
		want any
	}{
		"beats the file":         {"NOTARY_SERVER_STORAGE_DB_URL=postgres://other/db", func(s *config.Server) any { return s.Storage.DBURL }, "postgres://other/db"},
		"absent from the file":   {"NOTARY_SERVER_LOGGING_LEVEL=info", func(s *config.Server) any { return s.Logging.Level }, "info"},
		"deep":                   {"NOTARY_SERVER_CACHING_MAX_AGE_CURRENT_METADATA=9", func(s *config.Server) any { return s.Caching.MaxAge.CurrentMetadata }, 9},
		"empty is ignored":       {"NOTARY_SERVER_TRUST_SERVICE_HOSTNAME=", func(s *config.Server) any { return s.TrustService.Hostname }, "signer"},
		"list on white space":    {"NOTARY_SERVER_REPOSITORIES_GUN_PREFIXES= a/  b/\tc/ ", func(s *config.Server) any { return s.Repositories.GUNPrefixes }, []string{"a/", "b/", "c/"}},
		"bool":                   {"NOTARY_SERVER_STORAGE_MIGRATE=false", func(s *config.Server) any { return s.Storage.Migrate }, false},
		"options are the file's": {"NOTARY_SERVER_AUTH_OPTIONS_REALM=x", func(s *config.Server) any { return s.Auth.Options.Realm }, ""},
		"of the other program":   {"NOTARY_SIGNER_LOGGING_LEVEL=info", func(s *config.Server) any { return s.Logging.Level }, "error"},
		"other case":             {"notary_server_logging_level=info", func(s *config.Server) any { return s.Logging.Level }, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := loadServer(t, validServer(), c.env)
			wantClean(t, r)
			if diff := cmp.Diff(c.want, c.got(cfg)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		key   string
		value any
		fault string // the key at fault, if it is another one
		want  string
	}{
		"no address":             {"server.http_addr", nil, "", "the address to listen on is needed"},
		"address without port":   {"server.http_addr", "localhost", "", "missing port in address"},
		"address, empty port":    {"server.http_addr", "localhost:", "", "missing port in address"},
		"address, bad port":      {"server.http_addr", "localhost:99999", "", "99999"},
		"negative limit":         {"server.limits.parts", -1, "", "must not be negative"},
		"CA without TLS":         {"server.client_ca_file", os.Args[0], "", "client certificates need TLS"},
		"certificate alone":      {"server.tls_cert_file", os.Args[0], "server.tls_key_file", "missing beside server.tls_cert_file"},
		"key alone":              {"server.tls_key_file", os.Args[0], "server.tls_cert_file", "missing beside server.tls_key_file"},
		"client key alone":       {"trust_service.tls_client_key", os.Args[0], "trust_service.tls_client_cert", "missing"},
		"file that is not there": {"trust_service.tls_ca_file", "no/ca.crt", "", "no such file"},
		"file that is a folder":  {"trust_service.tls_ca_file", os.TempDir(), "", "directory"},
		"no trust type":          {"trust_service.type", nil, "", `must be "remote"`},
		"local trust":            {"trust_service.type", "local", "", "trust-admin dev"},
		"no signer host":         {"trust_service.hostname", "", "", "host of the signer"},
		"no signer port":         {"trust_service.port", nil, "", "port number"},
		"no algorithm":           {"trust_service.key_algorithm", nil, "", "invalid key algorithm"},
		"algorithm's case":       {"trust_service.key_algorithm", "ECDSA", "", `"ECDSA"`},
		"no backend":             {"storage.backend", nil, "", "not a supported storage backend"},
		"MySQL":                  {"storage.backend", "mysql", "", "move the data to PostgreSQL"},
		"RethinkDB":              {"storage.backend", "rethinkdb", "", "RethinkDB is not supported"},
		"backend's case":         {"storage.backend", "Postgres", "", "not a supported storage backend"},
		"no database source":     {"storage.db_url", nil, "", "must provide a non-empty database source for postgres"},
		"source of MySQL":        {"storage.db_url", "server@tcp(mysql:3306)/notaryserver?parseTime=True", "", "neither a PostgreSQL URL"},
		"source without form":    {"storage.db_url", "notary", "", "neither a PostgreSQL URL"},
		"endless requests":       {"server.limits.request_seconds", 10000000000, "", "must not be above 86400"},
		"too many connections":   {"server.limits.connections", 1<<20 + 1, "", "must not be above 1048576"},
		"too large a body":       {"server.limits.body_bytes", 1<<30 + 1, "", "must not be above"},
		"too large a part":       {"server.limits.part_bytes", 1<<30 + 1, "", "must not be above"},
		"too many parts":         {"server.limits.parts", 1000001, "", "must not be above"},
		"too large uploads":      {"server.limits.uploads_bytes", 1<<40 + 1, "", "must not be above"},
		"too large a page":       {"server.limits.changes_page", 1000001, "", "must not be above"},
		"more than a database":   {"storage.max_open_conns", 10001, "", "must not be above"},
		"number beyond all":      {"server.limits.parts", json.Number("1e30"), "", "whole number"},
		"SQLite without folder":  {"storage", tree{"backend": "sqlite3", "db_url": "/no/such/x.db"}, "storage.db_url", "the folder of the database file cannot be used: no such file"},
		"URI without folder":     {"storage", tree{"backend": "sqlite3", "db_url": "file:///no/such/x.db"}, "storage.db_url", "the folder of the database file cannot be used"},
		"SQLite below a file":    {"storage", tree{"backend": "sqlite3", "db_url": "config.json/x.db"}, "storage.db_url", "not a directory"},
		"negative connections":   {"storage.max_open_conns", -1, "", "must not be negative"},
		"numeric level":          {"logging.level", 2, "", "not a valid log level"},
		"unknown level":          {"logging.level", "loud", "", "panic, fatal, error"},
		"unknown format":         {"logging.format", "xml", "", "json, logfmt, text"},
		"negative age":           {"caching.max_age.current_metadata", -1, "", "between 0 and 31536000"},
		"age of over a year":     {"caching.max_age.consistent_metadata", 31536001, "", "between 0 and 31536000"},
		"age in words":           {"caching.max_age.current_metadata", "5m", "", "whole number"},
		"age as a fraction":      {"caching.max_age.current_metadata", 1.5, "", "whole number"},
		"prefix without slash":   {"repositories.gun_prefixes", []string{"a.com"}, "", "invalid GUN prefix"},
		"prefix with two":        {"repositories.gun_prefixes", []string{"a.com//"}, "", "invalid GUN prefix"},
		"prefix from root":       {"repositories.gun_prefixes", []string{"/a/"}, "", "invalid GUN prefix"},
		"prefix upwards":         {"repositories.gun_prefixes", []string{"../a/"}, "", "invalid GUN prefix"},
		"prefix not clean":       {"repositories.gun_prefixes", []string{"a/./b/"}, "", "invalid GUN prefix"},
		"prefix with blank":      {"repositories.gun_prefixes", []string{" a/"}, "", "invalid GUN prefix"},
		"list of lists":          {"repositories.gun_prefixes", []any{[]string{"a/"}}, "", "must be a string"},
		"section as a string":    {"storage.migrate", tree{}, "", "plain value"},
		"unknown section":        {"servers", tree{}, "", `did you mean "server"?`},
		"unknown key":            {"server.http_adr", "x", "", `did you mean "server.http_addr"?`},
		"unlike any key":         {"logging.colour", "blue", "", "no such setting"},
		"half of a key":          {"server.client_ca", "x", "", `did you mean "server.client_ca_file"?`},
		"another missing key":    {"trust_service.tls_cert_file", "x", "", `did you mean "trust_service.tls_client_cert"?`},
		"unknown deep key":       {"reporting.bugsnag.apikey", "x", "", `did you mean "reporting.bugsnag.api_key"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := loadServer(t, set(validServer(), c.key, c.value))
			if c.fault == "" {
				c.fault = c.key
			}
			wantFault(t, r, c.fault, c.want)
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	v := validServer()
	for key, value := range map[string]any{
		"server.http_addr": "nowhere", "server.tls_cert_file": "no.crt", "trust_service.key_algorithm": "dsa", "storage.backend": "oracle",
		"auth.type": "basic", "logging.level": "loud", "caching.max_age.current_metadata": "soon", "colour": "blue",
	} {
		v = set(v, key, value)
	}
	_, r := loadServer(t, v, "NOTARY_SERVER_TRUST_SERVICE_PORT=many")
	want := []string{
		"auth.type", "caching.max_age.current_metadata", "colour", "logging.level", "server.http_addr", "server.tls_cert_file",
		"server.tls_key_file", "storage.backend", "trust_service.key_algorithm", "trust_service.port",
	}
	got := faultKeys(r)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("settings at fault (-want +got):\n%s", diff)
	}
	text := r.Err().Error()
	for _, want := range []string{
		"the configuration has 10 faults:",
		"\n  - storage.backend = \"oracle\": not a supported storage backend\n      set it to",
		`trust_service.port = "many" (from NOTARY_SERVER_TRUST_SERVICE_PORT): `,
		"relative paths are relative to the directory of the configuration file",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
}

func TestRetiredKeysWarn(t *testing.T) {
	v := set(validServer(), "reporting.bugsnag.api_key", "s3cret-api-key")
	v = set(v, "storage.password", "s3cret-password")
	v = set(v, "storage.tls_ca_file", "no/such/file")
	_, r := loadServer(t, v, "NOTARY_SERVER_REPORTING_BUGSNAG_ENDPOINT=x")
	wantClean(t, r)
	want := []string{"storage.tls_ca_file: ignored", "storage.password: ignored", "reporting.bugsnag.api_key: ignored", "reporting.bugsnag.endpoint (from NOTARY_SERVER_REPORTING_BUGSNAG_ENDPOINT): ignored"}
	if len(r.Warnings) != len(want) {
		t.Fatalf("warnings: %q", r.Warnings)
	}
	for i, w := range r.Warnings {
		if !strings.HasPrefix(w, want[i]) {
			t.Errorf("warning %d is %q, want %q", i, w, want[i])
		}
		if strings.Contains(w, "s3cret") {
			t.Errorf("a secret is told: %q", w)
		}
	}
}

func TestOtherWarnings(t *testing.T) {
	cfg, r := loadServer(t, set(validServer(), "trust_service.key_algorithm", "rsa"),
		"NOTARY_SERVER_STORAGE_DBURL=x", "NOTARY_SERVER_PORT=tcp://10.0.0.1:4443", "NOTARY_SERVER_SERVICE_HOST=10.0.0.1")
	wantClean(t, r)
	if len(r.Warnings) != 2 || !strings.Contains(r.Warnings[0], "RSA") ||
		r.Warnings[1] != "the variable NOTARY_SERVER_STORAGE_DBURL is not used; did you mean NOTARY_SERVER_STORAGE_DB_URL?" {
		t.Errorf("warnings: %q", r.Warnings)
	}
	if cfg.TrustService.KeyAlgorithm != "ecdsa" {
		t.Errorf("the algorithm is %q", cfg.TrustService.KeyAlgorithm)
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	const secret = "s3cret/pass#word"
	for name, v := range map[string]tree{
		"URL with raw characters":  set(validServer(), "storage.db_url", "postgres://u:"+secret+"%zz@db:port/x"),
		"no URL at all":            set(validServer(), "storage.db_url", secret),
		"URL where a path belongs": set(validServer(), "storage", tree{"backend": "sqlite3", "db_url": "postgres://u:" + secret + "@db/x"}),
		"not a string":             set(validServer(), "storage.db_url", []string{secret}),
	} {
		t.Run(name, func(t *testing.T) {
			_, r := loadServer(t, v)
			wantFault(t, r, "storage.db_url", "")
			if strings.Contains(r.Err().Error(), "s3cret") {
				t.Errorf("the secret is told: %v", r.Err())
			}
		})
	}
}
