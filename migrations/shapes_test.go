package migrations_test

import (
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/storage/sqldb"
)

// shapes are the fixtures: the schemas that are in each, and what the tables
// are recognised as.
var shapes = map[string]struct {
	schemas []migrations.Schema
	shape   string
	feed    bool // it has a changefeed, with rows
}{
	"server-empty":                  {[]migrations.Schema{migrations.Server}, "empty", false},
	"server-upstream":               {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-no-versions":            {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-mattes":                 {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-mattes-first":           {[]migrations.Schema{migrations.Server}, "before the changefeed", false},
	"server-half-way":               {[]migrations.Schema{migrations.Server}, "before the changefeed", false},
	"server-dirty":                  {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-emptied":                {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-harbor-mysql":           {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-harbor-mysql-first":     {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", false},
	"server-harbor-patched":         {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-harbor-patched-several": {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-harbor-fixed":           {[]migrations.Schema{migrations.Server}, "all tables, as upstream's", true},
	"server-pgloader":               {[]migrations.Schema{migrations.Server}, "another tool", true},
	"signer-empty":                  {[]migrations.Schema{migrations.Signer}, "empty", false},
	"signer-upstream":               {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-no-versions":            {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-mattes":                 {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-dirty":                  {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-harbor-mysql":           {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-harbor-patched":         {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-harbor-fixed":           {[]migrations.Schema{migrations.Signer}, "all tables, as upstream's", false},
	"signer-pgloader":               {[]migrations.Schema{migrations.Signer}, "another tool", false},
	"both-upstream":                 {schemas, "all tables, as upstream's", true},
	"both-one-table":                {schemas, "all tables, as upstream's", true},
}

// field makes a database of a shape, with rows, and returns its URL.
func field(t testing.TB, name string) string {
	t.Helper()
	u := pgtest.URL(t)
	db := raw(t, "postgres", u)
	files := []string{filepath.Join("shapes", name+".sql")}
	s := shapes[name]
	if s.shape != "empty" {
		for _, schema := range s.schemas {
			files = append(files, map[migrations.Schema]string{migrations.Server: "rows/tuf_files.sql", migrations.Signer: "rows/private_keys.sql"}[schema])
		}
		if s.feed {
			files = append(files, "rows/changefeed.sql")
		}
	}
	db.SetMaxOpenConns(1) // for the search path that a file sets
	old(t, db, files...)
	return u
}

// contents are all rows of the tables that are there, as text.
func contents(t testing.TB, db *sql.DB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range []string{"tuf_files", "changefeed", "private_keys"} {
		if len(list(t, db, `select to_regclass('`+table+`')::text where to_regclass('`+table+`') is not null`)) > 0 {
			all[table] = list(t, db, `select t::text from `+table+` t order by id`)
		}
	}
	return all
}

const versionRows = `select t::text from schema_migrations t order by 1`

// TestFixtures: every file is a shape that is tested.
func TestFixtures(t *testing.T) {
	found, err := filepath.Glob("testdata/shapes/*.sql")
	if err != nil || len(found) != len(shapes) {
		t.Fatalf("%d files for %d shapes: %v", len(found), len(shapes), err)
	}
	for _, f := range found {
		if _, ok := shapes[strings.TrimSuffix(filepath.Base(f), ".sql")]; !ok {
			t.Errorf("%s is not tested", f)
		}
	}
}

// TestAdoptShapes: each shape is recognised, taken over by several replicas at
// once, keeps its rows and its schema_migrations, can be written to, and is set right
// for upstream's tool by the operator's command, which then finds nothing to do.
func TestAdoptShapes(t *testing.T) {
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := field(t, name)
			db := raw(t, "postgres", u)
			before := contents(t, db)
			versions := []string(nil)
			if tableIsThere(t, db, "schema_migrations") {
				versions = list(t, db, versionRows)
			}
			for _, s := range shape.schemas {
				if f, err := migrations.Inspect(t.Context(), open(t, "postgres", u), s); err != nil || !strings.Contains(f.Shape, shape.shape) {
					t.Errorf("%s: recognised as %q: %v", s, f.Shape, err)
				}
				adoptAtOnce(t, u, s)
			}
			for table, rows := range before {
				if after := contents(t, db)[table]; (len(rows) > 0 || table != "changefeed") && !slices.Equal(after, rows) {
					t.Errorf("rows of %s changed:\n%s", table, cmp.Diff(rows, after))
				}
			}
			if name == "server-mattes-first" {
				versions = append(versions, "(2)") // as the tool of that time would count on
			}
			if versions != nil {
				if diff := cmp.Diff(versions, list(t, db, versionRows)); diff != "" {
					t.Errorf("a start has changed schema_migrations:\n%s", diff)
				}
			}
			writable(t, db, shape.schemas)
			migrateTwice(t, u, name, shape.schemas)
		})
	}
}

// TestMeanings: what is said of schema_migrations is what golang-migrate, from
// its source, would do.
func TestMeanings(t *testing.T) {
	for name, want := range map[string]string{
		"server-upstream":               "find nothing to do",
		"server-no-versions":            "absent",
		"server-mattes":                 "no column dirty",
		"server-mattes-first":           "no column dirty",
		"server-half-way":               "marked dirty",
		"server-dirty":                  "version 1, older than the tables (2)",
		"server-emptied":                "no row",
		"server-harbor-mysql":           "version 5, which is MySQL's numbering",
		"server-harbor-patched":         "version 5, which is MySQL's numbering",
		"server-harbor-patched-several": "several rows",
		"signer-harbor-patched":         "version 2, which is MySQL's numbering",
		"both-one-table":                "find nothing to do",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := migrations.Inspect(t.Context(), open(t, "postgres", field(t, name)), shapes[name].schemas[0])
			if err != nil || !strings.Contains(f.Versions.Meaning, want) {
				t.Errorf("%q does not say %q: %v", f.Versions.Meaning, want, err)
			}
		})
	}
}

func tableIsThere(t testing.TB, db *sql.DB, name string) bool {
	t.Helper()
	return len(list(t, db, `select 'x' where to_regclass('`+name+`') is not null`)) > 0
}

func adoptAtOnce(t *testing.T, u string, s migrations.Schema) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		db := open(t, "postgres", u)
		wg.Go(func() {
			f, err := migrations.Adopt(t.Context(), db, s)
			if err != nil {
				t.Errorf("%s: %v", s, err)
				return
			}
			for _, g := range f.Gaps {
				if !strings.Contains(g.What, "schema_migrations") {
					t.Errorf("%s: still to do: %s", s, g.What)
				}
			}
		})
	}
	wg.Wait()
}

