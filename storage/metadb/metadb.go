// Package metadb is the storage.MetadataStore in SQL: upstream's tables
// tuf_files and changefeed, in PostgreSQL or SQLite.
package metadb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// Store is a storage.MetadataStore. Its methods may be called at once from any
// number of goroutines, and any number of Stores, in other processes too, may
// share a database.
type Store struct {
	db      *sqldb.DB
	noAudit bool

	// mu guards cursor. It is never held during a query.
	mu     sync.Mutex
	cursor tuf.GUN // the last GUN that Due has returned
}

var _ storage.MetadataStore = (*Store)(nil)

// New returns the store in db, whose tables package migrations has made.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// WithoutAudit returns a store on the same database that neither writes an
// audit log nor remembers the keys of deleted repositories: for a database whose
// owner has not made our tables.
func (s *Store) WithoutAudit() *Store { return &Store{db: s.db, noAudit: true} }

// Check makes sure that the tables can be read. It is what a health check asks.
func (s *Store) Check(ctx context.Context) error {
	for _, table := range []string{"tuf_files", "changefeed"} {
		if _, err := sqldb.Collect(ctx, s.db, scanID, `select id from `+table+` where id = 0`); err != nil {
			return fmt.Errorf("reading table %s: %w", table, err)
		}
	}
	return nil
}

func scanID(r *sql.Rows) (id int64, err error) {
	err = r.Scan(&id)
	return id, err
}

// columns are what scan reads. The checksum is always made from the bytes: it
// is what clients will do, and the column may be empty or wrong in rows that
// were typed by hand.
const columns = `role, version, data, created_at`

func scan(r *sql.Rows) (storage.Metadata, error) {
	var (
		m       storage.Metadata
		created sql.NullTime
	)
	if err := r.Scan(&m.Role, &m.Version, &m.Data, &created); err != nil {
		return m, err
	}
	m.Checksum = tuf.Sum(m.Data)
	m.CreatedAt = created.Time.UTC()
	return m, nil
}

// ByChecksum implements storage.MetadataStore.
func (s *Store) ByChecksum(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sum tuf.Checksum) (storage.Metadata, error) {
	m, err := s.byChecksum(ctx, gun, role, sum)
	if err != nil {
		return m, fmt.Errorf("loading %s by checksum: %w", role, err)
	}
	return m, nil
}

func (s *Store) byChecksum(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sum tuf.Checksum) (storage.Metadata, error) {
	found, err := sqldb.Collect(ctx, s.db, scan, `select `+columns+` from tuf_files
		where gun = $1 and role = $2 and sha256 = $3 and deleted_at is null order by id`, string(gun), string(role), sum.String())
	if err != nil {
		return storage.Metadata{}, err
	}
	for _, m := range found {
		if m.Checksum == sum {
			return m, nil
		}
	}
	if len(found) > 0 {
		return storage.Metadata{}, fmt.Errorf("%w: the bytes stored under checksum %s have another one", storage.ErrDamaged, sum)
	}
	return storage.Metadata{}, storage.ErrNotFound
}

// ByVersion implements storage.MetadataStore.
func (s *Store) ByVersion(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version tuf.Version) (storage.Metadata, error) {
	m, err := sqldb.One(ctx, s.db, scan, `select `+columns+` from tuf_files
		where gun = $1 and role = $2 and version = $3 and deleted_at is null`, string(gun), string(role), int64(version))
	if err != nil {
		return m, fmt.Errorf("loading %s version %d: %w", role, version, err)
	}
	return m, nil
}

// Delete implements storage.MetadataStore. It repeats the deletion until it
// finds no row: a publish that held the timestamp row when the first statement
// began has left rows that this one could not see. No other publish can come
// between, since each must lock a timestamp that is now deleted.
func (s *Store) Delete(ctx context.Context, gun tuf.GUN) (bool, error) {
	var deleted int64
	err := s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		deleted = 0
		if err := s.lockTimestamp(ctx, tx, gun); err != nil {
			return err
		}
		if err := s.doom(ctx, tx, gun); err != nil {
			return err
		}
		for {
			n, err := tx.Exec(ctx, `delete from tuf_files where gun = $1`, string(gun))
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			deleted += n
		}
		if deleted == 0 {
			return nil
		}
		if err := s.record(ctx, tx, storage.Event{Action: storage.ActionDelete, GUN: gun, Origin: storage.OriginOf(ctx)}); err != nil {
			return err
		}
		return change(ctx, tx, sqldb.Stamp(s.db.Now()), storage.Change{GUN: gun, Category: storage.ChangeDeletion})
	})
	if err != nil {
		return false, fmt.Errorf("deleting repository: %w", err)
	}
	return deleted > 0, nil
}

