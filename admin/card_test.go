package admin_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/admin"
	"countersign/tuf"
)

// commands are the lines of a card that a shell is meant to run.
func commands(t *testing.T, card string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(card) {
		if c, ok := strings.CutPrefix(line, "    "); ok {
			b.WriteString(c)
		}
	}
	return b.String()
}

// Every command is one that a shell takes, with names of all kinds as one word.
func TestCardCommands(t *testing.T) {
	t.Parallel()
	for _, gun := range []string{"example.org/a", "localhost:5000/team/app", "example.org/it's $HOME; rm -rf \"x\"", "-rf/x"} {
		c := admin.NewCard(admin.PurgeRecord{GUN: "x", At: time.Now(), Actor: "operator o", Archive: "/back ups/a.tar", Digest: "d"},
			&admin.PurgePlan{TagCount: 3, Signers: []string{"alice"}, Tags: []admin.TagPlan{
				{Name: "1", SHA256: strings.Repeat("a", 64), Size: 5}, {Name: "$(touch x)", SHA256: strings.Repeat("b", 64)}, {Name: "no\ndigest"}}}, "https://n.example.org/")
		c.GUN = gun
		var b strings.Builder
		if err := c.Text(&b); err != nil {
			t.Fatal(err)
		}
		script := commands(t, b.String())
		dir := t.TempDir()
		// What each command would get: the words, one to a line.
		stub := "docker() { printf '%s|' docker \"$@\"; echo; }; notary() { printf '%s|' notary \"$@\"; echo; }; rm() { printf '%s|' rm \"$@\"; echo; }; curl() { :; }; openssl() { :; }; python3() { :; }; kubectl() { :; }; helm() { :; }; trust-admin() { printf '%s|' trust-admin \"$@\"; echo; }\n"
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", stub+script)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=/h", "PATH=/nowhere"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s\n%s", gun, err, out, script)
		}
		lines := strings.Split(string(out), "\n")
		for _, want := range []string{
			"rm|-rf|/h/.docker/trust/tuf/" + gun + "/metadata|/h/.docker/trust/tuf/" + gun + "/changelist|",
			"rm|-rf|/h/.notary/tuf/" + gun + "/metadata|/h/.notary/tuf/" + gun + "/changelist|",
			"docker|pull|" + gun + "@sha256:" + strings.Repeat("a", 64) + "|",
			"docker|push|" + gun + ":$(touch x)|",
			"notary|-s|https://n.example.org|addhash|" + gun + "|1|5|--sha256|" + strings.Repeat("a", 64) + "|",
			"trust-admin|restore|/back ups/a.tar|--server-config|SERVER.json|--signer-config|SIGNER.json|",
		} {
			if !slices.Contains(lines, want) {
				t.Errorf("%q is not among\n%s", want, out)
			}
		}
		if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
			t.Errorf("the card has made %q, %v", left, err)
		}
		if strings.Contains(b.String(), "no\ndigest") || !strings.Contains(b.String(), "and 1 more") {
			t.Errorf("a name of two lines:\n%s", b.String())
		}
	}
}

// A page shows what was chosen by others, and runs none of it.
func TestCardHTML(t *testing.T) {
	t.Parallel()
	c := admin.NewCard(admin.PurgeRecord{GUN: "example.org/<b>a", Reason: "<script>alert(1)</script>"}, nil, "")
	var b strings.Builder
	if err := c.HTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<b>", "http://", "src="} {
		if strings.Contains(b.String(), bad) {
			t.Errorf("it has %q:\n%s", bad, b.String())
		}
	}
	for _, want := range []string{"<h2>RECOVERY CARD", "<h2>4. HARBOR UP TO 2.8</h2>", "<pre>rm -rf &#34;"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing from\n%s", want, b.String())
		}
	}
}

// What others have chosen gets into no command, and steers no terminal.
func TestCardHostile(t *testing.T) {
	t.Parallel()
	const evil = "x\n\n    touch evil\n\x1b]0;x\a\u202e"
	plan := &admin.PurgePlan{
		Signers: []string{"bob", evil}, Owners: []admin.OwnerKeys{{Role: "root", IDs: []tuf.KeyID{evil, tuf.KeyID(strings.Repeat("a", 64))}}},
		Tags: []admin.TagPlan{{Name: evil, SHA256: strings.Repeat("b", 64)}, {Name: "t", SHA256: evil}, {Name: "u", SHA256: strings.Repeat("c", 64), Size: 1}}, TagCount: 3,
	}
	for _, gun := range []tuf.GUN{"example.org/a", evil} {
		c := admin.NewCard(admin.PurgeRecord{GUN: gun, Reason: "    touch evil\n" + evil, Actor: evil, Archive: "/a/" + evil, Digest: evil}, plan, "https://n.example.org/"+evil)
		var text, page strings.Builder
		if err := errors.Join(c.Text(&text), c.HTML(&page)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			if strings.HasPrefix(line, "    ") && strings.HasPrefix(strings.TrimSpace(line), "touch") {
				t.Errorf("a command: %q", line)
			}
		}
		for _, out := range []string{text.String(), page.String()} {
			if strings.ContainsAny(out, "\x1b\a\u202e") || strings.Contains(out, "<pre>touch") {
				t.Errorf("%q", out)
			}
		}
		if gun != evil && (!strings.Contains(text.String(), "\n  "+strings.Repeat("a", 64)+"\n") || !strings.Contains(text.String(), "signer add --key bob.pem bob ")) {
			t.Errorf("what is sound is missing from\n%s", text.String())
		}
	}
}
