package metadb_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// The benchmarks compare a publish and a read with controls: the insertion of
// one row of as many bytes, and the selection of one row by its key. Run with
// PGTEST_FSYNC=on, or PostgreSQL's writes are not durable:
//
//	PGTEST_FSYNC=on go test -run '^$' -bench . -cpu 1,8 ./storage/metadb

// eachDB runs b on both databases.
func eachDB(b *testing.B, f func(b *testing.B, db *sqldb.DB, s *metadb.Store)) {
	for _, backend := range []string{"postgres", "sqlite3"} {
		b.Run(backend, func(b *testing.B) {
			c := sqldb.Config{Backend: backend, URL: filepath.Join(b.TempDir(), "bench.db")}
			if backend == "postgres" {
				c.URL = pgtest.URL(b)
			}
			db := open(b, c)
			f(b, db, metadb.New(db))
		})
	}
}

// padded makes files of about the size that docker's have.
func padded(g tuf.GUN) *storagetest.Repo { return storagetest.NewRepo(g, strings.Repeat("x", 800)) }

var gunCount atomic.Int64

func freshGUN() tuf.GUN { return tuf.GUN(fmt.Sprintf("bench.example.org/%d", gunCount.Add(1))) }

func parallel(b *testing.B, prepare func() func() error) {
	b.Helper()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		f := prepare()
		for pb.Next() {
			if err := f(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkPublish: one tag more: targets, snapshot, timestamp, changefeed.
func BenchmarkPublish(b *testing.B) {
	eachDB(b, func(b *testing.B, _ *sqldb.DB, s *metadb.Store) {
		parallel(b, func() func() error {
			r := padded(freshGUN())
			publish(b, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
			return func() error { return s.Publish(b.Context(), r.Next(tuf.RoleTargets)) }
		})
	})
}

// BenchmarkPublishOnRecord is BenchmarkPublish with an event: its control.
func BenchmarkPublishOnRecord(b *testing.B) {
	eachDB(b, func(b *testing.B, _ *sqldb.DB, s *metadb.Store) {
		parallel(b, func() func() error {
			r := padded(freshGUN())
			publish(b, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
			return func() error {
				set := r.Next(tuf.RoleTargets)
				set.Event = &storage.Event{Action: storage.ActionPublish, Origin: storage.Origin{Actor: "alice", RequestID: "0123456789abcdef"}}
				return s.Publish(b.Context(), set)
			}
		})
	})
}

// BenchmarkPublishNew: a new repository.
func BenchmarkPublishNew(b *testing.B) {
	eachDB(b, func(b *testing.B, _ *sqldb.DB, s *metadb.Store) {
		parallel(b, func() func() error {
			return func() error {
				return s.Publish(b.Context(), padded(freshGUN()).Next(tuf.RoleRoot, tuf.RoleTargets))
			}
		})
	})
}

// BenchmarkControlInsert: one row with all the bytes of BenchmarkPublish.
func BenchmarkControlInsert(b *testing.B) {
	eachDB(b, func(b *testing.B, db *sqldb.DB, _ *metadb.Store) {
		if _, err := db.Exec(b.Context(), `create table control (id integer primary key, data `+map[sqldb.Dialect]string{
			sqldb.Postgres: "bytea", sqldb.SQLite: "blob"}[db.Dialect()]+`)`); err != nil {
			b.Fatal(err)
		}
		size := 0
		r := padded(freshGUN())
		r.Next(tuf.RoleRoot, tuf.RoleTargets)
		for _, f := range r.Next(tuf.RoleTargets).Files {
			size += len(f.Data)
		}
		data := []byte(strings.Repeat("x", size))
		var id atomic.Int64
		parallel(b, func() func() error {
			return func() error {
				_, err := db.Exec(b.Context(), `insert into control (id, data) values ($1, $2)`, id.Add(1), data)
				return err
			}
		})
	})
}

// BenchmarkGeneration reads a whole generation of a GUN with many versions.
func BenchmarkGeneration(b *testing.B) {
	for _, versions := range []int{10, 5000} {
		b.Run(fmt.Sprintf("versions=%d", versions), func(b *testing.B) {
			eachDB(b, func(b *testing.B, db *sqldb.DB, s *metadb.Store) {
				r := padded(freshGUN())
				publish(b, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
				history(b, db, r.GUN, versions)
				parallel(b, func() func() error {
					return func() error {
						_, err := s.Generation(b.Context(), r.GUN, tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot)
						return err
					}
				})
			})
		})
	}
}

// history puts older versions under the one that gun has.
func history(b *testing.B, db *sqldb.DB, gun tuf.GUN, versions int) {
	b.Helper()
	for _, statement := range []string{
		`update tuf_files set version = version + 1000000 where gun = $1`,
		fmt.Sprintf(`insert into tuf_files (gun, role, version, data, sha256)
			with recursive n (i) as (select 1 union all select i + 1 from n where i < %d)
			select f.gun, f.role, n.i, f.data, '' from n, tuf_files f where f.gun = $1`, versions),
	} {
		if _, err := db.Exec(b.Context(), statement, string(gun)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTimestamp reads the current timestamp alone.
func BenchmarkTimestamp(b *testing.B) {
	eachDB(b, func(b *testing.B, _ *sqldb.DB, s *metadb.Store) {
		r := padded(freshGUN())
		publish(b, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
		parallel(b, func() func() error {
			return func() error { _, err := s.Generation(b.Context(), r.GUN); return err }
		})
	})
}

// BenchmarkControlSelect: the same row by the simplest query that finds it.
func BenchmarkControlSelect(b *testing.B) {
	eachDB(b, func(b *testing.B, _ *sqldb.DB, s *metadb.Store) {
		r := padded(freshGUN())
		publish(b, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
		parallel(b, func() func() error {
			return func() error { _, err := s.ByVersion(b.Context(), r.GUN, tuf.RoleTimestamp, 1); return err }
		})
	})
}

// BenchmarkDue walks 10,000 GUNs of which none is due.
func BenchmarkDue(b *testing.B) {
	eachDB(b, func(b *testing.B, db *sqldb.DB, s *metadb.Store) {
		if _, err := db.Exec(b.Context(), `insert into tuf_files (created_at, gun, role, version, data)
			with recursive n (i) as (select 1 union all select i + 1 from n where i < 10000)
			select '2026-01-01 00:00:00', 'gun' || i, 'timestamp', 1, '' from n`); err != nil {
			b.Fatal(err)
		}
		parallel(b, func() func() error {
			return func() error { _, err := s.Due(b.Context(), db.Now().AddDate(-30, 0, 0), 100); return err }
		})
	})
}
