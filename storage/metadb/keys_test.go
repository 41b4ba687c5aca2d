package metadb_test

import (
	"path/filepath"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// TestRoots: all roots of a GUN, the newest live one of many GUNs, and what
// the audit log has of their keys.
func TestRoots(t *testing.T) {
	t.Parallel()
	for _, c := range []sqldb.Config{
		{Backend: "postgres", URL: pgtest.URL(t)},
		{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "server.db")},
	} {
		t.Run(c.Backend, func(t *testing.T) {
			db, err := sqldb.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := migrations.Apply(t.Context(), db, migrations.Server); err != nil {
				t.Fatal(err)
			}
			s := metadb.New(db)
			insert := func(gun, role string, version int, data string) {
				t.Helper()
				if _, err := db.Exec(t.Context(), `insert into tuf_files (gun, role, version, sha256, data, created_at) values ($1, $2, $3, $4, $5, $6)`,
					gun, role, version, tuf.Sum([]byte(data)).String(), []byte(data), "2026-01-02 03:04:05"); err != nil {
					t.Fatal(err)
				}
			}
			insert("a", "root", 10, "ten")
			insert("a", "root", 9, "nine")
			insert("a", "root", 11, "eleven")
			insert("b", "targets", 1, "t")
			insert("c", "root", 1, "one")
			if _, err := db.Exec(t.Context(), `update tuf_files set deleted_at = '2026-02-03 04:05:06' where version = 11`); err != nil {
				t.Fatal(err)
			}
			for gun, want := range map[tuf.GUN]struct {
				data   string
				exists bool
			}{"a": {"nine ten eleven ", true}, "b": {"", true}, "c": {"one ", true}, "d": {"", false}} {
				roots, exists, err := s.Roots(t.Context(), gun)
				got := ""
				for _, r := range roots {
					got += string(r.Data) + " "
				}
				if got != want.data || exists != want.exists || err != nil {
					t.Errorf("%s: %q, %v, %v", gun, got, exists, err)
				}
			}
			newest, err := s.NewestRoots(t.Context(), []tuf.GUN{"a", "b", "c", "d"})
			if err != nil || len(newest) != 2 || string(newest["a"].Data) != "ten" || newest["a"].Version != 10 || string(newest["c"].Data) != "one" || newest["c"].CreatedAt.Year() != 2026 {
				t.Errorf("newest %+v, %v", newest, err)
			}
			at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
			for i, e := range []storage.Event{
				{GUN: "a", Action: storage.ActionRotate, Roles: "snapshot"}, {GUN: "a", Action: storage.ActionRotate, Roles: "timestamp"},
				{GUN: "a", Action: storage.ActionPublish, Roles: "snapshot"}, {GUN: "c", Action: storage.ActionRotate, Roles: "snapshot"}, {GUN: "a", Action: storage.ActionRotate, Roles: "snapshot"},
			} {
				e.At = at.Add(time.Duration(i) * time.Hour)
				if err := s.Record(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
			times, err := s.HandedOut(t.Context(), "a", tuf.RoleSnapshot)
			if err != nil || len(times) != 2 || !times[0].Equal(at.Add(4*time.Hour)) || !times[1].Equal(at) {
				t.Errorf("handed out %v, %v", times, err)
			}
			if times, err := s.WithoutAudit().HandedOut(t.Context(), "a", tuf.RoleSnapshot); err != nil || times != nil {
				t.Errorf("without a log: %v, %v", times, err)
			}
		})
	}
}
