package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// TestLostRootKey is the recovery that Harbor's documentation gives those who
// have lost a root key: rows deleted by hand from both databases, under running
// programs. Then a client that knows nothing starts the repository anew.
func TestLostRootKey(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{servers: 2})
	const gun, bystander = "e2e.example/lost/app", "e2e.example/lost/app2"
	file := newShell(t).file("content", "content\n")
	for _, g := range []string{gun, bystander} {
		n := newNotary(t, s, 0)
		n.run("init", g, "-p")
		n.run("key", "rotate", g, "snapshot", "-r")
		n.run("add", g, "v1", file, "-p")
	}
	old, other := s.walk(t, 0, gun), s.walk(t, 1, bystander)
	oldKeys := append(old.rootKeys("timestamp"), old.rootKeys("snapshot")...)
	w := s.newWire(t)
	for _, key := range oldKeys {
		if st := w.sign(t, key, "before"); st.Code() != codes.OK {
			t.Fatalf("before the recovery, signing with %s: %v", key, st)
		}
	}
	byVersion, bySum := s.immutableNames(t, 0, gun)

	sql(t, s.serverDB, "delete from tuf_files where gun = '%s'", gun)
	sql(t, s.signerDB, "delete from private_keys where gun = '%s'", gun)

	dead := func(when string, names []string) {
		t.Helper()
		for _, key := range oldKeys {
			if st := w.sign(t, key, when); st.Code() != codes.NotFound {
				t.Errorf("%s, the old key %s: %v, want NotFound", when, key, st)
			}
		}
		c := s.client()
		for i := range s.servers {
			for _, name := range names {
				if status, _ := get(t, c, s.gunURL(i, gun)+name); status != 404 {
					t.Errorf("%s, server %d answers %d for the old %s, want 404", when, i, status, name)
				}
			}
		}
	}
	dead("after the deletion", append(byVersion, bySum...))
	n := newNotary(t, s, 1)
	if out := n.fails("list", gun); !strings.Contains(out, "does not have trust data for") {
		t.Fatalf("list after the recovery says:\n%s", out)
	}
	n.run("init", gun, "-p")
	n.run("key", "rotate", gun, "snapshot", "-r")
	n.run("add", gun, "v2", file, "-p")
	dead("after the new start", bySum)
	for i := range s.servers {
		if got := newNotary(t, s, i).targets(gun); len(got) != 1 || got["v2"] != "targets" {
			t.Errorf("server %d lists %v, want v2 alone", i, got)
		}
		g := s.walk(t, i, gun)
		for _, key := range append(g.rootKeys("timestamp"), g.rootKeys("snapshot")...) {
			if slices.Contains(oldKeys, key) {
				t.Errorf("the new root lists the old key %s", key)
			}
		}
		if got := s.walk(t, i, bystander); got.version("timestamp") != other.version("timestamp") {
			t.Errorf("server %d: the repository beside it is at timestamp %d, was at %d", i, got.version("timestamp"), other.version("timestamp"))
		}
	}
	newNotary(t, s, 0).says([]string{"lookup", bystander, "v1"}, "v1 sha256:")
}

// immutableNames are the names under which a GUN's files never change while it exists.
func (s *stack) immutableNames(t testing.TB, server int, gun string) (byVersion, bySum []string) {
	t.Helper()
	for role, file := range s.walk(t, server, gun) {
		byVersion = append(byVersion, fmt.Sprintf("%d.%s.json", file.Signed.Version, role))
		for child, meta := range file.Signed.Meta {
			bySum = append(bySum, fmt.Sprintf("%s.%x.json", child, meta.Hashes["sha256"]))
		}
	}
	return byVersion, bySum
}
