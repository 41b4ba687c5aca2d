package migrations

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"countersign/storage/sqldb"
)

// oldest is the oldest PostgreSQL whose statements and triggers we use. 9.6 has
// no transition tables, which countersign_whole_delete reads, no txid_status, and
// no pg_sequence_last_value. So "execute function" is not for our triggers: 10
// says "execute procedure", which later ones take too.
const oldest = 100000

// A session is what PostgreSQL says of the connection.
type session struct {
	Version  string
	Number   int
	ReadOnly bool
	Database string
	Role     string
	Home     *string // current_schema(): where unqualified tables are created
	Create   bool    // we may create tables there
	Path     string
}

const sessionQuery = `select json_build_object(
	'Version', current_setting('server_version'), 'Number', current_setting('server_version_num')::int,
	'ReadOnly', pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool,
	'Database', current_database(), 'Role', current_user, 'Home', current_schema(), 'Path', current_setting('search_path'),
	'Create', coalesce(has_schema_privilege(current_schema(), 'CREATE'), false))::text`

// A relation is what PostgreSQL says of a table.
type relation struct {
	OID      int64
	Schema   string
	Owner    string
	Kind     string
	Owned    bool // we have the owner's rights
	Create   bool // we may create indexes and functions beside it
	Rows     int64
	Rights   []string
	Columns  []attribute
	Unique   [][]string
	Sequence *sequence // that id is drawn from
}

type attribute struct {
	Name     string
	Type     string
	NotNull  bool
	Default  bool
	Identity bool
}

type sequence struct {
	Name  string
	Usage bool
	Last  *int64 // nil before the first draw, or if it may not be read
}

// relationQuery describes the table that statements would find under that name,
// in whatever schema of the search path.
const relationQuery = `select json_build_object(
	'OID', c.oid::bigint, 'Schema', n.nspname, 'Owner', pg_get_userbyid(c.relowner), 'Kind', c.relkind,
	'Owned', pg_has_role(c.relowner, 'USAGE'), 'Create', has_schema_privilege(n.oid, 'CREATE'), 'Rows', c.reltuples::bigint,
	'Rights', array(select p from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p where has_table_privilege(c.oid, p)),
	'Columns', (
		select json_agg(json_build_object('Name', a.attname, 'Type', coalesce(b.typname, t.typname), 'NotNull', a.attnotnull,
			'Default', a.atthasdef or a.attidentity <> '', 'Identity', a.attidentity <> '') order by a.attnum)
		from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type b on b.oid = t.typbasetype
		where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
	'Unique', (
		select json_agg(u.columns) from (
			select array_agg(a.attname::text order by a.attname::text) as columns
			from pg_index i
			-- From PostgreSQL 11 an index may hold further columns, behind those that are unique.
			cross join lateral generate_series(0, coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts) - 1) as k (n)
			join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k.n]
			where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
			group by i.indexrelid) u),
	'Sequence', (
		select json_build_object('Name', s.oid::regclass::text, 'Usage', has_sequence_privilege(s.oid, 'USAGE'),
			'Last', case when has_sequence_privilege(s.oid, 'USAGE, SELECT') then pg_sequence_last_value(s.oid) end)
		from pg_attribute a join pg_class s on s.relkind = 'S' and s.oid in (
			select d.refobjid from pg_attrdef f join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
				and d.refclassid = 'pg_class'::regclass
			where f.adrelid = c.oid and f.adnum = a.attnum
			union all
			select d.objid from pg_depend d
			where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
				and d.refobjsubid = a.attnum and d.deptype = 'i')
		where a.attrelid = c.oid and a.attname = 'id' limit 1))::text
	from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)`

// ask runs a query whose answer is at most one JSON document, and reads it into v.
func ask(ctx context.Context, q sqldb.Querier, v any, query string, args ...any) (bool, error) {
	found, err := sqldb.Collect(ctx, q, text, query, args...)
	if err != nil || len(found) == 0 {
		return false, err
	}
	return true, json.Unmarshal([]byte(found[0]), v)
}

