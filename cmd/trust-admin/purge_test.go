package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// narrow makes sure that text, but for commands to be copied, fits a terminal.
func narrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if n := utf8.RuneCountInString(line); n > 80 && !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "archive ") && !strings.HasPrefix(line, "  archive ") && !strings.HasPrefix(line, "content ") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

// purgeShop has two repositories whose names begin alike, and one beside them.
func purgeShop(t *testing.T) *shop {
	t.Helper()
	s := newShop(t, "sqlite3")
	for _, gun := range []tuf.GUN{"example.org/team/app", "example.org/team/app2", "example.org/other"} {
		r := tuftest.New(t, gun, tuftest.Options{KeyType: tuf.KeyED25519, Delegations: []tuf.RoleName{"targets/releases", "targets/alice"}})
		for _, tag := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
			r.AddTarget("targets/releases", tag, []byte(tag))
		}
		s.put(r)
	}
	return s
}

func (s *shop) guns() int {
	s.t.Helper()
	var n int
	if err := s.db.QueryRowContext(s.t.Context(), `select count(distinct gun) from tuf_files`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestPurgeShows(t *testing.T) {
	s := purgeShop(t)
	out := s.run(3, "purge", "example.org/team/app")
	narrow(t, out)
	for _, want := range []string{
		"example.org/team/app\n", "  targets/releases  1         1       ", "  owner's 1 key for root\n", "  12 tags: 1, 10, 11, 12, 2, 3, 4, 5, 6, 7 and 2 more\n",
		"  signers: alice\n", "  last publish 2026-11-20 12:00; 6 files, ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
	var plan struct {
		Repositories []struct {
			GUN      string
			Files    int
			TagCount int   `json:"tag_count"`
			Tags     []any `json:"tags"`
		}
	}
	out = s.run(3, "purge", "--output", "json", "--prefix", "example.org/team/")
	if err := json.Unmarshal([]byte(out), &plan); err != nil || len(plan.Repositories) != 2 || plan.Repositories[1].TagCount != 12 || len(plan.Repositories[0].Tags) != 12 {
		t.Errorf("%v: %s", err, out)
	}
	if s.guns() != 3 {
		t.Error("to show has removed something")
	}
}

// Nothing is done on a command line that may not mean what it says.
func TestPurgeRefuses(t *testing.T) {
	s := purgeShop(t)
	for name, c := range map[string]struct {
		code int
		args []string
		says string
	}{
		"nothing named":        {2, []string{"--yes"}, "name repositories, or give --prefix"},
		"both":                 {2, []string{"x", "--prefix", "x", "--yes"}, "not both"},
		"a count of nothing":   {2, []string{"x", "--count", "1", "--yes"}, "--count goes with --prefix"},
		"an empty name":        {2, []string{"", "--yes"}, "empty"},
		"a prefix as a name":   {1, []string{"example.org/team/", "--yes"}, "no repository is named"},
		"the last one wrong":   {1, []string{"example.org/team/app", "example.org/tean/app", "--yes", "--keys-elsewhere"}, `there is "example.org/team/app"`},
		"a wrong count":        {1, []string{"--prefix", "example.org/team/", "--count", "3", "--yes"}, "2 repositories begin with"},
		"no count":             {1, []string{"--prefix", "example.org/team/", "--yes"}, "scripts give --count"},
		"a prefix of none":     {1, []string{"--prefix", "example.com/", "--count", "0", "--yes"}, "no repository begins with"},
		"no folder of archive": {1, []string{"example.org/other", "--archive-dir", "/no/such", "--yes", "--keys-elsewhere"}, "nothing was removed"},
		"no folder of card":    {1, []string{"example.org/other", "--card", "/no/such/card", "--yes", "--keys-elsewhere"}, "nothing was done: the card cannot be written"},
		"other keys":           {1, []string{"example.org/other", "--yes"}, "--keys-elsewhere"},
		"a wrong output":       {2, []string{"example.org/other", "--output", "xml"}, "--output is table or json"},
	} {
		code, out, errs := runAdmin(t, s.args(append([]string{"purge"}, c.args...)...)...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: %d, want %d with %q:\n%s%s", name, code, c.code, c.says, out, errs)
		}
	}
	if code, _, errs := runAdmin(t, "purge", "x"); code == 0 || !strings.Contains(errs, "signer-config") {
		t.Errorf("without configurations: %d %s", code, errs)
	}
	if s.guns() != 3 {
		t.Error("something was removed")
	}
}

func TestPurgeAndBack(t *testing.T) {
	s := purgeShop(t)
	dir := t.TempDir()
	card := filepath.Join(dir, "card.html")
	out := s.run(0, "purge", "example.org/other", "example.org/other", "--keys-elsewhere", "--yes", "--reason", "laptop lost", "--archive-dir", dir, "--card", card, "--server-url", "https://notary.example.org:4443/")
	narrow(t, out)
	for _, want := range []string{
		"example.org/other is purged: 6 files and 0 keys.\n", "\nRECOVERY CARD  example.org/other\n",
		`    rm -rf "${DOCKER_CONFIG:-$HOME/.docker}"/trust/tuf/example.org/other/metadata`,
		"    export DOCKER_CONTENT_TRUST=1 DOCKER_CONTENT_TRUST_SERVER=https://notary.example.org:4443\n",
		"    docker push example.org/other:12\n", "signer add --key alice.pem alice example.org/other\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
	page, err := os.ReadFile(card)
	if err != nil || !strings.Contains(string(page), "<pre>docker pull example.org/other@sha256:") {
		t.Errorf("%v\n%s", err, page)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.purge.tar"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("%q, %v", archives, err)
	}
	code, list, errs := runAdmin(t, append([]string{"purge", "list"}, s.flags[:2]...)...)
	if code != 0 {
		t.Fatal(code, errs)
	}
	narrow(t, list)
	if !strings.Contains(list, "  example.org/other\n  ended ") || !strings.Contains(list, ": laptop lost\n  archive "+archives[0]+"\n") {
		t.Errorf("list:\n%s", list)
	}
	if out := s.run(0, "purge", "resume"); out != "every purge has ended\n" {
		t.Errorf("resume: %s", out)
	}
	if _, out, _ := runAdmin(t, append([]string{"purge", "list", "--unfinished", "--output", "json"}, s.flags[:2]...)...); strings.Join(strings.Fields(out), "") != `{"purges":[]}` {
		t.Errorf("unfinished: %s", out)
	}
	if code, printed, errs := runAdmin(t, "purge", "card", archives[0], "--server-url", "https://notary.example.org:4443/"); code != 0 || !strings.HasSuffix(out, printed+"\n") {
		t.Errorf("the card from the archive differs: %s\n%s", errs, printed)
	}
	// The same command does nothing twice, and does not stop what is beside it.
	again := s.run(0, "purge", "example.org/other", "--yes", "--archive-dir", dir)
	if !strings.HasPrefix(again, "example.org/other was purged already, at ") || !strings.Contains(again, archives[0]) || s.guns() != 2 {
		t.Errorf("again: %s", again)
	}
	if out := s.run(0, "restore", archives[0]); out != "example.org/other is restored: 6 files, 0 keys\n" || s.guns() != 3 {
		t.Errorf("restore: %s", out)
	}
	out = s.run(0, "restore", archives[0], "--output", "json")
	var done struct{ Restored []map[string]any }
	if err := json.Unmarshal([]byte(out), &done); err != nil || len(done.Restored) != 1 || done.Restored[0]["already_there"] != true {
		t.Errorf("restored twice: %v %s", err, out)
	}
	for _, args := range [][]string{{"restore"}, {"restore", archives[0], "--timestamp-version", "5"}} {
		if code, _, errs := runAdmin(t, s.args(args...)...); code == 0 || errs == "" {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
	if code, _, errs := runAdmin(t, s.args("restore", filepath.Join(dir, "none"))...); code != 1 || !strings.Contains(errs, "trust-admin purge list") {
		t.Errorf("no such archive: %d %s", code, errs)
	}
}

// A prefix asks for the number, and takes all that it names and no more. Each
// has its own archive and card.
func TestPurgePrefix(t *testing.T) {
	s := purgeShop(t)
	dir := t.TempDir()
	root := newRoot()
	var out, errs bytes.Buffer
	root.SetArgs(s.args("purge", "--prefix", "example.org/team/", "--yes", "--keys-elsewhere", "--archive-dir", dir, "--card", filepath.Join(dir, "card.txt")))
	root.SetIn(strings.NewReader("2\n"))
	root.SetOut(&out)
	root.SetErr(&errs)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(errs.String(), "2 repositories begin with example.org/team/. Type the number to purge them: 1 of 2: example.org/team/app\n2 of 2: ") {
		t.Errorf("it asks %q", errs.String())
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 || s.guns() != 1 {
		t.Errorf("%v, %v, %d repositories left", files, err, s.guns())
	}
	second, err := os.ReadFile(filepath.Join(dir, "card-example.org_team_app2.txt"))
	if err != nil || !strings.HasPrefix(string(second), "RECOVERY CARD  example.org/team/app2\n") {
		t.Errorf("%v\n%s", err, second)
	}
}

// What was typed into the database steers no terminal, and no shell.
func TestPurgeHostile(t *testing.T) {
	s := newShop(t, "sqlite3")
	gun := tuf.GUN("example.org/a'; rm -rf x; '\x1b[31m")
	r := tuftest.New(t, gun, tuftest.Options{KeyType: tuf.KeyED25519})
	r.AddTarget(tuf.RoleTargets, "t\x1b]0;x\a", []byte("1"))
	r.AddTarget(tuf.RoleTargets, "$(touch x)", []byte("1"))
	s.put(r)
	s.put(tuftest.New(t, "../../etc", tuftest.Options{KeyType: tuf.KeyED25519}))
	s.run(3, "purge", string(gun), "../../etc")
	dir := t.TempDir()
	if out := s.run(0, "purge", string(gun), "--yes", "--keys-elsewhere", "--archive-dir", dir); strings.Contains(out, "rm -rf \"") {
		t.Errorf("it gives commands for a name that no client has:\n%s", out)
	}
	if out := s.run(0, "purge", "../../etc", "--yes", "--keys-elsewhere", "--archive-dir", dir); !strings.Contains(out, "nothing to do on clients") || strings.Contains(out, "    rm") {
		t.Errorf("it gives commands for a path that leads elsewhere:\n%s", out)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
}

// A list of which some have gone is gone on with, and an unfinished purge is found
// by its name and by a prefix of it, with all of its card.
func TestPurgeGoesOn(t *testing.T) {
	s := purgeShop(t)
	dir := t.TempDir()
	s.run(0, "purge", "example.org/other", "--yes", "--keys-elsewhere", "--archive-dir", dir, "--reason", "caf\xe9 \n closed")
	out := s.run(0, "purge", "example.org/other", "example.org/team/app", "--yes", "--keys-elsewhere", "--archive-dir", dir, "--output", "json")
	var got struct {
		Purged []struct {
			GUN, Digest string
			Keys        []string `json:"key_ids"`
		}
		AlreadyPurged []struct{ GUN, Reason string } `json:"already_purged"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Purged) != 1 || got.Purged[0].GUN != "example.org/team/app" ||
		len(got.Purged[0].Digest) != 64 || got.Purged[0].Keys == nil || len(got.AlreadyPurged) != 1 || got.AlreadyPurged[0].Reason != "caf closed" {
		t.Fatalf("%v: %s", err, out)
	}
	if s.guns() != 1 {
		t.Errorf("%d repositories left", s.guns())
	}
	// As if it had been cut off.
	if _, err := s.db.ExecContext(t.Context(), `update countersign_purge set ended = null where gun = 'example.org/team/app'`); err != nil {
		t.Fatal(err)
	}
	card := filepath.Join(dir, "card.txt")
	code, out, errs := runAdmin(t, s.args("purge", "--prefix", "example.org/team/", "--count", "2", "--yes", "--keys-elsewhere", "--archive-dir", dir, "--card", card)...)
	if code != 0 || errs != "1 of 2: example.org/team/app\n2 of 2: example.org/team/app2\n" {
		t.Errorf("%d: %s", code, errs)
	}
	for _, want := range []string{"The purge of example.org/team/app that was begun at ", "    docker push example.org/team/app:12\n", "example.org/team/app2 is purged: 6 files"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from\n%s", want, out)
		}
	}
	if raw, err := os.ReadFile(card); err != nil || !strings.Contains(string(raw), "    docker push example.org/team/app:12\n") {
		t.Errorf("%v\n%s", err, raw)
	}
	if s.guns() != 0 {
		t.Errorf("%d repositories left", s.guns())
	}
}
