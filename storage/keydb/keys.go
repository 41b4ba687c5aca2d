package keydb

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// An AliasCount is how many rows are sealed under an alias, and of these how
// many are marked as deleted.
type AliasCount struct {
	Alias         string
	Rows, Deleted int64
}

// AliasCounts counts the rows of each alias, in the order of the aliases.
func (s *Store) AliasCounts(ctx context.Context) ([]AliasCount, error) {
	list, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (a AliasCount, err error) {
		err = r.Scan(&a.Alias, &a.Rows, &a.Deleted)
		return a, err
	}, `select passphrase_alias, count(*), count(deleted_at) from private_keys group by passphrase_alias order by passphrase_alias`)
	if err != nil {
		return nil, fmt.Errorf("counting keys: %w", err)
	}
	return list, nil
}

var findQuery = map[sqldb.Dialect]string{
	sqldb.Postgres: `select id, updated_at, deleted_at, ` + columns + ` from private_keys where key_id = any($1::text[]) order by id`,
	sqldb.SQLite:   `select id, updated_at, deleted_at, ` + columns + ` from private_keys where key_id in (select value from json_each($1)) order by id`,
}

// Find returns the rows with these key IDs, those marked as deleted too, in the
// order of the rows. An ID without a row is absent.
func (s *Store) Find(ctx context.Context, ids []tuf.KeyID) ([]storage.KeyRow, error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	d := s.db.Dialect()
	list, err := sqldb.Collect(ctx, s.db, scanRow, findQuery[d], d.List(names))
	if err != nil {
		return nil, fmt.Errorf("finding keys: %w", err)
	}
	return list, nil
}

// A changed row is not what its caller took it for, so nothing was written.
type changed struct{ id tuf.KeyID }

func (c changed) Error() string { return "key " + string(c.id) + " has changed meanwhile" }
func (c changed) Unwrap() error { return storage.ErrVersionConflict }

// A Resealing replaces the sealed form of a row.
type Resealing struct {
	Old, New storage.Key // of one ID; of New the sealed form and its columns are written
}

// ResealAll puts keys into other sealed forms, in one transaction. A row that is
// not in its old form any more, or was deleted, is left alone; done tells for
// each whether it was written. Each row is read back before the commit: if the
// database gives anything but the bytes that it was given, all is rolled back.
// written, if set, is called after each row, before the commit; for a transaction
// that the database asked to run again, again.
func (s *Store) ResealAll(ctx context.Context, list []Resealing, written func(id tuf.KeyID)) (done []bool, err error) {
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		done = make([]bool, len(list))
		for i, r := range list {
			var err error
			if done[i], err = s.reseal(ctx, tx, r); err != nil {
				return fmt.Errorf("key %s: %w", r.Old.ID, err)
			}
			if written != nil {
				written(r.Old.ID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("storing keys anew: %w", err)
	}
	return done, nil
}

func (s *Store) reseal(ctx context.Context, tx *sqldb.Tx, r Resealing) (bool, error) {
	if err := named(r.Old.ID); err != nil {
		return false, err
	}
	n, err := tx.Exec(ctx, `update private_keys set private = $4, passphrase_alias = $5, encryption_alg = $6, keywrap_alg = $7, updated_at = $8
		where key_id = $1 and private = $2 and passphrase_alias = $3 and deleted_at is null`,
		string(r.Old.ID), r.Old.Sealed, r.Old.Alias, r.New.Sealed, r.New.Alias, r.New.EncryptionAlg, r.New.KeywrapAlg, sqldb.Stamp(s.db.Now()))
	if err != nil || n == 0 {
		return false, err
	}
	back, err := sqldb.One(ctx, tx, scan, `select `+columns+` from private_keys where key_id = $1`, string(r.Old.ID))
	if err != nil {
		return false, err
	}
	if !bytes.Equal(back.Sealed, r.New.Sealed) || back.Alias != r.New.Alias {
		return false, fmt.Errorf("%w: the database gives back something else", storage.ErrDamaged)
	}
	return true, nil
}

// Within returns the store of which Retire, Revive and RemoveRetired are part of
// tx, a transaction on the same database: two on one file of SQLite would wait for
// each other.
func (s *Store) Within(tx *sqldb.Tx) *Store { return &Store{db: s.db, tx: tx} }

func (s *Store) inTx(ctx context.Context, f func(*sqldb.Tx) error) error {
	if s.tx != nil {
		return f(s.tx)
	}
	return s.db.Tx(ctx, f)
}

// Retire marks the key as deleted if it has not been used, resealed or deleted
// since k was read; else the error wraps storage.ErrVersionConflict. From then on
// no signer of ours signs with it or hands it out. A signer that has read the row
// before, and is about to sign, does not give its signature out if it has to
// record the use first: see signer.Service.Sign.
func (s *Store) Retire(ctx context.Context, k storage.KeyRow) error {
	err := named(k.ID)
	if err == nil {
		err = s.inTx(ctx, func(tx *sqldb.Tx) error { return s.retire(ctx, tx, k) })
	}
	if err != nil {
		return fmt.Errorf("marking key as deleted: %w", err)
	}
	return nil
}

// lockRow reads a row for a change of it; SQLite has the write lock already.
var lockRow = map[sqldb.Dialect]string{
	sqldb.Postgres: ` for update`,
	sqldb.SQLite:   ``,
}

func (s *Store) retire(ctx context.Context, tx *sqldb.Tx, k storage.KeyRow) error {
	now, err := sqldb.One(ctx, tx, scanRow, `select id, updated_at, deleted_at, `+columns+` from private_keys
		where key_id = $1`+lockRow[s.db.Dialect()], string(k.ID))
	if err != nil {
		return err
	}
	if !now.Deleted.IsZero() || !now.LastUsed.Equal(k.LastUsed) || !bytes.Equal(now.Sealed, k.Sealed) || now.GUN != k.GUN || now.Role != k.Role {
		return changed{k.ID}
	}
	_, err = tx.Exec(ctx, `update private_keys set deleted_at = $2 where key_id = $1`, string(k.ID), sqldb.Stamp(s.db.Now()))
	return err
}

// Revive takes back what Retire has marked.
func (s *Store) Revive(ctx context.Context, id tuf.KeyID) error {
	err := named(id)
	if err == nil {
		err = s.inTx(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `update private_keys set deleted_at = null where key_id = $1`, string(id))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("taking back the deletion of key %s: %w", id, err)
	}
	return nil
}

// RemoveRetired removes the row for good if it is marked as deleted; it reports
// whether it was.
func (s *Store) RemoveRetired(ctx context.Context, id tuf.KeyID) (bool, error) {
	n, err := int64(0), named(id)
	if err == nil {
		err = s.inTx(ctx, func(tx *sqldb.Tx) (err error) {
			n, err = tx.Exec(ctx, `delete from private_keys where key_id = $1 and deleted_at is not null`, string(id))
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("removing key %s: %w", id, err)
	}
	return n > 0, nil
}
