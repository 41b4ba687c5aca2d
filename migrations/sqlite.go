package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"countersign/storage/sqldb"
)

// inspectSQLite looks at a file of ours: no other program makes one.
func inspectSQLite(ctx context.Context, q sqldb.Querier, s Schema) (*Finding, error) {
	f := &Finding{Schema: s, Shape: "unusable"}
	version, err := sqldb.One(ctx, q, text, `select sqlite_version()`)
	if err != nil {
		return f, err
	}
	f.Server = "SQLite " + version
	present := 0
	for _, t := range tables[s] {
		have, err := columns(ctx, q, sqldb.SQLite, t.name)
		if err != nil {
			return f, err
		}
		row := Table{Name: t.name, Present: len(have) > 0, Rows: -1}
		if row.Present {
			present++
			if err := sqliteTable(ctx, q, f, t, have); err != nil {
				return f, err
			}
			if row.Rows, err = sqldb.One(ctx, q, number, `select count(*) from `+t.name); err != nil {
				return f, err
			}
		} else if err := f.sqliteFile(t.name+".sql", Gap{What: "table " + t.name + " is missing", Means: "the program cannot work without it", Required: true, table: t.name}); err != nil {
			return f, err
		}
		f.Tables = append(f.Tables, row)
	}
	for _, a := range additions(sqldb.SQLite, s) {
		there, err := a.there(ctx, q, sqldb.SQLite)
		if err == nil && !there {
			err = f.sqliteFile(a.file, Gap{What: a.name + " is not on table " + a.table, Means: a.means})
		}
		if err != nil {
			return f, err
		}
	}
	if err := f.ownSQLite(ctx, q); err != nil {
		return f, err
	}
	switch present {
	case 0:
		f.Shape = "empty: none of the tables is there"
	case len(tables[s]):
		f.Shape = "all tables"
	default:
		f.Shape = "half a schema"
	}
	return f, nil
}

func (f *Finding) sqliteFile(file string, g Gap) error {
	sql, err := files.ReadFile(fmt.Sprintf("%s/sqlite3/%s", f.Schema, file))
	g.SQL = []string{string(sql)}
	f.Gaps = append(f.Gaps, g)
	return err
}

func sqliteTable(ctx context.Context, q sqldb.Querier, f *Finding, t table, have []string) error {
	if lack := without(t.names(), have); len(lack) > 0 {
		f.Fault = fmt.Sprintf("table %s has no column %s", t.name, join(lack))
		return fmt.Errorf("%w: %s", ErrShape, f.Fault)
	}
	unique, err := sqldb.Collect(ctx, q, text, `select group_concat(c.name, ',') from (
			select l.name as idx, i.name as name from pragma_index_list($1) l, pragma_index_info(l.name) i
			where l."unique" and not l.partial
			union all select '', name from pragma_table_info($1) where pk > 0
			order by 1, 2) c
		group by c.idx`, t.name)
	if err != nil {
		return err
	}
	if !slices.Contains(unique, strings.Join(t.unique, ",")) {
		f.Fault = fmt.Sprintf("table %s has no unique constraint on (%s)", t.name, join(t.unique))
		return fmt.Errorf("%w: %s", ErrShape, f.Fault)
	}
	return nil
}

// columns lists the columns of the table that statements would find under that
// name; none if there is no such table.
func columns(ctx context.Context, q sqldb.Querier, d sqldb.Dialect, name string) ([]string, error) {
	query := `select name from pragma_table_info($1)`
	if d == sqldb.Postgres {
		query = `select attname::text from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`
	}
	return sqldb.Collect(ctx, q, text, query, name)
}
