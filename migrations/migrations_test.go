package migrations_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/storage/sqldb"
)

var schemas = []migrations.Schema{migrations.Server, migrations.Signer}

func open(t testing.TB, backend, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: backend, URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// raw is the database as a person sees it.
func raw(t testing.TB, driver, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func list(t testing.TB, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// psql runs a script as the role of the URL, and returns what it prints.
func psql(t testing.TB, url, script string) string {
	t.Helper()
	out, err := tryPSQL(t, url, script)
	if err != nil {
		t.Fatalf("psql: %v: %s\n%s", err, out, script)
	}
	return out
}

func tryPSQL(t testing.TB, url, script string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-q", "-d", url)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// old makes the tables as upstream's tool leaves them.
func old(t testing.TB, db *sql.DB, files ...string) {
	t.Helper()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join("testdata", f))
		if err != nil {
			t.Fatal(err)
		}
		run(t, db, string(text))
	}
}

// shape describes all tables, constraints, indexes and triggers, by name.
const shape = `
	select format('column %s.%s %s null:%s default:%s', table_name, column_name,
		data_type || coalesce(character_maximum_length::text, ''), is_nullable, column_default)
	from information_schema.columns where table_schema = current_schema()
	union all
	select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint
	where connamespace = current_schema()::regnamespace
	union all
	select indexdef from pg_indexes where schemaname = current_schema()
	union all
	select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
	order by 1`

// TestShape: our tables are upstream's in every name, type and constraint, and
// upstream's are adopted as they are.
func TestShape(t *testing.T) {
	t.Parallel()
	fresh, adopted := pgtest.URL(t), pgtest.URL(t)
	a, b := raw(t, "postgres", fresh), raw(t, "postgres", adopted)
	old(t, b, "server.sql", "signer.sql")
	for _, s := range schemas {
		for _, u := range []string{fresh, adopted} {
			if err := migrations.Apply(t.Context(), open(t, "postgres", u), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(list(t, b, shape), list(t, a, shape)); diff != "" {
		t.Errorf("adopted (-) and fresh (+) differ:\n%s", diff)
	}
	if got := list(t, a, `select category from change_category order by 1`); fmt.Sprint(got) != "[deletion update]" {
		t.Errorf("categories %v", got)
	}
}

// TestApply: on both databases, for any number of replicas that start at once
// and start again.
func TestApply(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"postgres", "sqlite3"} {
		t.Run(backend, func(t *testing.T) {
			u := filepath.Join(t.TempDir(), "x.db")
			if backend == "postgres" {
				u = pgtest.URL(t)
			}
			for _, s := range schemas {
				if _, err := migrations.Check(t.Context(), open(t, backend, u), s); !errors.Is(err, migrations.ErrShape) {
					t.Errorf("%s, empty: got %v", s, err)
				}
				var wg sync.WaitGroup
				for range 8 {
					db := open(t, backend, u)
					wg.Go(func() {
						for range 2 {
							if err := migrations.Apply(t.Context(), db, s); err != nil {
								t.Errorf("%s: %v", s, err)
							}
						}
					})
				}
				wg.Wait()
				if _, err := migrations.Check(t.Context(), open(t, backend, u), s); err != nil {
					t.Errorf("%s: %v", s, err)
				}
			}
			if err := migrations.Apply(t.Context(), open(t, backend, u), "other"); err == nil {
				t.Error("an unknown schema was applied")
			}
		})
	}
}

// TestVersionTable: schema_migrations ends as upstream's tool would leave it,
// and one that is there is not touched without need.
func TestVersionTable(t *testing.T) {
	t.Parallel()
	const modern = `create table schema_migrations (version bigint primary key, dirty boolean not null)`
	for name, test := range map[string]struct {
		schema migrations.Schema
		tables []string
		before []string
		want   []string
	}{
		"fresh server":             {migrations.Server, nil, nil, []string{"2 false"}},
		"fresh signer":             {migrations.Signer, nil, nil, []string{"1 false"}},
		"tables, and no version":   {migrations.Server, []string{"server.sql"}, nil, []string{"2 false"}},
		"as upstream leaves it":    {migrations.Server, []string{"server.sql"}, []string{modern, `insert into schema_migrations values (2, false)`}, []string{"2 false"}},
		"numbers of MySQL":         {migrations.Server, []string{"server.sql"}, []string{modern, `insert into schema_migrations values (5, false)`}, []string{"5 false"}},
		"half way":                 {migrations.Server, []string{"server1.sql"}, []string{modern, `insert into schema_migrations values (1, true)`}, []string{"1 true"}},
		"half way, clean":          {migrations.Server, []string{"server1.sql"}, []string{modern, `insert into schema_migrations values (1, false)`}, []string{"2 false"}},
		"empty, tables to come":    {migrations.Signer, nil, []string{modern}, []string{"1 false"}},
		"dirty, but complete":      {migrations.Server, []string{"server.sql"}, []string{modern, `insert into schema_migrations values (2, true)`}, []string{"2 true"}},
		"empty table":              {migrations.Signer, []string{"signer.sql"}, []string{modern}, nil},
		"before dirty, many rows":  {migrations.Server, []string{"server.sql"}, []string{`create table schema_migrations (version int primary key)`, `insert into schema_migrations values (1), (2), (3)`}, []string{"1", "2", "3"}},
		"before dirty, and behind": {migrations.Server, []string{"server1.sql"}, []string{`create table schema_migrations (version int primary key)`, `insert into schema_migrations values (1)`}, []string{"1", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := pgtest.URL(t)
			db := raw(t, "postgres", u)
			old(t, db, test.tables...)
			run(t, db, test.before...)
			for range 2 {
				if err := migrations.Apply(t.Context(), open(t, "postgres", u), test.schema); err != nil {
					t.Fatal(err)
				}
				query := `select version || coalesce(' ' || (to_jsonb(s) ->> 'dirty'), '') from schema_migrations s order by version`
				if diff := cmp.Diff(test.want, list(t, db, query)); diff != "" {
					t.Errorf("schema_migrations (-want +got):\n%s", diff)
				}
			}
			// What the tool would make of it is what the operator's command mends.
			target := map[migrations.Schema]string{migrations.Server: "2 false", migrations.Signer: "1 false"}[test.schema]
			wrong := !slices.Equal(test.want, []string{target})
			for _, again := range []bool{false, true} {
				f, did, err := migrations.Migrate(t.Context(), open(t, "postgres", u), test.schema)
				if err != nil {
					t.Fatal(err)
				}
				if !f.Done() || (len(did) > 0) != (wrong && !again) {
					t.Errorf("migrated (again: %v): did %q, left %+v", again, did, f.Gaps)
				}
				query := `select version || ' ' || dirty from schema_migrations`
				if diff := cmp.Diff([]string{target}, list(t, db, query)); diff != "" {
					t.Errorf("after the command (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestBackfill: a database from before the changefeed gets an entry for each
// stored timestamp, oldest first.
func TestBackfill(t *testing.T) {
	t.Parallel()
	const rows = `insert into tuf_files (created_at, gun, role, version, data, sha256) values
		('2020-01-02 00:00:00', 'b', 'timestamp', 1, 'x', 'b1'), ('2020-01-01 00:00:00', 'a', 'timestamp', 1, 'x', 'a1'),
		('2020-01-01 00:00:00', 'a', 'root', 1, 'x', 'r'), ('2020-01-03 00:00:00', 'a', 'timestamp', 2, 'x', 'a2')`
	for _, backend := range []string{"postgres", "sqlite3"} {
		driver, u, create := "postgres", "", "server1.sql"
		if backend == "postgres" {
			u = pgtest.URL(t)
		} else {
			driver, u, create = "sqlite", filepath.Join(t.TempDir(), "x.db"), "../server/sqlite3/tuf_files.sql"
		}
		db := raw(t, driver, u)
		old(t, db, create)
		run(t, db, rows)
		if err := migrations.Apply(t.Context(), open(t, backend, u), migrations.Server); err != nil {
			t.Fatal(err)
		}
		got := list(t, db, `select gun || version || trim(sha256) || category from changefeed order by id`)
		if diff := cmp.Diff([]string{"a1a1update", "b1b1update", "a2a2update"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", backend, diff)
		}
	}
}

// TestUnusable: a table that lacks something is named, with what it lacks, and
// nothing is changed.
func TestUnusable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		schema migrations.Schema
		spoil  string
		want   []string
	}{
		"columns":         {migrations.Server, `alter table tuf_files drop column sha256, drop column deleted_at`, []string{"tuf_files", "sha256", "deleted_at"}},
		"constraint":      {migrations.Server, `alter table tuf_files drop constraint tuf_files_gun_role_version_key`, []string{"tuf_files", "unique", "gun, role, version"}},
		"partial index":   {migrations.Server, `alter table tuf_files drop constraint tuf_files_gun_role_version_key; create unique index on tuf_files (gun, role, version) where deleted_at is null`, []string{"tuf_files", "unique"}},
		"feed":            {migrations.Server, `alter table changefeed drop column category`, []string{"changefeed", "category"}},
		"keys":            {migrations.Signer, `alter table private_keys drop column gun, drop column role`, []string{"private_keys", "gun", "role"}},
		"keys, unique ID": {migrations.Signer, `alter table private_keys drop constraint key_id`, []string{"private_keys", "unique", "key_id"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := pgtest.URL(t)
			db := raw(t, "postgres", u)
			old(t, db, "server.sql", "signer.sql")
			run(t, db, test.spoil)
			before := list(t, db, shape)
			for _, f := range []func() error{
				func() error { return migrations.Apply(t.Context(), open(t, "postgres", u), test.schema) },
				func() error { _, err := migrations.Check(t.Context(), open(t, "postgres", u), test.schema); return err },
			} {
				err := f()
				if !errors.Is(err, migrations.ErrShape) {
					t.Fatalf("got %v", err)
				}
				for _, w := range test.want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q does not say %q", err, w)
					}
				}
			}
			if diff := cmp.Diff(before, list(t, db, shape)); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "x.db")
	run(t, raw(t, "sqlite", path), `create table private_keys (id integer primary key, key_id text)`)
	if err := migrations.Apply(t.Context(), open(t, "sqlite3", path), migrations.Signer); !errors.Is(err, migrations.ErrShape) || !strings.Contains(err.Error(), "passphrase_alias") {
		t.Errorf("sqlite: got %v", err)
	}
}

// TestReplaced: a function that another release has left is brought up to date,
// and a lost trigger is made again.
func TestReplaced(t *testing.T) {
	t.Parallel()
	u := pgtest.URL(t)
	db := raw(t, "postgres", u)
	apply := func() {
		t.Helper()
		if err := migrations.Apply(t.Context(), open(t, "postgres", u), migrations.Server); err != nil {
			t.Fatal(err)
		}
	}
	const all = `select pg_get_functiondef(p.oid) || pg_get_triggerdef(t.oid) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
		where not t.tgisinternal order by 1`
	apply()
	want := list(t, db, all)
	if len(want) != 4 {
		t.Fatalf("%d triggers", len(want))
	}
	run(t, db, `create or replace function countersign_changefeed_order() returns trigger language plpgsql as 'begin return new; end'`,
		`drop trigger countersign_whole_delete on tuf_files`)
	apply()
	if diff := cmp.Diff(want, list(t, db, all)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRights: a program with no more than upstream's rights at run time starts
// on a complete database, and says what it may not do on another.
func TestRights(t *testing.T) {
	t.Parallel()
	u := pgtest.URL(t)
	db := raw(t, "postgres", u)
	old(t, db, "signer.sql")
	role := "plain_" + list(t, db, `select current_database()`)[0]
	cluster, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	cluster.User = url.UserPassword("postgres", pgtest.Password)
	root := raw(t, "postgres", cluster.String())
	run(t, root, ownersOnly, `create role `+role+` login password 'plain'`, `grant select, insert, update, delete on all tables in schema public to `+role)
	t.Cleanup(func() { root.Exec(`drop owned by ` + role + `; drop role ` + role) })
	cluster.User = url.UserPassword(role, "plain")
	plain := open(t, "postgres", cluster.String())
	f, err := migrations.Adopt(t.Context(), plain, migrations.Signer)
	if err != nil {
		t.Fatalf("without rights: %v", err)
	}
	told := strings.Join(f.Warnings(), "\n")
	for _, w := range []string{"countersign_unused_key", "more slowly", "schema_migrations is missing", "draw from sequence private_keys_id_seq", "--sql | psql -U trust -d "} {
		if !strings.Contains(told, w) {
			t.Errorf("not told: %q in\n%s", w, told)
		}
	}
	// What the owner is told to run is all that was missing.
	psql(t, u, f.Script())
	if f, err = migrations.Inspect(t.Context(), plain, migrations.Signer); err != nil || !f.Done() {
		t.Errorf("after the script: %+v, %v", f.Gaps, err)
	}
	if err := migrations.Apply(t.Context(), open(t, "postgres", u), migrations.Signer); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Apply(t.Context(), plain, migrations.Signer); err != nil {
		t.Errorf("complete, and yet: %v", err)
	}
}
