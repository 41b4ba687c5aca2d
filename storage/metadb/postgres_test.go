package metadb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

const (
	gun  tuf.GUN      = "example.org/app"
	relA tuf.RoleName = "targets/a"
	relB tuf.RoleName = "targets/b"
	// feedLock is what the trigger on changefeed takes: who holds it stops
	// every publish after its files are inserted and before it commits.
	feedLock = `select pg_advisory_lock(4850187264918235501)`
	feedFree = `select pg_advisory_unlock(4850187264918235501)`
)

// A psql is a person at a prompt: one connection, with its own transactions.
type psql struct {
	t    testing.TB
	conn *sql.Conn
}

func prompt(t testing.TB, url string) *psql {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		db.Close()
	})
	return &psql{t: t, conn: conn}
}

func (p *psql) run(statement string, args ...any) {
	p.t.Helper()
	if _, err := p.conn.ExecContext(p.t.Context(), statement, args...); err != nil {
		p.t.Fatalf("%s: %v", statement, err)
	}
}

func (p *psql) number(query string, args ...any) (n int64) {
	p.t.Helper()
	if err := p.conn.QueryRowContext(p.t.Context(), query, args...).Scan(&n); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// waiting polls until n statements of this database wait for a lock.
func (p *psql) waiting(n int64) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		got := p.number(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%d statements wait, want %d", got, n)
		}
	}
}

