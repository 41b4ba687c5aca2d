package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	_ "modernc.org/sqlite"

	"countersign/internal/pgtest"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

var update = flag.Bool("update", false, "write the golden files")

// A shop is a pair's databases with some repositories, as files name them.
type shop struct {
	t     *testing.T
	flags []string // --server-config and --signer-config
	db    *sql.DB
}

func newShop(t *testing.T, backend string) *shop {
	t.Helper()
	server, signer := filepath.Join(t.TempDir(), "server.db"), filepath.Join(t.TempDir(), "signer.db")
	driver, url := "sqlite", "file:"+server
	if backend == "postgres" {
		server, signer = pgtest.URL(t), pgtest.URL(t)
		driver, url = "postgres", server
	}
	a, b := dbConfigs(t, backend, server, signer)
	s := &shop{t: t, flags: []string{"--server-config", a, "--signer-config", b}}
	if code, out, errs := runAdmin(t, append([]string{"db", "migrate"}, s.flags...)...); code != 0 {
		t.Fatalf("migrate: %d %s%s", code, out, errs)
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s.db = db
	return s
}

func (s *shop) put(r *tuftest.Repo) {
	s.t.Helper()
	for _, role := range r.Roles() {
		s.row(r.GUN, role, r.File(role))
	}
}

func (s *shop) row(gun tuf.GUN, role tuf.RoleName, data []byte) {
	s.t.Helper()
	_, err := s.db.ExecContext(s.t.Context(), `insert into tuf_files (created_at, gun, role, version, data, sha256) values ($1, $2, $3, 1, $4, $5)`,
		"2026-11-20 12:00:00", string(gun), string(role), data, tuf.Sum(data).String())
	if err != nil {
		s.t.Fatal(err)
	}
}

// args are a command line, with the signer's configuration where it has one.
func (s *shop) args(args ...string) []string {
	if args[0] == "tags" {
		return append(args, s.flags[:2]...)
	}
	return append(args, s.flags...)
}

// run expects an exit code.
func (s *shop) run(want int, args ...string) string {
	s.t.Helper()
	code, out, errs := runAdmin(s.t, s.args(args...)...)
	if code != want || (code != 0) != (errs != "") {
		s.t.Fatalf("%q ended with %d, want %d:\n%s%s", args, code, want, out, errs)
	}
	tame(s.t, out+errs)
	return out
}

// tame makes sure that a terminal would simply print text.
func tame(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && r != '\r' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == utf8.RuneError) {
			t.Fatalf("it would steer a terminal: %q", text)
		}
	}
}

// largeRepo has 5,000 tags and 50 delegations, of which one does not verify.
func largeRepo(t *testing.T, gun tuf.GUN) *tuftest.Repo {
	roles := []tuf.RoleName{"targets/releases", "targets/alice", "targets/alice/deputy"}
	for i := range 47 {
		roles = append(roles, tuf.RoleName(fmt.Sprintf("targets/dev-%02d", i)))
	}
	r := tuftest.New(t, gun, tuftest.Options{Now: time.Date(2100, 11, 20, 12, 0, 0, 0, time.UTC), Delegations: roles, KeyType: tuf.KeyED25519})
	root := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: string(gun), NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: r.Root.Expires})
	r.SetKeys("root", 1, root)
	for i := range 5000 {
		r.AddTarget("targets/releases", fmt.Sprintf("build-%04d", i), []byte(fmt.Sprint(i)))
	}
	for i := range 47 {
		r.AddTarget(tuf.RoleName(fmt.Sprintf("targets/dev-%02d", i)), "build-0001", []byte("1"))
	}
	signer := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "Alice Example", NotBefore: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)})
	r.SetKeys("targets/alice", 1, signer)
	r.Delegation("targets/alice").Paths = []string{"release-", "build-", "candidate-", "nightly-", "a-very-long-path-that-goes-on-for-quite-a-while-"}
	old := r.Keys["targets/dev-11"]
	r.SetKeys("targets/dev-11", 1) // the signer's key was purged
	r.Keys["targets/dev-11"] = old
	return r
}

var (
	keyIDs = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	sizes  = regexp.MustCompile(`\b[0-9.]+ [kM]?B\b`)
	days   = regexp.MustCompile(`in [0-9]+ days`)
)

// golden compares with what stands in testdata, but for what differs from run to run.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = keyIDs.ReplaceAllString(got, "0123456789ab")
	got = days.ReplaceAllString(sizes.ReplaceAllString(got, "N kB"), "in N days")
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

