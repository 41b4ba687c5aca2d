package migrations

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
)

// Locks
//
// Programs may be publishing, ours and upstream's, while this changes their
// tables. Three things follow. A transaction here takes no more than one lock that
// they wait for, so that none of them and it can each hold what the other wants;
// it takes it last, and commits. It gives up after slice: all who write queue
// behind a lock that is waited for. And slice is shorter than PostgreSQL's
// deadlock_timeout, as upstream's publish asks on a second connection while its
// transaction is open on the first, so that PostgreSQL cannot see who waits for whom.

// slice is how long a table is waited for at a time.
const slice = "300ms"

// MigrateWait is how long Migrate goes on trying to get a table.
const MigrateWait = time.Minute

// adoptTries is how often Adopt tries to get one.
const adoptTries = 3

// change closes gaps; with all set, those too that only Migrate closes, and with
// more patience.
func change(ctx context.Context, db *sqldb.DB, s Schema, all bool) (*Finding, []string, error) {
	f, err := Inspect(ctx, db, s)
	if err != nil {
		return f, nil, err
	}
	if g := f.blocked(); g != nil {
		return f, nil, f.refusal(*g)
	}
	if f.ReadOnly || len(f.ours(all)) == 0 {
		return f, nil, nil
	}
	c := &changer{db: db, s: s, all: all, database: f.Database, home: f.Home, until: time.Now().Add(MigrateWait), tried: map[string]string{}}
	if err := c.together(ctx, f); err != nil {
		return f, c.did, err
	}
	for _, g := range f.ours(all) {
		if g.alone == "" {
			continue
		}
		if err := c.single(ctx, g); err != nil {
			return f, c.did, err
		}
	}
	if f, err = Inspect(ctx, db, s); err != nil {
		return f, c.did, err
	}
	for i, g := range f.Gaps {
		f.Gaps[i].Tried = c.tried[g.What]
	}
	return f, c.did, nil
}

// ours are the gaps that a start, or all of Migrate, closes with our rights.
func (f *Finding) ours(all bool) []Gap {
	return slices.DeleteFunc(slices.Clone(f.Gaps), func(g Gap) bool { return g.Owner != "" || g.repair && !all })
}

// A changer is one call of Adopt or Migrate.
type changer struct {
	db    *sqldb.DB
	s     Schema
	all   bool
	until time.Time         // end of Migrate's patience
	did   []string          // in words
	tried map[string]string // why a gap could not be closed, by Gap.What

	database, home string
}

// together closes, in one transaction, the gaps that stand in nobody's way.
func (c *changer) together(ctx context.Context, f *Finding) error {
	list := slices.DeleteFunc(f.ours(c.all), func(g Gap) bool { return g.alone != "" })
	if len(list) == 0 {
		return nil
	}
	err := c.transaction(ctx, sqldb.LockTimeout, func(g Gap) bool { return g.alone == "" })
	required := slices.ContainsFunc(list, func(g Gap) bool { return g.Required })
	if err == nil || required || c.all || !errors.Is(err, sqldb.ErrLocked) {
		return err
	}
	for _, g := range list {
		c.tried[g.What] = err.Error()
	}
	return nil
}

