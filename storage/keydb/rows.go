package keydb

import (
	"context"
	"database/sql"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// A Query selects rows of private_keys. The zero value of a field does not
// limit.
type Query struct {
	GUN   tuf.GUN // those of one GUN
	Alias string  // those sealed under one alias
	After int64   // rows with a higher RowID
	Limit int     // at most so many
	// Deleted finds rows that are marked as deleted, too.
	Deleted bool
}

// Rows lists keys in the order of their rows, sealed private halves included.
func (s *Store) Rows(ctx context.Context, q Query) ([]storage.KeyRow, error) {
	where, args := `id > cast($1 as bigint)`, []any{q.After}
	if q.GUN != "" {
		args = append(args, string(q.GUN))
		where += fmt.Sprintf(` and gun = $%d`, len(args))
	}
	if q.Alias != "" {
		args = append(args, q.Alias)
		where += fmt.Sprintf(` and passphrase_alias = $%d`, len(args))
	}
	if !q.Deleted {
		where += ` and deleted_at is null`
	}
	query := `select id, updated_at, deleted_at, ` + columns + ` from private_keys where ` + where + ` order by id`
	if q.Limit > 0 {
		args = append(args, q.Limit)
		query += fmt.Sprintf(` limit $%d`, len(args))
	}
	list, err := sqldb.Collect(ctx, s.db, scanRow, query, args...)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	return list, nil
}

func scanRow(r *sql.Rows) (k storage.KeyRow, err error) {
	head := []any{&k.RowID, (*sqldb.Time)(&k.Updated), (*sqldb.Time)(&k.Deleted)}
	err = r.Scan(append(head, fields(&k.Key)...)...)
	return k, err
}
