package metadb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

var (
	_ storage.AuditLog  = (*Store)(nil)
	_ storage.Graveyard = (*Store)(nil)
)

// Widths of the columns of countersign_audit. What is longer is cut: an event
// must not be lost for the length of a name.
const (
	maxActor     = 300
	maxRequestID = 128
)

const eventColumns = `at, action, gun, actor, request_id, roles, reason`

// eventRow adds the values of e as arguments, and returns their placeholders.
func eventRow(a *arguments, e storage.Event, now string) string {
	at := now
	if !e.At.IsZero() {
		at = sqldb.Stamp(e.At)
	}
	row := `cast(` + a.add(at) + ` as timestamp)`
	for _, v := range []string{e.Action, string(e.GUN), cut(e.Actor, maxActor), cut(e.RequestID, maxRequestID), e.Roles, e.Reason} {
		row += `, ` + a.add(v) + `::text`
	}
	return row
}

// cut makes s fit a column of so many bytes: no database takes half a character
// or a NUL.
func cut(s string, most int) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
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
		sqldb.Stamp(at), e.Action, string(e.GUN), cut(e.Actor, maxActor), cut(e.RequestID, maxRequestID), e.Roles, e.Reason)
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

// doom remembers the keys that the roots of gun list for the roles that a
// server may sign. Which of them the signer has, it will say itself. A root that
// cannot be parsed dooms nothing: what it lists can be found by hand only.
func (s *Store) doom(ctx context.Context, tx *sqldb.Tx, gun tuf.GUN) error {
	if s.noAudit {
		return nil
	}
	roots, err := sqldb.Collect(ctx, tx, scan, `select `+columns+` from tuf_files where gun = $1 and role = 'root'`, string(gun))
	if err != nil {
		return err
	}
	for _, r := range roots {
		for _, k := range serverKeys(gun, r.Data) {
			if err := doom(ctx, tx, k); err != nil {
				return err
			}
		}
	}
	return nil
}

func doom(ctx context.Context, tx *sqldb.Tx, k storage.DoomedKey) error {
	_, err := tx.Exec(ctx, `insert into countersign_doomed_key (key_id, gun, role) values ($1, $2, $3) on conflict (key_id) do nothing`,
		string(k.ID), string(k.GUN), string(k.Role))
	return err
}

// serverKeys lists the keys that a root lists for snapshot and timestamp.
func serverKeys(gun tuf.GUN, data []byte) (keys []storage.DoomedKey) {
	env, err := tuf.ParseEnvelope(data)
	if err != nil {
		return nil
	}
	root, err := env.Root()
	if err != nil {
		return nil
	}
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		authority := root.Authority(role)
		for _, id := range authority.KeyIDs {
			if canonical, err := authority.Keys[id].CanonicalID(); err == nil && canonical != "" {
				keys = append(keys, storage.DoomedKey{GUN: gun, Role: role, ID: canonical})
			}
		}
	}
	return keys
}

// Doomed implements storage.Graveyard.
func (s *Store) Doomed(ctx context.Context, after tuf.KeyID, limit int) ([]storage.DoomedKey, error) {
	if s.noAudit {
		return nil, nil
	}
	list, err := sqldb.Collect(ctx, s.db, func(r *sql.Rows) (k storage.DoomedKey, err error) {
		err = r.Scan(&k.ID, &k.GUN, &k.Role)
		return k, err
	}, `select key_id, gun, role from countersign_doomed_key where key_id > $1 order by key_id limit $2`, string(after), limit)
	if err != nil {
		return nil, fmt.Errorf("listing keys of deleted repositories: %w", err)
	}
	return list, nil
}

// Buried implements storage.Graveyard.
func (s *Store) Buried(ctx context.Context, id tuf.KeyID) error {
	if _, err := s.db.Exec(ctx, `delete from countersign_doomed_key where key_id = $1`, string(id)); err != nil {
		return fmt.Errorf("forgetting the key of a deleted repository: %w", err)
	}
	return nil
}
