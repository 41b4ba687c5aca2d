package metadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
// No publish is under way meanwhile, of any GUN and by any program: one that
// committed while rows go would be in neither the archive nor the database.
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
	if err := s.stopWriters(ctx, tx, p.GUN); err != nil {
		return 0, err
	}
	have, err := files(ctx, tx, p.GUN)
	if err != nil {
		return 0, err
	}
	if !slices.Equal(have, rows) {
		return 0, fmt.Errorf("%w: the rows are not those that were archived", storage.ErrStale)
	}
	n, err := tx.Exec(ctx, `delete from tuf_files where gun = $1`, string(p.GUN))
	if err == nil && n != int64(len(rows)) {
		err = fmt.Errorf("%w: %d rows went instead of %d", storage.ErrStale, n, len(rows))
	}
	if err == nil && n > 0 {
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
		string(p.GUN), sqldb.Stamp(s.db.Now()), p.Archive, p.Digest, cut(p.Actor, maxActor), p.Reason, strings.Join(ids, " "))
}

// stopWriters lets all who write to tuf_files finish, and keeps others from it
// until tx ends. The timestamp is locked first, as every publish does in that
// order, so that nobody waits for a row of ours while we wait for his table.
func (s *Store) stopWriters(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil // the whole file is locked
	}
	if err := s.lockTimestamp(ctx, tx, gun); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `lock table tuf_files in share row exclusive mode`)
	return err
}

func files(ctx context.Context, q sqldb.Querier, gun tuf.GUN) ([]storage.FileInfo, error) {
	return sqldb.Collect(ctx, q, scanInfo, `select `+infoColumns+` from tuf_files where gun = $1 order by id`, string(gun))
}