// writable stores what a publish and a new key would, as upstream's programs do.
func writable(t *testing.T, db *sql.DB, in []migrations.Schema) {
	t.Helper()
	if slices.Contains(in, migrations.Server) {
		run(t, db, `insert into tuf_files (created_at, updated_at, gun, role, version, data, sha256) values (now(), now(), 'g', 'timestamp', 9, 'x', 's')`,
			`insert into changefeed (gun, version, sha256) values ('g', 9, 's')`,
			`insert into changefeed (gun, version, sha256, category) values ('g', 0, '', 'deletion')`)
	}
	if slices.Contains(in, migrations.Signer) {
		run(t, db, `insert into private_keys (key_id, encryption_alg, keywrap_alg, algorithm, passphrase_alias, public, private, gun, role)
			values ('k', 'e', 'k', 'a', 'p', 'x', 'x', 'g', 'timestamp')`)
	}
}

// migrateTwice runs the operator's command, and again: the second time there is
// nothing to do. What golang-migrate then reads is a single right row.
func migrateTwice(t *testing.T, u, name string, in []migrations.Schema) {
	t.Helper()
	for _, s := range in {
		if _, _, err := migrations.Migrate(t.Context(), open(t, "postgres", u), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	for _, s := range in {
		f, did, err := migrations.Migrate(t.Context(), open(t, "postgres", u), s)
		if err != nil || len(did) > 0 || !f.Done() {
			t.Errorf("%s, again: did %q, left %+v: %v", s, did, f.Gaps, err)
		}
	}
	want := []string{"2 false"}
	if in[0] == migrations.Signer {
		want = []string{"1 false"}
	}
	if diff := cmp.Diff(want, list(t, raw(t, "postgres", u), `select version || ' ' || dirty from schema_migrations`)); diff != "" {
		t.Errorf("%s: schema_migrations (-want +got):\n%s", name, diff)
	}
}

// TestKilled: a replica that is killed in the middle of its work leaves nothing
// of it, and the others, who wait for it, do it.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"server-mattes-first", "server-empty", "signer-pgloader"} {
		u := field(t, name)
		s := shapes[name].schemas[0]
		db := raw(t, "postgres", u)
		victim, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if err := victim.QueryRowContext(t.Context(), `select pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		// What a replica that has come half way holds: the lock, and a table.
		if _, err := victim.ExecContext(t.Context(), `begin; select pg_advisory_xact_lock(4850187264918235502); create table if not exists change_category (half int)`); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); adoptAtOnce(t, u, s) }()
		waitFor(t, db, `select count(*) >= 4 from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`)
		run(t, db, fmt.Sprintf(`select pg_terminate_backend(%d)`, pid))
		<-done
		victim.Close()
		if f, err := migrations.Inspect(t.Context(), open(t, "postgres", u), s); err != nil {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

// waitFor polls until the query says true.
func waitFor(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !slices.Equal(list(t, db, query), []string{"true"}); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never true: %s", query)
		}
	}
}

// TestUpstreamsTool: while upstream's migration tool works on a database, under
// its own lock, nothing of ours changes it.
func TestUpstreamsTool(t *testing.T) {
	t.Parallel()
	u := field(t, "server-half-way")
	db := raw(t, "postgres", u)
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	// golang-migrate 4.6 calls the database by the path of its URL. crc32 of
	// that, a zero byte and the schema, times its salt.
	name := strings.TrimPrefix(parsed.Path, "/")
	tool, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tool.Close()
	if _, err := tool.ExecContext(t.Context(), `select pg_advisory_lock($1)`, toolLock("/"+name+"\x00public")); err != nil {
		t.Fatal(err)
	}
	_, _, err = migrations.Migrate(t.Context(), open(t, "postgres", u), migrations.Server)
	if err == nil || !strings.Contains(err.Error(), "upstream's migration tool") {
		t.Errorf("beside the tool: %v", err)
	}
	if got := list(t, db, versionRows); !slices.Equal(got, []string{"(1,t)"}) {
		t.Errorf("schema_migrations became %v", got)
	}
}

// TestUnusableShapes: what cannot be adopted without guessing is refused, in
// words that name the remedy.
func TestUnusableShapes(t *testing.T) {
	for name, test := range map[string]struct {
		schema migrations.Schema
		sql    string
		want   []string
	}{
		"elsewhere":     {migrations.Server, `create schema old; alter table tuf_files set schema old`, []string{"schema old", "set search_path"}},
		"type of bytes": {migrations.Server, `alter table tuf_files alter data type text using ''`, []string{"column data", "text", "bytea"}},
		"type of IDs":   {migrations.Signer, `alter table private_keys alter id type numeric`, []string{"column id", "numeric"}},
		"unknown":       {migrations.Signer, `alter table private_keys add tenant text not null`, []string{"column tenant", "default"}},
		"a view":        {migrations.Signer, `alter table private_keys rename to hidden; create view private_keys as select * from hidden`, []string{"not a table"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := pgtest.URL(t)
			db := raw(t, "postgres", u)
			old(t, db, "server.sql", "signer.sql")
			run(t, db, test.sql)
			f, err := migrations.Adopt(t.Context(), open(t, "postgres", u), test.schema)
			if !errors.Is(err, migrations.ErrShape) || f.Fault == "" || f.Done() {
				t.Fatalf("got %v, fault %q", err, f.Fault)
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

// TestMended: tables that were copied without their sequence, or with one that
// begins anew, get IDs that are free.
func TestMended(t *testing.T) {
	for name, spoil := range map[string]string{
		"no default": `alter table tuf_files alter id drop default; drop sequence tuf_files_id_seq`,
		"behind":     `select setval('tuf_files_id_seq', 1, false)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := field(t, "server-upstream")
			db := raw(t, "postgres", u)
			run(t, db, spoil)
			adoptAtOnce(t, u, migrations.Server)
			writable(t, db, []migrations.Schema{migrations.Server})
		})
	}
}