// postgres looks at one schema in PostgreSQL.
type postgres struct {
	q       sqldb.Querier
	s       Schema
	session session
	found   map[string]*relation
	f       *Finding
	differ  bool // there are columns of other types than upstream's
}

func inspectPostgres(ctx context.Context, q sqldb.Querier, s Schema) (*Finding, error) {
	p := &postgres{q: q, s: s, found: map[string]*relation{}, f: &Finding{Schema: s}}
	if _, err := ask(ctx, q, &p.session, sessionQuery); err != nil {
		return p.f, err
	}
	p.f.Server, p.f.Database, p.f.Role, p.f.ReadOnly = p.session.Version, p.session.Database, p.session.Role, p.session.ReadOnly
	if p.session.Number < oldest {
		return p.fault("PostgreSQL %s is too old: version %d or a newer one is needed. Upgrade it first: by pg_upgrade, by pg_dump and pg_restore into "+
			"a new one, or, if it is the database of a Harbor before 2.3, by that of a Harbor between 2.3 and 2.6. Nothing was changed",
			p.session.Version, oldest/10000)
	}
	if p.session.Home != nil {
		p.f.Home = *p.session.Home
	}
	for _, t := range tables[s] {
		var r relation
		there, err := ask(ctx, q, &r, relationQuery, t.name)
		if err != nil {
			return p.f, err
		}
		row := Table{Name: t.name, Present: there, Rows: -1}
		if there {
			if len(p.found) == 0 {
				p.f.Home = r.Schema
			}
			p.found[t.name] = &r
			row.Schema, row.Owner, row.Rows = r.Schema, r.Owner, r.Rows
		}
		p.f.Tables = append(p.f.Tables, row)
	}
	for _, look := range []func(context.Context) error{p.elsewhere, p.missing, p.rights, p.categories, p.ids, p.additions, p.own, p.versions} {
		if err := look(ctx); err != nil {
			p.f.Shape = "unusable"
			return p.f, err
		}
	}
	p.f.Shape = p.shape()
	return p.f, nil
}

// fault ends the look at tables with which the programs cannot work.
func (p *postgres) fault(format string, args ...any) (*Finding, error) {
	p.f.Fault, p.f.Shape = fmt.Sprintf(format, args...), "unusable"
	return p.f, fmt.Errorf("%w: %s", ErrShape, p.f.Fault)
}

func (p *postgres) bad(format string, args ...any) error {
	_, err := p.fault(format, args...)
	return err
}

func (p *postgres) gap(g Gap) { p.f.Gaps = append(p.f.Gaps, g) }

// elsewhere looks for the program's main table in schemas that statements do
// not search. To make new tables beside one that holds rows would hide all that
// is stored, without a word. An empty one does no harm, unless it is in a schema
// that was meant to be searched.
func (p *postgres) elsewhere(ctx context.Context) error {
	main := tables[p.s][0].name
	if p.found[main] != nil {
		return nil
	}
	type place struct {
		schema string
		used   bool
	}
	// Its size can be asked for without any right to the table.
	found, err := sqldb.Collect(ctx, p.q, func(r *sql.Rows) (x place, err error) {
		err = r.Scan(&x.schema, &x.used)
		return x, err
	}, `select n.nspname::text, c.relkind = 'p' or coalesce(pg_relation_size(c.oid), 0) > 0 from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where c.relname = $1 and c.relkind in ('r', 'p') and n.nspname not like 'pg\_%' and n.nspname <> 'information_schema' order by 2 desc, 1`, main)
	if err != nil {
		return err
	}
	for _, x := range found {
		if x.used || p.session.Path == `"$user", public` || strings.Contains(p.session.Path, x.schema) {
			return p.bad(`table %s is in the database schema %s, where role %s does not look or may not (its search_path is %[7]s): as the owner run `+
				`grant usage on schema %[4]s to %[5]s; alter role %[5]s in database %[6]s set search_path = %[4]s; `+
				`or, if those are another installation's tables, give this one a database of its own`,
				main, x.schema, p.session.Role, quote(x.schema), quote(p.session.Role), quote(p.session.Database), p.session.Path)
		}
		p.f.Notes = append(p.f.Notes, fmt.Sprintf("the database schema %s, which is not on the search path, has an empty table %s too", x.schema, main))
	}
	return nil
}

