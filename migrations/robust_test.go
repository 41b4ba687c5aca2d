package migrations_test

import (
	"database/sql"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/pgtest"
	"countersign/migrations"
)

// adopt is Adopt that must not fail.
func adopt(t *testing.T, u string) *migrations.Finding {
	t.Helper()
	f, err := migrations.Adopt(t.Context(), open(t, "postgres", u), migrations.Server)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// asRoot is the database for the superuser, and the name of the role of u.
func asRoot(t *testing.T, u string) (root *sql.DB, role string) {
	t.Helper()
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	role = parsed.User.Username()
	parsed.User = url.UserPassword("postgres", pgtest.Password)
	return raw(t, "postgres", parsed.String()), role
}

// TestAuditRights: with each right that the code uses taken away, the audit log is
// not used, so that publishes do not fail for it, and what the owner is told to
// run is all that is missing.
func TestAuditRights(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	adopt(t, u)
	db := raw(t, "postgres", u)
	plain := asPlain(t, u)
	role := list(t, db, `select grantee::text from information_schema.role_table_grants where grantee like 'reader_%' limit 1`)[0]
	for right, from := range map[string]string{
		"insert": "countersign_audit", "select": "countersign_audit", "delete": "countersign_doomed_key", "update": "countersign_purge",
		"usage": "sequence countersign_audit_id_seq", "USAGE": "sequence countersign_purge_id_seq",
	} {
		run(t, db, `revoke all on countersign_audit, countersign_doomed_key, countersign_purge from `+role,
			`grant select, insert on countersign_audit to `+role, `grant select, insert, update, delete on countersign_doomed_key to `+role,
			`grant select, insert, update on countersign_purge to `+role,
			`grant usage on sequence countersign_audit_id_seq, countersign_purge_id_seq to `+role)
		f, err := migrations.Adopt(t.Context(), plain, migrations.Server)
		if err != nil || !f.Audit || !f.Done() {
			t.Fatalf("with all rights: audit log %v, %+v, %v", f.Audit, f.Gaps, err)
		}
		run(t, db, `revoke `+right+` on `+from+` from `+role)
		f, err = migrations.Adopt(t.Context(), plain, migrations.Server)
		if err != nil || f.Audit || len(f.Gaps) != 1 || f.Gaps[0].Owner != "trust" {
			t.Errorf("without %s on %s: audit log %v, %+v, %v", right, from, f.Audit, f.Gaps, err)
			continue
		}
		psql(t, u, f.Script())
		if f, err = migrations.Adopt(t.Context(), plain, migrations.Server); err != nil || !f.Audit {
			t.Errorf("%s on %s given back: %+v, %v", right, from, f.Gaps, err)
		}
	}
}

// TestDroppedAudit: who has dropped the audit log has not dropped its function.
func TestDroppedAudit(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	adopt(t, u)
	db := raw(t, "postgres", u)
	run(t, db, `drop table countersign_audit`)
	if f := adopt(t, u); !f.Done() || !f.Audit {
		t.Errorf("left to do: %+v", f.Gaps)
	}
	run(t, db, `insert into countersign_audit (at, action) values (now(), 'publish')`)
	if _, err := db.ExecContext(t.Context(), `delete from countersign_audit`); err == nil {
		t.Error("the new log can be emptied")
	}
}

// TestOthersVersions: a schema_migrations of some other program is left as it is.
func TestOthersVersions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		shape string
		rows  []string
	}{
		"a higher number":  {"server-no-versions", []string{`insert into schema_migrations values (160, false)`}},
		"one more than 5":  {"server-no-versions", []string{`insert into schema_migrations values (6, true)`}},
		"one more than 2":  {"signer-no-versions", []string{`insert into schema_migrations values (3, false)`}},
		"many rows":        {"server-no-versions", []string{`insert into schema_migrations select n, false from generate_series(1, 30) n`}},
		"before our start": {"server-empty", []string{`insert into schema_migrations values (7, false)`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := field(t, test.shape)
			db := raw(t, "postgres", u)
			run(t, db, `create table schema_migrations (version bigint primary key, dirty boolean not null)`)
			run(t, db, test.rows...)
			before := list(t, db, versionRows)
			s := shapes[test.shape].schemas[0]
			for range 2 {
				f, _, err := migrations.Migrate(t.Context(), open(t, "postgres", u), s)
				if err != nil || !f.Done() || !strings.Contains(strings.Join(f.Notes, " "), "another program's") {
					t.Errorf("left to do %+v, noted %q: %v", f.Gaps, f.Notes, err)
				}
			}
			if diff := cmp.Diff(before, list(t, db, versionRows)); diff != "" {
				t.Errorf("its rows (-before +after):\n%s", diff)
			}
		})
	}
}

