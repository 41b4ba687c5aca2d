package config_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"countersign/internal/config"
)

// dbURL loads a signer whose database is raw, and returns what it became.
func dbURL(t interface {
	Helper()
	Fatal(...any)
}, dir, raw string) (string, *config.Report) {
	t.Helper()
	cfg, r := config.LoadSigner(dir, []string{"NOTARY_SIGNER_STORAGE_BACKEND=postgres", "NOTARY_SIGNER_STORAGE_DB_URL=" + raw})
	return cfg.Storage.DBURL, r
}

func dbFaults(r *config.Report) string {
	var all []string
	for _, f := range r.Faults {
		if f.Key == "storage.db_url" {
			all = append(all, f.String())
		}
	}
	return strings.Join(all, "\n")
}

// TestPasswordInURL: passwords that Harbor writes as they are reach the right
// host; a URL by the rules stays what it is; what could lead to two hosts is refused.
func TestPasswordInURL(t *testing.T) {
	dir := write(t, filepath.Join(t.TempDir(), "signer.json"), "{}")
	for _, test := range []struct{ raw, password, host, database string }{
		{"postgres://server:password@postgresql:5432/notaryserver?sslmode=disable", "password", "postgresql:5432", "/notaryserver"},
		{"postgres://server:p%40ss@host:5432/db?sslmode=disable", "p@ss", "host:5432", "/db"},
		{"postgres://server:pa@ss:/?#%word@host:5432/db?sslmode=disable", "pa@ss:/?#%word", "host:5432", "/db"},
		{"postgres://server:pa@ss@host/db", "pa@ss", "host", "/db"},
		{"postgres://server:12/34@host/db", "12/34", "host", "/db"},
		{"postgres://server:12?34@host:1/db", "12?34", "host:1", "/db"},
		{"postgres://server:12#34@host:1/db", "12#34", "host:1", "/db"},
		{"postgres://server:100%@host/db", "100%", "host", "/db"},
		{"postgresql://server:a/b@[::1]:5432/db", "a/b", "[::1]:5432", "/db"},
		{"postgres://server:a/b@one:1,two:2/db", "a/b", "one:1,two:2", "/db"},
		{"postgres://host/db", "", "host", "/db"},
		{"postgres://server:p%40ss@host:5432/db?application_name=trust@site&sslmode=disable", "p@ss", "host:5432", "/db"},
		{"postgres://server:word@host/db?options=-c%20search_path=a@b", "word", "host", "/db"},
	} {
		got, r := dbURL(t, dir, test.raw)
		if f := dbFaults(r); f != "" {
			t.Errorf("%s: %s", test.raw, f)
			continue
		}
		// Multiple hosts are the driver's own; the package net/url has none.
		u, err := url.Parse(strings.Replace(got, "one:1,two:2", "both", 1))
		if err != nil {
			t.Errorf("%s became no URL: %v", test.raw, err)
			continue
		}
		password, _ := u.User.Password()
		if host := strings.Replace(u.Host, "both", "one:1,two:2", 1); password != test.password || host != test.host || u.Path != test.database {
			t.Errorf("%s is read as password %q, host %q, database %q", test.raw, password, host, u.Path)
		}
		if told := strings.Join(r.Warnings, "\n"); test.password != "" && strings.Contains(told, test.password) {
			t.Errorf("%s: the password is told: %s", test.raw, told)
		}
	}
	for _, raw := range []string{
		"postgres://server:a@one/x@other/db",      // by the rules one, else other
		"postgres://server:a#b@one/db?x=1@other",  // no tail fits
		"postgres://server:a@one/db?x=1@other/db", // a setting, or the end of the password
		"postgres://server:a@one/db?1@other",      // no setting
		"postgres://server:a/b@ho st/db",
		"postgres://:a/b@host/db",
		"postgres://server:a/b",
	} {
		_, r := dbURL(t, dir, raw)
		if f := dbFaults(r); f == "" || !strings.Contains(f, "%40") && !strings.Contains(f, "non-empty") {
			t.Errorf("%s: %q", raw, f)
		} else if strings.Contains(f, "a/b") || strings.Contains(f, "other") {
			t.Errorf("the URL is told: %s", f)
		}
	}
}

// TestAnyPasswordInURL: whatever the password is, it is either read as it was
// meant, with the host that was meant, or refused; by the rules it is always read.
func TestAnyPasswordInURL(t *testing.T) {
	dir := write(t, filepath.Join(t.TempDir(), "signer.json"), "{}")
	rapid.Check(t, func(rt *rapid.T) {
		password := rapid.StringMatching(`[a-z0-9:/?#@%&=+ \[\]\\!]{1,12}`).Draw(rt, "password")
		tail := "@db.example.com:5432/notary?sslmode=disable"
		encoded := "postgres://server:" + url.QueryEscape(password) + tail
		encoded = strings.ReplaceAll(encoded, "+", "%20")
		if got, r := dbURL(rt, dir, encoded); dbFaults(r) != "" || got != encoded {
			rt.Fatal(fmt.Sprintf("by the rules: %s became %s: %s", encoded, got, dbFaults(r)))
		}
		got, r := dbURL(rt, dir, "postgres://server:"+password+tail)
		if dbFaults(r) != "" {
			return
		}
		u, err := url.Parse(got)
		if err != nil || u.Host != "db.example.com:5432" || u.Path != "/notary" {
			rt.Fatal(fmt.Sprintf("password %q leads to %s: %v", password, got, err))
		}
		// What looks encoded is decoded; all else is as it stands.
		if p, _ := u.User.Password(); p != password && !strings.Contains(password, "%") {
			rt.Fatal(fmt.Sprintf("password %q is read as %q", password, p))
		}
	})
}
