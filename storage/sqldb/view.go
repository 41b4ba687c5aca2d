package sqldb

import (
	"context"
	"database/sql"
)

// View runs f in a transaction that cannot write, and that sees the database as
// it was at one moment. It works on a standby too. f may run again, as in Tx.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	return retry(ctx, func() error {
		opts := &sql.TxOptions{} // readers of SQLite cannot write anyway
		if db.dialect == Postgres {
			opts.Isolation, opts.ReadOnly = sql.LevelRepeatableRead, true
		}
		tx, err := db.read.BeginTx(ctx, opts)
		if err != nil {
			return translate(ctx, err)
		}
		defer tx.Rollback()
		if err := f(&Tx{tx: tx}); err != nil {
			return err
		}
		return translate(ctx, tx.Commit())
	})
}