// EndPurge lets remove do what is left of the purge outside of this database,
// and records its end. Nobody else ends it meanwhile, so that remove does not
// come after a restoration that has waited for the end. If it has ended already,
// remove is not called, and the answer is false. remove may be called again, and
// has a few seconds.
func (s *Store) EndPurge(ctx context.Context, id int64, remove func(context.Context, Purge) error) (ended bool, err error) {
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		ended = false
		lock := ``
		if s.db.Dialect() == sqldb.Postgres {
			lock = ` for update`
		}
		p, err := sqldb.One(ctx, tx, scanPurge, `select `+purgeColumns+` from countersign_purge where id = cast($1 as bigint) and ended is null`+lock, id)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		removing, cancel := context.WithTimeout(ctx, removeTime)
		defer cancel()
		if err := remove(removing, p); err != nil {
			return err
		}
		for _, key := range p.Keys {
			if _, err := tx.Exec(ctx, `delete from countersign_doomed_key where key_id = $1 and gun = $2`, string(key), string(p.GUN)); err != nil {
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

// A Restoration is a repository on its way back.
type Restoration struct {
	GUN     tuf.GUN
	Files   []storage.FileInfo // in the order in which they were written
	Changes []storage.Change
	// Each calls f for each of Files, in that order, with its bytes. It may be
	// called more than once.
	Each  func(f func(storage.FileRow) error) error
	Event storage.Event

	keepIDs bool // of Changes; see Import
}

// Restore writes back all rows of a repository of which there are none, as they
// were but for their IDs; entries of the changefeed that are missing; one more
// entry for the newest timestamp; and the event: all or nothing. If all the rows
// are there already it does nothing and returns false. If others are, the error
// wraps storage.ErrVersionConflict.
func (s *Store) Restore(ctx context.Context, r Restoration) (done bool, err error) {
	err = s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		done, err = s.restore(ctx, tx, r)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("restoring: %w", err)
	}
	return done, nil
}

func (s *Store) restore(ctx context.Context, tx *sqldb.Tx, r Restoration) (bool, error) {
	if err := s.stopWriters(ctx, tx, r.GUN); err != nil {
		return false, err
	}
	have, err := files(ctx, tx, r.GUN)
	if err != nil {
		return false, err
	}
	if len(have) > 0 {
		if Holds(have, r.Files) {
			return false, nil
		}
		return false, fmt.Errorf("%w: %d rows of %s are there", storage.ErrVersionConflict, len(have), r.GUN)
	}
	i := 0
	if err := r.Each(func(f storage.FileRow) error {
		if i == len(r.Files) || r.Files[i] != f.FileInfo {
			return fmt.Errorf("%w: %s version %d does not follow", storage.ErrInvalid, f.Role, f.Version)
		}
		i++
		return insertRow(ctx, tx, r.GUN, f)
	}); err != nil {
		return false, err
	}
	if i != len(r.Files) {
		return false, fmt.Errorf("%w: %d files are missing", storage.ErrInvalid, len(r.Files)-i)
	}
	changes := s.restoreChanges
	if r.keepIDs {
		changes = s.importChanges
	}
	if err := changes(ctx, tx, r); err != nil {
		return false, err
	}
	return true, s.record(ctx, tx, r.Event)
}

// Holds reports whether have has all the rows of want, whatever their IDs.
func Holds(have, want []storage.FileInfo) bool {
	stored := make(map[storage.FileInfo]bool, len(have))
	for _, f := range have {
		stored[bare(f)] = true
	}
	for _, f := range want {
		if !stored[bare(f)] {
			return false
		}
	}
	return true
}

// bare is f without its ID, and with times as they can be stored.
func bare(f storage.FileInfo) storage.FileInfo {
	f.ID = 0
	for _, t := range []*time.Time{&f.Created, &f.Updated, &f.Deleted} {
		*t = t.Truncate(time.Microsecond)
	}
	return f
}

func insertRow(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN, f storage.FileRow) error {
	var sum any
	if f.SHA256 != "" {
		sum = f.SHA256
	}
	data := f.Data
	if data == nil {
		data = []byte{}
	}
	_, err := tx.Exec(ctx, `insert into tuf_files (created_at, updated_at, deleted_at, gun, role, version, sha256, data)
		values ($1, $2, $3, $4, $5, $6, $7, $8)`,
		sqldb.StampOrNull(f.Created), sqldb.StampOrNull(f.Updated), sqldb.StampOrNull(f.Deleted), string(gun), string(f.Role), int64(f.Version), sum, data)
	return err
}

// restoreChanges adds what the feed lacks. Entries that are there stay, whatever
// ID they have; those that are added get IDs at the end of the feed, so that no
// reader has passed them.
func (s *Store) restoreChanges(ctx context.Context, tx *sqldb.Tx, r Restoration) error {
	stored, err := sqldb.Collect(ctx, tx, scanChange, `select id, created_at, gun, version, sha256, category from changefeed where gun = $1 order by id`, string(r.GUN))
	if err != nil {
		return err
	}
	count := map[storage.Change]int{}
	for _, c := range stored {
		c.ID = 0
		count[c]++
	}
	for _, c := range r.Changes {
		c.ID, c.GUN = 0, r.GUN
		if count[c]--; count[c] >= 0 {
			continue
		}
		var sum any
		if c.SHA256 != "" {
			sum = c.SHA256
		}
		if _, err := tx.Exec(ctx, `insert into changefeed (created_at, gun, version, sha256, category) values ($1, $2, $3, $4, $5)`,
			sqldb.StampOrNull(c.CreatedAt), string(c.GUN), int64(c.Version), sum, c.Category); err != nil {
			return err
		}
	}
	newest := storage.FileInfo{}
	for _, f := range r.Files {
		if f.Role == tuf.RoleTimestamp && f.Deleted.IsZero() && f.Version > newest.Version {
			newest = f
		}
	}
	if newest.Version == 0 {
		return nil
	}
	return change(ctx, tx, sqldb.Stamp(s.db.Now()), storage.Change{GUN: r.GUN, Version: newest.Version, SHA256: newest.SHA256, Category: storage.ChangeUpdate})
}

// MaxTimestamp is the highest version that a timestamp of gun has had, as far as
// the changefeed and the rows know; 0 if there was none.
func (s *Store) MaxTimestamp(ctx context.Context, gun tuf.GUN) (tuf.Version, error) {
	v, err := sqldb.One(ctx, s.db, scanID, `select coalesce(max(version), 0) from (
			select version from changefeed where gun = $1
			union all
			select version from tuf_files where gun = $1 and role = 'timestamp') v`, string(gun))
	if err != nil {
		return 0, fmt.Errorf("finding the highest timestamp: %w", err)
	}
	return tuf.Version(v), nil
}

// Succeed stores a timestamp of gun that follows base, with a higher version that
// need not be the next one: what Publish never does. The error wraps
// storage.ErrStale if base is no longer the newest.
func (s *Store) Succeed(ctx context.Context, gun tuf.GUN, base tuf.Checksum, next storage.Metadata, e storage.Event) error {
	err := s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		if err := s.stopWriters(ctx, tx, gun); err != nil {
			return err
		}
		newest, err := sqldb.One(ctx, tx, scan, `select `+columns+` from tuf_files
			where gun = $1 and role = 'timestamp' and deleted_at is null order by version desc limit 1`, string(gun))
		switch {
		case err != nil:
			return err
		case newest.Checksum != base:
			return storage.ErrStale
		case next.Role != tuf.RoleTimestamp || next.Version <= newest.Version:
			return fmt.Errorf("%w: %s version %d on version %d", storage.ErrInvalid, next.Role, next.Version, newest.Version)
		}
		now := s.db.Now()
		if err := insertRow(ctx, tx, gun, storage.FileRow{Data: next.Data, FileInfo: storage.FileInfo{
			Role: next.Role, Version: next.Version, SHA256: next.Checksum.String(), Created: now, Updated: now}}); err != nil {
			return err
		}
		if err := s.record(ctx, tx, e); err != nil {
			return err
		}
		return change(ctx, tx, sqldb.Stamp(now), storage.Change{GUN: gun, Version: next.Version, SHA256: next.Checksum.String(), Category: storage.ChangeUpdate})
	})
	if err != nil {
		return fmt.Errorf("storing version %s of the timestamp: %w", strconv.Itoa(int(next.Version)), err)
	}
	return nil
}
