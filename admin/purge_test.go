package admin_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/admin"
	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

const lost tuf.GUN = "example.org/team/app"

// lostPair holds a repository of some history whose root key is lost, one beside
// it, and keys of it that no root lists.
func lostPair(t testing.TB, backend string) *pair {
	t.Helper()
	p := newPair(t, backend)
	p.lose()
	return p
}

// again is lostPair on the same databases, which takes less time than new ones.
func (p *pair) again() {
	p.Helper()
	for _, table := range []string{"tuf_files", "changefeed", "countersign_doomed_key", "countersign_purge"} {
		p.sql("delete from " + table)
	}
	typeSQL(p, p.backend, p.signer, "delete from private_keys")
	p.dir = p.TempDir()
	p.configure("server.json", p.server)
	p.configure("signer.json", p.signer)
	p.lose()
}

func (p *pair) lose() {
	p.Helper()
	r := p.repo(lost, "targets/releases", "targets/alice")
	r.AddTarget("targets/releases", "v2", []byte("two"))
	p.publish(lost, r.Next("targets/releases"))
	p.repo(lost + "2")
	if _, err := p.rows.CreateKey(p.Context(), lost, tuf.RoleTimestamp, tuf.KeyECDSA); err != nil {
		p.Fatal(err)
	}
	gone, err := p.rows.CreateKey(p.Context(), lost, tuf.RoleTimestamp, tuf.KeyED25519)
	if err != nil {
		p.Fatal(err)
	}
	id, err := gone.CanonicalID()
	if err == nil {
		err = p.keys.Delete(p.Context(), id)
	}
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pair) purge(s *admin.Site, gun tuf.GUN) admin.PurgeRecord {
	p.Helper()
	r, err := s.Purge(p.Context(), admin.PurgeConfig{GUN: gun, Dir: p.dir, Reason: "laptop lost"})
	if err != nil {
		p.Fatal(err)
	}
	return r
}

// without is the state that a purge of lost leaves.
func (s allRows) without() allRows {
	left := allRows{Files: map[tuf.GUN][]storage.FileRow{}, Changes: slices.Concat(s.Changes, []string{string(lost) + " 0  deletion"})}
	for gun, f := range s.Files {
		if gun != lost {
			left.Files[gun] = f
		}
	}
	for _, k := range s.Keys {
		if k.GUN != lost {
			left.Keys = append(left.Keys, k)
		}
	}
	return left
}

// The whole way: what is told before, what is gone after, what comes back.
func TestPurgeAndRestore(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		s := p.site()
		before := p.stored()
		plan, err := s.PlanPurge(t.Context(), lost)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Files != len(before.Files[lost]) || plan.TagCount != 2 || len(plan.Keys) != 4 || !slices.Equal(plan.Signers, []string{"alice"}) ||
			len(plan.Owners) != 2 || plan.LastPublish.IsZero() || plan.Tags[1].Role != "targets/releases" || len(plan.Tags[1].SHA256) != 64 || len(plan.Faults) > 0 {
			t.Errorf("%+v", plan)
		}
		same(t, "after the plan", before, p.stored())

		r := p.purge(s, lost)
		same(t, "after the purge", before.without(), p.stored())
		if info, err := os.Stat(r.Archive); err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(r.Archive) != p.dir {
			t.Errorf("%s: %v, %v", r.Archive, info, err)
		}
		p.recorded(s, r)

		out := p.restore(s, admin.RestoreConfig{Path: r.Archive})
		want := before
		newest := before.Files[lost][len(before.Files[lost])-1]
		want.Changes = slices.Concat(want.Changes, []string{string(lost) + " 0  deletion", string(lost) + " 2 " + newest.SHA256 + " update"})
		same(t, "after the restoration", want, p.stored())
		if out.Already || out.Files != plan.Files || out.Keys != 4 {
			t.Errorf("%+v", out)
		}
		p.fsck(lost)
		if out := p.restore(s, admin.RestoreConfig{Path: r.Archive}); !out.Already {
			t.Errorf("the second time: %+v", out)
		}
		same(t, "restored twice", want, p.stored())
		// The server goes on with it.
		if err := p.publisher.Publish(t.Context(), lost, nil); err != nil {
			t.Error(err)
		}
		p.fsck(lost)
	})
}

