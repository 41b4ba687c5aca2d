package migrations

import (
	"context"
	"fmt"
	"strings"

	"countersign/storage/sqldb"
)

// ownTables are ours alone: upstream's programs do not know them, and nothing
// that is signed or served depends on them.
var ownTables = map[Schema][]ownTable{
	Server: {
		{"countersign_audit", []string{"SELECT", "INSERT"}, "countersign_audit_id_seq"},
		{"countersign_doomed_key", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}, ""},
		{"countersign_purge", []string{"SELECT", "INSERT", "UPDATE"}, "countersign_purge_id_seq"},
	},
}

type ownTable struct {
	name     string
	rights   []string // what the programs do with it
	sequence string   // of its IDs; "" if it has none
}

// grants give a role all that the programs need of the table.
func (t ownTable) grants(role string) []string {
	list := []string{fmt.Sprintf("grant %s on table %s to %s", strings.ToLower(join(t.rights)), t.name, quote(role))}
	if t.sequence != "" {
		list = append(list, fmt.Sprintf("grant usage on sequence %s to %s", t.sequence, quote(role)))
	}
	return list
}

const ownMeans = "it is not recorded who publishes, deletes and purges, and the signer keeps the keys of deleted repositories"

// own looks for our tables, and whether our role may use them: a publish writes
// to them in its own transaction, so that a right that is missing would end it.
func (p *postgres) own(ctx context.Context) error {
	p.f.Audit = len(ownTables[p.s]) > 0
	for _, t := range ownTables[p.s] {
		var state struct {
			Owner  *string
			Rights bool
		}
		if _, err := ask(ctx, p.q, &state, `select json_build_object(
				'Owner', (select pg_get_userbyid(relowner) from pg_class where oid = to_regclass($1)),
				'Rights', coalesce((select bool_and(has_table_privilege(to_regclass($1), r)) from unnest(string_to_array($2, ',')) r), false)
					and ($3 = '' or coalesce(has_sequence_privilege(to_regclass(nullif($3, '')), 'USAGE'), false)))`,
			t.name, strings.Join(t.rights, ","), t.sequence); err != nil {
			return err
		}
		if state.Rights {
			continue
		}
		p.f.Audit = false
		if state.Owner != nil {
			p.gap(Gap{What: fmt.Sprintf("role %s may not use table %s", p.session.Role, t.name), Means: ownMeans, SQL: t.grants(p.session.Role), Owner: *state.Owner})
			continue
		}
		sql, err := files.ReadFile(fmt.Sprintf("%s/postgres/%s.sql", p.s, t.name))
		if err != nil {
			return err
		}
		g := Gap{What: "table " + t.name + " is missing", Means: ownMeans, SQL: []string{string(sql)}}
		create := p.session.Create
		if main := p.found[tables[p.s][0].name]; main != nil {
			create = main.Create
		}
		if !create {
			if g.Owner, err = p.schemaOwner(ctx); err != nil {
				return err
			}
			g.SQL = append(g.SQL, t.grants(p.session.Role)...)
		}
		p.gap(g)
	}
	return nil
}

// ownSQLite does the same in a file, where there are no rights.
func (f *Finding) ownSQLite(ctx context.Context, q sqldb.Querier) error {
	f.Audit = len(ownTables[f.Schema]) > 0
	for _, t := range ownTables[f.Schema] {
		have, err := columns(ctx, q, sqldb.SQLite, t.name)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			continue
		}
		f.Audit = false
		if err := f.sqliteFile(t.name+".sql", Gap{What: "table " + t.name + " is missing", Means: ownMeans}); err != nil {
			return err
		}
	}
	return nil
}
