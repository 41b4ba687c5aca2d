package storagetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/storage"
	"countersign/tuf"
)

func testRevived(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "first life")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA, relB)))
	must(t, db.Store.Publish(ctx, r.Next(relA)))
	must(t, db.Store.Publish(ctx, r.Remove(relA)))
	r.Holds(t, db.Store)
	g, err := db.Store.Generation(ctx, gun, relA)
	must(t, err)
	if len(g.Files) != 0 {
		t.Error("a removed role is in the generation")
	}
	// What was published once is still there by its checksum.
	_, err = db.Store.ByVersion(ctx, gun, relA, 2)
	must(t, err)

	r.note = "second life"
	before := *r
	set := r.Next(relA)
	if set.Files[0].Version != 1 || len(set.Revived) != 1 {
		t.Fatalf("the test needs a revived role: %+v", set.Revived)
	}
	// Without saying so, the old rows are in the way.
	forgotten := set
	forgotten.Revived = nil
	wantErr(t, db.Store.Publish(ctx, forgotten), storage.ErrVersionConflict)
	before.Holds(t, db.Store)
	must(t, db.Store.Publish(ctx, set))
	r.Holds(t, db.Store)
	_, err = db.Store.ByVersion(ctx, gun, relA, 2)
	wantErr(t, err, storage.ErrNotFound)
	must(t, db.Store.Publish(ctx, r.Next(relA, relB)))
	r.Holds(t, db.Store)

	// Of the earlier life only a later version is left, which is in nobody's
	// way at first.
	must(t, db.Store.Publish(ctx, r.Next(relA)))
	must(t, db.Store.Publish(ctx, r.Remove(relA)))
	db.SQL(t, `delete from tuf_files where gun = $1 and role = $2 and version <= 2`, string(gun), string(relA))
	must(t, db.Store.Publish(ctx, r.Next(relA)))
	must(t, db.Store.Publish(ctx, r.Next(relA)))
	must(t, db.Store.Publish(ctx, r.Next(relA)))
	r.Holds(t, db.Store)

	// A stale set that revives must not remove anything.
	stale := From(&storage.Generation{GUN: gun, Timestamp: before.Current[tuf.RoleTimestamp], Files: before.Current}, "stale")
	wantErr(t, db.Store.Publish(ctx, stale.Next(relA)), storage.ErrStale)
	r.Holds(t, db.Store)
}

func testDebris(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "before")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets)))
	db.SQL(t, `update tuf_files set deleted_at = '2026-01-02 03:04:05' where gun = $1 and role = 'targets'`, string(gun))
	db.SQL(t, `delete from tuf_files where gun = $1 and role in ('root', 'snapshot', 'timestamp')`, string(gun))
	for _, roles := range [][]tuf.RoleName{nil, {tuf.RoleRoot}, {relA}} {
		_, err := db.Store.Generation(ctx, gun, roles...)
		wantErr(t, err, storage.ErrNotFound)
	}
	wantErr(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets)), storage.ErrStale)

	fresh := NewRepo(gun, "after")
	must(t, db.Store.Publish(ctx, fresh.Next(tuf.RoleRoot, tuf.RoleTargets)))
	fresh.Holds(t, db.Store)
	for _, role := range []tuf.RoleName{relA, tuf.RoleTargets} {
		_, err := db.Store.ByChecksum(ctx, gun, role, r.Current[role].Checksum)
		wantErr(t, err, storage.ErrNotFound)
	}
	must(t, db.Store.Publish(ctx, fresh.Next(tuf.RoleTargets, relA)))
	fresh.Holds(t, db.Store)
}

