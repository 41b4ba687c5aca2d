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
	"net"

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
			f, err = inspect(ctx, tx, db, s)
			return err
		})
	}
	if err != nil {
		return f, fmt.Errorf("looking at the %s tables: %w", s, err)
	}
	return f, nil
}

// Adopt makes the tables of s ready for the stores: it creates those that are
// missing, mends what keeps them from being used, and makes our additions, as far
// as our role has the right to. What is left to do is in the Finding; the programs
// can work without it. If all is there nothing is changed, and no right but to
// read is needed. An existing schema_migrations is not touched, except to count
// on from a right version when a table of the next was created.
//
// New tables are made in one transaction. What changes a table that others may be
// writing to is done after that, each in a transaction of its own, which waits
// for the table a fraction of a second at a time: those who write wait no longer.
// Where the table cannot be had within a few tries, since somebody vacuums it,
// say, the gap stays, and its Tried says who is in the way.
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
// upstream's migration tool finds nothing to do. It returns what it did, in words,
// also with an error.
// It is more patient than Adopt: for a table that somebody has locked it tries
// for MigrateWait. Upstream's tool must not be at work: Migrate waits for it a few
// seconds, then gives up with storage.ErrUnavailable.
func Migrate(ctx context.Context, db *sqldb.DB, s Schema) (f *Finding, did []string, err error) {
	f, did, err = change(ctx, db, s, true)
	if err != nil {
		return f, did, fmt.Errorf("migrating the %s tables: %w", s, err)
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

func inspect(ctx context.Context, q sqldb.Querier, db *sqldb.DB, s Schema) (*Finding, error) {
	if db.Dialect() != sqldb.Postgres {
		return inspectSQLite(ctx, q, s)
	}
	f, err := inspectPostgres(ctx, q, s)
	f.where = flags(db.Server())
	return f, err
}

// flags are those by which psql, run here, finds the server. That of this machine
// it finds itself, and is then believed without a password more often.
func flags(host string, port int) string {
	s := ""
	if ip := net.ParseIP(host); host != "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		s = " -h " + shell(host)
	}
	if port != 5432 {
		s += fmt.Sprintf(" -p %d", port)
	}
	return s
}

func text(r *sql.Rows) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}
