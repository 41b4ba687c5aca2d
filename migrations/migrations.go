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
	"slices"
	"strings"

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

// ErrShape is a database whose tables lack something that the stores need. The
// text names the table and what is missing.
var ErrShape = errors.New("unusable database schema")

// lockKey is the advisory lock under which a schema is changed, so that any
// number of replicas may start at once.
const lockKey = 4850187264918235502

// A table that the stores need. Its file creates it.
type table struct {
	name    string
	columns []string
	unique  []string // columns that must be unique together, sorted
}

// upstreamVersion is what upstream's migration tool records for these tables.
var upstreamVersion = map[Schema]int64{Server: 2, Signer: 1}

// tables are in the order in which they refer to each other.
var tables = map[Schema][]table{
	Server: {
		{"tuf_files", []string{"id", "created_at", "updated_at", "deleted_at", "gun", "role", "version", "data", "sha256"}, []string{"gun", "role", "version"}},
		{"change_category", []string{"category"}, []string{"category"}},
		{"changefeed", []string{"id", "created_at", "gun", "version", "sha256", "category"}, []string{"id"}},
	},
	Signer: {
		{"private_keys", []string{"id", "created_at", "updated_at", "deleted_at", "key_id", "encryption_alg", "keywrap_alg", "algorithm",
			"passphrase_alias", "public", "private", "gun", "role", "last_used"}, []string{"key_id"}},
	},
}

// Apply creates the tables of s that are missing, and our additions to them, in
// one transaction. It changes nothing, and needs no more rights than reading,
// if all is there. The error wraps ErrShape if a table exists but lacks
// something, and storage.ErrUnavailable if the database cannot be asked.
func Apply(ctx context.Context, db *sqldb.DB, s Schema) error {
	if _, known := tables[s]; !known {
		return fmt.Errorf("applying migrations: no schema %q", s)
	}
	missing, err := look(ctx, db, db.Dialect(), s)
	if err == nil && !missing.any() {
		return nil
	}
	if err == nil {
		err = db.Tx(ctx, func(tx *sqldb.Tx) error { return apply(ctx, tx, db.Dialect(), s) })
	}
	if err != nil {
		return fmt.Errorf("applying %s migrations: %w", s, err)
	}
	return nil
}

// Check reports, without writing, whether the stores can work on the tables of
// s as they are: nil, or an error that wraps ErrShape.
func Check(ctx context.Context, db *sqldb.DB, s Schema) error {
	missing, err := look(ctx, db, db.Dialect(), s)
	if err == nil && len(missing.tables) > 0 {
		err = fmt.Errorf("%w: table %s is missing", ErrShape, missing.tables[0].name)
	}
	if err != nil {
		return fmt.Errorf("checking %s schema: %w", s, err)
	}
	return nil
}

// gaps is what a database lacks.
type gaps struct {
	tables    []table
	additions []addition
	version   bool // no schema_migrations
}

func (g gaps) any() bool { return len(g.tables) > 0 || len(g.additions) > 0 || g.version }

func apply(ctx context.Context, tx *sqldb.Tx, d sqldb.Dialect, s Schema) error {
	if d == sqldb.Postgres {
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
	}
	// Look again: another replica may have been faster.
	missing, err := look(ctx, tx, d, s)
	if err != nil {
		return err
	}
	for _, t := range missing.tables {
		if err := run(ctx, tx, d, s, t.name+".sql"); err != nil {
			return fmt.Errorf("creating table %s: %w", t.name, err)
		}
	}
	for _, a := range missing.additions {
		if err := a.create(ctx, tx, d, s); err != nil {
			return fmt.Errorf("adding %s to table %s (which takes its owner's rights): %w", a.name, a.table, err)
		}
	}
	if d == sqldb.Postgres {
		return recordVersion(ctx, tx, s, missing)
	}
	return nil
}

func run(ctx context.Context, tx *sqldb.Tx, d sqldb.Dialect, s Schema, file string) error {
	text, err := files.ReadFile(fmt.Sprintf("%s/%s/%s", s, d, file))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, string(text))
	return err
}

