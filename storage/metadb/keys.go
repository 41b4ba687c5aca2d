package metadb

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// Roots returns all root files of gun, those marked as deleted too, oldest
// version first, and reports whether gun has any row at all.
func (s *Store) Roots(ctx context.Context, gun tuf.GUN) (roots []storage.Metadata, exists bool, err error) {
	roots, err = sqldb.Collect(ctx, s.db, scan, `select `+columns+` from tuf_files
		where gun = $1 and role = 'root' order by version, id`, string(gun))
	if err == nil && len(roots) == 0 {
		var any []int64
		any, err = sqldb.Collect(ctx, s.db, scanID, `select id from tuf_files where gun = $1 limit 1`, string(gun))
		return nil, len(any) > 0, asked("looking for", gun, err)
	}
	return roots, len(roots) > 0, asked("reading the roots of", gun, err)
}

func asked(what string, gun tuf.GUN, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, gun, err)
	}
	return nil
}

var newestRootsQuery = map[sqldb.Dialect]string{
	sqldb.Postgres: `select wanted.gun, f.role, f.version, f.data, f.created_at
		from unnest($1::text[]) as wanted (gun) cross join lateral (
			select ` + columns + ` from tuf_files
			where gun = wanted.gun and role = 'root' and deleted_at is null
			order by version desc limit 1) f`,
	sqldb.SQLite: `select f.gun, f.role, f.version, f.data, f.created_at
		from json_each($1) as wanted join tuf_files f on f.id = (
			select id from tuf_files
			where gun = wanted.value and role = 'root' and deleted_at is null
			order by version desc limit 1)`,
}

// NewestRoots returns the newest live root of each of guns. One that has none is
// absent.
func (s *Store) NewestRoots(ctx context.Context, guns []tuf.GUN) (map[tuf.GUN]storage.Metadata, error) {
	names := make([]string, len(guns))
	for i, g := range guns {
		names[i] = string(g)
	}
	d := s.db.Dialect()
	roots := make(map[tuf.GUN]storage.Metadata, len(guns))
	_, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (struct{}, error) {
		var (
			gun     tuf.GUN
			m       storage.Metadata
			created sql.NullTime
		)
		if err := r.Scan(&gun, &m.Role, &m.Version, &m.Data, &created); err != nil {
			return struct{}{}, err
		}
		m.Checksum, m.CreatedAt = tuf.Sum(m.Data), created.Time.UTC()
		roots[gun] = m
		return struct{}{}, nil
	}, newestRootsQuery[d], d.List(names))
	if err != nil {
		return nil, fmt.Errorf("reading the newest roots: %w", err)
	}
	return roots, nil
}

// maxHandedOut bounds what HandedOut returns.
const maxHandedOut = 1000

// HandedOut returns when keys of the server were made for that role of gun at an
// owner's request, as the audit log has it, the newest first.
func (s *Store) HandedOut(ctx context.Context, gun tuf.GUN, role tuf.RoleName) ([]time.Time, error) {
	if s.noAudit {
		return nil, nil
	}
	list, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (at time.Time, err error) {
		err = r.Scan((*sqldb.Time)(&at))
		return at, err
	}, `select at from countersign_audit where gun = $1 and action = $2 and roles = $3 order by id desc limit $4`,
		string(gun), storage.ActionRotate, string(role), maxHandedOut)
	return list, asked("reading the audit log of", gun, err)
}
