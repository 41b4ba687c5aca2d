package tuf_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/theupdateframework/notary/tuf/data"
	"pgregory.net/rapid"

	"countersign/tuf"
)

func TestParseGUN(t *testing.T) {
	for _, good := range []string{strings.Repeat("é", 255), "a", "docker.io/library/alpine", "127.0.0.1:5000/x", "é/%2f ?", strings.Repeat("x", 255)} {
		if g, err := tuf.ParseGUN(good); err != nil || string(g) != good {
			t.Errorf("ParseGUN(%q) = %q, %v", good, g, err)
		}
	}
	for _, bad := range []string{"", "a*", "a\x00b", "\xff", strings.Repeat("x", 256), strings.Repeat("é", 256)} {
		if g, err := tuf.ParseGUN(bad); !errors.Is(err, tuf.ErrBadName) || g != "" {
			t.Errorf("ParseGUN(%q) = %q, %v", bad, g, err)
		}
	}
}

func TestRoleNames(t *testing.T) {
	check := func(t rapid.TB, s string) {
		t.Helper()
		r, err := tuf.ParseRoleName(s)
		if want := data.ValidRole(data.RoleName(s)); (err == nil) != want {
			t.Fatalf("ParseRoleName(%q): %v; upstream: %t", s, err, want)
		}
		if err != nil {
			if !errors.Is(err, tuf.ErrBadName) {
				t.Fatal(err)
			}
			return
		}
		if r.IsDelegation() != data.IsDelegation(data.RoleName(s)) || r.IsBase() == r.IsDelegation() {
			t.Fatalf("%q: base %t, delegation %t", s, r.IsBase(), r.IsDelegation())
		}
		if r.IsDelegation() && string(r.Parent()) != string(data.RoleName(s).Parent()) {
			t.Fatalf("parent of %q is %q", s, r.Parent())
		}
		if r.Depth() != strings.Count(s, "/") {
			t.Fatalf("depth of %q is %d", s, r.Depth())
		}
	}
	for _, s := range []string{
		"root", "targets", "snapshot", "timestamp", "targets/a", "targets/a/b-c_d/0", "targets/" + strings.Repeat("x", 247),
		"", "Root", "targets/", "targets//a", "targets/a/", "targets/A", "targets/.", "targets/../a", "targets/é", "root/a", "target", "targets/a b",
		"targets/" + strings.Repeat("x", 248), "targets/a\n", "targets/*",
	} {
		check(t, s)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.StringMatching(`(root|targets|x)?(/?[a-zA-Z0-9._-]{0,3}){0,4}`).Draw(t, "name"))
	})
	if p := tuf.RoleRoot.Parent(); p != "" {
		t.Errorf("parent of root is %q", p)
	}
}

func TestChecksum(t *testing.T) {
	const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	c, err := tuf.ParseChecksum(hex)
	if err != nil || c != tuf.Sum(nil) || c.String() != hex {
		t.Errorf("%s, %v", c, err)
	}
	for _, bad := range []string{"", hex[1:], hex + "0", strings.ToUpper(hex), "g" + hex[1:], strings.Repeat(" ", 64)} {
		if c, err := tuf.ParseChecksum(bad); !errors.Is(err, tuf.ErrBadName) {
			t.Errorf("ParseChecksum(%q) = %s, %v", bad, c, err)
		}
	}
}

// A repository of 100,000 tags is within the limits, and a file that has more
// members than any repository is malformed, wherever they stand in it.
func TestManyValues(t *testing.T) {
	file := tagged(t, 100_000).File("targets")
	e, err := tuf.ParseEnvelope(file)
	if err == nil {
		_, err = e.Targets("targets")
	}
	if err != nil || len(file) > 16<<20 {
		t.Errorf("100,000 tags, %d bytes: %v", len(file), err)
	}
	many := "{" + strings.Repeat(`"":1,`, tuf.MaxMembers) + `"":1}`
	for _, file := range []string{many, `{"signed":` + many + `}`, `{"signed":{"targets":` + many + `}}`, `{"x":` + many + `}`} {
		if _, err := tuf.ParseEnvelope([]byte(file)); !errors.Is(err, tuf.ErrMalformed) || !strings.Contains(err.Error(), "more than 262144 values") {
			t.Errorf("%.30s: %v", file, err)
		}
	}
}
