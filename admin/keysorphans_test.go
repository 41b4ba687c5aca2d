package admin_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/admin/archive"
	"countersign/signer"
	"countersign/storage"
	"countersign/tuf"
)

// freeName is a name for an archive beside the configuration.
func freeName(t *testing.T, s *admin.Site) string {
	t.Helper()
	for n := 1; ; n++ {
		name := filepath.Join(filepath.Dir(s.ServerConfig), fmt.Sprintf("orphans-%d.tar", n))
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
}

// family stores keys that must stay, and orphans of every kind, whose rows it
// returns.
func (r *keyring) family() (orphans []storage.KeyRow) {
	r.t.Helper()
	unsure := r.gun("unsure", upstreams)
	stray(false, "", 300*days, 100*days)(r, unsure)
	r.onServer(`update tuf_files set data = 'no root' where gun = $1`, string(unsure.gun))
	moved := r.gun("moved", upstreams)
	set(`gun = 'nobody'`)(r, moved)
	nameless := r.gun("nameless", upstreams)
	set(`gun = '', role = ''`)(r, nameless)
	rotated := r.gun("rotated", upstreams)
	rotated.repo.Rotate(tuf.RoleTimestamp)
	r.root(rotated, 2, r.now.Add(-90*days)) // an old root lists it still
	unknown := r.gun("unknown", upstreams)  // a root lists it, under its own ID
	set(`key_id = 'abc'`)(r, unknown)
	marked := r.gun("marked", upstreams)
	set(`key_id = 'abcd', deleted_at = '2026-01-02 03:04:05'`)(r, marked)
	g := r.gun("app", upstreams)
	for _, keep := range []func(*keyring, *keptGUN){
		stray(true, "", 5*hours, 0), stray(true, "", 29*days, 0), stray(true, "", 300*days, 30*hours), stray(false, "", 300*days, 30*hours), stray(false, "", 300*days, 0),
	} {
		keep(r, g)
	}
	stay := map[tuf.KeyID]bool{}
	for _, k := range r.rows() {
		stay[k.ID] = true
	}
	for _, orphan := range []func(*keyring, *keptGUN){
		stray(true, "", 31*days, 0), stray(true, "", 300*days, 49*hours), stray(false, "", 300*days, 49*hours), stray(true, "2026-11-21 15:59:59", 5*hours, hours), stray(false, "2026-01-02 03:04:05", 300*days, 100*days),
	} {
		orphan(r, g)
	}
	for _, k := range r.rows() {
		if !stay[k.ID] {
			orphans = append(orphans, k)
		}
	}
	return orphans
}

func ids(rows []storage.KeyRow) (list []tuf.KeyID) {
	for _, k := range rows {
		list = append(list, k.ID)
	}
	slices.Sort(list)
	return list
}

func (r *keyring) orphans(s *admin.Site, c admin.OrphansConfig) (*admin.Orphans, map[tuf.KeyID]string) {
	r.t.Helper()
	c.UnusedDays = 30
	found := map[tuf.KeyID]string{}
	out, err := s.OrphanKeys(r.t.Context(), c, func(o admin.Orphan) error {
		wantNoSecrets(r.t, "orphans", o)
		found[o.ID] = strings.TrimSpace(string(o.Why) + " " + o.Outcome)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out, found
}

// TestKeysOrphans: those that nobody can want are found, and no others; they go
// when they are in an archive that would bring them back byte for byte.
func TestKeysOrphans(t *testing.T) {
	t.Parallel()
	bothKeyrings(t, func(t *testing.T, r *keyring) {
		want := r.family()
		before := r.rows()
		look, found := r.orphans(r.plain, admin.OrphansConfig{})
		if int(look.Found) != len(want) || look.Deleted != 0 || len(r.rows()) != len(before) {
			t.Errorf("looking: %+v", look)
		}
		whys := map[string]int{}
		for _, k := range want {
			whys[found[k.ID]]++
		}
		if diff := cmp.Diff(map[string]int{"no-gun": 2, "unlisted": 1, "deleted": 2}, whys); diff != "" {
			t.Errorf("found %v: %s", found, diff)
		}
		path := freeName(t, r.plain)
		did, _ := r.orphans(r.plain, admin.OrphansConfig{Delete: true, Archive: path, Reason: "tidy"})
		if int(did.Deleted) != len(want) || did.Kept != 0 || did.Archive != path {
			t.Errorf("deleting: %+v", did)
		}
		left := slices.DeleteFunc(slices.Clone(before), func(k storage.KeyRow) bool { return slices.Contains(ids(want), k.ID) })
		if diff := cmp.Diff(left, r.rows()); diff != "" {
			t.Errorf("left: %s", diff)
		}
		if again, _ := r.orphans(r.plain, admin.OrphansConfig{}); again.Found != 0 {
			t.Errorf("again: %+v", again)
		}
		archived(t, path, want)
		events, err := r.plain.Metadata.Events(t.Context(), storage.EventQuery{Limit: 5})
		if err != nil || len(events) != 1 || events[0].Action != storage.ActionOrphans || !strings.Contains(events[0].Reason, "5 keys") || !strings.HasSuffix(events[0].Reason, ": tidy") {
			t.Errorf("recorded %+v, %v", events, err)
		}
	})
}

// archived holds that the archive at path has exactly these rows.
func archived(t *testing.T, path string, want []storage.KeyRow) {
	t.Helper()
	a, err := archive.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var got []storage.KeyRow
	if err := a.Each(func(r *archive.Repository, _ archive.Files) error { got = append(got, r.Keys...); return nil }); err != nil {
		t.Fatal(err)
	}
	byID := func(a, b storage.KeyRow) int { return strings.Compare(string(a.ID), string(b.ID)) }
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	if diff := cmp.Diff(want, got); diff != "" || a.Header.Kind != "orphans" {
		t.Errorf("%s: %+v %s", path, a.Header, diff)
	}
}

// TestKeysOrphansRace: what happens to a key between the look and its deletion
// keeps it, whichever moment it happens at; and once it is marked, it signs nothing.
func TestKeysOrphansRace(t *testing.T) {
	t.Parallel()
	publish := func(r *keyring, g *keptGUN) {
		g.repo.Manage(tuf.RoleTimestamp, g.timestamp.Key)
		r.root(g, 2, r.now)
	}
	sign := func(r *keyring, g *keptGUN) error {
		sealer, err := r.sealerOf()
		if err != nil {
			return err
		}
		s, err := signer.New(signer.Config{Store: r.plain.Keys, Sealer: sealer, DefaultAlias: "main", Now: func() time.Time { return r.now }})
		if err != nil {
			return err
		}
		_, _, err = s.Sign(r.t.Context(), "", "", g.timestamp.ID(), []byte("x"))
		return err
	}
	for name, c := range map[string]struct {
		step string
		do   func(t *testing.T, r *keyring, g *keptGUN)
		kept string
	}{
		"signed before it is marked":        {"archived", func(t *testing.T, r *keyring, g *keptGUN) { r.must(sign(r, g)) }, "changed meanwhile"},
		"resealed":                          {"recorded", func(t *testing.T, r *keyring, g *keptGUN) { set(`private = $2`, []byte("x"))(r, g) }, "changed meanwhile"},
		"purged":                            {"recorded", func(t *testing.T, r *keyring, g *keptGUN) { set(`deleted_at = '2026-01-02 03:04:05'`)(r, g) }, "changed meanwhile"},
		"published before it is marked":     {"recorded", func(t *testing.T, r *keyring, g *keptGUN) { publish(r, g) }, "a root lists it"},
		"published after, as from a memory": {"key 1 marked", func(t *testing.T, r *keyring, g *keptGUN) { publish(r, g) }, "a root lists it"},
		"put back":                          {"key 1 looked at again", func(t *testing.T, r *keyring, g *keptGUN) { set(`deleted_at = null`)(r, g) }, "put it back"},
		"asked to sign when it is marked": {"key 1 marked", func(t *testing.T, r *keyring, g *keptGUN) {
			if err := sign(r, g); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("a marked key: %v", err)
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothKeyrings(t, func(t *testing.T, r *keyring) {
				g := r.gun("app", upstreams)
				r.onSigner(`delete from private_keys where key_id = $1`, string(g.snapshot.ID()))
				stranger := newRawKey(t, tuf.KeyECDSA)
				g.repo.Manage(tuf.RoleTimestamp, stranger.Key)
				delete(g.repo.Root.Keys, g.timestamp.ID())
				r.onServer(`delete from tuf_files`)
				r.root(g, 1, r.now.Add(-longAgo))
				s := r.site(func(sc *admin.SiteConfig) {
					sc.Step = func(step string) {
						if step == c.step {
							c.do(t, r, g)
						}
					}
				})
				out, found := r.orphans(s, admin.OrphansConfig{Delete: true, Archive: freeName(t, s)})
				if c.kept == "" {
					if out.Deleted != 1 || len(r.rows()) != 0 {
						t.Errorf("%+v %v", out, found)
					}
					return
				}
				if out.Kept != 1 || len(r.rows()) != 1 || !strings.Contains(found[g.timestamp.ID()], c.kept) {
					t.Errorf("%+v %v", out, found)
				}
				if rows := r.rows(); name != "purged" && !rows[0].Deleted.IsZero() {
					t.Error("the mark is left")
				}
			})
		})
	}
}

func (r *keyring) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Error(err)
	}
}

// TestKeysOrphansRefuses: nothing goes without an archive.
func TestKeysOrphansRefuses(t *testing.T) {
	t.Parallel()
	r := newKeyring(t, "sqlite3")
	r.family()
	before := r.rows()
	taken := filepath.Join(r.dir, "taken.tar")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		site *admin.Site
		c    admin.OrphansConfig
		want error
	}{
		"archive is there":    {r.plain, admin.OrphansConfig{UnusedDays: 30, Delete: true, Archive: taken}, fs.ErrExist},
		"no folder":           {r.plain, admin.OrphansConfig{UnusedDays: 30, Delete: true, Archive: filepath.Join(r.dir, "no", "a.tar")}, fs.ErrNotExist},
		"too young":           {r.plain, admin.OrphansConfig{UnusedDays: 0}, storage.ErrInvalid},
		"no server, no roots": {r.site(func(c *admin.SiteConfig) { c.ServerConfig = "" }), admin.OrphansConfig{UnusedDays: 30}, nil},
	} {
		_, err := c.site.OrphanKeys(t.Context(), c.c, func(admin.Orphan) error { return nil })
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !cmp.Equal(before, r.rows()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeysOrphansKilled: killed at any step, and run again, it ends as one that
// was not disturbed, and each key that went is in an archive.
func TestKeysOrphansKilled(t *testing.T) {
	t.Parallel()
	bothKeyrings(t, func(t *testing.T, r *keyring) {
		orphans := r.family()
		names := steps(t, r, "orphans")
		if len(names) != 2+3*3+2*2 {
			t.Fatalf("steps %q", names)
		}
		want := r.rows()
		for _, step := range names {
			for _, k := range orphans {
				k.RowID = 0
				if err := r.plain.Keys.Put(t.Context(), k); err != nil {
					t.Fatal(err)
				}
			}
			crashed(t, r, "orphans", step)
			steps(t, r, "orphans")
			if diff := cmp.Diff(ids(want), ids(r.rows())); diff != "" {
				t.Errorf("killed at %s: %s", step, diff)
			}
		}
		if diff := cmp.Diff(want, r.rows()); diff != "" {
			t.Errorf("in the end: %s", diff)
		}
	})
}
