package metadb_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// live lists what stands of gun as "role version".
func live(t *testing.T, s *metadb.Store, gun tuf.GUN) (list []string, rows []storage.FileInfo) {
	t.Helper()
	rows, err := s.Files(t.Context(), gun)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		list = append(list, fmt.Sprintf("%s %d", r.Role, r.Version))
	}
	return list, rows
}

// fourTimes publishes gun four times, root each second time.
func fourTimes(t *testing.T, s *metadb.Store, gun tuf.GUN) *storagetest.Repo {
	t.Helper()
	r := storagetest.NewRepo(gun, "")
	publish(t, s, r.Next("root", "targets", "targets/a"))
	publish(t, s, r.Next("targets"))
	publish(t, s, r.Next("root", "targets"))
	publish(t, s, r.Next("targets"))
	return r
}

func pruning(gun tuf.GUN, rows []storage.FileInfo) metadb.Pruning {
	p := metadb.Pruning{GUN: gun, Rows: rows, Keep: 1, Before: time.Now().Add(time.Hour), Event: storage.Event{Action: storage.ActionPrune, GUN: gun, Roles: "all"}}
	for _, r := range rows {
		if r.Role == tuf.RoleTimestamp && r.Deleted.IsZero() && r.Version > p.Current.Version {
			p.Current = r
		}
	}
	return p
}

// Whatever it is told to remove, the statement keeps what must stay.
func TestPrune(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun, other = "example.org/app", "example.org/other"
		r, r2 := fourTimes(t, s, gun), fourTimes(t, s, other)
		typed(`update tuf_files set deleted_at = created_at where gun = 'example.org/app' and role = 'snapshot' and version = 1`)
		_, rows := live(t, s, gun)
		_, foreign := live(t, s, other)
		p := pruning(gun, append(slices.Clone(rows), foreign...))
		p.Keep = 2
		for _, row := range rows {
			if row.Role == tuf.RoleTargets && row.Version == 1 {
				p.Reached = append(p.Reached, row.SHA256)
			}
		}
		n, bytes, err := s.Prune(t.Context(), p)
		if err != nil || n != 4 || bytes < 4*50 {
			t.Errorf("removed %d rows of %d bytes, %v", n, bytes, err)
		}
		want := []string{
			"root 1", "targets 1", "targets/a 1", "snapshot 1", // named, newest, marked as deleted
			"root 2", "targets 3", "snapshot 3", "timestamp 3",
			"targets 4", "snapshot 4", "timestamp 4",
		}
		if got, _ := live(t, s, gun); !slices.Equal(got, want) {
			t.Errorf("left %q, want %q", got, want)
		}
		if got, _ := live(t, s, other); len(got) != len(foreign) {
			t.Errorf("of another repository %q is left", got)
		}
		r.Holds(t, s)
		r2.Holds(t, s)
		events, err := s.Events(t.Context(), storage.EventQuery{GUN: gun, Newest: true, Limit: 1})
		if err != nil || len(events) != 1 || events[0].Action != storage.ActionPrune {
			t.Errorf("recorded %v, %v", events, err)
		}
		// Once more: nothing to do, and nothing recorded.
		if n, _, err := s.Prune(t.Context(), p); n != 0 || err != nil {
			t.Errorf("again: %d, %v", n, err)
		}
		if again, err := s.Events(t.Context(), storage.EventQuery{GUN: gun, Newest: true, Limit: 1}); err != nil || again[0].ID != events[0].ID {
			t.Errorf("again recorded %v, %v", again, err)
		}
		// What is too young stays.
		_, rows = live(t, s, gun)
		young := pruning(gun, rows)
		young.Before = rows[0].Created
		if n, _, err := s.Prune(t.Context(), young); n != 0 || err != nil {
			t.Errorf("of young rows %d went, %v", n, err)
		}
	})
}

