package migrations_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"countersign/migrations"
)

// hold runs statements in a transaction, which stays open until the returned
// function is called.
func hold(t *testing.T, db *sql.DB, statements ...string) (tx *sql.Tx, end func()) {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	end = func() { tx.Rollback() }
	t.Cleanup(end)
	for _, s := range statements {
		if _, err := tx.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return tx, end
}

const (
	storeFile  = `insert into tuf_files (gun, role, version, data, sha256) values ('q', 'timestamp', 99, 'x', 's')`
	noWait     = `set local lock_timeout = '100ms'; ` // for what nobody should hold at all
	storeEntry = `insert into changefeed (gun, version, sha256) values ('q', 99, 's')`
)

// A result is what Adopt or Migrate returns.
type result struct {
	f   *migrations.Finding
	err error
}

// adopting starts an adoption.
func adopting(t *testing.T, u string, migrate bool) <-chan result {
	t.Helper()
	o := open(t, "postgres", u)
	done := make(chan result, 1)
	go func() {
		var r result
		if migrate {
			r.f, _, r.err = migrations.Migrate(t.Context(), o, migrations.Server)
		} else {
			r.f, r.err = migrations.Adopt(t.Context(), o, migrations.Server)
		}
		done <- r
	}()
	return done
}

const waitsForFiles = `select count(*) > 0 from pg_locks where not granted and relation = 'tuf_files'::regclass`

// printed is what psql has said and how it ended.
type printed struct {
	out string
	err error
}

// running starts psql.
func running(t *testing.T, u, script string) <-chan printed {
	t.Helper()
	done := make(chan printed, 1)
	go func() {
		out, err := tryPSQL(t, u, script)
		done <- printed{out, err}
	}()
	return done
}

// TestOneLockAtATime: an adoption that waits, whatever it waits for, holds no table
// that a publish wants. Here a publish is half way: it has its row in tuf_files, and
// goes on to the changefeed while the adoption waits, once for tuf_files, once
// for the name of a function that somebody else is just making.
func TestOneLockAtATime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ by, waits string }{
		"table": {`select`, waitsForFiles},
		"function": {`create function countersign_delete_begins() returns trigger language plpgsql as 'begin return null; end'`,
			`select count(*) > 0 from pg_locks where not granted and locktype = 'transactionid'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := field(t, "server-upstream")
			db := raw(t, "postgres", u)
			_, release := hold(t, db, test.by)
			publish, _ := hold(t, db, storeFile)
			done := adopting(t, u, true)
			waitFor(t, db, test.waits)
			_, err := publish.Exec(noWait + storeEntry)
			if err == nil {
				err = publish.Commit()
			}
			if err != nil {
				t.Fatalf("upstream's publish: %v", err)
			}
			release()
			if r := <-done; r.err != nil || !r.f.Done() {
				t.Errorf("left to do: %+v: %v", r.f.Gaps, r.err)
			}
		})
	}
}

// TestTableInUse: beside somebody who has locked a table for long, as VACUUM
// does and CREATE INDEX CONCURRENTLY, a program starts and says who is in its way, and the operator's command
// goes on trying. Neither makes those wait who write.
func TestTableInUse(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	db := raw(t, "postgres", u)
	_, release := hold(t, db, `lock table tuf_files in share update exclusive mode`)
	r := <-adopting(t, u, false)
	if r.err != nil {
		t.Fatalf("the start: %v", r.err)
	}
	told := strings.Join(r.f.Warnings(), "\n")
	for _, w := range []string{"countersign_delete_begins", "countersign_whole_delete", "table tuf_files is in use by process", "(lock table)", "trust-admin db migrate"} {
		if !strings.Contains(told, w) {
			t.Errorf("not told: %q in\n%s", w, told)
		}
	}
	if strings.Contains(told, "changefeed") || !r.f.Audit {
		t.Errorf("what could be made was not:\n%s", told)
	}
	done := adopting(t, u, true)
	waitFor(t, db, waitsForFiles)
	// No longer than a slice, and far from what a statement gives up after.
	run(t, db, `set statement_timeout = '4s'; `+storeFile+`; set statement_timeout = 0`)
	select {
	case r := <-done:
		t.Fatalf("the command did not wait: %v", r.err)
	default:
	}
	release()
	if r := <-done; r.err != nil || !r.f.Done() {
		t.Errorf("left to do: %+v: %v", r.f.Gaps, r.err)
	}
}

// TestScriptInUse: what psql runs gives up in time as well, leaves nothing half
// done, and what is then made anew goes on from there.
func TestScriptInUse(t *testing.T) {
	t.Parallel()
	u := field(t, "server-upstream")
	db := raw(t, "postgres", u)
	inspect := func() *migrations.Finding {
		t.Helper()
		f, err := migrations.Inspect(t.Context(), open(t, "postgres", u), migrations.Server)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	publish, release := hold(t, db, storeFile)
	done := running(t, u, inspect().Script())
	waitFor(t, db, waitsForFiles)
	if _, err := publish.Exec(noWait + storeEntry); err != nil {
		t.Errorf("upstream's publish: %v", err)
	}
	if p := <-done; p.err == nil || !strings.Contains(p.out, "lock timeout") {
		t.Fatalf("beside a publish: %v: %s", p.err, p.out)
	}
	release()
	psql(t, u, inspect().Script())
	if f := inspect(); !f.Done() {
		t.Errorf("left to do: %+v", f.Gaps)
	}
}

// TestWayBack: the statements of the document that remove our additions do not
// freeze upstream's servers. Upstream's publish asks on a second connection while
// its transaction is open; a statement that waited for the first without an end
// would have the second one wait behind it.
func TestWayBack(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile(filepath.Join("..", "docs", "migrating-from-notary.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`(?s)ON_ERROR_STOP=1 notaryserver <<END\n(.*?)\nEND`).FindAllStringSubmatch(string(guide), -1)
	if len(blocks) != 2 || blocks[0][1] != blocks[1][1] {
		t.Fatalf("the document has %d blocks for the server's database, or two different ones", len(blocks))
	}
	script := `\set ON_ERROR_STOP on` + "\n" + blocks[0][1]
	u := field(t, "server-upstream")
	if r := <-adopting(t, u, false); r.err != nil {
		t.Fatal(r.err)
	}
	db := raw(t, "postgres", u)
	publish, end := hold(t, db, storeFile)
	done := running(t, u, script)
	waitFor(t, db, waitsForFiles)
	run(t, db, `set statement_timeout = '20s'; select 1 from tuf_files where gun = 'q'; set statement_timeout = 0`)
	if _, err := publish.Exec(storeEntry); err != nil {
		t.Errorf("upstream's publish: %v", err)
	}
	if p := <-done; p.err == nil || !strings.Contains(p.out, "lock timeout") {
		t.Errorf("beside a publish that does not end: %v: %s", p.err, p.out)
	}
	end()
	psql(t, u, script)
	if left := list(t, db, `select proname::text from pg_proc where proname like 'countersign%' union all select relname::text from pg_class where relname like 'countersign%'
		union all select tgname::text from pg_trigger where tgname like 'countersign%'`); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}