// testNoTimestamp: a GUN that has lost its timestamp, and whatever else but one
// of root, targets and snapshot, is damaged and not free: nobody may start anew
// in its name, and nothing is removed, until it is deleted.
func testNoTimestamp(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	for _, left := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot} {
		g := "lost/" + tuf.GUN(left)
		r := NewRepo(g, "owner")
		must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
		db.SQL(t, `delete from tuf_files where gun = $1 and role = 'timestamp'`, string(g))
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot} {
			if role != left {
				db.SQL(t, `delete from tuf_files where gun = $1 and role = $2`, string(g), string(role))
			}
		}
		stored := r.Current
		for _, roles := range [][]tuf.RoleName{nil, {tuf.RoleTimestamp}, {tuf.RoleRoot}, {tuf.RoleSnapshot}, {relB}} {
			_, err := db.Store.Generation(ctx, g, roles...)
			wantErr(t, err, storage.ErrDamaged)
		}
		taker := NewRepo(g, "taker")
		wantErr(t, db.Store.Publish(ctx, taker.Next(tuf.RoleRoot, tuf.RoleTargets)), storage.ErrDamaged)
		wantErr(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets)), storage.ErrDamaged)
		for _, role := range []tuf.RoleName{left, relA} {
			_, err := db.Store.ByChecksum(ctx, g, role, stored[role].Checksum)
			must(t, err)
		}
		if left == tuf.RoleTargets {
			db.SQL(t, `delete from tuf_files where gun = $1`, string(g))
		} else if deleted, err := db.Store.Delete(ctx, g); err != nil || !deleted {
			t.Errorf("deleted %v, %v", deleted, err)
		}
		fresh := NewRepo(g, "fresh")
		must(t, db.Store.Publish(ctx, fresh.Next(tuf.RoleRoot, tuf.RoleTargets)))
		fresh.Holds(t, db.Store)
	}
}

// testSoftDeleted: rows that carry deleted_at do not exist for any method, and
// are in nobody's way.
func testSoftDeleted(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "marked")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	before := *r
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets, relA)))
	marked := r.Current
	db.SQL(t, `update tuf_files set deleted_at = '2026-01-02 03:04:05' where gun = $1 and (version = 2 or role = $2)`, string(gun), string(relA))
	before.Holds(t, db.Store)
	for _, role := range []tuf.RoleName{tuf.RoleTargets, relA, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		_, err := db.Store.ByChecksum(ctx, gun, role, marked[role].Checksum)
		wantErr(t, err, storage.ErrNotFound)
		_, err = db.Store.ByVersion(ctx, gun, role, marked[role].Version)
		wantErr(t, err, storage.ErrNotFound)
	}
	before.note = "in their place"
	must(t, db.Store.Publish(ctx, before.Next(tuf.RoleTargets, relA)))
	before.Holds(t, db.Store)

	db.SQL(t, `update tuf_files set deleted_at = '2026-01-02 03:04:05' where gun = $1`, string(gun))
	_, err := db.Store.Generation(ctx, gun)
	wantErr(t, err, storage.ErrNotFound)
	fresh := NewRepo(gun, "fresh")
	must(t, db.Store.Publish(ctx, fresh.Next(tuf.RoleRoot, tuf.RoleTargets)))
	fresh.Holds(t, db.Store)
}

func testDelete(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r, stays := NewRepo(gun, "doomed"), NewRepo(gun+"/sub", "stays")
	must(t, db.Store.Publish(ctx, stays.Next(tuf.RoleRoot, tuf.RoleTargets)))
	for range 2 {
		must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
		must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets)))
		r.Holds(t, db.Replica)
		deleted, err := db.Store.Delete(ctx, gun)
		must(t, err)
		if !deleted {
			t.Error("nothing deleted")
		}
		for _, s := range []storage.MetadataStore{db.Store, db.Replica} {
			_, err = s.Generation(ctx, gun)
			wantErr(t, err, storage.ErrNotFound)
			for role, m := range r.Current {
				_, err = s.ByChecksum(ctx, gun, role, m.Checksum)
				wantErr(t, err, storage.ErrNotFound)
				_, err = s.ByVersion(ctx, gun, role, 1)
				wantErr(t, err, storage.ErrNotFound)
			}
		}
		r = NewRepo(gun, "again") // from version 1
	}
	stays.Holds(t, db.Store)
	deleted, err := db.Store.Delete(ctx, gun)
	must(t, err)
	if deleted {
		t.Error("deleted twice")
	}
	changes, err := db.Store.Changes(ctx, storage.ChangeQuery{GUN: gun, Limit: 100})
	must(t, err)
	var kinds []string
	for _, c := range changes {
		kinds = append(kinds, fmt.Sprintf("%s %d", c.Category, c.Version))
	}
	want := []string{"update 1", "update 2", "deletion 0", "update 1", "update 2", "deletion 0"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if last := changes[len(changes)-1]; last.SHA256 != "" || last.GUN != gun {
		t.Errorf("deletion %+v", last)
	}
}

