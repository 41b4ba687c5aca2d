package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each help fits into 80 columns, and its examples are what a shell would take.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	n := 0
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		n++
		var out bytes.Buffer
		if code := run(t.Context(), append(path, "--help"), &out, &out); code != 0 {
			t.Errorf("%v: code %d", path, code)
		}
		for line := range strings.SplitSeq(out.String(), "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%v: %d columns: %s", path, len([]rune(line)), line)
			}
		}
		for _, sub := range cmd.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" {
				visit(sub, append(path[:len(path):len(path)], sub.Name()))
			}
		}
	}
	visit(newRoot(), nil)
	if n < 20 {
		t.Errorf("only %d commands", n)
	}
	want := "  trust-admin ls --server-config server.json --output json | \\\n      jq -r 'select(.state != \"ok\" and .gun != \"xxxxx\") | .gun'"
	if got := fitCommands("  trust-admin ls --server-config server.json --output json | jq -r 'select(.state != \"ok\" and .gun != \"xxxxx\") | .gun'"); strings.Count(got, "'") != 2 ||
		strings.ReplaceAll(got, " \\\n     ", "") != strings.ReplaceAll(want, " \\\n     ", "") {
		t.Errorf("got %s", got)
	}
}

// An error may quote a name that somebody else has chosen.
func TestErrorsOnTerminal(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"no\x1b[31m\u009bred"}, &stdout, &stderr); code != 2 {
		t.Errorf("code %d", code)
	}
	if text := stderr.String(); strings.ContainsAny(text, "\x1b\u009b") || !strings.Contains(text, `\x1b[31m\u009bred`) {
		t.Errorf("printed %q", text)
	}
	if got := onTerminal("one:\n\ttwo\r\x07"); got != "one:\n\ttwo"+`\r\a` {
		t.Errorf("got %q", got)
	}
	var b bytes.Buffer
	if err := writeJSON(&b, "a\u009b\x7f"); err != nil || b.String() != `"a\u009b\u007f"`+"\n" {
		t.Errorf("wrote %q, %v", b.String(), err)
	}
}

// The configuration of the other program is accepted, not read, and not shown.
func TestOtherConfigTolerated(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none.json")
	for _, args := range [][]string{{"keys", "ls"}, {"fsck"}, {"log"}, {"prune", "--all", "--keep-days", "1", "--keep-versions", "1"}, {"tags", "a"}} {
		var out bytes.Buffer
		if code := run(t.Context(), append(args, "--server-config", none, "--signer-config", none), &out, &out); code != 1 || strings.Contains(out.String(), "unknown flag") {
			t.Errorf("%v: code %d: %s", args, code, out.String())
		}
	}
	var out bytes.Buffer
	if run(t.Context(), []string{"fsck", "--help"}, &out, &out); strings.Contains(out.String(), "--signer-config") {
		t.Errorf("shown: %s", out.String())
	}
	if code := run(t.Context(), []string{"fsck", "", "--server-config", none}, &out, &out); code != 2 {
		t.Errorf("a name that is empty: code %d", code)
	}
}

// Names of repositories do not complete to files; archives do.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"show": ":4", "fsck": ":4", "purge": ":4", "tags": ":4", "export": ":4", "log": ":4", "prune": ":4", "import": ":8", "restore": ":8"} {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"__complete", args, ""}, &out, &bytes.Buffer{}); code != 0 || !strings.Contains(out.String(), want+"\n") {
			t.Errorf("%s: code %d: %q", args, code, out.String())
		}
	}
}
