package migrations

import (
	"context"
	"fmt"

	"countersign/storage/sqldb"
)

// ownTables are ours alone: upstream's programs do not know them, and nothing
// that is signed or served depends on them.
var ownTables = map[Schema][]string{
	Server: {"countersign_audit", "countersign_doomed_key", "countersign_purge"},
}

const ownMeans = "it is not recorded who publishes, deletes and purges, and the signer keeps the keys of deleted repositories"

// own looks for our tables, and whether our role may use them.
func (p *postgres) own(ctx context.Context) error {
	p.f.Audit = len(ownTables[p.s]) > 0
	for _, name := range ownTables[p.s] {
		var state struct {
			Owner  *string
			Rights bool
		}
		if _, err := ask(ctx, p.q, &state, `select json_build_object(
				'owner', (select pg_get_userbyid(relowner) from pg_class where oid = to_regclass($1)),
				'rights', coalesce(has_table_privilege(to_regclass($1), 'select') and has_table_privilege(to_regclass($1), 'insert'), false))`, name); err != nil {
			return err
		}
		if state.Rights {
			continue
		}
		p.f.Audit = false
		all := fmt.Sprintf("grant select, insert, update, delete on table %s to %s", name, quote(p.session.Role))
		if name != "countersign_doomed_key" {
			all += fmt.Sprintf("; grant usage on sequence %s_id_seq to %s", name, quote(p.session.Role))
		}
		if state.Owner != nil {
			p.gap(Gap{What: fmt.Sprintf("role %s may not use table %s", p.session.Role, name), Means: ownMeans, SQL: []string{all}, Owner: *state.Owner})
			continue
		}
		sql, err := files.ReadFile(fmt.Sprintf("%s/postgres/%s.sql", p.s, name))
		if err != nil {
			return err
		}
		g := Gap{What: "table " + name + " is missing", Means: ownMeans, SQL: []string{string(sql)}}
		create := p.session.Create
		if main := p.found[tables[p.s][0].name]; main != nil {
			create = main.Create
		}
		if !create {
			if g.Owner, err = p.schemaOwner(ctx); err != nil {
				return err
			}
			g.SQL = append(g.SQL, all)
		}
		p.gap(g)
	}
	return nil
}

// ownSQLite does the same in a file, where there are no rights.
func (f *Finding) ownSQLite(ctx context.Context, q sqldb.Querier) error {
	f.Audit = len(ownTables[f.Schema]) > 0
	for _, name := range ownTables[f.Schema] {
		have, err := columns(ctx, q, sqldb.SQLite, name)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			continue
		}
		f.Audit = false
		if err := f.sqliteFile(name+".sql", Gap{What: "table " + name + " is missing", Means: ownMeans}); err != nil {
			return err
		}
	}
	return nil
}
