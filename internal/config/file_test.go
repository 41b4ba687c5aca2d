package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/config"
)

const minimal = `{"server":{"http_addr":":1"},"trust_service":{"type":"remote","hostname":"h","port":1,"key_algorithm":"ecdsa"},` +
	`"storage":{"backend":"sqlite3"},"logging":{"level":"LEVEL"}}`

func TestLookup(t *testing.T) {
	for name, c := range map[string]struct {
		files []string // each with its own name as logging.level, which is then told as a fault
		path  string
		want  string
	}{
		"as named":                    {[]string{"t.json"}, "t.json", "t.json"},
		"JSON beats what is named":    {[]string{"t.json", "t.yml"}, "t.yml", "t.json"},
		"JSON where nothing is":       {[]string{"t.json"}, "t.yml", "t.json"},
		"without extension":           {[]string{"t.json"}, "t", "t.json"},
		"no JSON: as named":           {[]string{"t.conf"}, "t.conf", "t.conf"},
		"only the last extension":     {[]string{"a.postgres.json", "a.json"}, "a.postgres.json", "a.postgres.json"},
		"no extension, nothing else":  {[]string{"t"}, "t", "t"},
		"a dot in the folder is none": {[]string{"t.json"}, "../" + "DIR" + "/t", "t.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range c.files {
				write(t, filepath.Join(dir, f), strings.Replace(minimal, "LEVEL", f, 1))
			}
			_, r := config.LoadServer(filepath.Join(dir, strings.Replace(c.path, "DIR", filepath.Base(dir), 1)), nil)
			wantFault(t, r, "logging.level", `"`+c.want+`"`)
			if filepath.Base(r.File) != c.want {
				t.Errorf("it says that it read %s", r.File)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for name, c := range map[string]struct{ file, content, want string }{
		"missing":            {"", "", "no such file"},
		"empty":              {"t.json", "", "unexpected EOF"},
		"cut short":          {"t.json", "{\n\"server\":", "line 2: unexpected EOF"},
		"not JSON":           {"t.json", "{\n\n server: x}", "line 3: invalid character"},
		"a comma too many":   {"t.json", "{\n\"a\": 1,\n}", "a comma in front of it may be one too many"},
		"YAML":               {"t.yml", "server:\n  http_addr: x\n", "only JSON is read, whatever the extension (.yml) says"},
		"a list":             {"t.json", "[]", "holds no JSON object"},
		"more behind it":     {"t.json", "{} {}", "stands behind"},
		"key twice":          {"t.json", `{"logging":{"level":"info","Level":"debug"}}`, `the key "Level" is given twice`},
		"nested too deep":    {"t.json", deep, "nested deeper"},
		"not UTF-8":          {"t.json", "{\"\xff\":1}", "not UTF-8"},
		"longer than it may": {"t.json", strings.Repeat(" ", 1<<20+1), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "t.json")
			if c.file != "" {
				path = write(t, filepath.Join(filepath.Dir(path), c.file), c.content)
			}
			cfg, r := config.LoadServer(path, nil)
			if cfg == nil {
				t.Error("no configuration at all is returned")
			}
			wantFault(t, r, "", c.want)
		})
	}
	_, r := config.LoadServer("", nil)
	wantFault(t, r, "", "-config=")
	_, r = config.LoadServer("no/such/file.json", nil)
	wantFault(t, r, "", "relative paths are relative to the working directory")
}

func TestByteOrderMark(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "t.json"), "\xef\xbb\xbf"+strings.Replace(minimal, "LEVEL", "info", 1))
	_, r := config.LoadServer(path, nil)
	wantClean(t, r)
}

