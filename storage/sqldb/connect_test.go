package sqldb_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/sqldb"
)

// A target is a connection string in parts, to be spoilt in one.
type target struct {
	user, password, host, database string
	settings                       url.Values
}

func (c target) url() string {
	u := url.URL{Scheme: "postgres", User: url.User(c.user), Host: c.host, Path: "/" + c.database, RawQuery: c.settings.Encode()}
	if c.password != "" {
		u.User = url.UserPassword(c.user, c.password)
	}
	return u.String()
}

// with returns c with some settings changed.
func (c target) with(kv ...string) target {
	s := url.Values{}
	for k, v := range c.settings {
		s[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		s.Set(kv[i], kv[i+1])
	}
	c.settings = s
	return c
}

// secure starts a cluster that speaks TLS: role "strict" must use it with a
// password, role "carded" with a certificate, "trust" need not.
func secure(t *testing.T) (*pgtest.Cluster, *pgtest.TLS, target) {
	t.Helper()
	c := pgtest.New(t)
	u, err := url.Parse(c.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	files := c.EnableTLS(t, "hostssl all strict 127.0.0.1/32 scram-sha-256\nhostssl all carded 127.0.0.1/32 cert\nhost all trust 127.0.0.1/32 scram-sha-256\n")
	c.Admin(t, `create role strict login password 'it''s s3cret @:/?#%'`)
	c.Admin(t, `create role carded login`)
	_, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return c, files, target{"strict", "it's s3cret @:/?#%", "localhost:" + port, strings.TrimPrefix(u.Path, "/"), url.Values{"sslmode": {"verify-full"}, "sslrootcert": {files.CA}}}
}

// TestTLS: every sslmode, and client certificates, against a server that takes
// passwords by SCRAM-SHA-256 alone.
func TestTLS(t *testing.T) {
	t.Parallel()
	c, files, good := secure(t)
	byIP := good
	byIP.host = c.Addr()
	cert, key := files.Issue(t, "carded")
	carded := good.with("sslcert", cert, "sslkey", key)
	carded.user, carded.password = "carded", ""
	plain := good.with("sslmode", "disable")
	plain.user, plain.password = "trust", pgtest.Password

	loose := filepath.Join(t.TempDir(), "loose.key")
	raw, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(loose, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o644); err != nil {
		t.Fatal(err)
	}
	// As Kubernetes mounts a secret for an fsGroup: root's, and read by the group.
	mounted := filepath.Join(t.TempDir(), "mounted.key")
	if err := os.WriteFile(mounted, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	mountedWant := "must be 0600"
	if os.Getuid() == 0 {
		mountedWant = ""
	}
	if err := os.Chmod(mounted, 0o640); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		target target
		want   string // "" if it connects
	}{
		"verify-full":              {good, ""},
		"verify-ca":                {good.with("sslmode", "verify-ca"), ""},
		"verify-ca, by address":    {byIP.with("sslmode", "verify-ca"), ""},
		"require":                  {good.with("sslmode", "require"), ""},
		"require, without CA":      {good.with("sslmode", "require", "sslrootcert", ""), ""},
		"disable":                  {plain, ""},
		"client certificate":       {carded, ""},
		"verify-full, by address":  {byIP, "is for another name (localhost)"},
		"verify-full, other CA":    {good.with("sslrootcert", files.OtherCA), "name the CA's file in sslrootcert"},
		"verify-ca, other CA":      {good.with("sslmode", "verify-ca", "sslrootcert", files.OtherCA), "name the CA's file in sslrootcert"},
		"require, other CA":        {good.with("sslmode", "require", "sslrootcert", files.OtherCA), "name the CA's file in sslrootcert"},
		"no such CA file":          {good.with("sslmode", "require", "sslrootcert", "/nosuch/ca.crt"), "sslrootcert: stat /nosuch/ca.crt"},
		"no TLS where it must be":  {good.with("sslmode", "disable"), "set sslmode=require"},
		"no certificate":           {func() target { c := good; c.user, c.password = "carded", ""; return c }(), "set sslcert and sslkey"},
		"no such certificate":      {carded.with("sslcert", "/nosuch/client.crt"), "sslcert: stat /nosuch/client.crt"},
		"certificate alone":        {carded.with("sslkey", ""), "belong together"},
		"key that all may read":    {carded.with("sslkey", loose), "fsGroup"},
		"key as Kubernetes mounts": {carded.with("sslkey", mounted), mountedWant},
	} {
		db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: test.target.url()})
		if err == nil {
			db.Close()
		}
		told(t, name, err, test.want, good.password)
	}
}

