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
	// means is what follows where it is missing.
	means string
}

// additions lists ours. SQLite has one writer at a time, so that it needs no
// trigger to put writers in order.
func additions(d sqldb.Dialect, s Schema) []addition {
	switch {
	case s == Signer:
		return []addition{{name: "countersign_unused_key", table: "private_keys", file: "unused_index.sql",
			means: "new keys are made more slowly, the more keys there are"}}
	case d == sqldb.Postgres:
		return []addition{
			{
				name: "countersign_changefeed_order", table: "changefeed", file: "changefeed_order.plpgsql",
				trigger:  `before insert on changefeed for each row`,
				settings: `set lock_timeout = '` + sqldb.LockTimeout + `'`,
				means:    "as with upstream, who pages through the changefeed may miss an entry that was written at the same moment as another",
			},
			{
				name: "countersign_delete_begins", table: "tuf_files", file: "delete_begins.plpgsql",
				trigger:  `before delete on tuf_files for each statement`,
				settings: `stable set search_path = pg_catalog`,
				means:    "countersign_whole_delete cannot tell what a deletion saw, and removes nothing",
			},
			{
				name: "countersign_whole_delete", table: "tuf_files", file: "whole_delete.plpgsql",
				trigger:  `after delete on tuf_files referencing old table as gone for each statement`,
				settings: `set search_path = pg_catalog`,
				means:    "as with upstream, a deletion by upstream's server or by hand during a publish may leave half a repository, which is then refused",
			},
		}
	}
	return nil
}

// there reports whether the object exists. A trigger whose function has another
// body than ours, left by another release, counts as missing, and so does one that
// somebody has disabled.
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
	t, err := a.installed(ctx, q)
	return t != nil && t.Fires && t.Body == string(body), err
}

// An installed trigger is one that is there under our name.
type installed struct {
	Schema string // of its function
	Body   string
	Fires  bool // in ordinary sessions
}

// installed returns nil if there is none.
func (a addition) installed(ctx context.Context, q sqldb.Querier) (*installed, error) {
	t := &installed{}
	there, err := ask(ctx, q, t, `select json_build_object('Schema', n.nspname, 'Body', p.prosrc, 'Fires', t.tgenabled in ('O', 'A'))::text
		from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
		where t.tgrelid = to_regclass($1) and t.tgname = $2`, a.table, a.name)
	if !there {
		return nil, err
	}
	return t, err
}

// statements create the object, or bring it up to date. The function lives beside the
// table: the first schema of the search path may be one that we may not write to.
// No trigger is dropped without need: that waits for readers too, such as a dump.
func (a addition) statements(ctx context.Context, q sqldb.Querier, schema string, s Schema) ([]string, error) {
	body, err := files.ReadFile(fmt.Sprintf("%s/postgres/%s", s, a.file))
	if err != nil {
		return nil, err
	}
	if a.trigger == "" {
		return []string{string(body)}, nil
	}
	t, err := a.installed(ctx, q)
	if err != nil {
		return nil, err
	}
	name, on := quote(schema)+"."+a.name, quote(schema)+"."+a.table
	list := []string{fmt.Sprintf("create or replace function %s() returns trigger language plpgsql %s as $body$%s$body$", name, a.settings, body)}
	if t != nil && t.Schema != schema {
		list = append(list, fmt.Sprintf("drop trigger %s on %s", a.name, on))
		t = nil
	}
	switch {
	case t == nil:
		list = append(list, fmt.Sprintf("create trigger %s %s execute procedure %s()", a.name, a.trigger, name))
	case !t.Fires:
		list = append(list, fmt.Sprintf("alter table %s enable trigger %s", on, a.name))
	}
	return list, nil
}