// single closes a gap on a table that others may be writing to.
func (c *changer) single(ctx context.Context, g Gap) error {
	for try := 1; ; try++ {
		err := c.transaction(ctx, slice, func(o Gap) bool { return o.What == g.What })
		switch {
		case err == nil, ctx.Err() != nil:
			return err
		case !errors.Is(err, sqldb.ErrLocked):
			if c.all || errors.Is(err, storage.ErrUnavailable) {
				return err
			}
			// The programs can do without it, whatever the reason is.
			c.tried[g.What] = err.Error()
			return nil
		case !c.all && try >= adoptTries, c.all && time.Now().After(c.until):
			c.tried[g.What] = err.Error()
			if by := c.holders(ctx, g.alone); by != "" {
				c.tried[g.What] = fmt.Sprintf("table %s is in use by %s", g.alone, by)
			}
			return nil
		}
		// Long enough for all who have queued up behind us to be done.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

// holders says who has locked the table against us, as far as our role may know; ""
// if nobody has, any more. Of what it runs it tells two words, which hold no secret.
func (c *changer) holders(ctx context.Context, table string) string {
	list, err := sqldb.Collect(ctx, c.db, text, `select format('process %s (%s)', l.pid, coalesce(substring(a.query from '^\s*(\S+(?:\s+\S+)?)'), 'query unknown'))
		from pg_locks l left join pg_stat_activity a on a.pid = l.pid
		where l.relation = to_regclass($1) and l.database = (select d.oid from pg_database d where d.datname = current_database())
			and l.granted and l.mode not in ('AccessShareLock', 'RowShareLock') order by l.pid limit 5`, table)
	if err != nil {
		return ""
	}
	return clean(join(list))
}

// transaction closes the gaps that take says. Each is looked for anew under the
// lock: another replica may have been faster.
func (c *changer) transaction(ctx context.Context, timeout string, take func(Gap) bool) error {
	var did []string
	err := c.db.Tx(ctx, func(tx *sqldb.Tx) error {
		did = nil
		if err := c.lock(ctx, tx, timeout); err != nil {
			return err
		}
		before, err := inspect(ctx, tx, c.db, c.s)
		if err != nil {
			return err
		}
		if g := before.blocked(); g != nil {
			return before.refusal(*g)
		}
		if c.db.Dialect() == sqldb.Postgres {
			if err := searchHome(ctx, tx, before); err != nil {
				return err
			}
		}
		did, err = before.close(ctx, tx, slices.DeleteFunc(before.ours(c.all), func(g Gap) bool { return !take(g) }), c.all)
		return err
	})
	if err == nil {
		c.did = append(c.did, did...)
	}
	return err
}

// refusal is the error for a gap that we may not close and cannot do without.
func (f *Finding) refusal(g Gap) error {
	if f.ReadOnly {
		return fmt.Errorf("%w: %s, and the database is read-only, perhaps a standby: name its primary in storage.db_url", storage.ErrUnavailable, g.What)
	}
	return fmt.Errorf("%w: %s: %s; role %s has no right to mend it: as role %s run %s", sqldb.ErrRights, g.What, g.Means, f.Role, g.Owner, f.Command(g))
}

// lock keeps other replicas, and upstream's migration tool, from the schema
// until the transaction ends. From then on statements wait for timeout.
func (c *changer) lock(ctx context.Context, tx *sqldb.Tx, timeout string) error {
	if c.db.Dialect() != sqldb.Postgres {
		return nil // SQLite has locked the file
	}
	// Another replica may be at it for long, building an index; ctx alone
	// bounds the wait for it. No writer waits for this lock.
	if _, err := tx.Exec(ctx, `set local lock_timeout = 0`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `set local lock_timeout = '`+timeout+`'`); err != nil {
		return err
	}
	for _, id := range toolLocks(c.database, c.home) {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, id); err != nil {
			return fmt.Errorf("waiting for upstream's migration tool, which is at work on this database: %w", err)
		}
	}
	return nil
}

// searchHome has unqualified names made where the tables are.
func searchHome(ctx context.Context, tx *sqldb.Tx, f *Finding) error {
	_, err := tx.Exec(ctx, `select set_config('search_path', quote_ident($1) || ', ' || current_setting('search_path'), true)`, f.Home)
	return err
}

// close runs the statements of the gaps, and says which it has closed. Our
// additions are tried: with rights that we could not see to be missing, the
// program does without them.
func (f *Finding) close(ctx context.Context, tx *sqldb.Tx, list []Gap, all bool) ([]string, error) {
	var did []string
	created := false
	for _, g := range list {
		done, err := g.close(ctx, tx)
		if err != nil {
			return nil, fmt.Errorf("mending that %s: %w", g.What, err)
		}
		if done {
			did = append(did, g.did())
			created = created || g.table != ""
		}
	}
	if created && f.Versions != nil && !all {
		return did, advance(ctx, tx, f.Schema, f)
	}
	return did, nil
}

func (g Gap) close(ctx context.Context, tx *sqldb.Tx) (bool, error) {
	if g.Required {
		for _, s := range g.SQL {
			if _, err := tx.Exec(ctx, s); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return attempt(ctx, tx, g.SQL)
}

// attempt runs statements that we may have no right to; then none of them has run.
func attempt(ctx context.Context, tx *sqldb.Tx, list []string) (bool, error) {
	if _, err := tx.Exec(ctx, `savepoint gap`); err != nil {
		return false, err
	}
	for _, s := range list {
		_, err := tx.Exec(ctx, s)
		if errors.Is(err, sqldb.ErrRights) {
			_, err = tx.Exec(ctx, `rollback to savepoint gap`)
			return false, err
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// did says that the gap is closed.
func (g Gap) did() string { return "mended: " + g.What }
