package metadb_test

import (
	"errors"
	"slices"
	"testing"

	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// Old versions come back below what is current, or not at all.
func TestPutBack(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun = "example.org/app"
		fourTimes(t, s, gun)
		var taken []storage.FileRow
		_, rows := live(t, s, gun)
		if err := s.EachFile(t.Context(), gun, func(f storage.FileRow) error { taken = append(taken, f); return nil }); err != nil {
			t.Fatal(err)
		}
		back := func(choose func(f storage.FileInfo) bool) metadb.Restoration {
			p := metadb.Restoration{GUN: gun, Event: storage.Event{Action: storage.ActionRestore, GUN: gun}}
			for _, f := range rows {
				if choose(f) {
					p.Files = append(p.Files, f)
				}
			}
			p.Each = func(f func(storage.FileRow) error) error {
				for _, row := range taken {
					if choose(row.FileInfo) {
						if err := f(row); err != nil {
							return err
						}
					}
				}
				return nil
			}
			return p
		}
		old := func(f storage.FileInfo) bool { return f.Role == "targets" && f.Version < 3 }
		if err := s.PutBack(t.Context(), back(old)); !errors.Is(err, storage.ErrVersionConflict) {
			t.Errorf("what is there: %v", err)
		}
		typed(`delete from tuf_files where role = 'targets' and version in (1, 2, 4)`)
		for what, choose := range map[string]func(storage.FileInfo) bool{
			"above the newest": func(f storage.FileInfo) bool { return f.Role == "targets" && f.Version == 4 },
			"the newest":       func(f storage.FileInfo) bool { return f.Role == "targets" && f.Version == 3 },
			"old and newer":    func(f storage.FileInfo) bool { return f.Role == "targets" && f.Version != 3 },
		} {
			before, _ := live(t, s, gun)
			err := s.PutBack(t.Context(), back(choose))
			after, _ := live(t, s, gun)
			if !errors.Is(err, storage.ErrVersionConflict) || !slices.Equal(before, after) {
				t.Errorf("%s: %v, left %q", what, err, after)
			}
		}
		if err := s.PutBack(t.Context(), back(old)); err != nil {
			t.Error(err)
		}
		for v := range tuf.Version(2) {
			if m, err := s.ByVersion(t.Context(), gun, "targets", v+1); err != nil || len(m.Data) == 0 {
				t.Errorf("targets %d: %v", v+1, err)
			}
		}
		typed(`delete from tuf_files where role = 'timestamp'`)
		typed(`delete from tuf_files where role = 'targets' and version < 3`)
		if err := s.PutBack(t.Context(), back(old)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("into a repository that has gone: %v", err)
		}
	})
}