// recorded makes sure that everybody can see what was done, and by whom.
func (p *pair) recorded(s *admin.Site, r admin.PurgeRecord) {
	p.Helper()
	events, err := p.meta.Events(p.Context(), storage.EventQuery{GUN: lost, Newest: true, Limit: 2})
	if err != nil {
		p.Fatal(err)
	}
	var actions []string
	for _, e := range events {
		actions = append(actions, e.Action)
	}
	last := events[len(events)-1]
	if actions[1] != storage.ActionPurge || last.Actor != "operator test" ||
		last.Roles != "root 1, targets 1, targets/alice 1, targets/releases 2, snapshot 2, timestamp 2" ||
		!strings.HasPrefix(last.Reason, "laptop lost (archive example.org_team_app-") || !strings.Contains(last.Reason, r.Digest) {
		p.Errorf("%+v", events)
	}
	var list []admin.PurgeRecord
	if err := s.Purges(p.Context(), false, func(r admin.PurgeRecord) error { list = append(list, r); return nil }); err != nil {
		p.Fatal(err)
	}
	if len(list) != 1 {
		p.Fatalf("%+v", list)
	}
	if diff := cmp.Diff(r, list[0], cmpopts.IgnoreFields(admin.PurgeRecord{}, "At", "Ended")); diff != "" || list[0].Ended.IsZero() {
		p.Errorf("%s", diff)
	}
}

// What is there in one database only, or cannot be read, can be purged, and comes
// back as it was.
func TestPurgeOdd(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		for name, spoil := range map[string]func(p *pair){
			"no keys": func(p *pair) {
				for _, k := range p.stored().Keys {
					if _, err := p.keys.Remove(t.Context(), k.ID); err != nil {
						t.Fatal(err)
					}
				}
			},
			"keys alone": func(p *pair) { p.sql(`delete from tuf_files where gun = 'example.org/team/app'`) },
			"no timestamp": func(p *pair) {
				p.sql(`delete from tuf_files where gun = 'example.org/team/app' and role = 'timestamp'`)
			},
			"garbage": func(p *pair) {
				p.sql(`update tuf_files set data = 'garbage', sha256 = null where gun = 'example.org/team/app' and role in ('root', 'targets/alice')`)
			},
			"marked as deleted": func(p *pair) {
				p.sql(`update tuf_files set deleted_at = '2020-01-02 03:04:05' where gun = 'example.org/team/app'`)
			},
			"no times": func(p *pair) {
				p.sql(`update tuf_files set created_at = null, updated_at = null where gun = 'example.org/team/app'`)
			},
		} {
			p.again()
			spoil(p)
			s := p.site()
			before := p.stored()
			plan, err := s.PlanPurge(t.Context(), lost)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if (len(plan.Faults) == 2) != (name == "garbage") {
				t.Errorf("%s: faults %q", name, plan.Faults)
			}
			// What does not fit is purged if the operator says so twice.
			odd := name == "no keys" || name == "keys alone" || name == "garbage"
			if (len(plan.Unmatched) > 0) != odd {
				t.Errorf("%s: unmatched %q", name, plan.Unmatched)
			}
			if _, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir}); odd && !errors.Is(err, admin.ErrUnmatched) {
				t.Errorf("%s: %v", name, err)
			} else if !odd {
				p.again()
				spoil(p)
				before = p.stored()
			}
			r, err := p.site().Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir, Reason: "laptop lost", KeysElsewhere: odd})
			if err != nil {
				t.Fatal(err)
			}
			want := before.without()
			if name == "keys alone" {
				want.Changes = before.Changes // there was nothing to delete
			}
			same(t, name, want, p.stored())
			p.restore(s, admin.RestoreConfig{Path: r.Archive})
			now := p.stored()
			now.Changes = before.Changes
			same(t, name+", restored", before, now)
		}
	})
}