// look compares the database with what the stores need.
func look(ctx context.Context, q sqldb.Querier, d sqldb.Dialect, s Schema) (gaps, error) {
	var g gaps
	for _, t := range tables[s] {
		have, err := columns(ctx, q, d, t.name)
		if err != nil {
			return g, err
		}
		if len(have) == 0 {
			g.tables = append(g.tables, t)
			continue
		}
		var lack []string
		for _, c := range t.columns {
			if !slices.Contains(have, c) {
				lack = append(lack, c)
			}
		}
		if len(lack) > 0 {
			return g, fmt.Errorf("%w: table %s has no column %s", ErrShape, t.name, strings.Join(lack, ", "))
		}
		ok, err := hasUnique(ctx, q, d, t)
		if err != nil {
			return g, err
		}
		if !ok {
			return g, fmt.Errorf("%w: table %s has no unique constraint on (%s)", ErrShape, t.name, strings.Join(t.unique, ", "))
		}
	}
	for _, a := range additions(d, s) {
		there, err := a.there(ctx, q, d)
		if err != nil {
			return g, err
		}
		if !there {
			g.additions = append(g.additions, a)
		}
	}
	if d == sqldb.Postgres {
		have, err := columns(ctx, q, d, "schema_migrations")
		if err != nil {
			return g, err
		}
		g.version = len(have) == 0
	}
	return g, nil
}

func text(r *sql.Rows) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}

// columns lists the columns of the table that statements would find under that
// name, in whatever schema of the search path; none if there is no such table.
func columns(ctx context.Context, q sqldb.Querier, d sqldb.Dialect, name string) ([]string, error) {
	query := `select name from pragma_table_info($1)`
	if d == sqldb.Postgres {
		query = `select attname::text from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`
	}
	return sqldb.Collect(ctx, q, text, query, name)
}

// hasUnique looks for a unique constraint or index on exactly t.unique: it is
// the arbiter between racing writers, so a table without it is of no use.
func hasUnique(ctx context.Context, q sqldb.Querier, d sqldb.Dialect, t table) (bool, error) {
	query := `select group_concat(c.name, ',') from (
			select l.name as idx, i.name as name from pragma_index_list($1) l, pragma_index_info(l.name) i
			where l."unique" and not l.partial
			union all select '', name from pragma_table_info($1) where pk > 0
			order by 1, 2) c
		group by c.idx`
	if d == sqldb.Postgres {
		query = `select string_agg(a.attname::text, ',' order by a.attname::text)
			from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
			where i.indrelid = to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
			group by i.indexrelid`
	}
	have, err := sqldb.Collect(ctx, q, text, query, t.name)
	if err != nil {
		return false, err
	}
	want := slices.Sorted(slices.Values(t.unique))
	return slices.Contains(have, strings.Join(want, ",")), nil
}

// recordVersion leaves schema_migrations as upstream's tool would, so that the
// tool, run later, finds nothing to do. An existing table is left alone, in
// whatever form, unless it says that a table which we have just created is
// still to come.
func recordVersion(ctx context.Context, tx *sqldb.Tx, s Schema, missing gaps) error {
	v := upstreamVersion[s]
	if missing.version {
		if _, err := tx.Exec(ctx, `create table schema_migrations (version bigint primary key, dirty boolean not null)`); err != nil {
			return fmt.Errorf("creating table schema_migrations: %w", err)
		}
		_, err := tx.Exec(ctx, `insert into schema_migrations (version, dirty) values ($1, false)`, v)
		return err
	}
	if len(missing.tables) == 0 {
		return nil
	}
	have, err := columns(ctx, tx, sqldb.Postgres, "schema_migrations")
	if err != nil || !slices.Contains(have, "dirty") || !slices.Contains(have, "version") {
		return err
	}
	_, err = tx.Exec(ctx, `update schema_migrations set version = $1, dirty = false
		where version < $1 and not exists (select 1 from schema_migrations where version >= $1)
			and (select count(*) from schema_migrations) = 1`, v)
	return err
}