// missing looks for tables that are not there, and at the columns of the others.
func (p *postgres) missing(ctx context.Context) error {
	for _, t := range tables[p.s] {
		r := p.found[t.name]
		if r != nil {
			if err := p.columns(t, r); err != nil {
				return err
			}
			continue
		}
		sql, err := files.ReadFile(fmt.Sprintf("%s/postgres/%s.sql", p.s, t.name))
		if err != nil {
			return err
		}
		g := Gap{What: "table " + t.name + " is missing", Means: "the program cannot work without it", SQL: []string{string(sql)}, Required: true, table: t.name}
		create := p.session.Create && p.f.Home != ""
		if main := p.found[tables[p.s][0].name]; main != nil {
			create = main.Create
		}
		if !create {
			owner, err := p.schemaOwner(ctx)
			if err != nil {
				return err
			}
			g.Owner = owner
			g.SQL = []string{fmt.Sprintf("grant create on schema %s to %s", quote(p.f.Home), quote(p.session.Role))}
		}
		p.gap(g)
	}
	return nil
}

// schemaOwner returns the owner of the schema of our tables. Without any schema
// to create in, it is public that will be asked for.
func (p *postgres) schemaOwner(ctx context.Context) (string, error) {
	if p.f.Home == "" {
		p.f.Home = "public"
	}
	return sqldb.One(ctx, p.q, text, `select coalesce((select case when r.rolname = 'pg_database_owner'
			then (select pg_get_userbyid(d.datdba) from pg_database d where d.datname = current_database()) else r.rolname end
		from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = $1)::text, 'postgres')`, p.f.Home)
}

// columns compares a table's columns and unique indexes with what the stores need.
func (p *postgres) columns(t table, r *relation) error {
	if r.Kind != "r" && r.Kind != "p" {
		return p.bad("%s is not a table (pg_class.relkind %q)", t.name, r.Kind)
	}
	var lack, differ []string
	for _, c := range t.columns {
		i := slices.IndexFunc(r.Columns, func(a attribute) bool { return a.Name == c.name })
		if i < 0 {
			lack = append(lack, c.name)
			continue
		}
		got, allowed := r.Columns[i].Type, kinds[c.kind]
		if !slices.Contains(allowed, got) {
			return p.bad("column %s of table %s has the type %s; needed is one of %s (alter table %[2]s alter %[1]s type …)", c.name, t.name, got, join(kinds[c.kind]))
		}
		if got != allowed[0] {
			differ = append(differ, c.name+" "+got)
		}
	}
	if len(lack) > 0 {
		return p.bad("table %s has no column %s", t.name, join(lack))
	}
	for _, a := range r.Columns {
		if a.NotNull && !a.Default && !slices.Contains(t.names(), a.Name) {
			return p.bad("table %s has a column %s that must be filled and that no program knows: give it a default", t.name, a.Name)
		}
	}
	if !slices.ContainsFunc(r.Unique, func(u []string) bool { return slices.Equal(u, t.unique) }) {
		return p.bad("table %s has no unique constraint on (%s)", t.name, join(t.unique))
	}
	if len(differ) > 0 {
		p.differ = true
		p.f.Notes = append(p.f.Notes, fmt.Sprintf("table %s has columns of other types than upstream's migrations make, which do no harm: %s", t.name, join(differ)))
	}
	return nil
}

// shape says in words what was found.
func (p *postgres) shape() string {
	var lack []string
	for _, t := range tables[p.s] {
		if p.found[t.name] == nil {
			lack = append(lack, t.name)
		}
	}
	switch {
	case len(p.found) == 0:
		return "empty: none of the tables is there"
	case p.s == Server && slices.Equal(lack, []string{"change_category", "changefeed"}):
		return "upstream's tables from before the changefeed (its migration 1)"
	case len(lack) > 0:
		return "half a schema: " + join(lack) + " missing"
	case p.differ:
		return "all tables, made by another tool than upstream's migrations (moved from MySQL?)"
	}
	return "all tables, as upstream's migrations make them"
}
