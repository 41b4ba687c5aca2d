// Package sqldb opens PostgreSQL or SQLite for the stores, runs their
// transactions, and turns what the drivers say into the errors of package
// storage. It knows no table.
package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"countersign/storage"
)

// A Dialect is one of the two databases, for the few statements that differ.
type Dialect string

// The names are those of upstream's configuration key "backend".
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite3"
)

// DefaultMaxOpen is the default of Config.MaxOpen. Two replicas of each program
// stay well below the 100 connections that PostgreSQL allows by default.
const DefaultMaxOpen = 20

// LockTimeout is how long a statement of a Tx waits for any one lock in
// PostgreSQL, as the server reads it. Honest holders are done in milliseconds; a
// statement that has waited for so long has met one that will not end.
const LockTimeout = "5s"

// bounds makes sure that a transaction whose client has stopped in its middle,
// or whose host is gone, does not hold its locks for as long as TCP takes to
// notice. A single statement needs it not: once sent, it needs no client to end.
const bounds = `set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '` + LockTimeout + `'`

// attempts is how often a transaction that lost to a deadlock or a
// serialization failure, or a statement whose connection broke, is tried.
const attempts = 4

// Config says which database to open.
type Config struct {
	// Backend is "postgres" or "sqlite3".
	Backend string
	// URL is, for PostgreSQL, a postgres:// URL or a key=value string, as
	// lib/pq reads them; for SQLite, a path or a file: URI. It may hold a
	// password, so no error ever repeats it.
	URL string
	// Password, if set, replaces the one in URL: for passwords kept in files,
	// which need no percent-encoding. PostgreSQL only.
	Password string
	// MaxOpen limits the connections to PostgreSQL (default DefaultMaxOpen), or
	// the readers of SQLite (which always has one writer).
	MaxOpen int
	// MaxIdle is how many of them are kept when idle: all by default, since a
	// new connection costs more than a publish.
	MaxIdle int
	// MaxLifetime is after how long a connection is made anew (default 30
	// minutes), so that load spreads again after a failover. PostgreSQL only.
	MaxLifetime time.Duration
	// ReadOnly opens the file as it is: not even its journal mode is changed.
	// Whatever writes fails. SQLite only.
	ReadOnly bool
	// Now is the clock of created_at and updated_at; time.Now by default.
	Now func() time.Time
}

// DB is an open database. Its methods may be called at once from any number of
// goroutines. Every error that it returns wraps a sentinel of package storage,
// or ErrUnique, or is an internal fault.
type DB struct {
	dialect Dialect
	read    *sql.DB // the same as write on PostgreSQL
	write   *sql.DB
	now     func() time.Time
	host    string // of the first server; "" for SQLite
	port    int
}

// Open opens the database and makes sure that it answers. The error wraps
// storage.ErrInvalid if c cannot work, and storage.ErrUnavailable if the
// database cannot be reached; it never holds the password.
func Open(ctx context.Context, c Config) (*DB, error) {
	if c.MaxOpen <= 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	if c.MaxIdle <= 0 {
		c.MaxIdle = c.MaxOpen
	}
	if c.MaxLifetime <= 0 {
		c.MaxLifetime = 30 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	db := &DB{dialect: Dialect(c.Backend), now: c.Now}
	var err error
	switch db.dialect {
	case Postgres:
		err = db.openPostgres(c)
	case SQLite:
		err = db.openSQLite(c)
	default:
		err = fmt.Errorf("%w: database backend %q is neither %q nor %q", storage.ErrInvalid, c.Backend, Postgres, SQLite)
	}
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if err := db.Ping(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("opening database: %w", err)
	}
	return db, nil
}

// Ping asks the database for a sign of life, on every pool.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.write.PingContext(ctx); err != nil {
		return translate(ctx, err)
	}
	if db.read == db.write {
		return nil
	}
	return translate(ctx, db.read.PingContext(ctx))
}

// Close ends all connections. Calls under way fail with storage.ErrUnavailable.
func (db *DB) Close() error {
	err := db.write.Close()
	if db.read != nil && db.read != db.write {
		err = errors.Join(err, db.read.Close())
	}
	return err
}

// Server is where PostgreSQL is: a name, an address or the folder of its socket, and
// the port. If several servers are named, it is the first. SQLite has none.
func (db *DB) Server() (host string, port int) { return db.host, db.port }

// Dialect says which database this is.
func (db *DB) Dialect() Dialect { return db.dialect }

// Stats describes the pools, for metrics: of writers, and of readers. On
// PostgreSQL both are the same pool.
func (db *DB) Stats() (write, read sql.DBStats) { return db.write.Stats(), db.read.Stats() }

// stampLayout is understood by both databases, and sorts as text.
const stampLayout = "2006-01-02 15:04:05.000000"

// Stamp writes t for a column without time zone: UTC, whole microseconds, which
// is what PostgreSQL keeps. Upstream wrote the local wall clock there.
func Stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

// StampOrNull is Stamp, or nil for the zero time.
func StampOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return Stamp(t)
}

// Time scans a column without time zone: UTC, or the zero time for null.
type Time time.Time

// Scan implements sql.Scanner.
func (t *Time) Scan(v any) error {
	var n sql.NullTime
	err := n.Scan(v)
	*t = Time{}
	if n.Valid {
		*t = Time(n.Time.UTC())
	}
	return err
}

// Now is the time of Config.Now in UTC and whole microseconds, as it will be
// read back.
func (db *DB) Now() time.Time { return db.now().UTC().Truncate(time.Microsecond) }

