package metadb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"countersign/storage"
	"countersign/storage/sqldb"
)

var _ storage.AuditLog = (*Store)(nil)

// Widths of the columns of countersign_audit. What is longer is cut: an event
// must not be lost for the length of a name.
const (
	maxActor     = 300
	maxRequestID = 128
	maxReason    = 4000 // of a column without a width
)

const eventColumns = `at, action, gun, actor, request_id, roles, reason`

// eventRow adds the values of e as arguments, and returns their placeholders.
func eventRow(a *arguments, e storage.Event, now string) string {
	at := now
	if !e.At.IsZero() {
		at = sqldb.Stamp(e.At)
	}
	row := `cast(` + a.add(at) + ` as timestamp)`
	for _, v := range []string{e.Action, string(e.GUN), cut(e.Actor, maxActor), cut(e.RequestID, maxRequestID), e.Roles, cut(e.Reason, maxReason)} {
		row += `, ` + a.add(v) + `::text`
	}
	return row
}

// cut makes s fit a column of so many bytes, in ASCII: what a database encoding
// lacks (LATIN1, SQL_ASCII), half a character or a NUL would fail the statement,
// and with it the publish that is being recorded. A backslash is doubled, so that
// what is read is what was written.
func cut(s string, most int) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		text := s[:n]
		switch {
		case r == utf8.RuneError && n == 1:
			text = fmt.Sprintf(`\x%02x`, s[0])
		case r == '\\':
			text = `\\`
		case r < ' ' || r > '~':
			text = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		if b.Len()+len(text) > most {
			break
		}
		b.WriteString(text)
		s = s[n:]
	}
	return b.String()
}

// Record implements storage.AuditLog.
func (s *Store) Record(ctx context.Context, e storage.Event) error {
	err := s.db.Tx(ctx, func(tx *sqldb.Tx) error { return s.record(ctx, tx, e) })
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	return nil
}

func (s *Store) record(ctx context.Context, tx *sqldb.Tx, e storage.Event) error {
	if s.noAudit {
		return nil
	}
	at := s.db.Now()
	if !e.At.IsZero() {
		at = e.At
	}
	_, err := tx.Exec(ctx, `insert into countersign_audit (`+eventColumns+`) values ($1, $2, $3, $4, $5, $6, $7)`,
		sqldb.Stamp(at), e.Action, string(e.GUN), cut(e.Actor, maxActor), cut(e.RequestID, maxRequestID), e.Roles, cut(e.Reason, maxReason))
	return err
}

// Events implements storage.AuditLog.
func (s *Store) Events(ctx context.Context, q storage.EventQuery) ([]storage.Event, error) {
	if q.Limit <= 0 || q.After != 0 && q.Newest {
		return nil, fmt.Errorf("%w: audit query %+v", storage.ErrInvalid, q)
	}
	where, order, args := `id > cast($1 as bigint)`, `id`, []any{q.After, q.Limit}
	if q.Newest {
		order, args[0] = `id desc`, int64(-1)
	}
	if q.GUN != "" {
		where += ` and gun = $3`
		args = append(args, string(q.GUN))
	}
	list, err := sqldb.Collect(ctx, s.db, scanEvent, `select id, `+eventColumns+` from countersign_audit
		where `+where+` order by `+order+` limit $2`, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	if q.Newest {
		slices.Reverse(list)
	}
	return list, nil
}

func scanEvent(r *sql.Rows) (e storage.Event, err error) {
	err = r.Scan(&e.ID, (*sqldb.Time)(&e.At), &e.Action, &e.GUN, &e.Actor, &e.RequestID, &e.Roles, &e.Reason)
	return e, err
}
