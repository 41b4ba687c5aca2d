package admin_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/admin/archive"
	"countersign/storage"
	"countersign/tuf"
)

// keyed is a site of the vault with a signer's database, which a restoration asks
// for whatever it restores.
func (v *vault) keyed(p *pair) *admin.Site {
	return v.site(func(c *admin.SiteConfig) {
		c.SignerConfig = filepath.Join(p.dir, "signer.json")
		c.Environ = []string{"NOTARY_SIGNER_A=a passphrase of some length"}
	})
}

// What a prune took comes back beside what was published since, and nothing else
// changes; once, and not into another repository of that name.
func TestRestorePruned(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		const gun, gone, other = "x.example/long", "x.example/gone", "x.example/other"
		r := v.longLife(gun)
		v.longLife(gone)
		v.longLife(other)
		before := map[tuf.Version][]byte{}
		for n := range tuf.Version(5) {
			before[n+1] = v.file(gun, "snapshot", n+1)
		}
		all := v.rows(gun)
		file := filepath.Join(t.TempDir(), "pruned.tar")
		v.prune(everything(admin.PruneConfig{KeepVersions: 2, KeepDays: 50, Act: true, Archive: file}))
		v.now = time.Now().UTC().Truncate(time.Second)
		v.publish(r, r.Next(tuf.RoleTargets))
		v.exec(`delete from tuf_files where gun = $1`, gone)
		v.exec(`delete from tuf_files where gun = $1`, other)
		delete(v.base, other)
		v.begin(other)
		v.exec(`update tuf_files set version = version + 100 where gun = $1 and role <> 'root'`, other)
		kept := v.rows(other)

		site := v.keyed(newPair(t, "sqlite3"))
		c := admin.RestoreConfig{Path: file, Reason: "needed"}
		var got []admin.Restored
		restore := func() error {
			got = nil
			return site.Restore(t.Context(), c, func(r admin.Restored) error { got = append(got, r); return nil })
		}
		err := restore()
		if !errors.Is(err, storage.ErrNotFound) || !errors.Is(err, storage.ErrVersionConflict) || !strings.Contains(err.Error(), "earlier repository") {
			t.Errorf("of what has gone, and begun anew: %v", err)
		}
		if now := v.rows(gun); len(now) != len(all)+3 || !containsAll(now, all) {
			t.Errorf("rows %q, want all of %q, and three that were published since", now, all)
		}
		if len(got) != 1 || got[0].GUN != gun || got[0].Files < 30 || got[0].Already {
			t.Errorf("got %+v", got)
		}
		for n, data := range before {
			if diff := cmp.Diff(data, v.file(gun, "snapshot", n)); diff != "" {
				t.Errorf("snapshot %d: %s", n, diff)
			}
		}
		if len(v.rows(gone)) > 0 || cmp.Diff(kept, v.rows(other)) != "" {
			t.Error("old versions went to where they do not belong")
		}
		v.fsckRows([]tuf.GUN{gun})
		events, err := v.store.Events(t.Context(), storage.EventQuery{GUN: gun, Newest: true, Limit: 10})
		if last := len(events) - 1; err != nil || events[last].Action != storage.ActionRestore || !strings.Contains(events[last].Reason, "needed (archive pruned.tar") {
			t.Errorf("recorded %+v, %v", events, err)
		}
		digest := digestOf(t, file)
		for _, e := range events {
			if e.Action == storage.ActionPrune && !strings.Contains(e.Reason, digest) {
				t.Errorf("the prune does not name its archive: %+v", e)
			}
		}
		// Once more there is nothing to do.
		if err := restore(); !errors.Is(err, storage.ErrNotFound) || len(got) != 1 || !got[0].Already || got[0].Files != 0 {
			t.Errorf("again: %+v, %v", got, err)
		}
		c.NewTimestamp = true
		if err := restore(); err == nil || !strings.Contains(err.Error(), "live on") {
			t.Errorf("with a new timestamp: %v", err)
		}
	})
}

func digestOf(t *testing.T, file string) string {
	t.Helper()
	a, err := archive.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	return a.Digest
}

func containsAll(have, want []string) bool {
	there := map[string]bool{}
	for _, s := range have {
		there[s] = true
	}
	for _, s := range want {
		if !there[s] {
			return false
		}
	}
	return true
}

// A repository that is deleted while it is archived does not end the prune of the
// others.
func TestPruneArchivesBesideDeletion(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		v.longLife("x.example/1")
		v.longLife("x.example/2")
		file := filepath.Join(t.TempDir(), "pruned.tar")
		done := v.prune(everything(admin.PruneConfig{KeepVersions: 2, KeepDays: 50, Act: true, Archive: file}), func(c *admin.SiteConfig) {
			c.Step = func(name string) {
				if name == "to be archived x.example/1" {
					v.exec(`delete from tuf_files where gun = 'x.example/1'`)
				}
			}
		})
		if len(done) != 1 || done[0].GUN != "x.example/2" || done[0].RowsAfter >= done[0].RowsBefore {
			t.Errorf("got %+v", done)
		}
	})
}