// lockTimestamp locks the newest timestamp before any other row of gun is
// touched. Every publish does so too, and one that removes rows could otherwise
// hold what this deletion waits for while it waits for what that holds.
func (s *Store) lockTimestamp(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil // the whole file is locked
	}
	for last := []int64(nil); ; {
		newest, err := sqldb.Collect(ctx, tx, scanID, lockQuery, string(gun))
		// The one that was waited for need not be the newest any more; the one
		// that is still the newest when looked at again is.
		if err != nil || slices.Equal(newest, last) {
			return err
		}
		last = newest
	}
}

// lockQuery locks the newest timestamp of a GUN in PostgreSQL.
const lockQuery = `select id from tuf_files
	where gun = $1 and role = 'timestamp' and deleted_at is null
	order by version desc limit 1 for no key update`

func change(ctx context.Context, tx *sqldb.Tx, now string, c storage.Change) error {
	_, err := tx.Exec(ctx, `insert into changefeed (created_at, gun, version, sha256, category) values ($1, $2, $3, $4, $5)`,
		now, string(c.GUN), int64(c.Version), c.SHA256, c.Category)
	return err
}

// Changes implements storage.MetadataStore.
func (s *Store) Changes(ctx context.Context, q storage.ChangeQuery) ([]storage.Change, error) {
	modes := 0
	for _, set := range []bool{q.After != 0, q.Before != 0, q.Newest} {
		if set {
			modes++
		}
	}
	if q.Limit <= 0 || q.Before < 0 || modes > 1 {
		return nil, fmt.Errorf("%w: changefeed query %+v", storage.ErrInvalid, q)
	}
	where, order, id := `id > cast($1 as bigint)`, `id`, q.After
	switch {
	case q.Newest:
		where, order = `id > cast($1 as bigint)`, `id desc`
		id = -1
	case q.Before > 0:
		where, order, id = `id < cast($1 as bigint)`, `id desc`, q.Before
	}
	args := []any{id, q.Limit}
	if q.GUN != "" {
		where += ` and gun = $3`
		args = append(args, string(q.GUN))
	}
	list, err := sqldb.Collect(ctx, s.db, scanChange, `select id, created_at, gun, version, sha256, category
		from changefeed where `+where+` order by `+order+` limit $2`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading changefeed: %w", err)
	}
	if order != `id` {
		slices.Reverse(list)
	}
	return list, nil
}

func scanChange(r *sql.Rows) (storage.Change, error) {
	var (
		c       storage.Change
		created sql.NullTime
		sum     sql.NullString
	)
	if err := r.Scan(&c.ID, &created, &c.GUN, &c.Version, &sum, &c.Category); err != nil {
		return c, err
	}
	c.CreatedAt = created.Time.UTC()
	c.SHA256 = strings.TrimRight(sum.String, " ") // PostgreSQL pads char(64)
	return c, nil
}

// Due lists at most limit GUNs whose current timestamp was made before a time.
// Each call goes on behind the last GUN of the call before and around, so that
// GUNs which cannot be renewed do not keep the others from their turn. It costs
// two look-ups in an index for each GUN it passes, however many versions there are.
func (s *Store) Due(ctx context.Context, before time.Time, limit int) ([]tuf.GUN, error) {
	s.mu.Lock()
	start := s.cursor
	s.mu.Unlock()
	list, err := s.due(ctx, before, start, limit)
	if err == nil && start != "" && len(list) < limit {
		var rest []tuf.GUN
		rest, err = s.due(ctx, before, "", limit-len(list))
		for _, g := range rest {
			if !slices.Contains(list, g) {
				list = append(list, g)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing timestamps to renew: %w", err)
	}
	if len(list) > 0 {
		s.mu.Lock()
		s.cursor = list[len(list)-1]
		s.mu.Unlock()
	}
	return list, nil
}

// due walks from one GUN to the next through the unique index, rather than
// through all versions of all timestamps.
func (s *Store) due(ctx context.Context, before time.Time, after tuf.GUN, limit int) ([]tuf.GUN, error) {
	return sqldb.Collect(ctx, s.db, scanGUN, `with recursive g (gun) as (
			select (select min(f.gun) from tuf_files f where f.gun > $1)
			union all
			select (select min(f.gun) from tuf_files f where f.gun > g.gun) from g where g.gun is not null
		)
		select g.gun from g where g.gun is not null and (
			select f.created_at from tuf_files f
			where f.gun = g.gun and f.role = 'timestamp' and f.deleted_at is null
			order by f.version desc limit 1) < $2
		limit $3`, string(after), sqldb.Stamp(before), limit)
}
