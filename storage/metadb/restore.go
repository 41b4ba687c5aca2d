package metadb

import (
	"context"
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
// wraps storage.ErrVersionConflict. Publishes to other GUNs go on meanwhile; one
// that begins this GUN is refused, or is first.
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
	if err := s.insertFiles(ctx, tx, r); err != nil {
		return false, err
	}
	changes := s.restoreChanges
	if r.keepIDs {
		changes = s.importChanges
	}
	if err := changes(ctx, tx, r); err != nil {
		return false, err
	}
	// On PostgreSQL nobody else can write to the changefeed by now, which is the
	// last thing that a publish does: one that was faster has committed.
	n, err := sqldb.One(ctx, tx, scanID, `select count(*) from tuf_files where gun = $1`, string(r.GUN))
	if err == nil && n != int64(len(r.Files)) {
		err = fmt.Errorf("%w: %d rows of %s are there that are not these", storage.ErrVersionConflict, n-int64(len(r.Files)), r.GUN)
	}
	if err != nil {
		return false, err
	}
	return true, s.record(ctx, tx, r.Event)
}

// insertFiles writes the rows, some at a time.
func (s *Store) insertFiles(ctx context.Context, tx *sqldb.Tx, r Restoration) error {
	i, size := 0, int64(0)
	var batch []storage.FileRow
	flush := func() error {
		err := insertRows(ctx, tx, r.GUN, batch)
		batch, size = batch[:0], 0
		if errors.Is(err, sqldb.ErrUnique) {
			err = fmt.Errorf("%w: %w", storage.ErrVersionConflict, err)
		}
		return err
	}
	if err := r.Each(func(f storage.FileRow) error {
		if i == len(r.Files) || r.Files[i] != f.FileInfo {
			return fmt.Errorf("%w: %s version %d does not follow", storage.ErrInvalid, f.Role, f.Version)
		}
		i++
		if len(batch) > 0 && (len(batch) == batchRows || size+f.Size > batchBytes) {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, f), size+f.Size
		return nil
	}); err != nil {
		return err
	}
	if i != len(r.Files) {
		return fmt.Errorf("%w: %d files are missing", storage.ErrInvalid, len(r.Files)-i)
	}
	return flush()
}

// batchRows is how many rows one statement inserts at most.
const batchRows = 500

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

func insertRows(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN, list []storage.FileRow) error {
	if len(list) == 0 {
		return nil
	}
	var a arguments
	var rows []string
	name := a.add(string(gun))
	for _, f := range list {
		data := f.Data
		if data == nil {
			data = []byte{}
		}
		rows = append(rows, fmt.Sprintf(`(%s, %s, %s, %s, %s, %s, %s, %s)`,
			a.add(sqldb.StampOrNull(f.Created)), a.add(sqldb.StampOrNull(f.Updated)), a.add(sqldb.StampOrNull(f.Deleted)),
			name, a.add(string(f.Role)), a.add(int64(f.Version)), a.add(textOrNull(f.SHA256)), a.add(data)))
	}
	_, err := tx.Exec(ctx, `insert into tuf_files (created_at, updated_at, deleted_at, gun, role, version, sha256, data)
		values `+strings.Join(rows, ", "), a...)
	return err
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
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
	var missing []storage.Change
	for _, c := range r.Changes {
		c.ID, c.GUN = 0, r.GUN
		if count[c]--; count[c] < 0 {
			missing = append(missing, c)
		}
	}
	if err := insertChanges(ctx, tx, missing); err != nil {
		return err
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

// insertChanges writes many entries with few statements: who writes to the feed
// has all others wait for his commit.
func insertChanges(ctx context.Context, tx *sqldb.Tx, list []storage.Change) error {
	for page := range slices.Chunk(list, batchRows) {
		var a arguments
		var rows []string
		for _, c := range page {
			rows = append(rows, fmt.Sprintf(`(%s, %s, %s, %s, %s)`,
				a.add(sqldb.StampOrNull(c.CreatedAt)), a.add(string(c.GUN)), a.add(int64(c.Version)), a.add(textOrNull(c.SHA256)), a.add(c.Category)))
		}
		if _, err := tx.Exec(ctx, `insert into changefeed (created_at, gun, version, sha256, category) values `+strings.Join(rows, ", "), a...); err != nil {
			return err
		}
	}
	return nil
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
		if err := s.claim(ctx, tx, gun); err != nil {
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
		if err := insertRows(ctx, tx, gun, []storage.FileRow{{Data: next.Data, FileInfo: storage.FileInfo{
			Role: next.Role, Version: next.Version, SHA256: next.Checksum.String(), Created: now, Updated: now}}}); err != nil {
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
