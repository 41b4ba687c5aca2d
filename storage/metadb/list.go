package metadb

import (
	"context"
	"database/sql"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// A RoleStats sums up the rows of one role of a GUN.
type RoleStats struct {
	Role     tuf.RoleName
	Versions int64 // rows, those marked as deleted too
	Bytes    int64 // of their files together
}

// Stats sums up the rows of gun, a line for each role. The bytes of the files
// are not read.
func (s *Store) Stats(ctx context.Context, gun tuf.GUN) ([]RoleStats, error) {
	list, err := sqldb.Collect(ctx, s.db, scanStats, `select role, count(*), sum(length(data))
		from tuf_files where gun = $1 group by role order by role`, string(gun))
	if err != nil {
		return nil, fmt.Errorf("summing up %s: %w", gun, err)
	}
	return list, nil
}

func scanStats(r *sql.Rows) (f RoleStats, err error) {
	err = r.Scan(&f.Role, &f.Versions, &f.Bytes)
	return f, err
}

// newestRowQuery reads what newestQuery does, and the rest of the row.
var newestRowQuery = map[sqldb.Dialect]string{
	sqldb.Postgres: `select f.* from unnest($2::text[]) as wanted (role) cross join lateral (
			select data, ` + infoColumns + ` from tuf_files
			where gun = $1 and role = wanted.role and deleted_at is null
			order by version desc limit 1) f`,
	sqldb.SQLite: `select data, ` + infoColumns + ` from tuf_files where id in (
			select (select id from tuf_files
				where gun = $1 and role = wanted.value and deleted_at is null
				order by version desc limit 1)
			from json_each($2) as wanted)`,
}

// NewestRows returns the live row with the highest version of each of those
// roles, in no order, as it is. One statement reads them, so that they are of
// one moment. A role without a live row is absent.
func (s *Store) NewestRows(ctx context.Context, gun tuf.GUN, roles []tuf.RoleName) ([]storage.FileRow, error) {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	d := s.db.Dialect()
	list, err := sqldb.Collect(ctx, s.db, scanRow, newestRowQuery[d], string(gun), d.List(names))
	if err != nil {
		return nil, fmt.Errorf("reading the newest files of %s: %w", gun, err)
	}
	return list, nil
}
