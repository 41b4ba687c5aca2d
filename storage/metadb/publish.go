package metadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// maxFiles keeps a set below the number of parameters that a statement may
// have: 32,766 in SQLite.
const maxFiles = 4000

// Publish implements storage.MetadataStore. In PostgreSQL it is one statement,
// unless rows of an earlier life must go first, or the set has a Mark; in SQLite,
// and then, a transaction.
//
// Why no two publishes on one base can both be stored: the version of a set's
// timestamp is that of its base plus one, and (gun, timestamp, version) is
// unique. So nothing that the statement has looked at can have been changed by
// another publish when it commits: that publish would have taken the version.
func (s *Store) Publish(ctx context.Context, set storage.Set) error {
	p, err := newPublish(set)
	if err == nil {
		err = s.publish(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("storing metadata: %w", err)
	}
	return nil
}

func (s *Store) publish(ctx context.Context, p *publish) error {
	p.now = sqldb.Stamp(s.db.Now())
	if s.noAudit {
		p.Event = nil
	}
	unsure := false // an earlier sending of the statement may have been kept
	for try := range 4 {
		stored, err := false, error(nil)
		if try == 0 && s.db.Dialect() == sqldb.Postgres && p.Mark == nil {
			query, args := p.statement()
			var n int64
			n, unsure, err = s.db.ExecUnsure(ctx, query, args...)
			stored = n > 0
		} else {
			err = s.db.Tx(ctx, func(tx *sqldb.Tx) error { return s.inTx(ctx, tx, p) })
			stored = err == nil
		}
		if err != nil && !errors.Is(err, sqldb.ErrUnique) {
			return err
		}
		if stored {
			return nil
		}
		// Nothing was written. Why? If the answer is "no reason any more", or
		// rows that a transaction must remove, try that way.
		st, err := s.look(ctx, s.db, p)
		if err != nil {
			return err
		}
		if unsure && st.own {
			return nil
		}
		if err := p.refuse(st); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: others were faster each time", storage.ErrStale)
}

// publish is a set, checked and sorted out for SQL.
type publish struct {
	storage.Set
	now       string
	timestamp storage.Metadata
	revived   []string
	// uploaded are the files whose role may not have an equal or higher
	// version: all but the snapshot and the timestamp, and the revived ones.
	uploaded []storage.Metadata
}

func newPublish(set storage.Set) (*publish, error) {
	p := &publish{Set: set}
	if set.GUN == "" || tuf.TooLong(string(set.GUN)) {
		return nil, fmt.Errorf("%w: GUN of %d bytes", storage.ErrTooLarge, len(set.GUN))
	}
	if len(set.Files) > maxFiles {
		return nil, fmt.Errorf("%w: %d files", storage.ErrTooLarge, len(set.Files))
	}
	for _, r := range set.Revived {
		p.revived = append(p.revived, string(r))
	}
	seen := make(map[tuf.RoleName]bool, len(set.Files))
	for _, f := range set.Files {
		switch {
		case tuf.TooLong(string(f.Role)):
			return nil, fmt.Errorf("%w: role name of %d bytes", storage.ErrTooLarge, len(f.Role))
		case f.Role == "" || f.Version < 1 || seen[f.Role]:
			return nil, fmt.Errorf("%w: file %q version %d", storage.ErrInvalid, f.Role, f.Version)
		}
		seen[f.Role] = true
		if f.Role == tuf.RoleTimestamp {
			p.timestamp = f
		} else if f.Role != tuf.RoleSnapshot && !slices.Contains(set.Revived, f.Role) {
			p.uploaded = append(p.uploaded, f)
		}
	}
	if set.Event != nil {
		e := *set.Event
		e.GUN, e.Roles = set.GUN, storage.RolesOf(set.Files)
		p.Event = &e
	}
	if p.timestamp.Role == "" {
		return nil, fmt.Errorf("%w: a set without a timestamp", storage.ErrInvalid)
	}
	if set.Base == nil && p.timestamp.Version != 1 {
		return nil, fmt.Errorf("%w: the first timestamp has version %d", storage.ErrInvalid, p.timestamp.Version)
	}
	return p, nil
}

// state is what the database holds, as far as a publish cares.
type state struct {
	base     string // checksum of the newest timestamp; "" if there is none
	version  int64  // and its version
	conflict bool   // an uploaded role has an equal or higher version
	own      bool   // this very timestamp is stored
	remains  bool   // a root, a targets or a snapshot is stored
}

// refuse says why the set can not be stored on st, or nil.
func (p *publish) refuse(st state) error {
	switch {
	case st.base == "" && st.remains:
		// Whoever began anew here would take over the name, and with it would
		// go what the owner may need to mend it.
		return fmt.Errorf("%w: there are files, but no timestamp", storage.ErrDamaged)
	case st.base == "" && p.Base == nil:
		return nil // whatever else the GUN holds is debris
	case st.base == "":
		return fmt.Errorf("%w: the repository has been deleted", storage.ErrStale)
	case st.conflict:
		return storage.ErrVersionConflict
	case p.Base == nil || st.base != p.Base.String():
		return storage.ErrStale
	case st.version+1 != int64(p.timestamp.Version):
		return fmt.Errorf("%w: timestamp version %d on version %d", storage.ErrInvalid, p.timestamp.Version, st.version)
	}
	return nil
}

// remains selects what makes a GUN without a timestamp a damaged one. Other
// rows of it, of delegations or marked as deleted, are debris.
func remains(gun string) string {
	return `select 1 from tuf_files
		where gun = ` + gun + ` and role in ('root', 'targets', 'snapshot') and deleted_at is null`
}

// look reads the state in one query.
func (s *Store) look(ctx context.Context, q sqldb.Querier, p *publish) (state, error) {
	var a arguments
	gun := a.add(string(p.GUN))
	query := `with uploaded (role, version) as (` + a.versions(p.uploaded) + `),
		newest as (
			select sha256, version from tuf_files
			where gun = ` + gun + ` and role = 'timestamp' and deleted_at is null
			order by version desc limit 1)
		select coalesce((select coalesce(sha256, '?') from newest), ''), coalesce((select version from newest), 0),
			exists (` + conflict(gun) + `),
			exists (select 1 from tuf_files
				where gun = ` + gun + ` and role = 'timestamp' and deleted_at is null
					and version = ` + a.add(int64(p.timestamp.Version)) + ` and sha256 = ` + a.add(p.timestamp.Checksum.String()) + `),
			exists (` + remains(gun) + `)`
	return sqldb.One(ctx, q, func(r *sql.Rows) (st state, err error) {
		err = r.Scan(&st.base, &st.version, &st.conflict, &st.own, &st.remains)
		return st, err
	}, query, a...)
}

// conflict selects live rows that stand in the way of the list "uploaded".
func conflict(gun string) string {
	return `select 1 from uploaded u join tuf_files f on f.role = u.role and f.version >= u.version
		where f.gun = ` + gun + ` and f.deleted_at is null`
}

// statement writes the one statement of PostgreSQL. It inserts all files and
// the changefeed row, or nothing.
//
// The timestamp that the set builds on is locked first. A deletion of the GUN,
// by a server or typed by hand, either has that row already, and then this
// statement waits, finds it gone and inserts nothing; or waits for this one.
// (What it leaves then is the affair of the trigger countersign_whole_delete.)
//
// The changefeed row is inserted when all files are: "put" is counted to its
// end first. Its trigger holds a lock that all writers share until the commit,
// and who waits for a duplicate while holding it could deadlock.
//
// It needs no client to end once it has been sent, so that a server whose host
// dies in the middle of it holds no lock for longer than another does. It waits
// for a row no longer than a Tx would; the trigger bounds its own wait.
func (p *publish) statement() (string, []any) {
	var a arguments
	gun, now := a.add(string(p.GUN))+"::text", a.add(p.now)+"::timestamp"
	version := a.add(int64(p.timestamp.Version)) + "::integer"
	sum := a.add(p.timestamp.Checksum.String()) + "::text"
	var b strings.Builder
	b.WriteString(`with `)
	p.free(&b, &a, gun, version)
	b.WriteString(`,
		file (n, role, version, sha256, data) as (values `)
	for i, f := range p.Files {
		if i > 0 {
			b.WriteString(`, `)
		}
		fmt.Fprintf(&b, `(%d, %s::text, %s::integer, %s::text, %s::bytea)`, i,
			a.add(string(f.Role)), a.add(int64(f.Version)), a.add(f.Checksum.String()), a.add(bytesOf(f)))
	}
	fmt.Fprintf(&b, `),
		put as (
			insert into tuf_files (created_at, updated_at, gun, role, version, sha256, data)
			select %[2]s, %[2]s, %[1]s, role, version, sha256, data from free, file order by n
			returning 1)`, gun, now)
	if p.Event != nil {
		fmt.Fprintf(&b, `,
		audited as (
			insert into countersign_audit (%s)
			select %s from (select count(*) as n from put) p where p.n = %d)`, eventColumns, eventRow(&a, *p.Event, p.now), len(p.Files))
	}
	fmt.Fprintf(&b, `
		insert into changefeed (created_at, gun, version, sha256, category)
		select %[2]s, %[1]s, %[3]s, %[4]s, 'update' from (select count(*) as n from put) p where p.n = %[5]d`,
		gun, now, version, sum, len(p.Files))
	return b.String(), a
}

// bounded is true, and bounds the waits for locks in the rest of the statement.
const bounded = `(select set_config('lock_timeout', '` + sqldb.LockTimeout + `', true)) is not null`

// free writes the queries that find one row if the set may be stored. Each part
// costs the planner time, so only those are written that have something to ask.
func (p *publish) free(b *strings.Builder, a *arguments, gun, version string) {
	if p.Base == nil {
		b.WriteString(`free as (select 1 where ` + bounded + ` and not exists (select 1 from tuf_files where gun = ` + gun + `))`)
		return
	}
	if len(p.uploaded) > 0 {
		b.WriteString(`uploaded (role, version) as (` + a.versions(p.uploaded) + `),
		`)
	}
	b.WriteString(`base as (
			select sha256, version from tuf_files
			where ` + bounded + ` and gun = ` + gun + ` and role = 'timestamp' and deleted_at is null
			order by version desc limit 1
			for no key update),
		free as (
			select 1 from base
			where sha256 = ` + a.add(p.Base.String()) + ` and version = ` + version + ` - 1`)
	if len(p.uploaded) > 0 {
		b.WriteString(`
				and not exists (` + conflict(gun) + `)`)
	}
	if len(p.revived) > 0 {
		b.WriteString(`
				and not exists (select 1 from tuf_files
					where gun = ` + gun + ` and role = any(` + a.add(sqldb.Postgres.List(p.revived)) + `::text[]))`)
	}
	b.WriteString(`)`)
}

// inTx stores the set in a transaction, after removing what is in its way and
// no part of the current generation: debris, the rows of an earlier life of
// revived roles, and rows marked deleted, which nobody can see but which hold
// their version.
func (s *Store) inTx(ctx context.Context, tx *sqldb.Tx, p *publish) error {
	if s.db.Dialect() == sqldb.Postgres && p.Base != nil {
		// As in the single statement. What is looked at below is looked at
		// after the wait for this lock.
		if _, err := sqldb.Collect(ctx, tx, scanID, lockQuery, string(p.GUN)); err != nil {
			return err
		}
	}
	st, err := s.look(ctx, tx, p)
	if err != nil {
		return err
	}
	if err := p.refuse(st); err != nil {
		return err
	}
	if err := clear(ctx, tx, p); err != nil {
		return err
	}
	if err := insert(ctx, tx, p); err != nil {
		return err
	}
	if err := p.marked(ctx, tx); err != nil {
		return err
	}
	if p.Event != nil {
		if err := s.record(ctx, tx, *p.Event); err != nil {
			return err
		}
	}
	return change(ctx, tx, p.now, storage.Change{
		GUN: p.GUN, Version: p.timestamp.Version, SHA256: p.timestamp.Checksum.String(), Category: storage.ChangeUpdate,
	})
}

// marked refuses a set whose GUN has lived and died since its Mark. It comes
// after the insertion, whose unique constraint has waited for everybody else who
// began the GUN: had he been first, and been deleted since, then the deletion has
// committed, and this statement sees it. Who comes later waits for us.
func (p *publish) marked(ctx context.Context, tx *sqldb.Tx) error {
	if p.Mark == nil || p.Base != nil {
		return nil
	}
	last, err := sqldb.One(ctx, tx, scanID, lastChange, string(p.GUN))
	if err == nil && last != int64(*p.Mark) {
		err = fmt.Errorf("%w: the repository was begun and deleted meanwhile", storage.ErrStale)
	}
	return err
}

func clear(ctx context.Context, tx *sqldb.Tx, p *publish) error {
	if p.Base == nil {
		// The condition again, in the statement: on PostgreSQL another first
		// publish may have committed since we looked, and is no debris.
		_, err := tx.Exec(ctx, `delete from tuf_files where gun = $1 and not exists (
			select 1 from tuf_files t where t.gun = $1 and t.role = 'timestamp' and t.deleted_at is null)
			and not exists (`+remains("$1")+`)`, string(p.GUN))
		return err
	}
	var a arguments
	gun := a.add(string(p.GUN))
	var in []string
	for _, r := range p.revived {
		in = append(in, a.add(r))
	}
	query := `with stored (role, version) as (` + a.versions(p.Files) + `)
		delete from tuf_files where gun = ` + gun + ` and (
			deleted_at is not null and exists (
				select 1 from stored s where s.role = tuf_files.role and s.version = tuf_files.version)`
	if len(in) > 0 {
		query += ` or role in (` + strings.Join(in, ", ") + `)`
	}
	_, err := tx.Exec(ctx, query+`)`, a...)
	return err
}

func insert(ctx context.Context, tx *sqldb.Tx, p *publish) error {
	var (
		a    arguments
		rows []string
	)
	gun, now := a.add(string(p.GUN)), a.add(p.now)
	for _, f := range p.Files {
		rows = append(rows, fmt.Sprintf(`(%[2]s, %[2]s, %[1]s, %[3]s, %[4]s, %[5]s, %[6]s)`, gun, now,
			a.add(string(f.Role)), a.add(int64(f.Version)), a.add(f.Checksum.String()), a.add(bytesOf(f))))
	}
	_, err := tx.Exec(ctx, `insert into tuf_files (created_at, updated_at, gun, role, version, sha256, data)
		values `+strings.Join(rows, ", "), a...)
	return err
}

// bytesOf is never nil, which would be NULL.
func bytesOf(f storage.Metadata) []byte {
	if f.Data == nil {
		return []byte{}
	}
	return f.Data
}

// arguments collects the arguments of a statement whose number of placeholders
// varies.
type arguments []any

// add returns the placeholder of v.
func (a *arguments) add(v any) string {
	*a = append(*a, v)
	return fmt.Sprintf("$%d", len(*a))
}

// versions writes the roles and versions of files as rows; one of nulls, which
// matches nothing, if there are none.
func (a *arguments) versions(files []storage.Metadata) string {
	if len(files) == 0 {
		return `select cast(null as text), cast(null as integer)`
	}
	var b strings.Builder
	b.WriteString(`values `)
	for i, f := range files {
		if i > 0 {
			b.WriteString(`, `)
		}
		fmt.Fprintf(&b, `(cast(%s as text), cast(%s as integer))`, a.add(string(f.Role)), a.add(int64(f.Version)))
	}
	return b.String()
}
