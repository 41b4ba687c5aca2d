package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"countersign/storage/sqldb"
)

// Versions is the table schema_migrations, which upstream's migration tool
// reads, and none of the programs.
type Versions struct {
	Present bool `json:"present"`
	// Rows are its rows, at most some, as the tool would find them: "2", "2 dirty".
	Rows []string `json:"rows"`
	// HasDirty: it has the column that golang-migrate needs.
	HasDirty bool `json:"has_dirty"`
	// Meaning says what upstream's tool, run on this database, would do.
	Meaning string `json:"meaning"`

	foreign bool // another program's table
}

// maxRows bounds what is read of schema_migrations.
const maxRows = 20

// versions judges schema_migrations by what the tables are: it is the tool that
// can err, so what it would do is what counts.
func (p *postgres) versions(ctx context.Context) error {
	v := &Versions{}
	p.f.Versions = v
	var r relation
	var err error
	if v.Present, err = ask(ctx, p.q, &r, relationQuery, "schema_migrations"); err != nil {
		return err
	}
	// One table for both programs' cannot be right for both; the higher number
	// at least has the tool do nothing.
	other, err := columns(ctx, p.q, sqldb.Postgres, tables[p.s.other()][0].name)
	if err != nil {
		return err
	}
	target := upstreamVersion[p.s]
	if len(other) > 0 {
		target = max(target, upstreamVersion[p.s.other()])
	}
	if !v.Present {
		v.Meaning = "absent: upstream's migration tool would take the database for empty"
		g := Gap{What: "table schema_migrations is missing", Means: "upstream's migration tool, run later, would create tables that are there, and fail",
			SQL: []string{`create table schema_migrations (version bigint primary key, dirty boolean not null)`,
				fmt.Sprintf(`insert into schema_migrations (version, dirty) values (%d, false)`, target)}}
		if main := p.found[tables[p.s][0].name]; main != nil && !main.Create || main == nil && !p.session.Create {
			if g.Owner, err = p.schemaOwner(ctx); err != nil {
				return err
			}
		}
		p.gap(g)
		return nil
	}
	i := slices.IndexFunc(r.Columns, func(a attribute) bool { return a.Name == "version" && slices.Contains(kinds["number"], a.Type) })
	v.HasDirty = slices.ContainsFunc(r.Columns, func(a attribute) bool { return a.Name == "dirty" && a.Type == "bool" })
	if i < 0 {
		p.foreign(v)
		return nil
	}
	if !slices.Contains(r.Rights, "SELECT") {
		v.Meaning = "role " + p.session.Role + " may not read it"
		p.f.Notes = append(p.f.Notes, "schema_migrations cannot be read by role "+p.session.Role+", so nothing is known of it; no program needs it")
		return nil
	}
	return p.judge(ctx, v, &r, target, len(other) > 0)
}

// judge says what upstream's tool would make of the rows. target is its last
// version for these tables; shared: both programs' are here.
func (p *postgres) judge(ctx context.Context, v *Versions, r *relation, target int64, shared bool) error {
	type row struct {
		version int64
		dirty   bool
	}
	query := `select version, false from schema_migrations order by version limit $1`
	if v.HasDirty {
		query = strings.Replace(query, "false", "dirty", 1)
	}
	rows, err := sqldb.Collect(ctx, p.q, func(r *sql.Rows) (x row, err error) {
		err = r.Scan(&x.version, &x.dirty)
		return x, err
	}, query, maxRows)
	if err != nil {
		return err
	}
	most := mysqlVersion[p.s]
	if shared {
		most = max(most, mysqlVersion[p.s.other()])
	}
	if len(rows) == maxRows || len(rows) > 0 && (rows[0].version < 0 || rows[len(rows)-1].version > most) {
		p.foreign(v)
		return nil
	}
	var wrong []string
	for _, x := range rows {
		text := fmt.Sprint(x.version)
		if x.dirty {
			text += " dirty"
			wrong = append(wrong, "marked dirty (a migration has failed or is under way), so that it refuses to work")
		}
		v.Rows = append(v.Rows, text)
	}
	if !v.HasDirty {
		wrong = append(wrong, "no column dirty (an old release of the tool has made the table), so that newer ones fail")
	}
	last := int64(0)
	now := p.reached(target)
	switch {
	case len(rows) == 0 && now == 0: // so it is
	case len(rows) == 0:
		wrong = append(wrong, "no row, so that it takes the database for empty")
	case len(rows) > 1:
		wrong = append(wrong, "several rows, of which it reads any one")
		last = rows[len(rows)-1].version
	default:
		last = rows[0].version
	}
	if shared {
		p.f.Notes = append(p.f.Notes, "both programs' tables are in this database: upstream's migration tool, which has one schema_migrations for each, cannot be used on it")
	}
	switch {
	case last > target:
		wrong = append(wrong, fmt.Sprintf("version %d, which is MySQL's numbering (its last here is %d), so that it misses the file", last, target))
	case last < now && len(rows) > 0 && (!shared || last < 1):
		wrong = append(wrong, fmt.Sprintf("version %d, older than the tables (%d), so that it creates tables that are there, and fails", last, now))
	}
	if len(wrong) == 0 {
		v.Meaning = "as upstream's migration tool leaves it: it would find nothing to do"
		if now < target {
			v.Meaning = "as upstream's migration tool leaves it"
		}
		return nil
	}
	v.Meaning = "would trip upstream's migration tool: " + strings.Join(wrong, "; ")
	p.gap(p.versionGap(v, r, target))
	return nil
}