// Who publishes while it is purged is refused, or has his files in the archive.
func TestPurgeRace(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		s := p.site()
		var mu sync.Mutex // guards published
		published := map[tuf.Version]bool{}
		stop := make(chan struct{})
		busy := make(chan struct{})
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if n == 3 {
						select {
						case busy <- struct{}{}:
						case <-stop:
							return
						}
					}
					gen, err := p.meta.Generation(t.Context(), lost)
					if err != nil {
						continue
					}
					if err := p.publisher.Publish(t.Context(), lost, nil); err == nil {
						mu.Lock()
						published[gen.Timestamp.Version+1] = true
						mu.Unlock()
					}
				}
			})
		}
		<-busy
		<-busy
		r, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir})
		close(stop)
		all.Wait()
		left := p.stored()
		if err != nil {
			// Refused, with everything there.
			if !errors.Is(err, storage.ErrStale) || len(left.Files[lost]) == 0 {
				t.Fatal(err)
			}
			p.fsck(lost)
			return
		}
		have := map[tuf.Version]bool{}
		for _, f := range archivedFiles(t, r.Archive) {
			have[f.Version] = have[f.Version] || f.Role == tuf.RoleTimestamp
		}
		for v := range published {
			if !have[v] {
				t.Errorf("timestamp %d was published, and is in no archive", v)
			}
		}
		if len(left.Files[lost]) > 0 || left.Open > 0 || len(published) == 0 {
			t.Errorf("%d files left, %d purges open, %d published", len(left.Files[lost]), left.Open, len(published))
		}
		if names, err := filepath.Glob(filepath.Join(p.dir, "*.purge.tar")); err != nil || len(names) != 1 {
			t.Errorf("archives: %q, %v", names, err)
		}
		p.restore(s, admin.RestoreConfig{Path: r.Archive})
		p.fsck(lost)
	})
}

func archivedFiles(t testing.TB, path string) (files []storage.FileInfo) {
	t.Helper()
	a, err := archive.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Each(func(r *archive.Repository, _ archive.Files) error { files = append(files, r.Files...); return nil }); err != nil {
		t.Fatal(err)
	}
	return files
}

// Two operators have the same thought.
func TestTwoPurges(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		before := p.stored()
		var all sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			s := p.site()
			all.Go(func() { _, errs[i] = s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir}) })
		}
		all.Wait()
		good := 0
		for _, err := range errs {
			switch {
			case err == nil:
				good++
			case !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrStale):
				t.Error(err)
			}
		}
		if good == 0 {
			t.Errorf("nobody has done it: %v", errs)
		}
		same(t, "after them", before.without(), p.stored())
	})
}

// A repository that was begun anew before the purge had ended is left alone.
func TestBegunAnew(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		stop := errors.New("stop")
		s := p.site(func(c *admin.SiteConfig) {
			c.Step = func(name string) {
				if name == "rows removed" {
					panic(stop)
				}
			}
		})
		func() {
			defer func() {
				if r := recover(); r != stop {
					t.Errorf("it ended with %v", r)
				}
			}()
			_, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir})
			t.Errorf("it went on: %v", err)
		}()
		p.repo(lost)
		between := p.stored()
		if between.Open != 1 || between.Doomed == 0 {
			t.Errorf("%d open, %d doomed", between.Open, between.Doomed)
		}
		s = p.site()
		plan, err := s.PlanPurge(t.Context(), lost)
		if err != nil || plan.Unfinished == nil {
			t.Fatalf("%+v, %v", plan, err)
		}
		r := p.purge(s, lost)
		after := p.stored()
		if !r.Again || after.Open != 0 || after.Doomed != 0 || len(after.Files[lost]) != len(between.Files[lost]) {
			t.Errorf("%+v; %d files", r, len(after.Files[lost]))
		}
		// He was handed the key that nobody had used: it stays, and no other does.
		left := 0
		for _, id := range r.Keys {
			if k, err := p.keys.Key(t.Context(), id); err == nil && !k.LastUsed.IsZero() && k.Role == tuf.RoleTimestamp {
				left++
			} else if !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("key %s: %v", id, err)
			}
		}
		if left != 1 {
			t.Errorf("%d of the old keys are in use", left)
		}
		p.fsck(lost)
		if err := p.publisher.Publish(t.Context(), lost, nil); err != nil {
			t.Errorf("what was begun anew cannot go on: %v", err)
		}
		rows, err := p.keys.Rows(t.Context(), keydb.Query{GUN: lost, Deleted: true})
		if err != nil || len(rows) != 2 {
			t.Errorf("%d keys, %v", len(rows), err)
		}
	})
}

func (p *pair) sql(statement string) {
	p.Helper()
	typeSQL(p, p.backend, p.server, statement)
}
