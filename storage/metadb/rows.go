package metadb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// batchBytes is how much of a GUN's files EachFile holds at once; one file may
// be larger.
const batchBytes = 8 << 20

// GUNs lists at most limit GUNs that have any row, live or not, in the order of
// the database, from the first one behind after. With a prefix only those that
// begin with it. It costs one look-up in an index for each GUN it passes.
func (s *Store) GUNs(ctx context.Context, after tuf.GUN, prefix string, limit int) ([]tuf.GUN, error) {
	list, err := sqldb.Collect(ctx, s.db, scanGUN, `with recursive g (gun) as (
			select (select min(f.gun) from tuf_files f where f.gun > $1)
			union all
			select (select min(f.gun) from tuf_files f where f.gun > g.gun) from g where g.gun is not null
		)
		select g.gun from g where g.gun is not null and substr(g.gun, 1, length($2)) = $2 limit $3`,
		string(after), prefix, limit)
	if err != nil {
		return nil, fmt.Errorf("listing repositories: %w", err)
	}
	return list, nil
}

func scanGUN(r *sql.Rows) (g tuf.GUN, err error) {
	err = r.Scan(&g)
	return g, err
}

// Files lists all rows of gun, those marked as deleted too, in the order in
// which they were written, without their bytes.
func (s *Store) Files(ctx context.Context, gun tuf.GUN) ([]storage.FileInfo, error) {
	list, err := sqldb.Collect(ctx, s.db, scanInfo, `select `+infoColumns+`
		from tuf_files where gun = $1 order by id`, string(gun))
	if err != nil {
		return nil, fmt.Errorf("listing files of %s: %w", gun, err)
	}
	return list, nil
}

const infoColumns = `id, role, version, sha256, length(data), created_at, updated_at, deleted_at`

func scanInfo(r *sql.Rows) (f storage.FileInfo, err error) {
	err = r.Scan(infoFields(&f)...)
	return f, err
}

// infoFields are where infoColumns go.
func infoFields(f *storage.FileInfo) []any {
	return []any{&f.ID, &f.Role, &f.Version, (*padded)(&f.SHA256), &f.Size,
		(*sqldb.Time)(&f.Created), (*sqldb.Time)(&f.Updated), (*sqldb.Time)(&f.Deleted)}
}

// padded scans a char(64), which PostgreSQL fills up with blanks, or null.
type padded string

// Scan implements sql.Scanner.
func (p *padded) Scan(v any) error {
	var s sql.NullString
	if err := s.Scan(v); err != nil {
		return err
	}
	*p = padded(strings.TrimRight(s.String, " "))
	return nil
}

// Contents lists all rows of gun, as Files does, and its entries in the
// changefeed, oldest first, as they were at one moment.
func (s *Store) Contents(ctx context.Context, gun tuf.GUN) (files []storage.FileInfo, changes []storage.Change, err error) {
	err = s.db.View(ctx, func(tx *sqldb.Tx) (err error) {
		files, err = sqldb.Collect(ctx, tx, scanInfo, `select `+infoColumns+` from tuf_files where gun = $1 order by id`, string(gun))
		if err == nil {
			changes, err = sqldb.Collect(ctx, tx, scanChange, `select id, created_at, gun, version, sha256, category
				from changefeed where gun = $1 order by id`, string(gun))
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listing files of %s: %w", gun, err)
	}
	return files, changes, nil
}

// EachFile calls f for each row of gun in the order of Files, with its bytes.
// It holds a few megabytes of them at once, and no transaction: what is
// written meanwhile it may miss, and rows that go meanwhile are left out. It
// ends with the first error of f.
func (s *Store) EachFile(ctx context.Context, gun tuf.GUN, f func(storage.FileRow) error) error {
	infos, err := s.Files(ctx, gun)
	if err != nil {
		return err
	}
	return s.FilesOf(ctx, gun, infos, f)
}

// FilesOf is EachFile for the given rows of gun, which are in the order of their IDs.
func (s *Store) FilesOf(ctx context.Context, gun tuf.GUN, infos []storage.FileInfo, f func(storage.FileRow) error) error {
	wanted := make(map[int64]bool, len(infos))
	for _, i := range infos {
		wanted[i.ID] = true
	}
	for len(infos) > 0 {
		n, size := 0, int64(0)
		for n < len(infos) && (n == 0 || size+infos[n].Size <= batchBytes) {
			size += infos[n].Size
			n++
		}
		rows, err := sqldb.Collect(ctx, s.db, scanRow, `select data, `+infoColumns+` from tuf_files
			where gun = $1 and id >= cast($2 as bigint) and id <= cast($3 as bigint) order by id`,
			string(gun), infos[0].ID, infos[n-1].ID)
		if err != nil {
			return fmt.Errorf("reading files of %s: %w", gun, err)
		}
		for _, row := range rows {
			if !wanted[row.ID] {
				continue
			}
			if err := f(row); err != nil {
				return err
			}
		}
		infos = infos[n:]
	}
	return nil
}

func scanRow(r *sql.Rows) (f storage.FileRow, err error) {
	err = r.Scan(append([]any{&f.Data}, infoFields(&f.FileInfo)...)...)
	return f, err
}