func testChanges(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	a, b := NewRepo(gun, "a"), NewRepo(other, "b")
	var sums []string
	for i := range 6 {
		r := a
		if i%2 == 1 {
			r = b
		}
		must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
		sums = append(sums, r.Current[tuf.RoleTimestamp].Checksum.String())
	}
	all, err := db.Store.Changes(ctx, storage.ChangeQuery{Limit: 100})
	must(t, err)
	if len(all) != 6 {
		t.Fatalf("%d changes, want 6", len(all))
	}
	for i, c := range all {
		want := storage.Change{ID: c.ID, CreatedAt: c.CreatedAt, GUN: gun, Version: tuf.Version(i/2 + 1), SHA256: sums[i], Category: storage.ChangeUpdate}
		if i%2 == 1 {
			want.GUN = other
		}
		if diff := cmp.Diff(want, c); diff != "" {
			t.Errorf("change %d (-want +got):\n%s", i, diff)
		}
		if i > 0 && c.ID <= all[i-1].ID {
			t.Errorf("IDs %d, %d", all[i-1].ID, c.ID)
		}
	}
	for name, test := range map[string]struct {
		q    storage.ChangeQuery
		want []storage.Change
	}{
		"from the start":          {storage.ChangeQuery{Limit: 2}, all[:2]},
		"after":                   {storage.ChangeQuery{Limit: 2, After: all[1].ID}, all[2:4]},
		"after, to the end":       {storage.ChangeQuery{Limit: 9, After: all[3].ID}, all[4:]},
		"after the end":           {storage.ChangeQuery{Limit: 9, After: all[5].ID}, nil},
		"after what never was":    {storage.ChangeQuery{Limit: 9, After: 1 << 40}, nil},
		"after a negative ID":     {storage.ChangeQuery{Limit: 1, After: -5}, all[:1]},
		"newest":                  {storage.ChangeQuery{Limit: 2, Newest: true}, all[4:]},
		"newest of all":           {storage.ChangeQuery{Limit: 99, Newest: true}, all},
		"before":                  {storage.ChangeQuery{Limit: 2, Before: all[4].ID}, all[2:4]},
		"before, from the start":  {storage.ChangeQuery{Limit: 9, Before: all[1].ID}, all[:1]},
		"before the start":        {storage.ChangeQuery{Limit: 9, Before: all[0].ID}, nil},
		"of one GUN":              {storage.ChangeQuery{GUN: other, Limit: 9}, []storage.Change{all[1], all[3], all[5]}},
		"of one GUN, after":       {storage.ChangeQuery{GUN: other, Limit: 1, After: all[1].ID}, []storage.Change{all[3]}},
		"of one GUN, before":      {storage.ChangeQuery{GUN: gun, Limit: 1, Before: all[4].ID}, []storage.Change{all[2]}},
		"of one GUN, newest":      {storage.ChangeQuery{GUN: gun, Limit: 2, Newest: true}, []storage.Change{all[2], all[4]}},
		"of a GUN without entry":  {storage.ChangeQuery{GUN: "none", Limit: 9}, nil},
		"limit beyond 32 bits":    {storage.ChangeQuery{Limit: 1 << 40}, all},
		"before all that will be": {storage.ChangeQuery{Limit: 1, Before: 1<<63 - 1}, all[5:]},
	} {
		got, err := db.Store.Changes(ctx, test.q)
		must(t, err)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, q := range []storage.ChangeQuery{{}, {Limit: -1}, {Limit: 1, After: 1, Newest: true}, {Limit: 1, Before: 1, After: 1}, {Limit: 1, Before: -1}} {
		_, err := db.Store.Changes(ctx, q)
		wantErr(t, err, storage.ErrInvalid)
	}
}

func testManyFiles(t *testing.T, db MetadataDB) {
	roles := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets}
	for i := range rounds(1000, 150) {
		roles = append(roles, tuf.RoleName(fmt.Sprintf("targets/d%d", i)))
	}
	r := NewRepo(gun, "many")
	must(t, db.Store.Publish(t.Context(), r.Next(roles...)))
	must(t, db.Store.Publish(t.Context(), r.Next(roles[2:]...)))
	r.Holds(t, db.Store)
}

func testLargeFile(t *testing.T, db MetadataDB) {
	r := NewRepo(gun, strings.Repeat("\x00\xff0123456789<>&\"\\", 1<<rounds(18, 15)))
	must(t, db.Store.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	r.Holds(t, db.Store)
}