// A choice that rests on what is no longer so removes nothing.
func TestPruneStale(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		for name, meanwhile := range map[string]func(gun string, r *storagetest.Repo){
			"publish": func(gun string, r *storagetest.Repo) { publish(t, s, r.Next("targets")) },
			"rollback": func(gun string, r *storagetest.Repo) {
				typed(`delete from tuf_files where role = 'timestamp' and version = 4 and gun = '` + gun + `'`)
			},
			"marked": func(gun string, r *storagetest.Repo) {
				typed(`update tuf_files set deleted_at = created_at where role = 'timestamp' and version = 4 and gun = '` + gun + `'`)
			},
			"deleted": func(gun string, r *storagetest.Repo) { typed(`delete from tuf_files where gun = '` + gun + `'`) },
			"another timestamp": func(gun string, r *storagetest.Repo) {
				typed(`update tuf_files set sha256 = '` + tuf.Sum(nil).String() + `' where role = 'timestamp' and version = 4 and gun = '` + gun + `'`)
			},
		} {
			gun := "example.org/" + name
			r := fourTimes(t, s, tuf.GUN(gun))
			_, rows := live(t, s, tuf.GUN(gun))
			p := pruning(tuf.GUN(gun), rows)
			meanwhile(gun, r)
			before, _ := live(t, s, tuf.GUN(gun))
			if _, _, err := s.Prune(t.Context(), p); !errors.Is(err, storage.ErrStale) {
				t.Errorf("%s: got %v, want ErrStale", name, err)
			}
			if after, _ := live(t, s, tuf.GUN(gun)); !slices.Equal(before, after) {
				t.Errorf("%s: left %q of %q", name, after, before)
			}
		}
		if _, _, err := s.Prune(t.Context(), metadb.Pruning{GUN: "example.org/publish", Keep: 0}); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("keeping none: %v", err)
		}
	})
}

func TestMark(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun = "example.org/app"
		seen := map[string]string{}
		look := func(after string) {
			t.Helper()
			m, err := s.Mark(t.Context(), gun)
			if before, ok := seen[m]; ok || err != nil {
				t.Errorf("after %s as after %s: %s, %v", after, before, m, err)
			}
			seen[m] = after
		}
		look("nothing")
		r := fourTimes(t, s, gun)
		look("publishing")
		publish(t, s, r.Next())
		look("a renewal")
		typed(`update tuf_files set deleted_at = created_at where role = 'targets' and version = 1`)
		look("marking")
		typed(`delete from tuf_files where role = 'targets' and version = 1`)
		look("removing")
		typed(`insert into changefeed (gun, version) values ('example.org/app', 77)`)
		look("an entry")
	})
}

func TestGone(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		for _, gun := range []tuf.GUN{"a.example/1", "a.example/2", "a.example/3", "b.example/1", "b.example/2"} {
			fourTimes(t, s, gun)
		}
		if _, err := s.Delete(t.Context(), "a.example/2"); err != nil {
			t.Fatal(err)
		}
		typed(`delete from tuf_files where gun in ('a.example/1', 'a.example/3', 'b.example/1')`)
		for _, c := range []struct {
			after  tuf.GUN
			prefix string
			limit  int
			want   []tuf.GUN
		}{
			{"", "", 9, []tuf.GUN{"a.example/1", "a.example/3", "b.example/1"}},
			{"", "a.", 9, []tuf.GUN{"a.example/1", "a.example/3"}},
			{"a.example/1", "", 1, []tuf.GUN{"a.example/3"}},
		} {
			if got, err := s.Gone(t.Context(), c.after, c.prefix, c.limit); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("behind %q with %q: %q, %v; want %q", c.after, c.prefix, got, err, c.want)
			}
		}
	})
}

func TestEachOf(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun = "example.org/app"
		fourTimes(t, s, gun)
		_, rows := live(t, s, gun)
		var chosen []storage.FileInfo
		for i := 0; i < len(rows); i += 2 {
			chosen = append(chosen, rows[i])
		}
		typed(`delete from tuf_files where id = ` + fmt.Sprint(chosen[1].ID))
		var got []storage.FileInfo
		err := s.EachOf(t.Context(), gun, chosen, func(f storage.FileRow) error {
			if tuf.Sum(f.Data).String() != f.SHA256 {
				t.Errorf("%s %d has other bytes", f.Role, f.Version)
			}
			got = append(got, f.FileInfo)
			return nil
		})
		if want := slices.Delete(chosen, 1, 2); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		roots, err := s.RootRows(t.Context(), gun)
		if err != nil || len(roots) != 2 || roots[0].Version != 1 || tuf.Sum(roots[1].Data).String() != roots[1].SHA256 {
			t.Errorf("%d roots, %v", len(roots), err)
		}
	})
}
