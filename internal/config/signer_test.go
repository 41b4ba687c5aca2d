package config_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/config"
)

const passphrase = "NOTARY_SIGNER_MAIN=correct horse"

func loadSigner(t *testing.T, dir string, v tree, env ...string) (*config.Signer, *config.Report) {
	t.Helper()
	return config.LoadSigner(writeTree(t, dir, v), env)
}

func TestSignerFaults(t *testing.T) {
	for name, c := range map[string]struct {
		key   string
		value any
		fault string
		want  string
	}{
		"no address":            {"server.grpc_addr", nil, "", ":7899"},
		"no certificate":        {"server.tls_cert_file", nil, "", "missing beside server.tls_key_file"},
		"no key":                {"server.tls_key_file", nil, "", "missing beside server.tls_cert_file"},
		"the server's key":      {"caching.max_age", tree{}, "caching", "no such setting"},
		"names without CA":      {"server.client_names", []string{"trust-server"}, "", "without server.client_ca_file nobody has to show one"},
		"no name at all":        {"server.client_names", []string{}, "", "nobody could connect"},
		"an empty name":         {"server.client_names", []string{"trust-server", " "}, "", "a name in the list is empty"},
		"a section of another":  {"trust_service.type", "remote", "trust_service", "no such setting"},
		"no alias":              {"storage.default_alias", nil, "", "must provide a default alias for the key DB"},
		"alias too long":        {"storage.default_alias", strings.Repeat("a", 51), "", "50 bytes"},
		"MySQL":                 {"storage.backend", "mysql", "", "PostgreSQL"},
		"passphrase file":       {"storage.passphrase_files", tree{"other": "no"}, "storage.passphrase_files.other", "no such file"},
		"files not an object":   {"storage.passphrase_files", "x", "", "must be an object"},
		"one passphrase, twice": {"storage.passphrase_files", tree{"a.b": "signer.crt", "A_B": "signer.key"}, "storage.passphrase_files.a.b", "NOTARY_SIGNER_A_B"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, r := loadSigner(t, dir, set(validSigner(t, dir), c.key, c.value), passphrase)
			if c.fault == "" {
				c.fault = c.key
			}
			wantFault(t, r, c.fault, c.want)
		})
	}
	dir := t.TempDir()
	v := set(set(validSigner(t, dir), "server.tls_cert_file", nil), "server.tls_key_file", nil)
	_, r := loadSigner(t, dir, v, passphrase)
	wantFault(t, r, "server.tls_cert_file", "speaks TLS only")
}

func TestClientNames(t *testing.T) {
	dir := t.TempDir()
	valid := set(validSigner(t, dir), "server.client_ca_file", "signer.crt")
	for name, c := range map[string]struct {
		value any
		env   string
		want  []string
	}{
		"none":                   {nil, "", nil},
		"a list":                 {[]string{"trust-server", "10.0.0.7"}, "", []string{"trust-server", "10.0.0.7"}},
		"a string":               {" trust-server\t10.0.0.7 ", "", []string{"trust-server", "10.0.0.7"}},
		"the environment's":      {nil, "NOTARY_SIGNER_SERVER_CLIENT_NAMES=a b", []string{"a", "b"}},
		"which beats the file's": {[]string{"c"}, "NOTARY_SIGNER_SERVER_CLIENT_NAMES=a b", []string{"a", "b"}},
	} {
		cfg, r := loadSigner(t, dir, set(valid, "server.client_names", c.value), passphrase, c.env)
		wantClean(t, r)
		if diff := cmp.Diff(c.want, cfg.Server.ClientNames); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDefaultAlias(t *testing.T) {
	dir := t.TempDir()
	valid := validSigner(t, dir)
	without := set(valid, "storage.default_alias", nil)
	for name, c := range map[string]struct {
		v    tree
		env  []string
		want string
	}{
		"in its place":            {valid, nil, "main"},
		"at the top":              {set(without, "default_alias", "top"), nil, "top"},
		"the place beats the top": {set(valid, "default_alias", "top"), nil, "main"},
		"older variable":          {without, []string{"NOTARY_SIGNER_DEFAULT_ALIAS=older"}, "older"},
		"newer variable":          {valid, []string{"NOTARY_SIGNER_STORAGE_DEFAULT_ALIAS=newer"}, "newer"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := loadSigner(t, dir, c.v, c.env...)
			wantClean(t, r)
			if cfg.Storage.DefaultAlias != c.want {
				t.Errorf("got %q, want %q", cfg.Storage.DefaultAlias, c.want)
			}
			// No passphrase is given for any of them: that is told, and no fault.
			if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], `no passphrase for the alias "`+c.want+`"`) {
				t.Errorf("warnings: %q", r.Warnings)
			}
		})
	}
	_, r := loadSigner(t, dir, set(set(without, "storage.backend", "memory"), "storage.db_url", nil))
	wantClean(t, r)
}