// TestNotOurVersions: schema_migrations that our role may only read, since the job
// that migrates runs as another, keeps no program from starting.
func TestNotOurVersions(t *testing.T) {
	t.Parallel()
	for _, column := range []string{`drop column if exists dirty`, `add dirty boolean not null default false`} {
		u := field(t, "server-mattes-first")
		root, role := asRoot(t, u)
		run(t, root, `alter table schema_migrations `+column, `alter table schema_migrations owner to postgres`,
			`revoke all on schema_migrations from `+role, `grant select on schema_migrations to `+role)
		f := adopt(t, u)
		if told := strings.Join(f.Warnings(), "\n"); !strings.Contains(told, "schema_migrations would trip") || !strings.Contains(told, "psql -U postgres") {
			t.Errorf("told:\n%s", told)
		}
		if len(f.Gaps) != 1 || !tableIsThere(t, root, "changefeed") {
			t.Errorf("left to do: %+v", f.Gaps)
		}
	}
}

// TestElsewhere: tables with rows in a schema that is not searched are not hidden
// by new ones, whatever search path somebody has set; empty ones may be.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	const away = `create schema notary; alter table tuf_files set schema notary; alter table changefeed set schema notary; alter table change_category set schema notary`
	for name, test := range map[string]struct {
		sql     []string
		refused bool
	}{
		"rows":               {[]string{away}, true},
		"rows, not readable": {[]string{away, `revoke all on notary.tuf_files from trust; alter table notary.tuf_files owner to postgres; revoke usage on schema notary from trust`}, true},
		"empty":              {[]string{`truncate tuf_files`, away}, false},
		"empty, then rows":   {[]string{away, `create schema a; create table a.tuf_files (like notary.tuf_files)`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := field(t, "server-upstream")
			root, _ := asRoot(t, u)
			run(t, root, test.sql...)
			run(t, root, `do $$ begin execute format('alter database %I set search_path = public', current_database()); end $$`)
			ours := open(t, "postgres", u)
			seen, _ := migrations.Inspect(t.Context(), ours, migrations.Server)
			_, err := migrations.Adopt(t.Context(), ours, migrations.Server)
			made := list(t, root, `select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace where relname = 'tuf_files' and nspname = 'public'`)
			if !test.refused {
				if err != nil || len(made) != 1 || !strings.Contains(strings.Join(seen.Notes, " "), "schema notary") {
					t.Errorf("made %q, noted %q: %v", made, seen.Notes, err)
				}
				return
			}
			if !errors.Is(err, migrations.ErrShape) || !strings.Contains(err.Error(), `set search_path = "notary"`) || len(made) > 0 {
				t.Fatalf("made %q: %v", made, err)
			}
			if strings.Contains(name, "readable") {
				return
			}
			// What it says to run is what helps.
			_, remedy, _ := strings.Cut(err.Error(), "as the owner run ")
			remedy, _, _ = strings.Cut(remedy, "; or,")
			run(t, root, remedy)
			run(t, root, `alter role trust in database "`+list(t, root, `select current_database()::text`)[0]+`" set search_path = notary`)
			if f := adopt(t, u); f.Home != "notary" {
				t.Errorf("then adopted in %s", f.Home)
			}
		})
	}
}

