package e2e_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandLimit bounds one run of a client program.
const commandLimit = 60 * time.Second

// A shell runs client programs with a home of their own.
type shell struct {
	t    testing.TB
	home string
	env  []string
}

// newShell makes an empty home. env is added to the environment of each command.
func newShell(t testing.TB, env ...string) *shell {
	t.Helper()
	home := t.TempDir()
	return &shell{t: t, home: home, env: append(env, "HOME="+home)}
}

// try runs a command and returns its combined output and how it ended.
func (sh *shell) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = sh.home
	cmd.Env = append(os.Environ(), sh.env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// file writes a file below the home and returns its path.
func (sh *shell) file(name, content string) string {
	sh.t.Helper()
	p := filepath.Join(sh.home, name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		sh.t.Fatal(err)
	}
	return p
}

// A notary is the notary command line client, with one trust directory.
type notary struct {
	*shell
	flags []string
}

// newNotary is a client that has never seen a server of stack s, with a home of its own.
func newNotary(t testing.TB, s *stack, server int) *notary {
	t.Helper()
	sh := newShell(t,
		"NOTARY_ROOT_PASSPHRASE=root passphrase", "NOTARY_TARGETS_PASSPHRASE=targets passphrase",
		"NOTARY_SNAPSHOT_PASSPHRASE=snapshot passphrase", "NOTARY_DELEGATION_PASSPHRASE=delegation passphrase")
	return &notary{shell: sh, flags: []string{"-s", s.url(server), "--tlscacert", s.ca.file("ca.crt"), "-d", filepath.Join(sh.home, "trust")}}
}

// run runs a command that must succeed.
func (n *notary) run(args ...string) string {
	n.t.Helper()
	out, err := n.try("", n.command(args)...)
	if err != nil {
		n.t.Fatalf("notary %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// fails runs a command that must fail.
func (n *notary) fails(args ...string) string {
	n.t.Helper()
	out, err := n.try("", n.command(args)...)
	if err == nil {
		n.t.Fatalf("notary %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return out
}

func (n *notary) command(args []string) []string {
	return append(append([]string{"notary"}, n.flags...), args...)
}

// says runs a command and holds its output to have all the words.
func (n *notary) says(args []string, words ...string) string {
	n.t.Helper()
	out := n.run(args...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			n.t.Fatalf("notary %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// targets is what "notary list" shows: name to role.
func (n *notary) targets(gun string) map[string]string {
	n.t.Helper()
	out := n.run("list", gun)
	found := map[string]string{}
	for line := range strings.Lines(out) {
		// NAME DIGEST SIZE ROLE
		if f := strings.Fields(line); len(f) == 4 && len(f[1]) == 64 {
			found[f[0]] = f[3]
		}
	}
	return found
}

// keys is what "notary key list" shows for a GUN's role: the key IDs.
func (n *notary) keys(role string) []string {
	n.t.Helper()
	var ids []string
	for line := range strings.Lines(n.run("key", "list")) {
		// ROLE [GUN] KEYID LOCATION
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == role {
			for _, w := range f[1:] {
				if len(w) == 64 {
					ids = append(ids, w)
				}
			}
		}
	}
	return ids
}
