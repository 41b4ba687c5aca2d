package metadb

import (
	"context"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// Mark is a text that is another one once a row of gun, or an entry of it in the
// changefeed, has come, gone, or been marked as deleted. It does not tell of
// rows whose other columns were changed, which no program does.
func (s *Store) Mark(ctx context.Context, gun tuf.GUN) (string, error) {
	parts, err := sqldb.Collect(ctx, s.db, scanID, `select count(*) from tuf_files where gun = $1
		union all select coalesce(max(id), 0) from tuf_files where gun = $1
		union all select count(*) from tuf_files where gun = $1 and deleted_at is not null
		union all select coalesce(max(id), 0) from changefeed where gun = $1`, string(gun))
	if err != nil {
		return "", fmt.Errorf("looking whether %s changes: %w", gun, err)
	}
	return fmt.Sprint(parts), nil
}

// RootRows reads all rows of gun's root role, those marked as deleted too, in the
// order in which they were written.
func (s *Store) RootRows(ctx context.Context, gun tuf.GUN) ([]storage.FileRow, error) {
	list, err := sqldb.Collect(ctx, s.db, scanRow, `select data, `+infoColumns+` from tuf_files
		where gun = $1 and role = 'root' order by id`, string(gun))
	if err != nil {
		return nil, fmt.Errorf("reading roots of %s: %w", gun, err)
	}
	return list, nil
}

// EachOf calls f for those of the rows of gun that are still there, in the order
// of their IDs, with their bytes. It holds a few megabytes of them at once. It
// ends with the first error of f.
func (s *Store) EachOf(ctx context.Context, gun tuf.GUN, rows []storage.FileInfo, f func(storage.FileRow) error) error {
	for len(rows) > 0 {
		n, size := 0, int64(0)
		for n < len(rows) && n < maxFiles && (n == 0 || size+rows[n].Size <= batchBytes) {
			size += rows[n].Size
			n++
		}
		batch, err := sqldb.Collect(ctx, s.db, scanRow, `select data, `+infoColumns+` from tuf_files
			where gun = $1 and id in (`+idList[s.db.Dialect()]+`) order by id`, string(gun), s.db.Dialect().List(ids(rows[:n])))
		if err != nil {
			return fmt.Errorf("reading files of %s: %w", gun, err)
		}
		for _, row := range batch {
			if err := f(row); err != nil {
				return err
			}
		}
		rows = rows[n:]
	}
	return nil
}

// idList selects the IDs of the list $2.
var idList = map[sqldb.Dialect]string{
	sqldb.Postgres: `select l::bigint from unnest($2::text[]) as l`,
	sqldb.SQLite:   `select cast(l.value as integer) from json_each($2) as l`,
}

func ids(rows []storage.FileInfo) []string {
	list := make([]string, len(rows))
	for i, r := range rows {
		list[i] = fmt.Sprint(r.ID)
	}
	return list
}

// Gone lists at most limit GUNs, from the first one behind after, that the
// changefeed knows and does not say to be deleted, but that have no row: somebody
// has removed them by hand. With a prefix only those that begin with it.
func (s *Store) Gone(ctx context.Context, after tuf.GUN, prefix string, limit int) ([]tuf.GUN, error) {
	list, err := sqldb.Collect(ctx, s.db, scanGUN, `with recursive g (gun) as (
			select (select min(c.gun) from changefeed c where c.gun > $1)
			union all
			select (select min(c.gun) from changefeed c where c.gun > g.gun) from g where g.gun is not null
		)
		select g.gun from g where g.gun is not null and substr(g.gun, 1, length($2)) = $2
			and not exists (select 1 from tuf_files f where f.gun = g.gun)
			and (select c.category from changefeed c where c.gun = g.gun order by c.id desc limit 1) <> 'deletion'
		limit $3`, string(after), prefix, limit)
	if err != nil {
		return nil, fmt.Errorf("listing repositories that are gone: %w", err)
	}
	return list, nil
}