// TestFeedOrder: entries of the changefeed are in the order of their commits
// although the sequence is not the column's own.
func TestFeedOrder(t *testing.T) {
	t.Parallel()
	u := field(t, "server-pgloader")
	adoptAtOnce(t, u, migrations.Server)
	db := raw(t, "postgres", u)
	run(t, db, `select setval('notaryserver.changefeed_id_seq', 100)`, `insert into changefeed (id, gun, version) values (50, 'late', 1)`)
	if got := list(t, db, `select id::text from changefeed where gun = 'late'`); !slices.Equal(got, []string{"101"}) {
		t.Errorf("an ID that was drawn before others became %v", got)
	}
}

// TestReadOnly: a standby is looked at like any other database; to adopt it
// fails in words where something is missing.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	for name, ready := range map[string]bool{"server-upstream": true, "server-mattes-first": false} {
		u := field(t, name)
		db := raw(t, "postgres", u)
		run(t, db, `do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
		ours := open(t, "postgres", u)
		f, err := migrations.Inspect(t.Context(), ours, migrations.Server)
		if err != nil || !f.ReadOnly {
			t.Errorf("%s: looked at: %+v, %v", name, f, err)
		}
		f, err = migrations.Adopt(t.Context(), ours, migrations.Server)
		if ready && (err != nil || !strings.Contains(strings.Join(f.Warnings(), " "), "read-only")) {
			t.Errorf("%s: %v, %q", name, err, f.Warnings())
		}
		if !ready && (err == nil || !strings.Contains(err.Error(), "read-only")) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestOwnedByAnother: with no more than upstream's rights the program starts,
// and what it may not add is told with the command for the owner.
func TestOwnedByAnother(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	plain := asPlain(t, u)
	f, err := migrations.Adopt(t.Context(), plain, migrations.Server)
	if err != nil {
		t.Fatal(err)
	}
	told := strings.Join(f.Warnings(), "\n")
	for _, w := range []string{"countersign_changefeed_order", "countersign_whole_delete", "may miss an entry", "trust-admin db migrate --server-config FILE --sql | psql -U trust"} {
		if !strings.Contains(told, w) {
			t.Errorf("not told: %q in\n%s", w, told)
		}
	}
	// A table that cannot be made is another matter.
	u = field(t, "server-mattes-first")
	_, err = migrations.Adopt(t.Context(), asPlain(t, u), migrations.Server)
	if !errors.Is(err, sqldb.ErrRights) || !strings.Contains(err.Error(), "change_category") || !strings.Contains(err.Error(), "psql") {
		t.Errorf("a missing table: %v", err)
	}
}

// TestTooOld: a PostgreSQL that says it is older than those we know is refused
// before anything is asked of it or made in it, and it is told what to do.
func TestTooOld(t *testing.T) {
	t.Parallel()
	for version, words := range map[string]string{
		"90624 9.6.24":   "PostgreSQL 9.6.24 is too old: version 10 or a newer one is needed. Upgrade it first: by pg_upgrade, by pg_dump",
		"99999 10beta1":  "too old",
		"100000 10.0":    "",
		"190001 19.1 (D": "",
	} {
		u := field(t, "server-mattes-first")
		db := raw(t, "postgres", u)
		num, name, _ := strings.Cut(version, " ")
		// A function of that name is found before PostgreSQL's own.
		run(t, db, `create schema lies`, `create function lies.current_setting(text) returns text language sql stable as $$
			select case $1 when 'server_version' then '`+name+`' when 'server_version_num' then '`+num+`' else pg_catalog.current_setting($1) end $$`,
			`do $$ begin execute format('alter database %I set search_path = lies, pg_catalog, public', current_database()); end $$`)
		ours := open(t, "postgres", u)
		f, err := migrations.Check(t.Context(), ours, migrations.Server)
		if f.Server != name {
			t.Fatalf("the database says that it is %q, not %s", f.Server, name)
		}
		if words == "" {
			if f.Shape == "unusable" || strings.Contains(fmt.Sprint(err), "too old") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		_, adopted := migrations.Adopt(t.Context(), ours, migrations.Server)
		_, _, migrated := migrations.Migrate(t.Context(), ours, migrations.Server)
		for _, err := range []error{err, adopted, migrated} {
			if !errors.Is(err, migrations.ErrShape) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if f.Shape != "unusable" || !strings.Contains(f.Fault, "Harbor between 2.3 and 2.6") {
			t.Errorf("%s: %+v", name, f)
		}
		if made := list(t, db, `select tgname::text from pg_trigger where not tgisinternal union all
			select relname::text from pg_class where relname in ('changefeed', 'countersign_audit')`); len(made) > 0 {
			t.Errorf("%s: it has made %q", name, made)
		}
	}
}

// ownersOnly is what a careful operator sets before PostgreSQL 15, and what
// every new database comes with since: not everybody may make tables.
const ownersOnly = `revoke create on schema public from public; grant create on schema public to trust`

// asPlain opens the database as a role with upstream's rights at run time.
func asPlain(t *testing.T, u string) *sqldb.DB {
	t.Helper()
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	role := "reader_" + strings.TrimPrefix(parsed.Path, "/")
	parsed.User = url.UserPassword("postgres", pgtest.Password)
	root := raw(t, "postgres", parsed.String())
	run(t, root, ownersOnly, `create role `+role+` login password 'plain'`, `grant select, insert, update, delete on all tables in schema public to `+role,
		`grant usage on all sequences in schema public to `+role)
	t.Cleanup(func() { root.Exec(`drop owned by ` + role + `; drop role ` + role) })
	parsed.User = url.UserPassword(role, "plain")
	return open(t, "postgres", parsed.String())
}

// toolLock is what golang-migrate computes from a name.
func toolLock(name string) int64 { return int64(crc32.ChecksumIEEE([]byte(name)) * uint32(1486364155)) }
