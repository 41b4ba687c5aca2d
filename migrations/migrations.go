// Package migrations brings a database to the shape that the stores need. It
// creates what is missing and adopts what is there, by looking at the tables
// themselves: the version numbers that different tools have left in databases
// in the field cannot be relied on.
//
// The tables are upstream's, unchanged. What we add to them (indexes, triggers)
// upstream's programs neither see nor trip over.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"

	"countersign/storage"
	"countersign/storage/sqldb"
)

//go:embed server signer
var files embed.FS

// A Schema is the set of tables of one program.
type Schema string

// The two schemas. They may share a database, but upstream's migration tool
// expects one each.
const (
	Server Schema = "server"
	Signer Schema = "signer"
)

// ErrShape is a database whose tables lack something that the stores need and
// that only a person can decide about. The text names the table and what is wrong.
var ErrShape = errors.New("unusable database schema")

// lockKey is the advisory lock under which a schema is changed, so that any
// number of replicas may start at once.
const lockKey = 4850187264918235502

// Inspect looks at the tables of s and changes nothing; a standby will do. If
// the stores cannot work on them as they are and nothing here can mend it, the
// error wraps ErrShape, and the Finding says what was seen until then. The
// error wraps storage.ErrUnavailable if the database cannot be asked.
func Inspect(ctx context.Context, db *sqldb.DB, s Schema) (*Finding, error) {
	f := &Finding{Schema: s}
	err := known(s)
	if err == nil {
		err = db.View(ctx, func(tx *sqldb.Tx) (err error) {
			f, err = inspect(ctx, tx, db.Dialect(), s)
			return err
		})
	}
	if err != nil {
		return f, fmt.Errorf("looking at the %s tables: %w", s, err)
	}
	return f, nil
}

// Adopt makes the tables of s ready for the stores, in one transaction: it
// creates those that are missing, mends what keeps them from being used, and
// makes our additions, as far as our role has the right to. What is left to do
// is in the Finding; the programs can work without it. If all is there nothing is changed, and
// no right but to read is needed. An existing schema_migrations is not touched,
// except to count on from a right version when a table of the next was created.
//
// The error wraps ErrShape as that of Inspect, sqldb.ErrRights if something that
// the stores need cannot be made with our rights (the text holds the SQL), and
// storage.ErrUnavailable if the database cannot be asked, or is read-only and
// not ready.
func Adopt(ctx context.Context, db *sqldb.DB, s Schema) (*Finding, error) {
	f, _, err := change(ctx, db, s, false)
	if err != nil {
		return f, fmt.Errorf("applying %s migrations: %w", s, err)
	}
	return f, nil
}

// Migrate does what Adopt does and sets schema_migrations right, so that
// upstream's migration tool finds nothing to do, all in one transaction. It
// returns what it did, in words. Upstream's tool must not be at work: Migrate
// waits for it a few seconds, then gives up with storage.ErrUnavailable.
func Migrate(ctx context.Context, db *sqldb.DB, s Schema) (f *Finding, did []string, err error) {
	f, did, err = change(ctx, db, s, true)
	if err != nil {
		return f, nil, fmt.Errorf("migrating the %s tables: %w", s, err)
	}
	return f, did, nil
}

// Apply is Adopt for callers who do not care what was found.
func Apply(ctx context.Context, db *sqldb.DB, s Schema) error {
	_, err := Adopt(ctx, db, s)
	return err
}

// Check looks, without writing, whether the stores can work on the tables of s
// as they are. If not, the error wraps ErrShape.
func Check(ctx context.Context, db *sqldb.DB, s Schema) (*Finding, error) {
	f, err := Inspect(ctx, db, s)
	if err == nil {
		for _, g := range f.Gaps {
			if g.Required {
				return f, fmt.Errorf("checking %s schema: %w: %s: %s", s, ErrShape, g.What, g.Means)
			}
		}
	}
	return f, err
}

func known(s Schema) error {
	if _, known := tables[s]; !known {
		return fmt.Errorf("no schema %q", s)
	}
	return nil
}

func inspect(ctx context.Context, q sqldb.Querier, d sqldb.Dialect, s Schema) (*Finding, error) {
	if d == sqldb.Postgres {
		return inspectPostgres(ctx, q, s)
	}
	return inspectSQLite(ctx, q, s)
}

// change closes gaps; with all set, those too that only Migrate closes.
func change(ctx context.Context, db *sqldb.DB, s Schema, all bool) (*Finding, []string, error) {
	f, err := Inspect(ctx, db, s)
	if err != nil {
		return f, nil, err
	}
	if g := f.blocked(); g != nil {
		return f, nil, f.refusal(*g)
	}
	if f.ReadOnly || len(f.starting()) == 0 && (!all || !f.closable()) {
		return f, nil, nil
	}
	var did []string
	err = db.Tx(ctx, func(tx *sqldb.Tx) error {
		did = nil
		if err := lock(ctx, tx, f); err != nil {
			return err
		}
		// Look again: another replica may have been faster.
		before, err := inspect(ctx, tx, db.Dialect(), s)
		if err != nil {
			return err
		}
		if g := before.blocked(); g != nil {
			return before.refusal(*g)
		}
		if did, err = before.close(ctx, tx, all); err != nil {
			return err
		}
		f, err = inspect(ctx, tx, db.Dialect(), s)
		return err
	})
	return f, did, err
}

// refusal is the error for a gap that we may not close and cannot do without.
func (f *Finding) refusal(g Gap) error {
	if f.ReadOnly {
		return fmt.Errorf("%w: %s, and the database is read-only, perhaps a standby: name its primary in storage.db_url", storage.ErrUnavailable, g.What)
	}
	return fmt.Errorf("%w: %s: %s; role %s has no right to mend it: as role %s run %s", sqldb.ErrRights, g.What, g.Means, f.Role, g.Owner, f.Command(g))
}

// lock keeps other replicas, and upstream's migration tool, from the schema
// until the transaction ends.
func lock(ctx context.Context, tx *sqldb.Tx, f *Finding) error {
	if f.Versions == nil {
		return nil // SQLite has locked the file
	}
	// Another replica may be at it for long, building an index; ctx alone
	// bounds the wait for it. For other locks the bound stays: those who
	// wait for a table have all its writers wait behind them.
	if _, err := tx.Exec(ctx, `set local lock_timeout = 0`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `set local lock_timeout = '`+sqldb.LockTimeout+`'`); err != nil {
		return err
	}
	for _, id := range toolLocks(f.Database, f.Home) {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, id); err != nil {
			return fmt.Errorf("waiting for upstream's migration tool, which is at work on this database: %w", err)
		}
	}
	_, err := tx.Exec(ctx, `select set_config('search_path', quote_ident($1) || ', ' || current_setting('search_path'), true)`, f.Home)
	return err
}

// close runs the statements of the gaps, and says which it has closed. Our
// additions are tried: with rights that we could not see to be missing, the
// program does without them.
func (f *Finding) close(ctx context.Context, tx *sqldb.Tx, all bool) ([]string, error) {
	var did []string
	created := false
	for _, g := range f.Gaps {
		if g.Owner != "" || g.repair && !all {
			continue
		}
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
	if !g.Required {
		if _, err := tx.Exec(ctx, `savepoint gap`); err != nil {
			return false, err
		}
	}
	for _, s := range g.SQL {
		_, err := tx.Exec(ctx, s)
		if errors.Is(err, sqldb.ErrRights) && !g.Required {
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

func text(r *sql.Rows) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}