// told checks an error of Open: what it must say, and what it must not.
func told(t *testing.T, name string, err error, want, password string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && err == nil:
		t.Errorf("%s: it connects", name)
	case want == "":
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s: %v\n\tdoes not say %q", name, err, want)
	case strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "s3cret"):
		t.Errorf("%s: the password is told: %v", name, err)
	case !errors.Is(err, storage.ErrUnavailable) && !errors.Is(err, storage.ErrInvalid):
		t.Errorf("%s: %v is of no kind", name, err)
	}
}

// TestRefused: what is wrong is told in the server's words, with what to do;
// all of it may pass, so that it is worth another try.
func TestRefused(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	good := target{"trust", pgtest.Password, u.Host, strings.TrimPrefix(u.Path, "/"), url.Values{"sslmode": {"disable"}}}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()
	spoilt := func(f func(*target)) target { c := good; f(&c); return c }
	for name, test := range map[string]struct {
		target target
		want   string
	}{
		"password":    {spoilt(func(c *target) { c.password = "s3cret" }), "storage.db_password_file"},
		"no password": {spoilt(func(c *target) { c.password = "" }), "password"},
		"percent":     {spoilt(func(c *target) { c.password = "s3cret@" }), "write % as %25"},
		"role":        {spoilt(func(c *target) { c.user = "nobody" }), "the role does not exist"},
		"database":    {spoilt(func(c *target) { c.database = "nosuch" }), `create database "nosuch" owner "trust"`},
		"no TLS":      {good.with("sslmode", "require"), "set sslmode=disable"},
		"host":        {spoilt(func(c *target) { c.host = "nosuch.invalid:5432" }), "no such host"},
		"port":        {spoilt(func(c *target) { c.host = nobody }), "nothing listens there"},
	} {
		_, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: test.target.url()})
		told(t, name, err, test.want, good.password)
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: %v will not be tried again", name, err)
		}
	}
}

// TestPasswordSources: a password with any character, from wherever libpq's
// users keep theirs, and from a file of our own before all.
func TestPasswordSources(t *testing.T) {
	u, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(u.Path, "/")
	home := t.TempDir()
	escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(pgtest.Password)
	passfile := func(name string) string {
		p := filepath.Join(home, name)
		if err := os.WriteFile(p, []byte(fmt.Sprintf("# comment\n%s:%s:*:trust:%s\n", host, port, escaped)), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	bare := fmt.Sprintf("postgres://trust@%s/%s?sslmode=disable", u.Host, database)
	for name, test := range map[string]struct {
		env map[string]string
		cfg sqldb.Config
	}{
		"URL":         {nil, sqldb.Config{URL: u.String()}},
		"PGPASSWORD":  {map[string]string{"PGPASSWORD": pgtest.Password}, sqldb.Config{URL: bare}},
		"PGPASSFILE":  {map[string]string{"PGPASSFILE": passfile("elsewhere")}, sqldb.Config{URL: bare}},
		"~/.pgpass":   {map[string]string{"HOME": filepath.Dir(passfile(".pgpass"))}, sqldb.Config{URL: bare}},
		"own file":    {map[string]string{"PGPASSWORD": "wrong"}, sqldb.Config{URL: bare, Password: pgtest.Password}},
		"all from PG": {map[string]string{"PGHOST": host, "PGPORT": port, "PGUSER": "trust", "PGDATABASE": database, "PGPASSWORD": pgtest.Password, "PGSSLMODE": "disable"}, sqldb.Config{URL: "postgres://"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			test.cfg.Backend = "postgres"
			db, err := sqldb.Open(t.Context(), test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		})
	}
}

// TestWhere: what is told of a database names it, without the password.
func TestWhere(t *testing.T) {
	got, err := sqldb.Where(sqldb.Config{Backend: "postgres", URL: "postgres://server:s3cret@db.example.com:5433/notary?sslmode=verify-full"})
	if err != nil || got != "database notary on db.example.com:5433 as role server, sslmode=verify-full" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := sqldb.Where(sqldb.Config{Backend: "postgres", URL: "postgres://a:s3cret/x@h/db"}); !errors.Is(err, storage.ErrInvalid) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}
