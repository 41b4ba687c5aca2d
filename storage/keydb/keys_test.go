package keydb_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// onBoth runs test on a store with the keys a, b and c, of which c is used.
func onBoth(t *testing.T, test func(*testing.T, *keydb.Store)) {
	t.Helper()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "signer.db")},
	} {
		t.Run(c.Backend, func(t *testing.T) {
			s := keydb.New(open(t, c))
			for _, id := range []tuf.KeyID{"a", "b", "c"} {
				if _, err := s.AddUnused(t.Context(), storage.Key{ID: id, GUN: "g", Role: tuf.RoleName(id), Algorithm: tuf.KeyECDSA, Public: []byte("p" + id), Sealed: []byte("s" + id), Alias: "x"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.MarkUsed(t.Context(), "c", time.Now()); err != nil {
				t.Fatal(err)
			}
			test(t, s)
		})
	}
}

func find(t *testing.T, s *keydb.Store, ids ...tuf.KeyID) map[tuf.KeyID]storage.KeyRow {
	t.Helper()
	rows, err := s.Find(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	found := map[tuf.KeyID]storage.KeyRow{}
	for _, k := range rows {
		found[k.ID] = k
	}
	return found
}

// Rows are found by ID, marked ones too, and counted by alias.
func TestFindAndCount(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *keydb.Store) {
		if err := s.Delete(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		got := find(t, s, "b", "c", "zz", "")
		if len(got) != 2 || got["b"].Deleted.IsZero() || string(got["c"].Sealed) != "sc" || got["c"].LastUsed.IsZero() {
			t.Errorf("found %+v", got)
		}
		if got := find(t, s); len(got) != 0 {
			t.Errorf("asked for nothing, found %+v", got)
		}
		k := got["c"]
		if done, err := s.ResealAll(t.Context(), []keydb.Resealing{{k.Key, resealed(k.Key)}}, nil); err != nil || !done[0] {
			t.Fatal(done, err)
		}
		counts, err := s.AliasCounts(t.Context())
		if diff := cmp.Diff([]keydb.AliasCount{{"x", 2, 1}, {"y", 1, 0}}, counts); diff != "" || err != nil {
			t.Errorf("%s %v", diff, err)
		}
		if rows, err := s.Rows(t.Context(), keydb.Query{Alias: "y", Deleted: true}); err != nil || len(rows) != 1 || rows[0].ID != "c" {
			t.Errorf("of one alias: %+v, %v", rows, err)
		}
	})
}

func resealed(k storage.Key) storage.Key {
	k.Sealed, k.Alias, k.EncryptionAlg, k.KeywrapAlg = []byte("new "+string(k.ID)), "y", "e", "w"
	return k
}

// All of a batch are written, but those that have changed; or none.
func TestResealAll(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *keydb.Store) {
		all := find(t, s, "a", "b", "c")
		stale := all["b"].Key
		stale.Alias = "other"
		batch := []keydb.Resealing{{all["a"].Key, resealed(all["a"].Key)}, {stale, resealed(stale)}, {all["c"].Key, resealed(all["c"].Key)}}
		bad := append(batch[:2:2], keydb.Resealing{})
		if _, err := s.ResealAll(t.Context(), bad, nil); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("an empty ID: %v", err)
		}
		if diff := cmp.Diff(all, find(t, s, "a", "b", "c")); diff != "" {
			t.Errorf("a batch that failed has written: %s", diff)
		}
		var told []tuf.KeyID
		done, err := s.ResealAll(t.Context(), batch, func(id tuf.KeyID) { told = append(told, id) })
		if diff := cmp.Diff([]bool{true, false, true}, done); diff != "" || err != nil || len(told) != 3 {
			t.Errorf("%s %v %v", diff, err, told)
		}
		after := find(t, s, "a", "b", "c")
		for _, id := range []tuf.KeyID{"a", "c"} {
			want := all[id]
			want.Key, want.Updated = resealed(want.Key), after[id].Updated
			if diff := cmp.Diff(want, after[id]); diff != "" {
				t.Errorf("%s: %s", id, diff)
			}
		}
		if diff := cmp.Diff(all["b"], after["b"]); diff != "" {
			t.Errorf("the changed one: %s", diff)
		}
	})
}

// A key is marked if nobody has done anything with it since it was read; a mark can be
// taken back; only marked rows are removed.
func TestRetire(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *keydb.Store) {
		all := find(t, s, "a", "b", "c")
		for name, change := range map[string]func(k *storage.KeyRow){
			"used":     func(k *storage.KeyRow) { k.LastUsed = k.LastUsed.Add(-time.Second) },
			"unused":   func(k *storage.KeyRow) { k.LastUsed = time.Time{} },
			"resealed": func(k *storage.KeyRow) { k.Sealed = []byte("other") },
			"moved":    func(k *storage.KeyRow) { k.GUN = "other" },
		} {
			old := all["c"]
			change(&old)
			if err := s.Retire(t.Context(), old); !errors.Is(err, storage.ErrVersionConflict) {
				t.Errorf("%s since: %v", name, err)
			}
		}
		if removed, err := s.RemoveRetired(t.Context(), "c"); removed || err != nil {
			t.Errorf("a live row was removed: %v", err)
		}
		if err := s.Retire(t.Context(), all["c"]); err != nil {
			t.Error(err)
		}
		if _, err := s.Key(t.Context(), "c"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("a marked key: %v", err)
		}
		if err := s.Retire(t.Context(), all["c"]); !errors.Is(err, storage.ErrVersionConflict) {
			t.Errorf("marked twice: %v", err)
		}
		if err := s.Revive(t.Context(), "c"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(all, find(t, s, "a", "b", "c")); diff != "" {
			t.Errorf("taken back: %s", diff)
		}
		if err := s.Retire(t.Context(), all["c"]); err != nil {
			t.Error(err)
		}
		if removed, err := s.RemoveRetired(t.Context(), "c"); !removed || err != nil {
			t.Errorf("removing: %v", err)
		}
		if err := s.Retire(t.Context(), all["c"]); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("one that is gone: %v", err)
		}
		var none storage.KeyRow
		if _, err := s.RemoveRetired(t.Context(), ""); !errors.Is(err, storage.ErrInvalid) || !errors.Is(s.Revive(t.Context(), ""), storage.ErrInvalid) || !errors.Is(s.Retire(t.Context(), none), storage.ErrInvalid) {
			t.Errorf("an empty ID: %v", err)
		}
	})
}