// within80 makes sure that no line is longer than a terminal's.
func within80(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestShowLarge(t *testing.T) {
	s := newShop(t, "sqlite3")
	s.put(largeRepo(t, "registry.example.com/team/app"))
	out := s.run(3, "show", "registry.example.com/team/app")
	within80(t, out)
	golden(t, "show-large.txt", out)
	if n := strings.Count(out, "\n"); n > 80 {
		t.Errorf("%d lines are too many to read", n)
	}
	all := s.run(3, "show", "registry.example.com/team/app", "--all")
	within80(t, all)
	says(t, all, "build-4999", "targets/dev-46", "a-very-long-path")
}

func TestShowSmall(t *testing.T) {
	for _, backend := range []string{"postgres", "sqlite3"} {
		s := newShop(t, backend)
		r := tuftest.New(t, "registry.example.com/a", tuftest.Options{Now: time.Date(2100, 11, 20, 12, 0, 0, 0, time.UTC), KeyType: tuf.KeyED25519})
		r.SetKeys("root", 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "registry.example.com/a", NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: r.Root.Expires}))
		r.AddTarget("targets", "latest", []byte("x"))
		s.put(r)
		out := s.run(0, "show", "registry.example.com/a")
		within80(t, out)
		golden(t, "show-small.txt", out)
		var shown struct {
			GUN   string
			State string
			Tags  int
			Roles []struct {
				Role string
				Keys []struct {
					KeyID string `json:"key_id"`
					Held  string `json:"held_by"`
				}
			}
		}
		if err := json.Unmarshal([]byte(s.run(0, "show", "registry.example.com/a", "--output", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		if shown.State != "ok" || shown.Tags != 1 || len(shown.Roles) != 4 || len(shown.Roles[3].Keys[0].KeyID) != 64 || shown.Roles[3].Keys[0].Held != "client" {
			t.Errorf("%+v", shown)
		}
		list := s.run(0, "ls")
		if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "STATE ") || !strings.HasSuffix(lines[1], "  client    registry.example.com/a") {
			t.Errorf("ls:\n%s", list)
		}
		if out := s.run(0, "ls", "--prefix", "nothing/"); out != "" {
			t.Errorf("ls of nothing: %q", out)
		}
		if out := s.run(0, "tags", "registry.example.com/a"); !strings.Contains(out, tuf.Sum([]byte("x")).String()+"       1 B  latest (targets)\n") {
			t.Errorf("tags:\n%s", out)
		}
	}
}

// Names from a database that somebody else has filled reach no terminal as they are.
func TestHostileNames(t *testing.T) {
	s := newShop(t, "sqlite3")
	const evil = "\x1b]0;pwned\x07\x1b[2J\u202e\u009b31m\r\n"
	long := strings.Repeat("x", 100_000) + evil
	gun := tuf.GUN("example.org/" + evil)
	r := tuftest.New(t, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/a"}})
	r.SetKeys("root", 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "CN" + evil, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}))
	r.SetKeys("targets/a", 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: long[:60_000] + evil, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}))
	r.AddTarget("targets", long, []byte("x"))
	r.AddTarget("targets", "tag"+evil, []byte("x"))
	r.AddTarget("targets/a", "tag"+evil, []byte("y"))
	r.Delegation("targets/a").Paths = []string{"tag" + evil, long}
	s.put(r)
	s.row(gun, "targets/"+evil, []byte(evil))
	for _, args := range [][]string{
		{"ls"}, {"ls", "--output", "json"}, {"show", string(gun)}, {"show", string(gun), "--all"}, {"show", string(gun), "--output", "json"},
		{"tags", string(gun), "--all"}, {"tags", string(gun), "--all", "--output", "json"},
		{"expiry", string(gun)}, {"expiry", "--output", "json"}, {"expiry", "--output", "ics"}, {"show", string(gun) + "x"}, {"tags", string(gun), "--role", evil},
	} {
		code, out, errs := runAdmin(t, s.args(args...)...)
		if code == 2 || out == "" && errs == "" {
			t.Errorf("%q: %d %s", args, code, errs)
		}
		tame(t, out)
		tame(t, errs)
		if !strings.Contains(strings.Join(args, " "), "json") && len(out) > 100_000 {
			t.Errorf("%q prints %d bytes", args, len(out))
		}
	}
	// Nothing is lost in JSON.
	var found struct{ GUN string }
	if err := json.Unmarshal([]byte(s.run(0, "ls", "--output", "json")), &found); err != nil || found.GUN != string(gun) {
		t.Errorf("%q, %v", found.GUN, err)
	}
}

func TestLookCommandLines(t *testing.T) {
	s := newShop(t, "sqlite3")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"show"}, 2, "needs the name of one repository"},
		{[]string{"show", "a", "b"}, 2, "needs the name of one repository"},
		{[]string{"tags"}, 2, "needs the name of one repository"},
		{[]string{"show", "nobody"}, 1, `no repository is named "nobody"`},
		{[]string{"expiry", "nobody"}, 1, `no repository is named "nobody"`},
		{[]string{"expiry", "--within", "soon"}, 2, "a duration is a number and a unit: 12h, 90d, 2w, and not \"soon\""},
		{[]string{"expiry", "a", "--prefix", "b"}, 2, "and not both"},
		{[]string{"expiry", "--output", "xml"}, 2, `--output is table or json or ics, not "xml"`},
		{[]string{"ls", "--output", "ics"}, 2, `--output is table or json, not "ics"`},
		{[]string{"ls", "--nonsense"}, 2, "unknown flag"},
	} {
		code, _, errs := runAdmin(t, s.args(c.args...)...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%q ended with %d: %s", c.args, code, errs)
		}
	}
	for _, cmd := range []string{"ls", "show", "tags", "expiry"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{cmd, "--help"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "Examples:") {
			t.Errorf("%s --help: %d", cmd, code)
		}
		within80(t, strings.Split(out.String(), "Usage:")[0])
	}
}