// List turns strings into one argument: a text[] on PostgreSQL (for unnest),
// a JSON array on SQLite (for json_each).
func (d Dialect) List(s []string) any {
	if d == Postgres {
		if s == nil {
			s = []string{}
		}
		return s
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	if s == nil {
		return "[]"
	}
	return string(b)
}

// A Querier runs queries: a DB or a Tx.
type Querier interface {
	query(ctx context.Context, query string, args []any) (*sql.Rows, error)
}

func (db *DB) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, query, args...)
}

// Collect runs a query and scans each row of the answer.
func Collect[T any](ctx context.Context, q Querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.query(ctx, query, args)
	if err != nil {
		return nil, translate(ctx, err)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, translate(ctx, err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, translate(ctx, err)
	}
	return list, nil
}

// One is Collect for a query that finds at most one row. It returns
// storage.ErrNotFound if there is none.
func One[T any](ctx context.Context, q Querier, scan func(*sql.Rows) (T, error), query string, args ...any) (T, error) {
	list, err := Collect(ctx, q, scan, query, args...)
	var zero T
	if err != nil {
		return zero, err
	}
	if len(list) == 0 {
		return zero, storage.ErrNotFound
	}
	return list[0], nil
}

// Exec runs a statement that may safely run twice, for it is sent again if its
// connection breaks, and returns how many rows it changed.
func (db *DB) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	var n int64
	err := retry(ctx, func() error {
		r, err := db.write.ExecContext(ctx, query, args...)
		if err != nil {
			return translate(ctx, err)
		}
		n, err = r.RowsAffected()
		return translate(ctx, err)
	})
	return n, err
}

// ExecUnsure runs one statement that decides for itself whether it still
// applies. If its connection breaks before the answer, it is sent again on one
// that has just proved to be alive, and unsure is true from then on: the first
// sending may have been committed, so that what the second one reports ("taken",
// no rows) may be the statement's own trace. database/sql would resend without a word.
func (db *DB) ExecUnsure(ctx context.Context, query string, args ...any) (n int64, unsure bool, err error) {
	err = retry(ctx, func() error {
		for try := 0; ; try++ {
			c, err := db.conn(ctx, try > 0)
			if err != nil {
				return err
			}
			n, err = execOn(ctx, c, query, args)
			if !errors.Is(err, errLost) {
				return err
			}
			unsure = true
			if try+1 == attempts || ctx.Err() != nil {
				return err
			}
		}
	})
	return n, unsure, err
}

func execOn(ctx context.Context, c *sql.Conn, query string, args []any) (int64, error) {
	defer c.Close()
	r, err := c.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, translate(ctx, err)
	}
	n, err := r.RowsAffected()
	return n, translate(ctx, err)
}

// conn takes a connection for writing. With alive set it is asked first: after
// a restart of the database every pooled connection is dead, and each is found
// to be so only by its use.
func (db *DB) conn(ctx context.Context, alive bool) (*sql.Conn, error) {
	for range db.write.Stats().MaxOpenConnections + 1 {
		c, err := db.write.Conn(ctx)
		if err != nil {
			return nil, translate(ctx, err)
		}
		if !alive {
			return c, nil
		}
		if err = c.PingContext(ctx); err == nil {
			return c, nil
		}
		c.Close()
		if ctx.Err() != nil {
			return nil, translate(ctx, err)
		}
	}
	return nil, fmt.Errorf("%w: no connection to the database stays open", storage.ErrUnavailable)
}

// A Tx is a transaction: READ COMMITTED on PostgreSQL, where it waits at most
// LockTimeout for a lock, and is ended if it does nothing for ten seconds; holding
// the write lock from its start on SQLite.
type Tx struct {
	tx *sql.Tx
}

// Tx runs f in a transaction and commits unless f fails. f runs again, at most
// a few times, if the database asks for it (deadlock, serialization), so it
// must have no effect but on the database. If the connection breaks during the
// commit the error is storage.ErrUnavailable and the outcome is unknown.
func (db *DB) Tx(ctx context.Context, f func(*Tx) error) error {
	return retry(ctx, func() error {
		opts := &sql.TxOptions{}
		if db.dialect == Postgres {
			opts.Isolation = sql.LevelReadCommitted
		}
		tx, err := db.write.BeginTx(ctx, opts)
		if err != nil {
			return translate(ctx, err)
		}
		defer tx.Rollback()
		if db.dialect == Postgres {
			if _, err := tx.ExecContext(ctx, bounds); err != nil {
				return translate(ctx, err)
			}
		}
		if err := f(&Tx{tx: tx}); err != nil {
			return err
		}
		return translate(ctx, tx.Commit())
	})
}

func (tx *Tx) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	return tx.tx.QueryContext(ctx, query, args...)
}

// Exec runs a statement in the transaction and returns how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := tx.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, translate(ctx, err)
	}
	n, err := r.RowsAffected()
	return n, translate(ctx, err)
}

// retry runs f again while it loses to a deadlock or a serialization failure.
func retry(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if try == attempts || !errors.Is(err, errRetry) || ctx.Err() != nil {
			return err
		}
		// The losers of a deadlock should not meet again at once.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(try) * (5*time.Millisecond + rand.N(20*time.Millisecond))):
		}
	}
}

// Clock is the time of the machine that the database runs on.
func (db *DB) Clock(ctx context.Context) (time.Time, error) {
	query := `select clock_timestamp()`
	if db.dialect == SQLite {
		return time.Now().UTC(), nil // it runs here
	}
	return One(ctx, db, func(r *sql.Rows) (t time.Time, err error) {
		err = r.Scan(&t)
		return t.UTC(), err
	}, query)
}
