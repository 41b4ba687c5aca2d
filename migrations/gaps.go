package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"countersign/storage/sqldb"
)

// rights looks for what the program's role may not do. Nobody but the owner
// can grant it.
func (p *postgres) rights(context.Context) error {
	for _, t := range tables[p.s] {
		r := p.found[t.name]
		if r == nil {
			continue
		}
		if lack := without(t.rights, r.Rights); len(lack) > 0 {
			p.gap(Gap{
				What:  fmt.Sprintf("role %s may not %s on table %s", p.session.Role, join(lack), t.name),
				Means: "whatever needs it fails", Owner: r.Owner, Required: slices.Contains(lack, "SELECT"),
				SQL: []string{fmt.Sprintf("grant %s on table %s.%s to %s", join(t.rights), quote(r.Schema), quote(t.name), quote(p.session.Role))},
			})
		}
		identity := slices.ContainsFunc(r.Columns, func(a attribute) bool { return a.Name == "id" && a.Identity })
		if s := r.Sequence; s != nil && !s.Usage && !identity {
			p.gap(Gap{
				What:  fmt.Sprintf("role %s may not draw from sequence %s", p.session.Role, s.Name),
				Means: "nothing can be stored in table " + t.name, Owner: r.Owner,
				SQL: []string{fmt.Sprintf("grant usage on sequence %s to %s", s.Name, quote(p.session.Role))},
			})
		}
	}
	return nil
}

// categories looks for the rows that the changefeed refers to. Harbor's move
// from MySQL has left a table without them where MySQL had none.
func (p *postgres) categories(ctx context.Context) error {
	r := p.found["change_category"]
	if r == nil || !slices.Contains(r.Rights, "SELECT") {
		return nil
	}
	have, err := sqldb.Collect(ctx, p.q, text, `select category::text from change_category where category in ('update', 'deletion')`)
	if err != nil {
		return err
	}
	for _, c := range without(categories, have) {
		g := Gap{
			What:  "table change_category has no row " + c,
			Means: "the changefeed takes no such entry, so that the publish or deletion fails",
			SQL:   []string{fmt.Sprintf("insert into %s.change_category (category) values (%s) on conflict do nothing", quote(r.Schema), literal(c))},
		}
		if !slices.Contains(r.Rights, "INSERT") {
			g.Owner = r.Owner
		}
		p.gap(g)
	}
	return nil
}

// ids makes sure that new rows get an ID which is free: a copied table may have
// come without the sequence, or with one that begins anew.
func (p *postgres) ids(ctx context.Context) error {
	for _, t := range tables[p.s] {
		r := p.found[t.name]
		if r == nil || t.columns[0].name != "id" || !slices.Contains(r.Rights, "SELECT") {
			continue
		}
		name := quote(r.Schema) + "." + quote(t.name)
		i := slices.IndexFunc(r.Columns, func(a attribute) bool { return a.Name == "id" })
		if !r.Columns[i].Default {
			p.gap(p.owned(r, Gap{
				What: "column id of table " + t.name + " has no default", Means: "no row can be added", alone: t.name,
				SQL: []string{
					// At once what the third statement needs: whoever reads could not be waited for
					// by one that already keeps writers out.
					fmt.Sprintf("lock table %s in access exclusive mode", name),
					fmt.Sprintf("create sequence if not exists %s.%s owned by %s.id", quote(r.Schema), quote(t.name+"_id_seq"), name),
					fmt.Sprintf("alter table %s alter id set default nextval(%s::regclass)", name, literal(quote(r.Schema)+"."+quote(t.name+"_id_seq"))),
					fmt.Sprintf("select setval(%s::regclass, coalesce(max(id), 1), max(id) is not null) from %s", literal(quote(r.Schema)+"."+quote(t.name+"_id_seq")), name),
				},
			}))
			continue
		}
		if err := p.behind(ctx, t, r, name); err != nil {
			return err
		}
	}
	return nil
}

// behind compares the sequence of IDs with the rows. Whoever holds the lock in
// the statements meets no writer between its draw and its row.
func (p *postgres) behind(ctx context.Context, t table, r *relation, name string) error {
	s := r.Sequence
	if s == nil || !s.Usage {
		return nil
	}
	newest, err := sqldb.One(ctx, p.q, number, `select coalesce(max(id), 0) from `+name)
	if err != nil || newest == 0 || (s.Last != nil && *s.Last >= newest) {
		return err
	}
	allowed, err := sqldb.One(ctx, p.q, number, `select has_sequence_privilege($1, 'UPDATE')::int`, s.Name)
	if err != nil {
		return err
	}
	g := Gap{
		What:  "the sequence of IDs of table " + t.name + " is behind its rows",
		Means: "rows cannot be added, because their IDs are taken",
		alone: t.name,
		SQL: []string{
			fmt.Sprintf("lock table %s in share row exclusive mode", name),
			fmt.Sprintf("select setval(%s::regclass, max(id)) from %s", literal(s.Name), name),
		},
	}
	if allowed == 0 || !slices.Contains(r.Rights, "UPDATE") {
		g.Owner = r.Owner
	}
	p.gap(g)
	return nil
}

// owned says whose rights a gap on table r needs.
func (p *postgres) owned(r *relation, g Gap) Gap {
	if !r.Owned || !r.Create {
		g.Owner = r.Owner
	}
	return g
}

// additions looks for our own objects. None is needed for what is signed and
// served to be right: each makes something sure that upstream leaves to luck.
func (p *postgres) additions(ctx context.Context) error {
	for _, a := range additions(sqldb.Postgres, p.s) {
		r := p.found[a.table]
		if r == nil {
			// The table comes first; this one then.
			if slices.ContainsFunc(p.f.Gaps, func(g Gap) bool { return g.table == a.table && g.Owner != "" }) {
				continue
			}
			r = &relation{Owned: true, Create: true, Schema: p.f.Home}
		} else if there, err := a.there(ctx, p.q, sqldb.Postgres); err != nil || there {
			if err != nil {
				return err
			}
			continue
		}
		statements, err := a.statements(ctx, p.q, r.Schema, p.s)
		if err != nil {
			return err
		}
		p.gap(p.owned(r, Gap{What: a.name + " is not on table " + a.table, Means: a.means, SQL: statements, alone: a.table}))
	}
	return nil
}

func number(r *sql.Rows) (n int64, err error) {
	err = r.Scan(&n)
	return n, err
}
