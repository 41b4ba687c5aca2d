package admin_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
)

func TestTags(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		const gun tuf.GUN = "example.org/tags"
		r := newRepo(l.t, gun)
		r.AddDelegation("targets/bob")
		r.AddDelegation("targets/bob/deputy")
		r.AddDelegation("targets/eve")
		r.Delegation("targets/bob").Paths = []string{"b", "both"}
		r.Delegation("targets/bob/deputy").Paths = []string{"", "bo"} // of which only the second is bob's
		for role, tags := range map[tuf.RoleName][]string{"targets/bob": {"b1", "a1"}, "targets/bob/deputy": {"both", "b1"}, "targets/eve": {"e1", "1.0"}} {
			for _, tag := range tags {
				r.AddTarget(role, tag, []byte("one"))
			}
		}
		r.AddTarget("targets/releases", "1.0", []byte("three"))
		r.Keys["targets/eve"] = r.Keys["targets/bob"] // who may not
		l.put(r)
		one, two, three := tuf.Sum([]byte("one")).String(), tuf.Sum([]byte("two")).String(), tuf.Sum([]byte("three")).String()
		tag := func(name, sum string, size int64, roles ...tuf.RoleName) admin.Tag {
			return admin.Tag{Tag: name, SHA256: sum, Size: size, SignedBy: roles, Verifies: true}
		}
		good := []admin.Tag{
			tag("1.0", three, 5, "targets/releases"), tag("1.0", one, 3, "targets"),
			tag("1.1", two, 3, "targets/releases", "targets/alice"),
			tag("b1", one, 3, "targets/bob"), tag("both", one, 3, "targets/bob/deputy"),
		}
		if three > one {
			good[0], good[1] = good[1], good[0]
		}
		list := func(c admin.TagsConfig) ([]admin.Tag, int) {
			var got []admin.Tag
			left, err := l.Tags(l.t.Context(), c, func(tag admin.Tag) error { got = append(got, tag); return nil })
			if err != nil {
				l.t.Fatal(err)
			}
			return got, left
		}
		got, left := list(admin.TagsConfig{GUN: gun})
		if diff := cmp.Diff(good, got); diff != "" || left != 4 {
			l.t.Errorf("%d left out (-want +got):\n%s", left, diff)
		}
		if n := listed(l, gun).Tags; n != 4 { // 1.0 is one name
			l.t.Errorf("ls counts %d", n)
		}
		all, left := list(admin.TagsConfig{GUN: gun, All: true})
		bad := map[string]string{}
		for _, tag := range all {
			if !tag.Verifies {
				bad[fmt.Sprint(tag.Tag, tag.SignedBy)] = tag.Why
			}
		}
		wantBad := map[string]string{
			"1.0[targets/eve]": "targets/eve does not verify", "e1[targets/eve]": "targets/eve does not verify",
			"a1[targets/bob]":        "targets/bob may not sign this name: it is in none of its paths",
			"b1[targets/bob/deputy]": "targets/bob/deputy may not sign this name: it is in none of its paths",
		}
		if diff := cmp.Diff(wantBad, bad); diff != "" || left != 0 || len(all) != len(good)+4 {
			l.t.Errorf("%d left out (-want +got):\n%s", left, diff)
		}
		if got, _ := list(admin.TagsConfig{GUN: gun, Role: "targets/alice"}); len(got) != 1 || len(got[0].SignedBy) != 1 {
			l.t.Errorf("by alice: %+v", got)
		}

		for c, want := range map[admin.TagsConfig]error{
			{GUN: gun, Role: "targets/nobody"}: storage.ErrNotFound,
			{GUN: gun, Role: "snapshot"}:       storage.ErrNotFound,
			{GUN: "example.org/tag"}:           storage.ErrNotFound,
		} {
			if _, err := l.Tags(l.t.Context(), c, nil); !errors.Is(err, want) {
				l.t.Errorf("%+v: %v", c, err)
			}
		}
		stop := errors.New("stop")
		if _, err := l.Tags(l.t.Context(), admin.TagsConfig{GUN: gun}, func(admin.Tag) error { return stop }); !errors.Is(err, stop) {
			l.t.Errorf("got %v", err)
		}
	})
}

// Nothing of a repository whose targets do not verify is listed, since no client
// lists it.
func TestTagsOfUnverified(t *testing.T) {
	t.Parallel()
	l := sqliteLooker(t)
	r := newRepo(t, "example.org/u")
	r.Targets["targets"].Expires = lookNow.Add(-day)
	l.put(r)
	n := 0
	left, err := l.Tags(t.Context(), admin.TagsConfig{GUN: r.GUN}, func(admin.Tag) error { n++; return nil })
	if err != nil || n != 0 || left != 3 {
		t.Errorf("%d listed, %d left out, %v", n, left, err)
	}
}
