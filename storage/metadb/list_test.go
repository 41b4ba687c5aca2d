package metadb_test

import (
	"cmp"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

func TestStatsAndNewestRows(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun = "example.org/a"
		r := storagetest.NewRepo(gun, "one")
		sizes := map[tuf.RoleName]metadb.RoleStats{}
		for range 3 {
			set := r.Next(tuf.RoleRoot, tuf.RoleTargets)
			if err := s.Publish(t.Context(), set); err != nil {
				t.Fatal(err)
			}
			for _, f := range set.Files {
				st := sizes[f.Role]
				sizes[f.Role] = metadb.RoleStats{Role: f.Role, Versions: st.Versions + 1, Bytes: st.Bytes + int64(len(f.Data))}
			}
		}
		other := storagetest.NewRepo("example.org/b", "two")
		if err := s.Publish(t.Context(), other.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
			t.Fatal(err)
		}
		// One that is marked as deleted counts, but is not the newest.
		typed(`insert into tuf_files (gun, role, version, data, deleted_at) values ('example.org/a', 'root', 9, 'abc', '2020-01-02 03:04:05')`)
		typed(`insert into tuf_files (gun, role, version, data, sha256) values ('example.org/a', 'targets/x', 1, '', 'none')`)
		root := sizes[tuf.RoleRoot]
		sizes[tuf.RoleRoot] = metadb.RoleStats{Role: tuf.RoleRoot, Versions: root.Versions + 1, Bytes: root.Bytes + 3}
		sizes["targets/x"] = metadb.RoleStats{Role: "targets/x", Versions: 1}

		stats, err := s.Stats(t.Context(), gun)
		if err != nil {
			t.Fatal(err)
		}
		got := map[tuf.RoleName]metadb.RoleStats{}
		roles := []tuf.RoleName{"targets/absent"}
		for _, st := range stats {
			got[st.Role] = st
			roles = append(roles, st.Role)
		}
		if diff := gocmp.Diff(sizes, got); diff != "" || len(stats) != len(got) {
			t.Errorf("stats (-want +got):\n%s", diff)
		}

		rows, err := s.NewestRows(t.Context(), gun, roles)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(rows, func(a, b storage.FileRow) int { return cmp.Compare(a.Role, b.Role) })
		if len(rows) != 5 {
			t.Fatalf("%d rows", len(rows))
		}
		for _, row := range rows {
			want, ok := r.Current[row.Role]
			switch {
			case row.Role == "targets/x":
				if row.SHA256 != "none" || row.Size != 0 || !row.Created.IsZero() {
					t.Errorf("%+v", row.FileInfo)
				}
			case !ok || row.Version != want.Version || string(row.Data) != string(want.Data) ||
				row.SHA256 != want.Checksum.String() || row.Size != int64(len(want.Data)) || row.Created.IsZero():
				t.Errorf("%+v is not %s version %d", row.FileInfo, want.Role, want.Version)
			}
		}
		if rows, err := s.NewestRows(t.Context(), gun, nil); err != nil || len(rows) != 0 {
			t.Errorf("no roles: %d rows, %v", len(rows), err)
		}
		if stats, err := s.Stats(t.Context(), "nobody"); err != nil || len(stats) != 0 {
			t.Errorf("no GUN: %v, %v", stats, err)
		}
	})
}