// TestRelativePaths: relative to the file's folder, from file and environment
// alike, but for the one of upstream's exceptions.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"s.crt", "s.key", "ca.crt", "sca.crt", "c.crt", "c.key"} {
		write(t, filepath.Join(dir, f), "any")
	}
	v := validServer()
	for key, value := range map[string]any{
		"server.tls_cert_file": "s.crt", "server.tls_key_file": "./s.key", "server.client_ca_file": "../" + filepath.Base(dir) + "/ca.crt",
		"trust_service.tls_client_cert": "c.crt", "trust_service.tls_client_key": filepath.Join(dir, "c.key"),
		"auth.options.rootcertbundle": "./root.crt",
	} {
		v = set(v, key, value)
	}
	cfg, r := config.LoadServer(writeTree(t, dir, v), []string{"NOTARY_SERVER_TRUST_SERVICE_TLS_CA_FILE=sca.crt"})
	wantFault(t, r, "auth.type", "") // options without a type
	got := []string{
		cfg.Server.TLSCertFile, cfg.Server.TLSKeyFile, cfg.Server.ClientCAFile, cfg.TrustService.TLSClientCert,
		cfg.TrustService.TLSClientKey, cfg.TrustService.TLSCAFile, cfg.Auth.Options.RootCertBundle,
	}
	want := []string{"s.crt", "s.key", "ca.crt", "c.crt", "c.key", "sca.crt"}
	for i := range want {
		want[i] = filepath.Join(dir, want[i])
	}
	if diff := cmp.Diff(append(want, "./root.crt"), got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestDatabaseURL(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "url"), "postgres://from@file/db\n")
	write(t, filepath.Join(dir, "empty"), "\n")
	write(t, filepath.Join(dir, "password"), "with blank and @ \n")
	fromFile := set(set(validServer(), "storage.db_url", nil), "storage.db_url_file", "url")
	for name, c := range map[string]struct {
		v     tree
		env   []string
		want  string
		fault string
	}{
		"from a file":               {v: fromFile, want: "postgres://from@file/db"},
		"variable beats the file's": {v: fromFile, env: []string{"NOTARY_SERVER_STORAGE_DB_URL=host=env"}, want: "host=env"},
		"and a file not there":      {v: set(fromFile, "storage.db_url_file", "no"), env: []string{"NOTARY_SERVER_STORAGE_DB_URL=host=env"}, want: "host=env"},
		"file's variable beats":     {v: validServer(), env: []string{"NOTARY_SERVER_STORAGE_DB_URL_FILE=url"}, want: "postgres://from@file/db"},
		"both in the file":          {v: set(fromFile, "storage.db_url", "host=x"), fault: "storage.db_url_file"},
		"both in the environment":   {v: validServer(), env: []string{"NOTARY_SERVER_STORAGE_DB_URL_FILE=url", "NOTARY_SERVER_STORAGE_DB_URL=host=x"}, fault: "storage.db_url_file"},
		"Harbor's variable":         {v: set(validServer(), "storage.db_url", nil), env: []string{"DB_URL=postgres://harbor@db/x"}, want: "postgres://harbor@db/x"},
		"of which is no URL":        {v: set(validServer(), "storage.db_url", nil), env: []string{"DB_URL=harbor"}, fault: "storage.db_url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := config.LoadServer(writeTree(t, dir, c.v), c.env)
			if c.fault != "" {
				wantFault(t, r, c.fault, "")
				return
			}
			wantClean(t, r)
			if cfg.Storage.DBURL != c.want {
				t.Errorf("got %q, want %q", cfg.Storage.DBURL, c.want)
			}
		})
	}
	t.Run("password from a file", func(t *testing.T) {
		cfg, r := config.LoadServer(writeTree(t, dir, set(validServer(), "storage.db_password_file", "password")), nil)
		wantClean(t, r)
		if cfg.Storage.DBPassword != "with blank and @ " {
			t.Errorf("got %q", cfg.Storage.DBPassword)
		}
	})
	for _, key := range []string{"storage.db_url_file", "storage.db_password_file"} {
		v := set(validServer(), key, "no")
		if key == "storage.db_url_file" {
			v = set(v, "storage.db_url", nil)
		}
		_, r := config.LoadServer(writeTree(t, dir, v), nil)
		wantFault(t, r, key, "no such file")
	}
	_, r := config.LoadServer(writeTree(t, dir, set(fromFile, "storage.db_url_file", "empty")), nil)
	wantFault(t, r, "storage.db_url_file", "empty")
}

func TestSQLitePath(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	v := set(set(validServer(), "storage.backend", "sqlite3"), "storage.db_url", nil)
	for given, want := range map[string]string{
		"": filepath.Join(dir, "trust-server.db"), "a/x.db": filepath.Join(dir, "a/x.db"), "/var/x.db": "/var/x.db", "file:/var/x.db": "file:/var/x.db",
	} {
		cfg, r := config.LoadServer(writeTree(t, dir, set(v, "storage.db_url", given)), []string{"DB_URL=postgres://not/this"})
		wantClean(t, r)
		if cfg.Storage.DBURL != want {
			t.Errorf("%q became %q, want %q", given, cfg.Storage.DBURL, want)
		}
	}
}

func TestMemoryWarns(t *testing.T) {
	_, r := loadServer(t, set(set(validServer(), "storage.backend", "memory"), "storage.db_url", nil))
	wantClean(t, r)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "nothing is kept") {
		t.Errorf("warnings: %q", r.Warnings)
	}
}

func TestUnreadableByPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root reads everything, so show the same with what root cannot open either.
		path := filepath.Join(t.TempDir(), "loop")
		if err := os.Symlink(path, path); err != nil {
			t.Fatal(err)
		}
		_, r := loadServer(t, set(validServer(), "trust_service.tls_ca_file", path))
		wantFault(t, r, "trust_service.tls_ca_file", "too many levels of symbolic links")
		return
	}
	path := write(t, filepath.Join(t.TempDir(), "ca.crt"), "x")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, r := loadServer(t, set(validServer(), "trust_service.tls_ca_file", path))
	wantFault(t, r, "trust_service.tls_ca_file", "permission denied")
}
