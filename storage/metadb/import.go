package metadb

import (
	"context"
	"database/sql"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
)

// ReserveChanges decides how entries of the changefeed come in from elsewhere. If
// the feed is empty, or has no entries but those that known says are from there
// too, they can keep their IDs: it makes sure that no ID up to highest is given to
// anything else, and returns true. Otherwise they are added at the end of the feed.
func (s *Store) ReserveChanges(ctx context.Context, highest int64, known func(storage.Change) bool) (keep bool, err error) {
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		keep = true
		if s.db.Dialect() == sqldb.Postgres {
			// Who writes to the feed meanwhile is let finish, and then waits.
			if _, err := tx.Exec(ctx, `lock table changefeed in share row exclusive mode`); err != nil {
				return err
			}
		}
		for after := int64(0); keep; {
			page, err := sqldb.Collect(ctx, tx, scanChange, `select id, created_at, gun, version, sha256, category
				from changefeed where id > cast($1 as bigint) order by id limit 1000`, after)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			for _, c := range page {
				keep = keep && known(c)
			}
			after = page[len(page)-1].ID
		}
		if !keep || s.db.Dialect() != sqldb.Postgres {
			return nil
		}
		set, err := sqldb.Collect(ctx, tx, scanID, `select setval(seq, greatest(cast($1 as bigint), coalesce(pg_sequence_last_value(seq), 1)))
			from (select pg_get_serial_sequence('changefeed', 'id')::regclass as seq) s where seq is not null`, max(highest, 1))
		keep = len(set) > 0 // a sequence that the column does not own is not ours to move
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking at the changefeed: %w", err)
	}
	return keep, nil
}

// Import writes a repository of which there are no rows, as Restore does; but the
// entries of its changefeed keep their IDs, for which ReserveChanges has made room,
// and none is added.
func (s *Store) Import(ctx context.Context, r Restoration) (done bool, err error) {
	r.keepIDs = true
	return s.Restore(ctx, r)
}

// importChanges adds the entries that are not there yet.
func (s *Store) importChanges(ctx context.Context, tx *sqldb.Tx, r Restoration) error {
	stored, err := sqldb.Collect(ctx, tx, scanID, `select id from changefeed where gun = $1`, string(r.GUN))
	if err != nil {
		return err
	}
	there := map[int64]bool{}
	for _, id := range stored {
		there[id] = true
	}
	if s.db.Dialect() == sqldb.Postgres {
		if _, err := tx.Exec(ctx, `set local countersign.keep_change_ids = 'on'`); err != nil {
			return err
		}
	}
	for _, c := range r.Changes {
		if there[c.ID] {
			continue
		}
		sum := sql.NullString{String: c.SHA256, Valid: c.SHA256 != ""}
		if _, err := tx.Exec(ctx, `insert into changefeed (id, created_at, gun, version, sha256, category) values ($1, $2, $3, $4, $5, $6)`,
			c.ID, sqldb.StampOrNull(c.CreatedAt), string(c.GUN), int64(c.Version), sum, c.Category); err != nil {
			return err
		}
	}
	return nil
}
