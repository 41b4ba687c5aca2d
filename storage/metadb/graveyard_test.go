package metadb_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// The keys of a deleted repository are remembered until somebody says that they
// are gone.
func TestDoomedKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		r := tuftest.New(t, "example.org/a", tuftest.Options{})
		var want []storage.DoomedKey
		for v := range tuf.Version(2) {
			files := r.Files()
			set := storage.Set{GUN: r.GUN}
			if v > 0 {
				g, err := s.Generation(t.Context(), r.GUN)
				if err != nil {
					t.Fatal(err)
				}
				set.Base = &g.Timestamp.Checksum
			}
			for _, role := range r.Roles() {
				if v == 0 || role != tuf.RoleTargets {
					set.Files = append(set.Files, storage.NewMetadata(role, v+1, files[role]))
				}
			}
			if err := s.Publish(t.Context(), set); err != nil {
				t.Fatal(err)
			}
			env, err := tuf.ParseEnvelope(files[tuf.RoleRoot])
			if err != nil {
				t.Fatal(err)
			}
			root, err := env.Root()
			if err != nil {
				t.Fatal(err)
			}
			for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
				for _, id := range root.Authority(role).KeyIDs {
					k := storage.DoomedKey{GUN: r.GUN, Role: role, ID: id}
					if v == 0 || role == tuf.RoleTimestamp {
						want = append(want, k)
					}
				}
			}
			r.Rotate(tuf.RoleTimestamp)
			r.Next(tuf.RoleRoot)
		}
		if doomed, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10}); err != nil || len(doomed) > 0 {
			t.Errorf("before: %v, %v", doomed, err)
		}
		if _, err := s.Delete(t.Context(), r.GUN); err != nil {
			t.Fatal(err)
		}
		byID := cmpopts.SortSlices(func(a, b storage.DoomedKey) bool { return a.ID < b.ID })
		doomed, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10})
		if err != nil || cmp.Diff(want, doomed, byID) != "" {
			t.Fatalf("%v: %s", err, cmp.Diff(want, doomed, byID))
		}
		// A doomed key of another GUN with the same ID is another doomed key.
		typed(`insert into countersign_doomed_key (gun, key_id, role) values ('example.org/b', '` + string(doomed[0].ID) + `', 'timestamp')`)
		namesake := storage.DoomedKey{GUN: "example.org/b", ID: doomed[0].ID, Role: "timestamp"}
		for _, c := range []struct {
			q    storage.DoomedQuery
			want []storage.DoomedKey
		}{
			{storage.DoomedQuery{Limit: 10}, append(slices.Clone(doomed), namesake)},
			{storage.DoomedQuery{Limit: 10, GUN: r.GUN}, doomed},
			{storage.DoomedQuery{Limit: 1, After: doomed[1]}, doomed[2:3]},
			{storage.DoomedQuery{Limit: 9, GUN: r.GUN, After: doomed[2]}, nil},
		} {
			if page, err := s.Doomed(t.Context(), c.q); err != nil || cmp.Diff(c.want, page) != "" {
				t.Errorf("%+v: %v, %v", c.q, page, err)
			}
		}
		buries(t, s, doomed)
		if left, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10}); err != nil || cmp.Diff([]storage.DoomedKey{namesake}, left) != "" {
			t.Errorf("%v, %v", left, err)
		}
	})
}

// buries: one of three keys is buried, one is buried at the second try, one is
// spared.
func buries(t *testing.T, s *metadb.Store, keys []storage.DoomedKey) {
	t.Helper()
	failed := errors.New("failed")
	for _, c := range []struct {
		k     storage.DoomedKey
		fail  error
		calls int
	}{{keys[0], nil, 1}, {keys[0], failed, 0}, {keys[1], failed, 1}, {keys[1], nil, 1}} {
		calls := 0
		err := s.Bury(t.Context(), c.k, func(context.Context) error { calls++; return c.fail })
		if calls != c.calls || (c.calls > 0 && !errors.Is(err, c.fail)) || c.calls == 0 && err != nil {
			t.Errorf("%d calls, want %d; %v", calls, c.calls, err)
		}
	}
	if mark, err := s.Spare(t.Context(), keys[2].GUN, keys[2:]); err != nil || mark == 0 {
		t.Errorf("mark %d, %v", mark, err)
	}
	if err := s.Bury(t.Context(), keys[2], func(context.Context) error { t.Error("a spared key is buried"); return nil }); err != nil {
		t.Error(err)
	}
}

// rootOf is a first set of a repository, with its root padded to size bytes.
func rootOf(r *tuftest.Repo, version tuf.Version, size int) storage.Metadata {
	data := r.File(tuf.RoleRoot)
	return storage.NewMetadata(tuf.RoleRoot, version, append(data, bytes.Repeat([]byte(" "), max(0, size-len(data)))...))
}

