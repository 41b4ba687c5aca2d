package metadb_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

func onBoth(t *testing.T, test func(t *testing.T, s *metadb.Store, typed func(string, ...any))) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.URL(t)
		exec := typed(t, "postgres", url)
		test(t, metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url})), func(s string, args ...any) { exec(t, s, args...) })
	})
	t.Run("sqlite3", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "server.db")
		s := metadb.New(open(t, sqldb.Config{Backend: "sqlite3", URL: path}))
		exec := typed(t, "sqlite", "file:"+path+"?_busy_timeout=5000")
		test(t, s, func(q string, args ...any) { exec(t, q, args...) })
	})
}

func TestGUNs(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		var want []tuf.GUN
		for i := range 25 {
			gun := tuf.GUN(fmt.Sprintf("example.org/%02d%%_", i))
			r := storagetest.NewRepo(gun, "one")
			for range 2 {
				if err := s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
					t.Fatal(err)
				}
			}
			want = append(want, gun)
		}
		typed(`insert into tuf_files (gun, role, version, data, deleted_at) values ('zz', 'root', 1, '', '2020-01-02 03:04:05')`)
		want = append(want, "zz")
		var got []tuf.GUN
		for after := tuf.GUN(""); ; {
			page, err := s.GUNs(t.Context(), after, "", 7)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) < 7 {
				break
			}
			after = page[len(page)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		// A prefix is no pattern.
		for prefix, n := range map[string]int{"example.org/0": 10, "example.org/1": 10, "example.org/0_": 0, "%": 0, "EXAMPLE": 0, "z": 1} {
			page, err := s.GUNs(t.Context(), "", prefix, 100)
			if err != nil || len(page) != n {
				t.Errorf("prefix %q: %q, %v", prefix, page, err)
			}
		}
	})
}

// What a row holds comes out as it is, whatever is wrong with it.
func TestEachFile(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		const gun = "example.org/a"
		r := storagetest.NewRepo(gun, "one")
		set := r.Next(tuf.RoleRoot, tuf.RoleTargets)
		if err := s.Publish(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		// Two of these are more than one batch.
		large := make([]byte, 5<<20)
		for v := 5; v < 8; v++ {
			typed(`insert into tuf_files (gun, role, version, data, sha256, updated_at, deleted_at)
				values ($1, 'targets', $2, $3, 'none', '2020-01-02 03:04:05.678901', '2021-01-02 03:04:05')`, gun, v, large)
		}
		var got []storage.FileRow
		if err := s.EachFile(t.Context(), gun, func(f storage.FileRow) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		infos, err := s.Files(t.Context(), gun)
		if err != nil || len(infos) != len(set.Files)+3 || len(got) != len(infos) {
			t.Fatalf("%d files, %d bodies, %v", len(infos), len(got), err)
		}
		for i, f := range got {
			if f.FileInfo != infos[i] || f.Size != int64(len(f.Data)) {
				t.Errorf("%+v differs from %+v", f.FileInfo, infos[i])
			}
			if i < len(set.Files) {
				w := set.Files[i]
				if f.Role != w.Role || f.Version != w.Version || f.SHA256 != w.Checksum.String() || string(f.Data) != string(w.Data) || f.Created.IsZero() || !f.Deleted.IsZero() {
					t.Errorf("%+v is not %s", f.FileInfo, w.Role)
				}
			} else if f.SHA256 != "none" || !f.Created.IsZero() || f.Updated.Nanosecond() != 678901000 || f.Deleted.Year() != 2021 {
				t.Errorf("%+v", f.FileInfo)
			}
		}
		stop := errors.New("stop")
		if err := s.EachFile(t.Context(), gun, func(storage.FileRow) error { return stop }); err != stop {
			t.Errorf("got %v", err)
		}
	})
}