// TestDisabled: triggers that somebody has disabled, and forgotten, are told and
// enabled again.
func TestDisabled(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	adopt(t, u)
	db, _ := asRoot(t, u)
	for _, how := range []string{"disable trigger all", "enable replica trigger countersign_whole_delete"} {
		run(t, db, `alter table tuf_files `+how)
		f, err := migrations.Inspect(t.Context(), open(t, "postgres", u), migrations.Server)
		if err != nil || f.Done() {
			t.Errorf("%s: nothing is said: %v", how, err)
		}
		if f := adopt(t, u); !f.Done() {
			t.Errorf("%s: left to do: %+v", how, f.Gaps)
		}
		if off := list(t, db, `select tgname::text from pg_trigger where tgrelid = 'tuf_files'::regclass and not tgisinternal and tgenabled <> 'O'`); len(off) > 0 {
			t.Errorf("%s: still off: %q", how, off)
		}
	}
}

// TestInclude: a unique index may hold columns that are not part of what is unique.
func TestInclude(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	db := raw(t, "postgres", u)
	run(t, db, `alter table tuf_files drop constraint tuf_files_gun_role_version_key`)
	if v := list(t, db, `select current_setting('server_version_num')`)[0]; len(v) > 5 && v < "110000" {
		run(t, db, `create unique index x on tuf_files (gun, role, version)`) // 10 has no INCLUDE
	} else {
		run(t, db, `create unique index y on tuf_files (gun, role) include (version) where false`, `create unique index x on tuf_files (gun, role, version) include (sha256)`)
	}
	adopt(t, u)
	run(t, db, `drop index x`)
	if _, err := migrations.Check(t.Context(), open(t, "postgres", u), migrations.Server); !errors.Is(err, migrations.ErrShape) {
		t.Errorf("without it: %v", err)
	}
}

// TestScriptRoles: where two roles own what is to be mended, each runs his part,
// in any order, and the superuser runs both. Names with line ends stay comments.
func TestScriptRoles(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"owner", "root"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			u := field(t, "server-upstream")
			root, _ := asRoot(t, u)
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			plain := asPlain(t, u)
			run(t, root, `alter table changefeed owner to postgres`, `drop table if exists schema_migrations`)
			f, err := migrations.Inspect(t.Context(), plain, migrations.Server)
			if err != nil {
				t.Fatal(err)
			}
			for i, g := range f.Gaps {
				if g.Owner == "trust" {
					f.Gaps[i].What += "\r\n\\! false\n;\u2028drop table tuf_files"
				}
			}
			if first == "owner" {
				if out := psql(t, u, f.Script()); !strings.Contains(out, "left out: what only role postgres may run") {
					t.Errorf("psql says only:\n%s", out)
				}
				if f, err = migrations.Inspect(t.Context(), plain, migrations.Server); err != nil {
					t.Fatal(err)
				}
				if slices.ContainsFunc(f.Gaps, func(g migrations.Gap) bool { return g.Owner == "trust" }) || len(f.Gaps) == 0 {
					t.Errorf("after the first: %+v", f.Gaps)
				}
			}
			parsed.User = url.UserPassword("postgres", pgtest.Password)
			psql(t, parsed.String(), f.Script())
			if f, err = migrations.Inspect(t.Context(), plain, migrations.Server); err != nil || !f.Done() || !f.Audit {
				t.Errorf("after both: %+v, %v", f.Gaps, err)
			}
		})
	}
}

// TestCommand: what the operator is told to run reaches the same server.
func TestCommand(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	name, port := strings.TrimPrefix(parsed.Path, "/"), parsed.Port()
	for host, want := range map[string]string{
		"127.0.0.1": "psql -U o -d " + name + " -p " + port,
		"localhost": "psql -U o -d " + name + " -p " + port,
		"0.0.0.0":   "psql -U o -d " + name + " -h 0.0.0.0 -p " + port, // this machine, but not by such a name
	} {
		parsed.Host = host + ":" + port
		f, err := migrations.Inspect(t.Context(), open(t, "postgres", parsed.String()), migrations.Server)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Command(migrations.Gap{Owner: "o"}); !strings.HasSuffix(got, " --sql | "+want) {
			t.Errorf("%s: %s", host, got)
		}
	}
}