func background(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func publish(t testing.TB, s storage.MetadataStore, set storage.Set) {
	t.Helper()
	if err := s.Publish(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

// TestChangefeedHole reproduces, without our trigger, the entry that a reader
// never sees, and shows that it cannot happen with it. The writers are plain
// inserts, such as upstream's.
func TestChangefeedHole(t *testing.T) {
	t.Parallel()
	const insert = `insert into changefeed (gun, version, sha256) values ('%s', 1, '')`
	for _, trigger := range []bool{false, true} {
		url := pgtest.URL(t)
		s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
		a, b, eye := prompt(t, url), prompt(t, url), prompt(t, url)
		if !trigger {
			eye.run(`drop trigger countersign_changefeed_order on changefeed`)
		}
		var seen []tuf.GUN
		last := int64(0)
		read := func() {
			page, err := s.Changes(t.Context(), storage.ChangeQuery{After: last, Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page {
				seen, last = append(seen, c.GUN), c.ID
			}
		}
		a.run(`begin`)
		a.run(fmt.Sprintf(insert, "first"))
		second := background(func() error {
			_, err := b.conn.ExecContext(context.Background(), fmt.Sprintf(insert, "second"))
			return err
		})
		if trigger {
			eye.waiting(1)
		} else if err := <-second; err != nil {
			t.Fatal(err)
		}
		read()
		a.run(`commit`)
		if trigger {
			if err := <-second; err != nil {
				t.Fatal(err)
			}
		}
		read()
		want := "[second]" // the hole
		if trigger {
			want = "[first second]"
		}
		if got := fmt.Sprint(seen); got != want {
			t.Errorf("trigger %v: the reader saw %v, want %v", trigger, got, want)
		}
	}
}

// TestChangefeedLateDraw: an ID drawn before another transaction drew and
// committed is drawn again; one that a restored dump gives is kept.
func TestChangefeedLateDraw(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	open(t, sqldb.Config{Backend: "postgres", URL: url})
	p := prompt(t, url)
	early := p.number(`select nextval('changefeed_id_seq')`)
	later := p.number(`insert into changefeed (gun, version, sha256) values ('x', 1, '') returning id`)
	if got := p.number(`insert into changefeed (id, gun, version, sha256) values ($1, 'y', 1, '') returning id`, early); got <= later {
		t.Errorf("ID %d, drawn before %d was committed, was kept", got, later)
	}
	if got := p.number(`insert into changefeed (id, gun, version, sha256) values (1000, 'z', 1, '') returning id`); got != 1000 {
		t.Errorf("ID 1000 of a dump became %d", got)
	}
}

// TestDeleteDuringPublish: a publish has inserted its files and not yet
// committed; a deletion of its GUN waits for it and then does not see them.
func TestDeleteDuringPublish(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		trigger bool
		byStore bool
		roles   []tuf.RoleName
		want    error
	}{
		{"by hand", true, false, []tuf.RoleName{tuf.RoleTargets}, storage.ErrNotFound},
		{"by hand, all base roles new", true, false, []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets}, storage.ErrNotFound},
		{"by hand, everything new", true, false, []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, relA}, nil},
		{"by the store", true, true, []tuf.RoleName{tuf.RoleTargets}, storage.ErrNotFound},
		{"by the store, without the trigger", false, true, []tuf.RoleName{tuf.RoleTargets}, storage.ErrNotFound},
		// The control: this is what the trigger is for.
		{"by hand, without the trigger", false, false, []tuf.RoleName{tuf.RoleTargets}, storage.ErrDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			url := pgtest.URL(t)
			s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
			r, stays := storagetest.NewRepo(gun, "race"), storagetest.NewRepo(gun+"/2", "stays")
			publish(t, s, stays.Next(tuf.RoleRoot, tuf.RoleTargets))
			publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA))
			gate, hand := prompt(t, url), prompt(t, url)
			if !test.trigger {
				gate.run(`drop trigger countersign_whole_delete on tuf_files`)
			}
			gate.run(feedLock)
			published := background(func() error { return s.Publish(context.Background(), r.Next(test.roles...)) })
			gate.waiting(1)
			deleted := background(func() error {
				if test.byStore {
					_, err := s.Delete(context.Background(), gun)
					return err
				}
				// Another search path than the function's maker had.
				_, err := hand.conn.ExecContext(context.Background(), `set search_path = pg_catalog; delete from public.tuf_files where gun = '`+string(gun)+`'`)
				return err
			})
			gate.waiting(2)
			gate.run(feedFree)
			if err := <-published; err != nil {
				t.Errorf("publish: %v", err)
			}
			if err := <-deleted; err != nil {
				t.Errorf("delete: %v", err)
			}
			_, err := storagetest.Verify(t.Context(), s, gun)
			if !errors.Is(err, test.want) {
				t.Errorf("afterwards: %v, want %v", err, test.want)
			}
			if rows := gate.number(`select count(*) from tuf_files where gun = $1`, string(gun)); errors.Is(test.want, storage.ErrNotFound) && rows != 0 {
				t.Errorf("%d rows are left", rows)
			}
			stays.Holds(t, s)
		})
	}
}

// TestWarned: who leaves half a repository is told so before the commit, and who
// deletes or prunes properly is not.
func TestWarned(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	c, err := pq.NewConnector(url)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	db := sql.OpenDB(pq.ConnectorWithNoticeHandler(c, func(n *pq.Error) { told = append(told, n.Severity+": "+n.Message) }))
	defer db.Close()
	r := storagetest.NewRepo(gun, "warned")
	for range 3 {
		publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	}
	publish(t, s, r.Next(tuf.RoleTargets))
	for _, step := range []struct {
		statement string
		warned    bool
	}{
		{`delete from tuf_files where version = 1`, false},
		{`delete from tuf_files where version <= 3`, true},
		{`delete from tuf_files`, false},
	} {
		told = nil
		if _, err := db.ExecContext(t.Context(), step.statement); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(told, "; ")
		if warned := strings.HasPrefix(got, "WARNING: ") && strings.Contains(got, string(gun)); warned != step.warned || !warned && got != "" {
			t.Errorf("%s: told %q", step.statement, got)
		}
	}
}

