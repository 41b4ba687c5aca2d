package tuftest_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const gun = "example.org/team/app"

func TestFilesStayTheSame(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/a", "targets/a/b"}})
	want := []tuf.RoleName{"root", "targets", "targets/a", "targets/a/b", "snapshot", "timestamp"}
	if diff := cmp.Diff(want, repo.Roles()); diff != "" {
		t.Error(diff)
	}
	before := repo.Files()
	if diff := cmp.Diff(before, repo.Files()); diff != "" {
		t.Error("signed anew without a change")
	}
	repo.AddTarget("targets/a/b", "v1", []byte("x"))
	after := repo.Files()
	for _, role := range want {
		changed := role == "targets/a/b" || role == "snapshot" || role == "timestamp"
		if bytes.Equal(before[role], after[role]) == changed {
			t.Errorf("%s: changed is %t", role, !changed)
		}
	}
}

func TestUpload(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{})
	if got := keys(repo.Upload()); !slices.Equal(got, []tuf.RoleName{"root", "snapshot", "targets"}) {
		t.Errorf("first upload: %v", got)
	}
	if got := keys(repo.Next("targets")); !slices.Equal(got, []tuf.RoleName{"snapshot", "targets"}) {
		t.Errorf("next upload: %v", got)
	}
	if repo.Targets["targets"].Version != 2 || repo.Snapshot.Version != 2 || repo.Timestamp.Version != 2 || repo.Root.Version != 1 {
		t.Error("versions after one publish of targets")
	}
}

func TestServerManaged(t *testing.T) {
	snapshot, timestamp := tuftest.NewKey(t, tuf.KeyECDSA), tuftest.NewKey(t, tuf.KeyED25519)
	repo := tuftest.New(t, gun, tuftest.Options{Snapshot: &snapshot.Key, Timestamp: &timestamp.Key})
	if got := keys(repo.Files()); !slices.Equal(got, []tuf.RoleName{"root", "targets"}) {
		t.Errorf("files: %v", got)
	}
	for role, key := range map[tuf.RoleName]*tuftest.Key{"snapshot": snapshot, "timestamp": timestamp} {
		if a := repo.Root.Authority(role); a.Threshold != 1 || !slices.Equal(a.KeyIDs, []tuf.KeyID{key.ID()}) {
			t.Errorf("%s: %+v", role, a)
		}
	}
	// The client takes the snapshot back, and gives it away again.
	repo.Rotate("snapshot")
	if got := keys(repo.Next("root")); !slices.Equal(got, []tuf.RoleName{"root", "snapshot"}) {
		t.Errorf("after taking it back: %v", got)
	}
	repo.Manage("snapshot", snapshot.Key)
	if got := keys(repo.Next("root")); !slices.Equal(got, []tuf.RoleName{"root"}) {
		t.Errorf("after giving it away: %v", got)
	}
}

func TestOverrides(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{Now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)})
	if want := time.Date(2032, 12, 31, 0, 0, 0, 0, time.UTC); !repo.Targets["targets"].Expires.Equal(want) {
		t.Errorf("targets expire at %s, want %s", repo.Targets["targets"].Expires, want)
	}
	repo.Edit["targets"] = func(signed map[string]any) { signed["x"] = nil }
	if f := repo.File("targets"); !bytes.Contains(f, []byte(`"x":null`)) {
		t.Errorf("edited: %s", f)
	}
	repo.Signed["targets"] = []byte(`{ "y" : 1.50 }`)
	if f := repo.File("targets"); !bytes.HasPrefix(f, []byte(`{"signed":{ "y" : 1.50 },"signatures":[{"keyid":"`)) {
		t.Errorf("signed: %s", f)
	}
	repo.Raw["targets"] = []byte("raw")
	if f := repo.File("targets"); string(f) != "raw" {
		t.Errorf("raw: %s", f)
	}
	if meta := repo.File("snapshot"); repo.Snapshot.Meta["targets"].Check("targets", []byte("raw")) != nil {
		t.Errorf("snapshot of raw targets: %s", meta)
	}
}

func keys(files map[tuf.RoleName][]byte) []tuf.RoleName { return slices.Sorted(maps.Keys(files)) }

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		tuftest.New(b, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/a"}}).Files()
	}
}
