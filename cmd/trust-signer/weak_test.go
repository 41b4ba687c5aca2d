package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/certs"
	"countersign/internal/program"
)

// A weak passphrase is told of by the name of its alias and what to do, by the
// check of the configuration too, and never by itself.
func TestWeakPassphrases(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := certs.EnsureDev(certs.DevConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	const strong, inFile = "Kq8-very-long-and-strange", "f1leShort"
	if err := os.WriteFile(filepath.Join(dir, "old.pass"), []byte(inFile+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		alias, pass string
		files       map[string]string
		want        []string // parts of the warnings; none: no warning
	}{
		"strong":               {"main", strong, nil, nil},
		"16 characters":        {"main", "abcdefgh-1234567", nil, nil},
		"15 characters":        {"main", "abcdefgh-123456", nil, []string{`alias "main" is weak`, "shorter than 16", "storage.default_alias"}},
		"Harbor's chart":       {"defaultalias", "defaultalias", nil, []string{`alias "defaultalias" is weak`, "the alias itself"}},
		"the long alias":       {"an_alias_of_many_letters", "AN_ALIAS_OF_MANY_LETTERS", nil, []string{"the alias itself"}},
		"password":             {"main", "Password", nil, []string{"everybody tries first"}},
		"bytes are no letters": {"main", "ééééééééé", nil, []string{"shorter than 16"}},
		"an older one":         {"main", strong, map[string]string{"old": "old.pass"}, []string{`alias "old" is weak`, "shorter than 16"}},
		"none":                 {"main", "", nil, nil},
	} {
		cfg := map[string]any{
			"server":  map[string]any{"grpc_addr": "127.0.0.1:7899", "tls_cert_file": "signer.crt", "tls_key_file": "signer.key", "client_ca_file": "ca.crt"},
			"storage": map[string]any{"backend": "sqlite3", "default_alias": c.alias, "passphrase_files": c.files},
		}
		if c.files == nil {
			delete(cfg["storage"].(map[string]any), "passphrase_files")
		}
		raw, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		env := []string{"NOTARY_SIGNER_" + strings.ToUpper(c.alias) + "=" + c.pass}
		if err := run(t.Context(), []string{"-config=" + path, "-check-config"}, env, &out, &out); !errors.Is(err, program.ErrDone) {
			t.Fatalf("%s: %v\n%s", name, err, &out)
		}
		for _, part := range c.want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %q is missing in %s", name, part, &out)
			}
		}
		if n := strings.Count(out.String(), "is weak"); (n > 0) != (len(c.want) > 0) || n > 1 {
			t.Errorf("%s: %d warnings: %s", name, n, &out)
		}
		if told := strings.Contains(out.String(), c.pass); c.pass != "" && c.pass != c.alias && told || strings.Contains(out.String(), inFile) {
			t.Errorf("%s: a passphrase is told: %s", name, &out)
		}
	}
}
