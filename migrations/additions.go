package migrations

import (
	"context"
	"fmt"

	"countersign/storage/sqldb"
)

// An addition is an object of ours on one of upstream's tables: an index, or a
// trigger with its function.
type addition struct {
	name  string
	table string
	// file creates the index, or holds the body of the trigger's function.
	file string
	// trigger is when the function is called; empty for an index.
	trigger string
	// settings are the properties of the function.
	settings string
}

// additions lists ours. SQLite has one writer at a time, so that it needs no
// trigger to put writers in order.
func additions(d sqldb.Dialect, s Schema) []addition {
	switch {
	case s == Signer:
		return []addition{{name: "countersign_unused_key", table: "private_keys", file: "unused_index.sql"}}
	case d == sqldb.Postgres:
		return []addition{
			{
				name: "countersign_changefeed_order", table: "changefeed", file: "changefeed_order.plpgsql",
				trigger:  `before insert on changefeed for each row`,
				settings: `set lock_timeout = '` + sqldb.LockTimeout + `'`,
			},
			{
				name: "countersign_delete_begins", table: "tuf_files", file: "delete_begins.plpgsql",
				trigger:  `before delete on tuf_files for each statement`,
				settings: `stable set search_path = pg_catalog`,
			},
			{
				name: "countersign_whole_delete", table: "tuf_files", file: "whole_delete.plpgsql",
				trigger:  `after delete on tuf_files referencing old table as gone for each statement`,
				settings: `set search_path = pg_catalog`,
			},
		}
	}
	return nil
}

// there reports whether the object exists. A trigger whose function has another
// body than ours, left by another release, counts as missing.
func (a addition) there(ctx context.Context, q sqldb.Querier, d sqldb.Dialect) (bool, error) {
	if a.trigger == "" {
		query := `select name from sqlite_schema where type = 'index' and name = $1`
		if d == sqldb.Postgres {
			query = `select relname::text from pg_class where oid = to_regclass($1) and relkind = 'i'`
		}
		found, err := sqldb.Collect(ctx, q, text, query, a.name)
		return len(found) > 0, err
	}
	body, err := files.ReadFile("server/postgres/" + a.file)
	if err != nil {
		return false, err
	}
	found, err := a.bodies(ctx, q)
	return len(found) == 1 && found[0] == string(body), err
}

// bodies returns the body of the trigger's function, if there is the trigger.
func (a addition) bodies(ctx context.Context, q sqldb.Querier) ([]string, error) {
	return sqldb.Collect(ctx, q, text, `select p.prosrc from pg_trigger t join pg_proc p on p.oid = t.tgfoid
		where t.tgrelid = to_regclass($1) and t.tgname = $2`, a.table, a.name)
}

func (a addition) create(ctx context.Context, tx *sqldb.Tx, d sqldb.Dialect, s Schema) error {
	if a.trigger == "" {
		return run(ctx, tx, d, s, a.file)
	}
	body, err := files.ReadFile("server/postgres/" + a.file)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("create or replace function %s() returns trigger language plpgsql %s as $body$%s$body$",
		a.name, a.settings, body)); err != nil {
		return err
	}
	found, err := a.bodies(ctx, tx)
	if err != nil || len(found) > 0 {
		return err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`create trigger %s %s execute function %s()`, a.name, a.trigger, a.name))
	return err
}
