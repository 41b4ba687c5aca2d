package keydb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// What follows is for the operator's tools. The signer does none of it.

// Remove removes keys, and rows that are marked as deleted, for good. It reports
// how many there were.
func (s *Store) Remove(ctx context.Context, ids ...tuf.KeyID) (removed int64, err error) {
	for _, id := range ids {
		if err := named(id); err != nil {
			return 0, fmt.Errorf("removing keys: %w", err)
		}
	}
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		removed = 0
		for _, id := range ids {
			n, err := tx.Exec(ctx, `delete from private_keys where key_id = $1`, string(id))
			if err != nil {
				return err
			}
			removed += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("removing keys: %w", err)
	}
	return removed, nil
}

// Put stores k as it is, with its times. A row with its ID that is marked as
// deleted is replaced; a live one is left alone, and if it is not the same key in
// the same form, the error wraps storage.ErrVersionConflict.
func (s *Store) Put(ctx context.Context, k storage.KeyRow) error {
	err := named(k.ID)
	if err == nil {
		err = s.db.Tx(ctx, func(tx *sqldb.Tx) error { return put(ctx, tx, k) })
	}
	if err != nil {
		return fmt.Errorf("storing key %s: %w", k.ID, err)
	}
	return nil
}

func put(ctx context.Context, tx *sqldb.Tx, k storage.KeyRow) error {
	if _, err := tx.Exec(ctx, `delete from private_keys where key_id = $1 and deleted_at is not null`, string(k.ID)); err != nil {
		return err
	}
	have, err := sqldb.One(ctx, tx, scan, `select `+columns+` from private_keys where key_id = $1`, string(k.ID))
	if err == nil {
		if have.GUN != k.GUN || have.Role != k.Role || have.Algorithm != k.Algorithm || string(have.Sealed) != string(k.Sealed) || string(have.Public) != string(k.Public) {
			return fmt.Errorf("%w: another form of this key is stored", storage.ErrVersionConflict)
		}
		return nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	_, err = tx.Exec(ctx, `insert into private_keys (created_at, updated_at, deleted_at, key_id, gun, role, algorithm, public, private,
			passphrase_alias, encryption_alg, keywrap_alg, last_used)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		sqldb.StampOrNull(k.CreatedAt), sqldb.StampOrNull(k.Updated), sqldb.StampOrNull(k.Deleted), string(k.ID), string(k.GUN), string(k.Role),
		k.Algorithm, k.Public, k.Sealed, k.Alias, k.EncryptionAlg, k.KeywrapAlg, sqldb.StampOrNull(k.LastUsed))
	return err
}

// Reseal puts the key into another sealed form, under another alias, if it is
// still in the old one; it reports whether it was. A signer that has read the old
// form meanwhile can go on with it: it is the same key.
func (s *Store) Reseal(ctx context.Context, id tuf.KeyID, old, sealed []byte, alias, encryptionAlg, keywrapAlg string) (bool, error) {
	n, err := int64(0), named(id)
	if err == nil {
		n, err = s.db.Exec(ctx, `update private_keys set private = $3, passphrase_alias = $4, encryption_alg = $5, keywrap_alg = $6, updated_at = $7
			where key_id = $1 and private = $2 and deleted_at is null`, string(id), old, sealed, alias, encryptionAlg, keywrapAlg, sqldb.Stamp(s.db.Now()))
	}
	if err != nil {
		return false, fmt.Errorf("storing key %s anew: %w", id, err)
	}
	return n > 0, nil
}

// Aliases lists the aliases that live keys are sealed under.
func (s *Store) Aliases(ctx context.Context) ([]string, error) {
	list, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (a string, err error) {
		err = r.Scan(&a)
		return a, err
	}, `select distinct passphrase_alias from private_keys where deleted_at is null order by 1`)
	if err != nil {
		return nil, fmt.Errorf("listing aliases: %w", err)
	}
	return list, nil
}