func TestPassphrases(t *testing.T) {
	dir := t.TempDir()
	v := set(validSigner(t, dir), "storage.passphrase_files", tree{"main": "main.pass", "Old.One": "old.pass"})
	write(t, filepath.Join(dir, "main.pass"), "from config's file\n")
	write(t, filepath.Join(dir, "old.pass"), " blanks count \r\n")
	other := write(t, filepath.Join(dir, "other.pass"), "from the variable's file")
	for name, c := range map[string]struct {
		env   []string
		alias string
		want  string
	}{
		"file of the configuration":   {nil, "main", "from config's file"},
		"blanks count, line ends not": {nil, "Old.One", " blanks count "},
		"case does not count":         {nil, "old_one", " blanks count "},
		"variable beats it":           {[]string{"NOTARY_SIGNER_MAIN=from variable"}, "main", "from variable"},
		"variable's file beats it":    {[]string{"NOTARY_SIGNER_MAIN_FILE=" + other}, "main", "from the variable's file"},
		"variable beats its file":     {[]string{"NOTARY_SIGNER_MAIN=from variable", "NOTARY_SIGNER_MAIN_FILE=no"}, "main", "from variable"},
		"empty variable is none":      {[]string{"NOTARY_SIGNER_MAIN="}, "main", "from config's file"},
		"dots are underscores":        {[]string{"NOTARY_SIGNER_A_B-C=p"}, "a.b-c", "p"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := loadSigner(t, dir, v, c.env...)
			wantClean(t, r)
			got, err := cfg.Passphrases.Passphrase(c.alias)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}

	cfg, _ := loadSigner(t, dir, v)
	if _, err := cfg.Passphrases.Passphrase("unknown"); !errors.Is(err, config.ErrNoPassphrase) || !strings.Contains(err.Error(), "NOTARY_SIGNER_UNKNOWN") {
		t.Errorf("unknown alias: %v", err)
	}
	write(t, filepath.Join(dir, "main.pass"), "changed")
	if got, err := cfg.Passphrases.Passphrase("main"); got != "changed" {
		t.Errorf("after the file changed: %q, %v", got, err)
	}
	write(t, filepath.Join(dir, "main.pass"), "\n")
	if _, err := cfg.Passphrases.Passphrase("main"); !errors.Is(err, config.ErrNoPassphrase) {
		t.Errorf("empty file: %v", err)
	}
}

func TestPassphraseFileMissing(t *testing.T) {
	dir := t.TempDir()
	_, r := loadSigner(t, dir, validSigner(t, dir), "NOTARY_SIGNER_MAIN_FILE="+filepath.Join(dir, "no"))
	wantFault(t, r, "NOTARY_SIGNER_MAIN_FILE", "no such file")
}

// TestOtherAliasesAreNoTypos: variables that look like a misspelt setting are
// passphrases of older keys.
func TestOtherAliasesAreNoTypos(t *testing.T) {
	dir := t.TempDir()
	v := set(validSigner(t, dir), "storage.default_alias", "passwordalias2")
	_, r := loadSigner(t, dir, v, "NOTARY_SIGNER_PASSWORDALIAS1=a", "NOTARY_SIGNER_PASSWORDALIAS2=b", "NOTARY_SIGNER_DEFAULTALIAS=c")
	wantClean(t, r)
	if len(r.Warnings) > 0 {
		t.Errorf("warnings: %q", r.Warnings)
	}
}
