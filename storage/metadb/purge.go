package metadb

import (
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

// ErrUnrecorded: the tables in which purges are recorded are missing, or the role
// may not use them.
var ErrUnrecorded = errors.New("the database has no tables to record this in")

// A Purge is what is known of the removal of a repository from both databases.
type Purge struct {
	ID      int64
	GUN     tuf.GUN
	At      time.Time // when the rows of this database went
	Ended   time.Time // when the signer's rows had gone, too; zero before that
	Archive string    // where the archive was put
	Digest  string    // of its content
	Actor   string
	Reason  string
	Keys    []tuf.KeyID // whose rows the signer's database must lose
}

// BeginPurge removes all rows of p.GUN, if they are exactly rows, as Files lists
// them; otherwise the error wraps storage.ErrStale and nothing is done. With them,
// in one transaction, the changefeed gets its entry (if there were rows), the
// audit log e, and the keys are doomed: should nobody come to EndPurge, a running
// server has them deleted. It returns the ID of the purge, which is yet to end.
//
// Publishes to other GUNs go on. One to this GUN waits for the timestamp that it
// builds on, and is refused. Upstream's server locks nothing: what it has stored
// by the end is found, and then nothing is removed; what it stores later stays in
// the database, as debris of a repository that has been purged.
func (s *Store) BeginPurge(ctx context.Context, p Purge, rows []storage.FileInfo, keys []storage.DoomedKey, e storage.Event) (id int64, err error) {
	if s.noAudit {
		return 0, fmt.Errorf("purging: %w", ErrUnrecorded)
	}
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		id, err = s.beginPurge(ctx, tx, p, rows, keys, e)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("purging: %w", err)
	}
	return id, nil
}

func (s *Store) beginPurge(ctx context.Context, tx *sqldb.Tx, p Purge, rows []storage.FileInfo, keys []storage.DoomedKey, e storage.Event) (int64, error) {
	if err := s.claim(ctx, tx, p.GUN); err != nil {
		return 0, err
	}
	have, err := files(ctx, tx, p.GUN)
	if err != nil {
		return 0, err
	}
	if !slices.Equal(have, rows) {
		return 0, fmt.Errorf("%w: the rows are not those that were archived", storage.ErrStale)
	}
	err = removeExactly(ctx, tx, p.GUN, rows)
	if err == nil && len(rows) > 0 {
		err = change(ctx, tx, sqldb.Stamp(s.db.Now()), storage.Change{GUN: p.GUN, Category: storage.ChangeDeletion})
	}
	if err == nil {
		err = s.record(ctx, tx, e)
	}
	if err == nil {
		err = doom(ctx, tx, keys)
	}
	if err != nil {
		return 0, err
	}
	var ids []string
	for _, k := range p.Keys {
		ids = append(ids, string(k))
	}
	return sqldb.One(ctx, tx, scanID, `insert into countersign_purge (gun, at, archive, digest, actor, reason, key_ids)
		values ($1, $2, $3, $4, $5, $6, $7) returning id`,
		string(p.GUN), sqldb.Stamp(s.db.Now()), p.Archive, p.Digest, cut(p.Actor, maxActor), cut(p.Reason, maxReason), strings.Join(ids, " "))
}

// claim locks the newest timestamp of gun, as every publish of ours does, and
// waits for a publish of a server that locks nothing: the next version of the
// timestamp can be stored once. If it is stored meanwhile the error wraps
// storage.ErrStale.
func (s *Store) claim(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil // the whole file is locked
	}
	if err := s.lockTimestamp(ctx, tx, gun); err != nil {
		return err
	}
	// A row of that version that is marked as deleted holds it against everybody.
	ids, err := sqldb.Collect(ctx, tx, scanID, `with newest as (
			select version from tuf_files
			where gun = $1 and role = 'timestamp' and deleted_at is null
			order by version desc limit 1)
		insert into tuf_files (gun, role, version, data)
		select $1::text, 'timestamp', n.version + 1, ''::bytea from newest n
		where n.version < 2147483647 and not exists (select 1 from tuf_files f where f.gun = $1 and f.role = 'timestamp' and f.version = n.version + 1)
		returning id`, string(gun))
	if errors.Is(err, sqldb.ErrUnique) {
		return fmt.Errorf("%w: somebody has just published", storage.ErrStale)
	}
	for _, id := range ids {
		if _, err := tx.Exec(ctx, `delete from tuf_files where id = cast($1 as bigint)`, id); err != nil {
			return err
		}
	}
	return err
}

