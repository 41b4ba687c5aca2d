package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"countersign/storage"
)

// ErrUnique is the violation of a unique constraint other than a primary key. Only the stores know what
// it means, so they turn it into a sentinel of package storage.
var ErrUnique = errors.New("unique constraint violated")

// ErrRights is a statement that the role may not run. Time does not heal it.
var ErrRights = errors.New("the database role lacks a right")

// ErrLocked is a lock that another transaction did not give back in time. It comes
// with storage.ErrUnavailable.
var ErrLocked = errors.New("a lock is held by another transaction")

var (
	// errRetry: the whole transaction may be run again.
	errRetry = errors.New("transaction has to be run again")
	// errLost: the connection broke, and what it was sent last may have been done.
	errLost = errors.New("database connection lost")
)

// translated is a driver's error with what it means. Its text is the driver's,
// for the log; errors.Is finds the meanings.
type translated struct {
	means []error
	cause error
	note  string // for the operator, where the driver's text does not say it
}

func (e *translated) Error() string {
	if e.note != "" {
		return e.note + ": " + e.cause.Error()
	}
	return e.cause.Error()
}

func (e *translated) Unwrap() []error { return append(e.means, e.cause) }

// translate turns a driver's error into one of package storage's.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, done := errors.AsType[*translated](err); done {
		return err
	}
	if e, ok := errors.AsType[*pq.Error](err); ok {
		return fromPostgres(ctx, e, err)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return fromSQLite(ctx, e, err)
	}
	_, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return storage.ErrNotFound
	case ctx.Err() != nil:
		return &translated{means: []error{storage.ErrUnavailable, ctx.Err()}, cause: err}
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isNet:
		return &translated{means: []error{storage.ErrUnavailable, errLost}, cause: err, note: "database connection"}
	case errors.Is(err, sql.ErrConnDone), errors.Is(err, sql.ErrTxDone), errors.Is(err, errConnect),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), err.Error() == "sql: database is closed":
		return &translated{means: []error{storage.ErrUnavailable}, cause: err}
	}
	return err
}

func fromPostgres(ctx context.Context, e *pq.Error, err error) error {
	t := &translated{cause: err}
	switch e.Code {
	case pqerror.UniqueViolation:
		// Primary keys are drawn from sequences, so no race can take one.
		// (The second name is what pgloader calls them.)
		if strings.HasSuffix(e.Constraint, "_pkey") || strings.HasSuffix(e.Constraint, "_primary") {
			t.note = "the sequence of IDs of table " + e.Table + " is behind its rows, perhaps after a restore (setval mends it)"
			return t
		}
		t.means = []error{ErrUnique}
		return t
	case pqerror.StringDataRightTruncation, pqerror.NumericValueOutOfRange:
		t.means = []error{storage.ErrTooLarge}
		return t
	case pqerror.CharacterNotInRepertoire, pqerror.UntranslatableCharacter:
		t.means = []error{storage.ErrInvalid}
		return t
	case pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected:
		t.means = []error{errRetry, storage.ErrUnavailable}
		return t
	case pqerror.ReadOnlySQLTransaction:
		t.note = "the database is read-only, perhaps a standby"
		t.means = []error{storage.ErrUnavailable}
		return t
	case pqerror.LockNotAvailable:
		t.note = "another transaction holds a lock for too long"
		t.means = []error{storage.ErrUnavailable, ErrLocked}
		return t
	case pqerror.InsufficientPrivilege:
		t.means = []error{ErrRights}
		if errors.Is(err, errConnect) {
			t.means = append(t.means, storage.ErrUnavailable)
		}
		return t
	case pqerror.IdleInTransactionSessionTimeout:
		t.means = []error{storage.ErrUnavailable}
		return t
	}
	switch e.Code.Class() {
	case pqerror.ClassProgramLimitExceeded:
		t.means = []error{storage.ErrTooLarge}
	case pqerror.ClassConnectionException:
		t.means = []error{storage.ErrUnavailable, errLost}
	case pqerror.ClassInsufficientResources, pqerror.ClassOperatorIntervention, pqerror.ClassSystemError:
		t.means = []error{storage.ErrUnavailable}
	default:
		// A refused login, or a database that does not exist: nobody was asked.
		if !errors.Is(err, errConnect) {
			return err
		}
		t.means = []error{storage.ErrUnavailable}
	}
	if ctx.Err() != nil {
		t.means = append(t.means, ctx.Err())
	}
	return t
}

func fromSQLite(ctx context.Context, e *sqlite.Error, err error) error {
	t := &translated{means: []error{storage.ErrUnavailable}, cause: err}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE:
		t.means = []error{ErrUnique}
		return t
	case sqlite3.SQLITE_CONSTRAINT_CHECK:
		// The only checks in our tables are the widths of upstream's columns.
		t.means = []error{storage.ErrTooLarge}
		return t
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_TOOBIG:
		t.means = []error{storage.ErrTooLarge}
		return t
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		// SQLite's waiters do not queue: under load one may be passed over
		// for the whole of the busy timeout, and deserves another turn.
		t.means = append(t.means, errRetry)
		t.note = "another process holds the SQLite file"
	case sqlite3.SQLITE_FULL:
		t.note = "the disk with the SQLite file is full"
	case sqlite3.SQLITE_READONLY:
		t.note = "the SQLite file or its folder is not writable"
	case sqlite3.SQLITE_CANTOPEN:
		t.note = "the SQLite file cannot be opened"
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT:
	default:
		return err
	}
	if ctx.Err() != nil {
		t.means = append(t.means, ctx.Err())
	}
	return t
}