// TestPublishBeforeDeletionLooks: a deletion has begun, and so knows which rows
// it will see; then a publish commits; then the deletion goes on. The moment is
// that between the statement's snapshot and the functions that it calls.
func TestPublishBeforeDeletionLooks(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	r := storagetest.NewRepo(gun, "moment")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	gate, hand := prompt(t, url), prompt(t, url)
	gate.run(`create function a_gate() returns trigger language plpgsql as 'begin perform pg_advisory_lock_shared(7); return null; end'`)
	gate.run(`create trigger a_gate before delete on tuf_files for each statement execute procedure a_gate()`)
	gate.run(`select pg_advisory_lock(7)`)
	deleted := background(func() error {
		_, err := hand.conn.ExecContext(context.Background(), `delete from tuf_files where gun = '`+string(gun)+`'`)
		return err
	})
	gate.waiting(1)
	publish(t, s, r.Next(tuf.RoleTargets))
	gate.run(`select pg_advisory_unlock(7)`)
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if n := gate.number(`select count(*) from tuf_files`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestPublishDuringDelete: the deletion came first, and has not committed.
func TestPublishDuringDelete(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	hand, eye := prompt(t, url), prompt(t, url)
	for _, end := range []string{"rollback", "commit"} {
		r := storagetest.NewRepo(gun, end)
		if end == "rollback" {
			publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
		} else {
			g, err := storagetest.Verify(t.Context(), s, gun)
			if err != nil {
				t.Fatal(err)
			}
			r = storagetest.From(g, end)
		}
		hand.run(`begin`)
		hand.run(`delete from tuf_files where gun = $1`, string(gun))
		published := background(func() error { return s.Publish(context.Background(), r.Next(tuf.RoleTargets)) })
		eye.waiting(1)
		hand.run(end)
		err := <-published
		if end == "rollback" {
			if err != nil {
				t.Errorf("nothing was deleted, and yet: %v", err)
			}
			r.Holds(t, s)
			continue
		}
		if !errors.Is(err, storage.ErrStale) {
			t.Errorf("the GUN is gone, and publish says %v", err)
		}
		if n := eye.number(`select count(*) from tuf_files`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	}
}

// TestHandTypedDeletes: what is no deletion of a GUN is not taken for one.
func TestHandTypedDeletes(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	hand := prompt(t, url)
	filled := func(g tuf.GUN) *storagetest.Repo {
		r := storagetest.NewRepo(g, "hand")
		publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA, relB))
		publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA, relB))
		publish(t, s, r.Remove(relB))
		publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA))
		return r
	}
	pruned := filled("pruned")
	hand.run(`delete from tuf_files f where gun = 'pruned' and version < (
		select max(version) from tuf_files m where m.gun = f.gun and m.role = f.role) or gun = 'pruned' and role = 'targets/b'`)
	if n := hand.number(`select count(*) from tuf_files where gun = 'pruned'`); n != 5 {
		t.Errorf("%d rows after pruning to one of each role", n)
	}
	pruned.Holds(t, s)

	filled("one role")
	hand.run(`delete from tuf_files where gun = 'one role' and role = 'root'`)
	if n := hand.number(`select count(*) from tuf_files where gun = 'one role'`); n == 0 {
		t.Error("the removal of one role removed all")
	}

	filled("rolled back")
	hand.run(`delete from tuf_files where gun = 'rolled back' and version >= 3`)
	if g, err := storagetest.Verify(t.Context(), s, "rolled back"); err != nil || g.Timestamp.Version != 2 {
		t.Errorf("after removing the newest generations: %v", err)
	}

	// The root has not changed since version 2, and goes with its age; the newest
	// generation needs it. That is to be mended, and not a reason to remove more.
	aged := filled("aged")
	publish(t, s, aged.Next(tuf.RoleTargets))
	publish(t, s, aged.Next(tuf.RoleTargets))
	hand.run(`update tuf_files set created_at = '2020-01-01' where gun = 'aged' and id <= (
		select id from tuf_files where gun = 'aged' and role = 'timestamp' and version = 4)`)
	left := hand.number(`select count(*) from tuf_files where gun = 'aged' and created_at > '2020-01-01'`)
	lost := hand.number(`select count(*) from tuf_files where gun = 'aged' and created_at = '2020-01-01' and role = 'root'`)
	for _, in := range []string{
		`%s`,
		// What this transaction has written itself was visible to it too.
		`begin; update tuf_files set updated_at = now() where gun = 'aged' and created_at > '2020-01-01'; %s; commit`,
		`begin; savepoint s; update tuf_files set updated_at = now() where gun = 'aged' and created_at > '2020-01-01'; release s; %s; commit`,
	} {
		hand.run(`create table kept as select * from tuf_files where gun = 'aged'`)
		hand.run(fmt.Sprintf(in, `delete from tuf_files where gun = 'aged' and created_at < '2021-01-01'`))
		if n := hand.number(`select count(*) from tuf_files where gun = 'aged'`); n != left || n == 0 || lost == 0 {
			t.Errorf("%s: %d rows after pruning by age, want %d", in, n, left)
		}
		hand.run(`delete from tuf_files where gun = 'aged'`)
		hand.run(`insert into tuf_files select * from kept`)
		hand.run(`drop table kept`)
	}

	filled("two a")
	filled("two b")
	hand.run(`delete from tuf_files where gun like 'two%'`)
	for _, g := range []tuf.GUN{"two a", "two b"} {
		if _, err := s.Generation(t.Context(), g); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: %v", g, err)
		}
	}
}

