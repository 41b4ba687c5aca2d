package metadb_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// TestDue: GUNs with an old current timestamp are listed, all in turn, even if
// those listed first stay as they are.
func TestDue(t *testing.T) {
	t.Parallel()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "due.db")},
	} {
		t.Run(c.Backend, func(t *testing.T) {
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			c.Now = func() time.Time { return now }
			s := metadb.New(open(t, c))
			if got, err := s.Due(t.Context(), now, 10); err != nil || len(got) != 0 {
				t.Fatalf("empty: %v, %v", got, err)
			}
			repos := map[tuf.GUN]*storagetest.Repo{}
			for i := range 12 {
				g := tuf.GUN(fmt.Sprintf("gun%02d", i))
				repos[g] = storagetest.NewRepo(g, "due")
				publish(t, s, repos[g].Next(tuf.RoleRoot, tuf.RoleTargets))
			}
			if _, err := s.Delete(t.Context(), "gun11"); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Hour)
			for _, g := range []tuf.GUN{"gun03", "gun07"} { // renewed: old versions do not count
				publish(t, s, repos[g].Next())
			}
			due := func(before time.Time, limit int) []tuf.GUN {
				t.Helper()
				list, err := s.Due(t.Context(), before, limit)
				if err != nil {
					t.Fatal(err)
				}
				return list
			}
			if got := due(now.Add(-time.Hour), 100); len(got) != 0 {
				t.Errorf("made at that very time: %v", got)
			}
			var seen []tuf.GUN
			for range 3 {
				page := due(now.Add(-time.Minute), 4)
				if len(page) != 4 {
					t.Errorf("page of %d", len(page))
				}
				seen = append(seen, page...)
			}
			slices.Sort(seen)
			seen = slices.Compact(seen)
			want := []tuf.GUN{"gun00", "gun01", "gun02", "gun04", "gun05", "gun06", "gun08", "gun09", "gun10"}
			if !slices.Equal(seen, want) {
				t.Errorf("three pages of 4: %v, want %v", seen, want)
			}
			for range 2 {
				all := due(now.Add(-time.Minute), 100)
				slices.Sort(all)
				if !slices.Equal(all, want) {
					t.Errorf("all at once: %v, want %v", all, want)
				}
			}
		})
	}
}