// foreign says that schema_migrations is no business of ours. Many programs have
// a table of that name.
func (p *postgres) foreign(v *Versions) {
	v.foreign, v.Meaning = true, "not a table of upstream's migration tool: it is left alone"
	p.f.Notes = append(p.f.Notes, "schema_migrations is another program's")
}

// reached is the version of upstream's migrations that the tables show.
func (p *postgres) reached(target int64) int64 {
	switch {
	case len(p.found) == 0:
		return 0
	case len(p.found) < len(tables[p.s]):
		return 1
	}
	return target
}

// versionGap is what sets schema_migrations right. Programs that start leave
// it: somebody may be working with upstream's tool.
func (p *postgres) versionGap(v *Versions, r *relation, target int64) Gap {
	name := quote(r.Schema) + ".schema_migrations"
	g := Gap{What: "schema_migrations " + v.Meaning, Means: "the programs run, but upstream's tool does not", repair: true}
	g.SQL = append(g.SQL, "lock table "+name+" in access exclusive mode")
	if !v.HasDirty {
		g.SQL = append(g.SQL, "alter table "+name+" add column dirty boolean not null default false")
	}
	g.SQL = append(g.SQL, "delete from "+name, fmt.Sprintf("insert into %s (version, dirty) values (%d, false)", name, target))
	if !v.HasDirty && !r.Owned || len(without([]string{"INSERT", "DELETE"}, r.Rights)) > 0 {
		g.Owner = r.Owner
	}
	return g
}

// advance records a migration that we have just done in upstream's stead, as
// the tool would that has made the table: golang-migrate has one row, mattes/migrate
// before it had no column dirty and a row for each version. It counts on from a
// version that was right before; what was not is left to Migrate, and so is a
// table that our role may not write to.
func advance(ctx context.Context, tx *sqldb.Tx, s Schema, before *Finding) error {
	v := before.Versions
	if !v.Present || v.foreign || len(v.Rows) > 1 || len(v.Rows) == 1 && strings.Contains(v.Rows[0], "dirty") {
		return nil
	}
	if len(v.Rows) == 0 && slices.ContainsFunc(before.Tables, func(t Table) bool { return t.Present }) {
		return nil
	}
	have, target := int64(0), upstreamVersion[s]
	if len(v.Rows) == 1 {
		if _, err := fmt.Sscan(v.Rows[0], &have); err != nil || have < 1 {
			return nil
		}
	}
	var list []string
	switch {
	case !v.HasDirty: // a row for each
		for n := have + 1; n <= target; n++ {
			list = append(list, fmt.Sprintf(`insert into schema_migrations (version) values (%d)`, n))
		}
	case have == 0:
		list = []string{fmt.Sprintf(`insert into schema_migrations (version, dirty) values (%d, false)`, target)}
	case have < target:
		list = []string{fmt.Sprintf(`update schema_migrations set version = %d where version < %[1]d`, target)}
	}
	_, err := attempt(ctx, tx, list)
	return err
}

// toolLocks are the advisory locks under which golang-migrate, and before it
// mattes/migrate, work on a database: made of the URL's path, in later releases
// of the names of schema and table too, in both orders.
func toolLocks(database, schema string) []int64 {
	const table, zero, salt = "schema_migrations", "\x00", uint32(1486364155)
	var ids []int64
	for _, db := range []string{database, "/" + database} {
		for _, name := range []string{
			db, db + zero + schema, schema + zero + db,
			db + zero + schema + zero + table, schema + zero + table + zero + db,
		} {
			ids = append(ids, int64(crc32.ChecksumIEEE([]byte(name))*salt))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