// removeExactly removes all rows of gun, and fails if these are not rows. Roots go
// by themselves: a statement that removes all of a GUN takes along what others
// have stored meanwhile (countersign_whole_delete), and would not tell.
func removeExactly(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN, rows []storage.FileInfo) error {
	left := make(map[int64]bool, len(rows))
	for _, f := range rows {
		left[f.ID] = true
	}
	for again := true; again; {
		again = false
		for _, which := range []string{`<>`, `=`} {
			ids, err := sqldb.Collect(ctx, tx, scanID, `delete from tuf_files where gun = $1 and role `+which+` 'root' returning id`, string(gun))
			if err != nil {
				return err
			}
			for _, id := range ids {
				if !left[id] {
					return fmt.Errorf("%w: somebody has just published", storage.ErrStale)
				}
				delete(left, id)
				again = true
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %d rows have gone already", storage.ErrStale, len(left))
	}
	return nil
}

func files(ctx context.Context, q sqldb.Querier, gun tuf.GUN) ([]storage.FileInfo, error) {
	return sqldb.Collect(ctx, q, scanInfo, `select `+infoColumns+` from tuf_files where gun = $1 order by id`, string(gun))
}

// EndPurge lets remove do what is left of the purge outside of this database,
// and records its end. Nobody else ends it meanwhile, so that remove does not
// come after a restoration that has waited for the end. doomed are those of the
// keys that are still doomed; who would spare one of them waits for the end. A
// key that is not is in use anew, or the signer was told to delete it.
//
// If the purge has ended already, remove is not called, and the answer is false.
// remove may be called again, and has a few seconds. tx is for who has to write
// to the same file; it is not to be used otherwise.
func (s *Store) EndPurge(ctx context.Context, id int64, remove func(ctx context.Context, tx *sqldb.Tx, p Purge, doomed map[tuf.KeyID]bool) error) (ended bool, err error) {
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		ended = false
		p, err := sqldb.One(ctx, tx, scanPurge, `select `+purgeColumns+` from countersign_purge where id = cast($1 as bigint) and ended is null`+s.forUpdate(), id)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		keys, err := sqldb.Collect(ctx, tx, scanDoomed, `select `+doomedColumns+` from countersign_doomed_key
			where gun = $1 order by gun, key_id, role`+s.forUpdate(), string(p.GUN))
		if err != nil {
			return err
		}
		doomed := map[tuf.KeyID]bool{}
		for _, k := range keys {
			doomed[k.ID] = slices.Contains(p.Keys, k.ID)
		}
		removing, cancel := context.WithTimeout(ctx, removeTime)
		defer cancel()
		if err := remove(removing, tx, p, doomed); err != nil {
			return err
		}
		for _, k := range keys {
			if !doomed[k.ID] {
				continue
			}
			if err := forget(ctx, tx, k); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `update countersign_purge set ended = $2 where id = cast($1 as bigint)`, id, sqldb.Stamp(s.db.Now()))
		ended = err == nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("ending the purge: %w", err)
	}
	return ended, nil
}

// forUpdate ends a query whose rows are to be locked; SQLite locks its file.
func (s *Store) forUpdate() string {
	if s.db.Dialect() == sqldb.Postgres {
		return ` for update`
	}
	return ``
}

// removeTime is below the ten seconds for which a transaction may do nothing.
const removeTime = 8 * time.Second

const purgeColumns = `id, gun, at, ended, archive, digest, actor, reason, key_ids`

func scanPurge(r *sql.Rows) (p Purge, err error) {
	var keys string
	err = r.Scan(&p.ID, &p.GUN, (*sqldb.Time)(&p.At), (*sqldb.Time)(&p.Ended), &p.Archive, &p.Digest, &p.Actor, &p.Reason, &keys)
	for _, id := range strings.Fields(keys) {
		p.Keys = append(p.Keys, tuf.KeyID(id))
	}
	return p, err
}

// A PurgeQuery selects a page of the purges.
type PurgeQuery struct {
	GUN   tuf.GUN // "" for all
	Open  bool    // those alone that have not ended
	After int64   // those with a higher ID
	Limit int     // at most so many, > 0
}

// Purges lists purges, oldest first.
func (s *Store) Purges(ctx context.Context, q PurgeQuery) ([]Purge, error) {
	if s.noAudit {
		return nil, nil
	}
	where, args := `id > cast($1 as bigint)`, []any{q.After, q.Limit}
	if q.GUN != "" {
		args = append(args, string(q.GUN))
		where += ` and gun = $3`
	}
	if q.Open {
		where += ` and ended is null`
	}
	list, err := sqldb.Collect(ctx, s.db, scanPurge, `select `+purgeColumns+` from countersign_purge where `+where+` order by id limit $2`, args...)
	if err != nil {
		return nil, fmt.Errorf("listing purges: %w", err)
	}
	return list, nil
}
