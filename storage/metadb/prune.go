package metadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// A Pruning says which old versions of a GUN may go.
type Pruning struct {
	GUN tuf.GUN
	// Rows are those that may go. What else is required of them below is required
	// by the statement that removes them, whatever was known when they were chosen.
	Rows []storage.FileInfo
	// Current is the newest timestamp, on which the choice rests. Unless it is the
	// newest still, nothing is removed.
	Current storage.FileInfo
	// Reached are the SHA-256 of files that stay, in hex, as the column has them.
	Reached []string
	// Keep is how many of the newest versions of each role stay, at least 1.
	Keep int
	// Before: what was written later stays.
	Before time.Time
	// Event is written to the audit log together with the removal.
	Event storage.Event
}

// Prune removes rows in one transaction, and returns how many, and how many bytes
// their files had. It never removes a root, nor a row that is marked as deleted.
// The error wraps storage.ErrStale, and nothing is removed, if p.Current is no
// longer the newest timestamp: somebody has published, renewed, or rolled back.
func (s *Store) Prune(ctx context.Context, p Pruning) (rows, bytes int64, err error) {
	if p.Keep < 1 || p.Current.Role != tuf.RoleTimestamp {
		return 0, 0, fmt.Errorf("%w: pruning that keeps %d versions, by the %s", storage.ErrInvalid, p.Keep, p.Current.Role)
	}
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		rows, bytes, err = s.prune(ctx, tx, p)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("pruning %s: %w", p.GUN, err)
	}
	return rows, bytes, nil
}

func (s *Store) prune(ctx context.Context, tx *sqldb.Tx, p Pruning) (rows, bytes int64, err error) {
	// As every publish does: who changes the newest timestamp, even by hand,
	// waits for us, or we for him.
	if err := s.lockTimestamp(ctx, tx, p.GUN); err != nil {
		return 0, 0, err
	}
	d := s.db.Dialect()
	for left := p.Rows; len(left) > 0; {
		n := min(len(left), maxFiles)
		sizes, err := sqldb.Collect(ctx, tx, scanID, pruneQuery[d], string(p.GUN), d.List(ids(left[:n])),
			sqldb.Stamp(p.Before), d.List(p.Reached), p.Keep, p.Current.ID, p.Current.SHA256)
		if err != nil {
			return 0, 0, err
		}
		rows += int64(len(sizes))
		for _, size := range sizes {
			bytes += size
		}
		left = left[n:]
	}
	// Looked at under the lock, and after the last statement.
	current, err := sqldb.One(ctx, tx, scanCurrent, currentTimestamp, string(p.GUN))
	if errors.Is(err, storage.ErrNotFound) || err == nil && (current.ID != p.Current.ID || current.SHA256 != p.Current.SHA256) {
		return 0, 0, storage.ErrStale
	}
	if err != nil || rows == 0 {
		return 0, 0, err
	}
	return rows, bytes, s.record(ctx, tx, p.Event)
}

const currentTimestamp = `select id, sha256 from tuf_files
	where gun = $1 and role = 'timestamp' and deleted_at is null
	order by version desc limit 1`

func scanCurrent(r *sql.Rows) (f storage.FileInfo, err error) {
	err = r.Scan(&f.ID, (*padded)(&f.SHA256))
	return f, err
}

// pruneQuery holds every promise of Prune as a condition. A row goes if at least
// as many newer ones of its role stay as are to be kept: the newer ones are
// counted as they were before the statement, and those that go with it are older.
var pruneQuery = map[sqldb.Dialect]string{
	sqldb.Postgres: pruneFrom(idList[sqldb.Postgres], `select r from unnest($4::text[]) as r`, `rtrim(tuf_files.sha256::text)`, `$3::timestamp`),
	sqldb.SQLite:   pruneFrom(idList[sqldb.SQLite], `select r.value from json_each($4) as r`, `tuf_files.sha256`, `$3`),
}

func pruneFrom(list, reached, sum, before string) string {
	return `delete from tuf_files
		where gun = $1 and id in (` + list + `)
			and role <> 'root' and deleted_at is null and created_at < ` + before + `
			and ` + sum + ` not in (` + reached + `)
			and (select count(*) from (
				select 1 from tuf_files n
				where n.gun = $1 and n.role = tuf_files.role and n.deleted_at is null and n.version > tuf_files.version
				limit cast($5 as bigint)) newer) >= cast($5 as bigint)
			and exists (select 1 from (` + currentTimestamp + `) c where c.id = cast($6 as bigint) and c.sha256 = $7)
		returning length(data)`
}
