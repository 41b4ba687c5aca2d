// Package keydb is the storage.KeyStore in SQL: upstream's table private_keys,
// in PostgreSQL or SQLite.
package keydb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// Store is a storage.KeyStore. Its methods may be called at once from any
// number of goroutines, and any number of Stores, in other processes too, may
// share a database.
type Store struct {
	db *sqldb.DB
	tx *sqldb.Tx // see Within; else nil
}

var _ storage.KeyStore = (*Store)(nil)

// New returns the store in db, whose table package migrations has made.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// Check makes sure that the table can be read. It is what a health check asks.
func (s *Store) Check(ctx context.Context) error {
	_, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (id int64, err error) {
		err = r.Scan(&id)
		return id, err
	}, `select id from private_keys where id = 0`)
	if err != nil {
		return fmt.Errorf("reading table private_keys: %w", err)
	}
	return nil
}

const columns = `key_id, gun, role, algorithm, public, private, passphrase_alias, encryption_alg, keywrap_alg, created_at, last_used`

func scan(r *sql.Rows) (k storage.Key, err error) {
	err = r.Scan(fields(&k)...)
	return k, err
}

// fields are where columns go.
func fields(k *storage.Key) []any {
	return []any{&k.ID, &k.GUN, &k.Role, &k.Algorithm, &k.Public, &k.Sealed, &k.Alias, &k.EncryptionAlg, &k.KeywrapAlg,
		(*sqldb.Time)(&k.CreatedAt), (*sqldb.Time)(&k.LastUsed)}
}

// named refuses an empty key ID. Upstream drops the condition then, so that a
// look-up finds any key, and a deletion deletes them all.
func named(id tuf.KeyID) error {
	if id == "" {
		return fmt.Errorf("%w: empty key ID", storage.ErrInvalid)
	}
	return nil
}

// Key implements storage.KeyStore. The error wraps storage.ErrInvalid for an
// empty ID.
func (s *Store) Key(ctx context.Context, id tuf.KeyID) (storage.Key, error) {
	k, err := storage.Key{}, named(id)
	if err == nil {
		k, err = sqldb.One(ctx, s.db, scan, `select `+columns+` from private_keys where key_id = $1 and deleted_at is null`, string(id))
	}
	if err != nil {
		return storage.Key{}, fmt.Errorf("loading key: %w", err)
	}
	return k, nil
}

// Unused implements storage.KeyStore.
func (s *Store) Unused(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	k, err := unused(ctx, s.db, gun, role, algorithm)
	if err != nil {
		return storage.Key{}, fmt.Errorf("loading unused key: %w", err)
	}
	return k, nil
}

// Sealed implements storage.KeyStore.
func (s *Store) Sealed(ctx context.Context, alias string, limit int) ([]storage.Key, error) {
	list, err := sqldb.Collect(ctx, s.db, scan, `select `+columns+` from private_keys
		where passphrase_alias = $1 and deleted_at is null order by id desc limit $2`, alias, limit)
	if err != nil {
		return nil, fmt.Errorf("loading keys of an alias: %w", err)
	}
	return list, nil
}

const unusedQuery = `select ` + columns + ` from private_keys
	where gun = $1 and role = $2 and algorithm = $3 and last_used is null and deleted_at is null
	order by key_id limit 1`

func unused(ctx context.Context, q sqldb.Querier, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	return sqldb.One(ctx, q, scan, unusedQuery, string(gun), string(role), algorithm)
}

// AddUnused implements storage.KeyStore. Those who race for one GUN, role and
// algorithm wait for each other, and all but the first find its key. The error
// wraps storage.ErrInvalid if k has no ID, or one that is stored already.
func (s *Store) AddUnused(ctx context.Context, k storage.Key) (storage.Key, error) {
	var stored storage.Key
	err := named(k.ID)
	if err == nil {
		err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
			var err error
			stored, err = s.addUnused(ctx, tx, k)
			return err
		})
	}
	if errors.Is(err, sqldb.ErrUnique) {
		err = fmt.Errorf("%w: a key with that ID is stored, or was deleted: %w", storage.ErrInvalid, err)
	}
	if err != nil {
		return storage.Key{}, fmt.Errorf("storing key: %w", err)
	}
	return stored, nil
}

func (s *Store) addUnused(ctx context.Context, tx *sqldb.Tx, k storage.Key) (storage.Key, error) {
	if s.db.Dialect() == sqldb.Postgres {
		// What follows is a new statement, which sees what the last holder of
		// the lock has committed. SQLite has the write lock already.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, lockKey(k)); err != nil {
			return storage.Key{}, err
		}
	}
	found, err := unused(ctx, tx, k.GUN, k.Role, k.Algorithm)
	if !errors.Is(err, storage.ErrNotFound) {
		return found, err
	}
	k.CreatedAt, k.LastUsed = s.db.Now(), time.Time{}
	now := sqldb.Stamp(k.CreatedAt)
	_, err = tx.Exec(ctx, `insert into private_keys (created_at, updated_at, key_id, gun, role, algorithm, public, private,
			passphrase_alias, encryption_alg, keywrap_alg)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		now, now, string(k.ID), string(k.GUN), string(k.Role), k.Algorithm, k.Public, k.Sealed, k.Alias, k.EncryptionAlg, k.KeywrapAlg)
	return k, err
}

// lockKey is the advisory lock for the unused keys of one GUN, role and
// algorithm. That others may share its number costs them a short wait.
func lockKey(k storage.Key) int64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "countersign unused key\x00%s\x00%s\x00%s", k.GUN, k.Role, k.Algorithm)
	return int64(h.Sum64())
}

// MarkUsed implements storage.KeyStore. The error wraps storage.ErrInvalid for
// an empty ID.
func (s *Store) MarkUsed(ctx context.Context, id tuf.KeyID, at time.Time) error {
	n, err := int64(0), named(id)
	if err == nil {
		now := sqldb.Stamp(at)
		n, err = s.db.Exec(ctx, `update private_keys set last_used = $2, updated_at = $3 where key_id = $1 and deleted_at is null`, string(id), now, now)
	}
	if err == nil && n == 0 {
		err = storage.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("marking key as used: %w", err)
	}
	return nil
}

// Delete implements storage.KeyStore. The error wraps storage.ErrInvalid for an
// empty ID.
func (s *Store) Delete(ctx context.Context, id tuf.KeyID) error {
	err := named(id)
	if err == nil {
		_, err = s.db.Exec(ctx, `update private_keys set deleted_at = $2 where key_id = $1 and deleted_at is null`, string(id), sqldb.Stamp(s.db.Now()))
	}
	if err != nil {
		return fmt.Errorf("deleting key: %w", err)
	}
	return nil
}