// TestRoundTrips: a publish is one statement, a current read one query.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url, MaxOpen: 1}))
	r := storagetest.NewRepo(gun, "trips")
	count := func(what string, f func() error) {
		t.Helper()
		before := proxy.Requests()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := proxy.Requests() - before; n != 1 {
			t.Errorf("%s: %d round trips", what, n)
		}
	}
	count("first publish", func() error { return s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)) })
	count("publish", func() error { return s.Publish(t.Context(), r.Next(tuf.RoleTargets)) })
	count("new delegation", func() error { return s.Publish(t.Context(), r.Next(tuf.RoleTargets, relA)) })
	count("renewal", func() error { return s.Publish(t.Context(), r.Next()) })
	count("timestamp", func() error { _, err := s.Generation(t.Context(), gun); return err })
	count("generation", func() error {
		_, err := s.Generation(t.Context(), gun, tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, relA, relB)
		return err
	})
	count("by version", func() error { _, err := s.ByVersion(t.Context(), gun, tuf.RoleRoot, 1); return err })
	count("by checksum", func() error {
		_, err := s.ByChecksum(t.Context(), gun, relA, r.Current[relA].Checksum)
		return err
	})
}

// TestPlan: current reads go through the unique index from its end, with the
// planner's statistics and without.
func TestPlan(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	open(t, sqldb.Config{Backend: "postgres", URL: url})
	p := prompt(t, url)
	p.run(`insert into tuf_files (gun, role, version, data, sha256)
		select g, r, v, 'x', '' from generate_series(1, 3000) v, unnest('{root,targets,snapshot,timestamp}'::text[]) r, unnest('{one,two}'::text[]) g`)
	for _, prepare := range []string{`select 1`, `analyze tuf_files`} {
		p.run(prepare)
		rows, err := p.conn.QueryContext(t.Context(), `explain `+strings.ReplaceAll(strings.ReplaceAll(metadb.NewestQuery, "$1", "'one'"), "$2", "'{root,targets,snapshot,timestamp}'"))
		if err != nil {
			t.Fatal(err)
		}
		var plan strings.Builder
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan.WriteString(line + "\n")
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan.String(), "Index Scan Backward using tuf_files_gun_role_version_key") || strings.Contains(plan.String(), "Sort") {
			t.Errorf("after %s:\n%s", prepare, plan.String())
		}
	}
}
