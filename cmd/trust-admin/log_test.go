package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// newSite makes both databases, in SQLite, and configuration files that name them.
func newSite(t *testing.T) (metadata *metadb.Store, flags []string) {
	t.Helper()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		schema migrations.Schema
		text   string
	}{
		"server": {migrations.Server, `{"server": {"http_addr": ":4443"}, "storage": {"backend": "sqlite3", "db_url": "server.db"},
			"trust_service": {"type": "remote", "hostname": "signer", "port": 7899, "key_algorithm": "ecdsa"}}`},
		"signer": {migrations.Signer, `{"server": {"grpc_addr": ":7899"}, "storage": {"backend": "sqlite3", "db_url": "signer.db", "default_alias": "a"}}`},
	} {
		db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: filepath.Join(dir, name+".db")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		if err := migrations.Apply(t.Context(), db, c.schema); err != nil {
			t.Fatal(err)
		}
		if c.schema == migrations.Server {
			metadata = metadb.New(db)
		}
		write(t, filepath.Join(dir, name+".json"), []byte(c.text))
		flags = append(flags, "--"+name+"-config", filepath.Join(dir, name+".json"))
	}
	return metadata, flags
}

// command runs trust-admin in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

// serverOnly leaves out the signer's configuration.
func serverOnly(flags []string) (only []string) {
	for i, f := range flags {
		if f == "--server-config" {
			only = append(only, f, flags[i+1])
		}
	}
	return only
}

func TestLog(t *testing.T) {
	s, flags := newSite(t)
	flags = serverOnly(flags)
	for _, e := range []storage.Event{
		{Action: storage.ActionPublish, GUN: "example.org/a", Origin: storage.Origin{Actor: "alice", RequestID: "r1"}, Roles: "root 1, targets 1"},
		{Action: storage.ActionDelete, GUN: "example.org/b", Reason: "old"},
		{Action: storage.ActionPublish, GUN: "a\x1b[2Jb", Origin: storage.Origin{Actor: "m\nallory"}},
	} {
		if err := s.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	code, out, stderr := command(t, append([]string{"log"}, flags...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 4 || strings.ContainsAny(out, "\x1b") {
		t.Fatalf("exit code %d\n%s%s", code, out, stderr)
	}
	for i, want := range []string{
		"ACTION       BY                    WHAT",
		"publish      alice                 example.org/a: root 1, targets 1 [request r1]",
		"delete       -                     example.org/b (old)",
		`publish      m\nallory             "a\x1b[2Jb"`,
	} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %q, want %q", lines[i], want)
		}
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--last", "1"}, []string{"a\x1b[2Jb"}},
		{[]string{"example.org/b"}, []string{"example.org/b"}},
		{[]string{"example.org/none"}, nil},
	} {
		code, out, stderr := command(t, append(append([]string{"log", "--output", "json"}, c.args...), flags...)...)
		var got []string
		for line := range strings.Lines(out) {
			var e struct{ GUN, Action string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.GUN)
		}
		if code != 0 || strings.Join(got, ",") != strings.Join(c.want, ",") {
			t.Errorf("%v: exit code %d, %q\n%s", c.args, code, got, stderr)
		}
	}
	if code, _, stderr := command(t, append([]string{"log", "--last", "-1"}, flags...)...); code != 2 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestExport(t *testing.T) {
	s, flags := newSite(t)
	for _, gun := range []tuf.GUN{"example.org/a", "example.org/b", "other.org/a"} {
		r := storagetest.NewRepo(gun, "one")
		for range 2 {
			if err := s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
				t.Fatal(err)
			}
		}
	}
	to := filepath.Join(t.TempDir(), "out.tar")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--all"}, 0, `"repositories": 3,`},
		{[]string{"--prefix", "example.org/"}, 0, `"repositories": 2,`},
		{[]string{"example.org/b", "other.org/a"}, 0, `"files": 16,`},
		{[]string{"--prefix", "none"}, 1, "no repository begins with"},
		{[]string{"example.org/c"}, 1, "no repository of that name"},
		{nil, 1, "say which repositories"},
		{[]string{"--all", "example.org/b"}, 1, "not two of these"},
		{[]string{""}, 2, "name of a repository is empty"},
	} {
		code, out, stderr := command(t, append(append([]string{"export", "--to", to, "--output", "json"}, c.args...), serverOnly(flags)...)...)
		if code != c.code || !strings.Contains(out+stderr, c.want) {
			t.Errorf("%v: exit code %d\n%s%s", c.args, code, out, stderr)
		}
		if err := os.Remove(to); (err == nil) != (c.code == 0) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	write(t, to, []byte("precious"))
	if code, _, stderr := command(t, append([]string{"export", "--to", to, "--all"}, serverOnly(flags)...)...); code != 1 || !strings.Contains(stderr, "file exists") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if raw, err := os.ReadFile(to); err != nil || string(raw) != "precious" {
		t.Errorf("%q, %v", raw, err)
	}
}
