package keydb_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// What is removed is gone for good, and what is put back is as it was.
func TestRemoveAndPut(t *testing.T) {
	t.Parallel()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "signer.db")},
	} {
		t.Run(c.Backend, func(t *testing.T) {
			s := keydb.New(open(t, c))
			for _, id := range []tuf.KeyID{"a", "b", "c"} {
				if _, err := s.AddUnused(t.Context(), storage.Key{ID: id, GUN: "g", Role: tuf.RoleName(id), Algorithm: tuf.KeyECDSA, Public: []byte("p" + id), Sealed: []byte("s" + id), Alias: "x", EncryptionAlg: "e", KeywrapAlg: "k"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.MarkUsed(t.Context(), "a", time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			all := func() []storage.KeyRow {
				t.Helper()
				rows, err := s.Rows(t.Context(), keydb.Query{Deleted: true})
				if err != nil {
					t.Fatal(err)
				}
				return rows
			}
			before := all()
			if n, err := s.Remove(t.Context(), "a", "b", "zz"); n != 2 || err != nil {
				t.Errorf("removed %d, %v", n, err)
			}
			if _, err := s.Remove(t.Context(), "c", ""); !errors.Is(err, storage.ErrInvalid) || len(all()) != 1 {
				t.Errorf("an empty key ID: %v", err)
			}
			for range 2 {
				for _, k := range before {
					if err := s.Put(t.Context(), k); err != nil {
						t.Error(err)
					}
				}
			}
			ignore := cmpopts.IgnoreFields(storage.KeyRow{}, "RowID")
			sorted := cmpopts.SortSlices(func(a, b storage.KeyRow) bool { return a.ID < b.ID })
			if diff := cmp.Diff(before, all(), ignore, sorted); diff != "" {
				t.Error(diff)
			}
			other := before[0]
			other.Sealed = []byte("other")
			if err := s.Put(t.Context(), other); !errors.Is(err, storage.ErrVersionConflict) {
				t.Errorf("another form: %v", err)
			}
			revived := before[1] // marked as deleted
			revived.Deleted = time.Time{}
			if err := s.Put(t.Context(), revived); err != nil {
				t.Error(err)
			}
			if k, err := s.Key(t.Context(), revived.ID); err != nil || k.ID != revived.ID {
				t.Error(k, err)
			}
		})
	}
}

// A key is resealed if nobody else has changed it.
func TestReseal(t *testing.T) {
	t.Parallel()
	s := keydb.New(open(t, sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "signer.db")}))
	if _, err := s.AddUnused(t.Context(), storage.Key{ID: "a", GUN: "g", Role: "r", Algorithm: tuf.KeyECDSA, Public: []byte("p"), Sealed: []byte("one"), Alias: "x"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old  string
		want bool
	}{{"none", false}, {"one", true}, {"one", false}} {
		if ok, err := s.Reseal(t.Context(), "a", []byte(c.old), []byte("two"), "y", "e", "k"); ok != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.old, ok, err)
		}
	}
	k, err := s.Key(t.Context(), "a")
	if err != nil || string(k.Sealed) != "two" || k.Alias != "y" || k.EncryptionAlg != "e" || k.KeywrapAlg != "k" || string(k.Public) != "p" {
		t.Errorf("%+v, %v", k, err)
	}
}
