package metadb

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

var _ storage.Graveyard = (*Store)(nil)

// What a deletion looks at to find the keys that go with it. Anybody who may
// publish can have made hundreds of large roots, and the deletion of them must
// cost a bounded time in a transaction, and the memory of one of them. What is
// listed by older roots alone stays with the signer.
const (
	maxDoomRoots = 200
	maxDoomBytes = 16 << 20 // of roots; the newest is read whatever its size
	maxDoomKeys  = 500
	// maxRoleKeys is how many keys of a role a server signs with at most. A role
	// with more is none that it signs.
	maxRoleKeys = 16
)

// buryTime bounds how long Bury holds a key's row. It is below the ten seconds
// for which a transaction may do nothing, and below the five for which others
// wait for a lock.
const buryTime = 3 * time.Second

// doom remembers the keys that the roots of gun list for the roles that a
// server may sign. Which of them the signer has, it will say itself. A root that
// cannot be parsed dooms nothing.
func (s *Store) doom(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN) error {
	if s.noAudit {
		return nil
	}
	type root struct{ id, size int64 }
	roots, err := sqldb.Collect(ctx, tx, func(r *sql.Rows) (f root, err error) {
		err = r.Scan(&f.id, &f.size)
		return f, err
	}, `select id, length(data) from tuf_files where gun = $1 and role = 'root'
		order by version desc, id desc limit $2`, string(gun), maxDoomRoots)
	if err != nil {
		return err
	}
	var (
		keys []storage.DoomedKey
		left = int64(maxDoomBytes)
	)
	for i, r := range roots {
		if left -= r.size; left < 0 && i > 0 || len(keys) > maxDoomKeys {
			break
		}
		data, err := sqldb.One(ctx, tx, scanBytes, `select data from tuf_files where id = cast($1 as bigint)`, r.id)
		if errors.Is(err, storage.ErrNotFound) {
			continue // marked or removed by hand meanwhile
		}
		if err != nil {
			return err
		}
		for _, k := range serverKeys(gun, data) {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return doom(ctx, tx, keys[:min(len(keys), maxDoomKeys)])
}

func scanBytes(r *sql.Rows) (data []byte, err error) {
	err = r.Scan(&data)
	return data, err
}

// doom adds keys. One whose row somebody has locked to bury it is waited for: he
// may be about to forget it.
func doom(ctx context.Context, tx *sqldb.Tx, keys []storage.DoomedKey) error {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareDoomed) // who locks several rows does so in one order
	for page := range slices.Chunk(slices.Compact(keys), maxDoomKeys) {
		var (
			a    arguments
			rows []string
		)
		for _, k := range page {
			rows = append(rows, `(`+a.add(string(k.GUN))+`, `+a.add(string(k.ID))+`, `+a.add(string(k.Role))+`)`)
		}
		if _, err := tx.Exec(ctx, `insert into countersign_doomed_key (gun, key_id, role) values `+strings.Join(rows, ", ")+`
			on conflict (gun, key_id, role) do update set role = excluded.role`, a...); err != nil {
			return err
		}
	}
	return nil
}

func compareDoomed(a, b storage.DoomedKey) int {
	return cmp.Or(cmp.Compare(a.GUN, b.GUN), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Role, b.Role))
}

// serverKeys lists the keys that a root lists for snapshot and timestamp.
func serverKeys(gun tuf.GUN, data []byte) (keys []storage.DoomedKey) {
	env, err := tuf.ParseEnvelope(data)
	if err != nil {
		return nil
	}
	root, err := env.Root()
	if err != nil {
		return nil
	}
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		authority := root.Authority(role)
		if len(authority.Keys) > maxRoleKeys {
			continue
		}
		for _, id := range authority.KeyIDs {
			if canonical, err := authority.Keys[id].CanonicalID(); err == nil && canonical != "" {
				keys = append(keys, storage.DoomedKey{GUN: gun, Role: role, ID: canonical})
			}
		}
	}
	return keys
}

// Doomed implements storage.Graveyard.
func (s *Store) Doomed(ctx context.Context, q storage.DoomedQuery) ([]storage.DoomedKey, error) {
	if s.noAudit {
		return nil, nil
	}
	where, args := `(gun, key_id, role) > ($1, $2, $3)`, []any{string(q.After.GUN), string(q.After.ID), string(q.After.Role), q.Limit}
	if q.GUN != "" {
		where += ` and gun = $5`
		args = append(args, string(q.GUN))
	}
	list, err := sqldb.Collect(ctx, s.db, scanDoomed, `select `+doomedColumns+` from countersign_doomed_key
		where `+where+` order by gun, key_id, role limit $4`, args...)
	if err != nil {
		return nil, fmt.Errorf("listing keys of deleted repositories: %w", err)
	}
	return list, nil
}

const doomedColumns = `gun, key_id, role`

func scanDoomed(r *sql.Rows) (k storage.DoomedKey, err error) {
	err = r.Scan(&k.GUN, &k.ID, &k.Role)
	return k, err
}

// Bury implements storage.Graveyard. The row of the key is locked while remove
// runs (on SQLite, the database). Spare waits for that row; another replica that
// would bury the key passes over it.
func (s *Store) Bury(ctx context.Context, k storage.DoomedKey, remove func(context.Context) error) error {
	lock := ``
	if s.db.Dialect() == sqldb.Postgres {
		lock = ` for update skip locked`
	}
	err := s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		_, err := sqldb.One(ctx, tx, scanDoomed, `select `+doomedColumns+` from countersign_doomed_key
			where gun = $1 and key_id = $2 and role = $3`+lock, string(k.GUN), string(k.ID), string(k.Role))
		if errors.Is(err, storage.ErrNotFound) {
			return nil // spared, or another replica's
		}
		if err != nil {
			return err
		}
		// Who publishes through another program (upstream's server, a
		// restoration) does not spare keys.
		root, err := sqldb.Collect(ctx, tx, scanBytes, `select data from tuf_files
			where gun = $1 and role = 'root' and deleted_at is null order by version desc limit 1`, string(k.GUN))
		if err != nil {
			return err
		}
		if len(root) == 0 || !slices.Contains(serverKeys(k.GUN, root[0]), k) {
			removing, cancel := context.WithTimeout(ctx, buryTime)
			defer cancel()
			if err := remove(removing); err != nil {
				return err
			}
		}
		return forget(ctx, tx, k)
	})
	if err != nil {
		return fmt.Errorf("burying key %s of %s: %w", k.ID, k.GUN, err)
	}
	return nil
}

func forget(ctx context.Context, tx *sqldb.Tx, k storage.DoomedKey) error {
	_, err := tx.Exec(ctx, `delete from countersign_doomed_key where gun = $1 and key_id = $2 and role = $3`, string(k.GUN), string(k.ID), string(k.Role))
	return err
}

// Spare implements storage.Graveyard. The mark is read first: a deletion that
// comes between the two statements has a higher one.
func (s *Store) Spare(ctx context.Context, gun tuf.GUN, keys []storage.DoomedKey) (mark storage.Mark, err error) {
	if s.noAudit {
		return 0, nil
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareDoomed)
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		last, err := sqldb.One(ctx, tx, scanID, lastChange, string(gun))
		if err != nil {
			return err
		}
		mark = storage.Mark(last)
		for _, k := range keys {
			if err := forget(ctx, tx, k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("sparing keys of %s: %w", gun, err)
	}
	return mark, nil
}

const lastChange = `select coalesce(max(id), 0) from changefeed where gun = $1`