// Whoever has made many large roots cannot make their deletion expensive.
func TestDoomBounds(t *testing.T) {
	t.Parallel()
	s := metadb.New(open(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "server.db")}))
	for name, c := range map[string]struct{ roots, size, want int }{
		"small":  {3, 0, 4},       // one snapshot key, three timestamp keys
		"large":  {3, 9 << 20, 2}, // those of the newest
		"larger": {2, 17 << 20, 2},
		"many":   {210, 0, 201},
	} {
		r := tuftest.New(t, tuf.GUN("example.org/"+name), tuftest.Options{})
		for v := range tuf.Version(c.roots) {
			set := storage.Set{GUN: r.GUN, Files: []storage.Metadata{rootOf(r, v+1, c.size),
				storage.NewMetadata(tuf.RoleTimestamp, v+1, []byte(strconv.Itoa(int(v))))}}
			if v > 0 {
				sum := tuf.Sum([]byte(strconv.Itoa(int(v - 1))))
				set.Base = &sum
			}
			if err := s.Publish(t.Context(), set); err != nil {
				t.Fatal(err)
			}
			r.Rotate(tuf.RoleTimestamp)
			r.Root.Version++
		}
		if _, err := s.Delete(t.Context(), r.GUN); err != nil {
			t.Error(err)
		}
		if list, err := s.Doomed(t.Context(), storage.DoomedQuery{GUN: r.GUN, Limit: 1000}); err != nil || len(list) != c.want {
			t.Errorf("%s: %d keys, want %d; %v", name, len(list), c.want, err)
		}
	}
}

// What a program that spares no keys has published again keeps its keys.
func TestBuryListed(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		r := tuftest.New(t, "example.org/a", tuftest.Options{})
		set := storage.Set{GUN: r.GUN, Files: []storage.Metadata{rootOf(r, 1, 0), storage.NewMetadata(tuf.RoleTimestamp, 1, nil)}}
		for _, f := range []func() error{
			func() error { return s.Publish(t.Context(), set) },
			func() error { _, err := s.Delete(t.Context(), r.GUN); return err },
			func() error { return s.Publish(t.Context(), set) },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		list, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10})
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		for _, k := range list {
			if err := s.Bury(t.Context(), k, func(context.Context) error { t.Error("a listed key is buried"); return nil }); err != nil {
				t.Error(err)
			}
		}
		if list, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10}); err != nil || len(list) != 0 {
			t.Error(list, err)
		}
	})
}

// While a key is being buried, another replica passes over it, and who would
// use it waits.
func TestBuryHolds(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s, other := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url})), metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	typed(t, "postgres", url)(t, `insert into countersign_doomed_key (gun, key_id, role) values ('a', 'b', 'timestamp')`)
	k := storage.DoomedKey{GUN: "a", ID: "b", Role: "timestamp"}
	spared := make(chan error, 1)
	err := s.Bury(t.Context(), k, func(ctx context.Context) error {
		if err := other.Bury(ctx, k, func(context.Context) error { t.Error("buried twice"); return nil }); err != nil {
			t.Error(err)
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if _, err := other.Spare(short, "a", []storage.DoomedKey{k}); err == nil {
			t.Error("spared while it was buried")
		}
		go func() {
			_, err := other.Spare(t.Context(), "a", []storage.DoomedKey{k})
			spared <- err
		}()
		return nil
	})
	if err := errors.Join(err, <-spared); err != nil {
		t.Error(err)
	}
}

// A set that begins a GUN is refused if somebody else has begun and deleted it
// since its Mark: the keys that it was signed with may be gone.
func TestSetMark(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		const gun = "example.org/a"
		lives := func() {
			if err := s.Publish(t.Context(), storagetest.NewRepo(gun, "other").Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
				t.Fatal(err)
			}
			if ok, err := s.Delete(t.Context(), gun); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		for range 2 { // a name that is new, and one that had a life
			mark, err := s.Spare(t.Context(), gun, nil)
			if err != nil {
				t.Fatal(err)
			}
			set := storagetest.NewRepo(gun, "one").Next(tuf.RoleRoot, tuf.RoleTargets)
			set.Mark = &mark
			lives()
			if err := s.Publish(t.Context(), set); !errors.Is(err, storage.ErrStale) {
				t.Errorf("got %v", err)
			}
			if mark, err = s.Spare(t.Context(), gun, nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Publish(t.Context(), set); err != nil {
				t.Error(err)
			}
			if _, err := s.Delete(t.Context(), gun); err != nil {
				t.Error(err)
			}
		}
	})
}
