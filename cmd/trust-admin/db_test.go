package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/internal/pgtest"
)

// dbConfigs writes the configuration files of a pair, and returns their paths.
func dbConfigs(t *testing.T, backend, server, signer string) (string, string) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{"a.crt", "a.key"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("NOTARY_SIGNER_MYALIAS", "a passphrase of the test")
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	return write("server.json", fmt.Sprintf(`{"server": {"http_addr": ":4443"},
			"trust_service": {"type": "remote", "hostname": "localhost", "port": "7899", "key_algorithm": "ecdsa"},
			"storage": {"backend": %q, "db_url": %q}}`, backend, server)),
		write("signer.json", fmt.Sprintf(`{"server": {"grpc_addr": ":7899", "tls_cert_file": "a.crt", "tls_key_file": "a.key"},
			"storage": {"backend": %q, "db_url": %q, "default_alias": "myalias"}}`, backend, signer))
}

// runAdmin runs the program as main does.
func runAdmin(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("does not say %q:\n%s", w, text)
		}
	}
}

// TestDB: check finds what is to do and changes nothing, migrate does it, and
// then check finds nothing. No password is shown.
func TestDB(t *testing.T) {
	for _, backend := range []string{"postgres", "sqlite3"} {
		server, signer := pgtest.URL(t), pgtest.URL(t)
		if backend == "sqlite3" {
			server, signer = "server.db", "signer.db"
		}
		a, b := dbConfigs(t, backend, server, signer)
		flags := []string{"--server-config", a, "--signer-config", b}
		for _, step := range []struct {
			cmd  string
			code int
			want []string
		}{
			{"check", 3, []string{"trust-server", "trust-signer", "where"}},
			{"check", 3, nil}, // the first has changed nothing
			{"migrate", 0, []string{"did", "table tuf_files is missing", "table private_keys is missing"}},
			{"check", 0, []string{"all tables", "nothing"}},
			{"migrate", 0, []string{"nothing"}},
		} {
			code, stdout, stderr := runAdmin(t, append([]string{"db", step.cmd}, flags...)...)
			if code != step.code {
				t.Fatalf("%s: %s ended with %d:\n%s%s", backend, step.cmd, code, stdout, stderr)
			}
			says(t, stdout, step.want...)
			for _, secret := range []string{pgtest.Password, url.QueryEscape(pgtest.Password)} {
				if strings.Contains(stdout+stderr, secret) {
					t.Errorf("%s shows the password", step.cmd)
				}
			}
		}
		code, stdout, _ := runAdmin(t, append([]string{"db", "check", "--output", "json"}, flags...)...)
		var report struct {
			Databases []struct {
				Program string
				ToDo    bool `json:"to_do"`
				Found   struct{ Shape string }
			}
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 0 || len(report.Databases) != 2 ||
			report.Databases[1].Program != "trust-signer" || report.Databases[0].Found.Shape == "" {
			t.Errorf("%s: JSON (%d, %v):\n%s", backend, code, err, stdout)
		}
	}
}

// TestDBFaults: wrong command lines, configurations and databases are told
// apart, and a fault of one database does not hide what is said of the other.
func TestDBFaults(t *testing.T) {
	good := pgtest.URL(t)
	u, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/nosuch"
	a, b := dbConfigs(t, "postgres", u.String(), good)
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte(`{"storage": {"backend": "oracle"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		code int
		args []string
		want []string
	}{
		"no file":       {2, []string{"check"}, []string{"--server-config", "--help"}},
		"output":        {2, []string{"check", "--server-config", a, "--output", "xml"}, []string{"xml"}},
		"configuration": {1, []string{"check", "--server-config", broken}, []string{"faults", "storage.backend", "http_addr"}},
		"database":      {1, []string{"check", "--server-config", a, "--signer-config", b}, []string{"nosuch", "private_keys: missing"}},
		"two scripts":   {2, []string{"migrate", "--sql", "--server-config", a, "--signer-config", b}, []string{"one database"}},
		"script":        {0, []string{"migrate", "--sql", "--signer-config", b}, []string{"begin;", "create table private_keys", "commit;"}},
	} {
		code, stdout, stderr := runAdmin(t, append([]string{"db"}, test.args...)...)
		if code != test.code {
			t.Errorf("%s: ended with %d, want %d:\n%s%s", name, code, test.code, stdout, stderr)
		}
		says(t, stdout+stderr, test.want...)
	}
}

// TestCheckLeavesFile: a file of SQLite that another tool has left in its older
// journal mode is looked at, and not changed for that.
func TestCheckLeavesFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.db")
	a, _ := dbConfigs(t, "sqlite3", file, "signer.db")
	if code, stdout, stderr := runAdmin(t, "db", "migrate", "--server-config", a); code != 0 {
		t.Fatalf("migrate ended with %d:\n%s%s", code, stdout, stderr)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before[18], before[19] = 1, 1 // the format's mark of a rollback journal
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runAdmin(t, "db", "check", "--server-config", a)
	if code != 0 {
		t.Errorf("check ended with %d:\n%s%s", code, stdout, stderr)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("looking has changed the file (%v)", err)
	}
}
