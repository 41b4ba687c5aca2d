package keydb_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

func TestRows(t *testing.T) {
	t.Parallel()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "signer.db")},
	} {
		t.Run(c.Backend, func(t *testing.T) {
			s := keydb.New(open(t, c))
			var stored []storage.Key
			for _, id := range []tuf.KeyID{"c", "a", "b", "d"} {
				gun := tuf.GUN("example.org/1")
				if id == "b" {
					gun = "example.org/2"
				}
				k, err := s.AddUnused(t.Context(), storage.Key{ID: id, GUN: gun, Role: tuf.RoleName("role of " + id), Algorithm: tuf.KeyECDSA, Public: []byte("p" + id), Sealed: []byte("s" + id), Alias: "x"})
				if err != nil {
					t.Fatal(err)
				}
				stored = append(stored, k)
			}
			if err := s.Delete(t.Context(), "d"); err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				q    keydb.Query
				want []storage.Key
			}{
				"all":         {keydb.Query{}, stored[:3]},
				"deleted too": {keydb.Query{Deleted: true}, stored},
				"GUN":         {keydb.Query{GUN: "example.org/1"}, []storage.Key{stored[0], stored[1]}},
				"page":        {keydb.Query{After: 1, Limit: 1}, stored[1:2]},
				"last page":   {keydb.Query{After: 3, Limit: 5}, nil},
			} {
				rows, err := s.Rows(t.Context(), c.q)
				if err != nil {
					t.Fatal(err)
				}
				var got []storage.Key
				for _, r := range rows {
					got = append(got, r.Key)
					if r.RowID == 0 || r.Updated.IsZero() || r.Deleted.IsZero() == (r.ID == "d") {
						t.Errorf("%s: %+v", name, r)
					}
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		})
	}
}
