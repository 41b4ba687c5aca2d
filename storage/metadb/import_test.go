package metadb_test

import (
	"testing"

	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// Entries keep their IDs only where nobody has read others in their place.
func TestReserveChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		theirs := func(c storage.Change) bool { return c.GUN == "theirs" }
		reserve := func(highest int64) bool {
			t.Helper()
			keep, err := s.ReserveChanges(t.Context(), highest, theirs)
			if err != nil {
				t.Fatal(err)
			}
			return keep
		}
		publish := func(gun tuf.GUN) int64 {
			t.Helper()
			r := storagetest.NewRepo(gun, "one")
			if err := s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
				t.Fatal(err)
			}
			list, err := s.Changes(t.Context(), storage.ChangeQuery{Newest: true, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			return list[0].ID
		}
		if !reserve(0) || !reserve(40) {
			t.Error("an empty feed is somebody's")
		}
		first := storage.Change{ID: 17, GUN: "theirs", Version: 1, Category: storage.ChangeUpdate}
		if done, err := s.Import(t.Context(), metadb.Restoration{
			GUN: "theirs", Changes: []storage.Change{first}, Each: func(func(storage.FileRow) error) error { return nil },
		}); err != nil || !done {
			t.Fatal(done, err)
		}
		if got, err := s.Changes(t.Context(), storage.ChangeQuery{Limit: 5}); err != nil || len(got) != 1 || got[0].ID != 17 {
			t.Errorf("%+v, %v", got, err)
		}
		if !reserve(40) {
			t.Error("what has come in already is taken for somebody else's")
		}
		publish("mine")
		if reserve(40) {
			t.Error("there is an entry of another repository")
		}
	})
}

// A feed that cannot be read is not taken for an empty one.
func TestReserveChangesUnreadable(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		typed(`alter table changefeed rename column version to versions`)
		if keep, err := s.ReserveChanges(t.Context(), 5, func(storage.Change) bool { return true }); err == nil || keep {
			t.Errorf("%v, %v", keep, err)
		}
	})
}
