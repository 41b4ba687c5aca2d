package metadb_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

func events(t *testing.T, s *metadb.Store, q storage.EventQuery) []storage.Event {
	t.Helper()
	list, err := s.Events(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Whoever publishes and deletes is on record with what he did, and only then.
func TestAudit(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		const gun = "example.org/a"
		by := storage.Origin{Actor: "alice", RequestID: "r1"}
		r := storagetest.NewRepo(gun, "one")
		set := r.Next(tuf.RoleRoot, tuf.RoleTargets)
		set.Event = &storage.Event{Action: storage.ActionPublish, Origin: by}
		before := storagetest.From(&storage.Generation{GUN: gun}, "late")
		if err := s.Publish(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		loser := before.Next(tuf.RoleRoot, tuf.RoleTargets)
		loser.Event = &storage.Event{Action: storage.ActionPublish, Origin: storage.Origin{Actor: "mallory"}}
		if err := s.Publish(t.Context(), loser); err == nil {
			t.Error("a second beginning was stored")
		}
		if err := s.Publish(t.Context(), r.Next()); err != nil { // a renewal
			t.Fatal(err)
		}
		revived := r.Next("targets/a") // on PostgreSQL this may take a transaction
		revived.Event = &storage.Event{Action: storage.ActionPublish}
		if err := s.Publish(t.Context(), revived); err != nil {
			t.Fatal(err)
		}
		if err := s.Record(t.Context(), storage.Event{Action: storage.ActionRotate, GUN: "example.org/b", Origin: by, Roles: "timestamp", Reason: "x'; --"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(storage.WithOrigin(t.Context(), storage.Origin{Actor: "a\x00" + strings.Repeat("ö", 400), RequestID: "r2"}), gun); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(t.Context(), gun); err != nil { // of nothing: no event
			t.Fatal(err)
		}
		got := events(t, s, storage.EventQuery{Limit: 100})
		want := []storage.Event{
			{Action: "publish", GUN: gun, Origin: by, Roles: "root 1, targets 1, snapshot 1, timestamp 1"},
			{Action: "publish", GUN: gun, Roles: "targets/a 1, snapshot 3, timestamp 3"},
			{Action: "rotate", GUN: "example.org/b", Origin: by, Roles: "timestamp", Reason: "x'; --"},
			{Action: "delete", GUN: gun, Origin: storage.Origin{Actor: `a\x00` + strings.Repeat(`\u00f6`, 49), RequestID: "r2"}},
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(storage.Event{}, "ID", "At")); diff != "" {
			t.Fatal(diff)
		}
		for i, e := range got {
			if time.Since(e.At) > time.Minute || i > 0 && e.ID <= got[i-1].ID {
				t.Errorf("event %+v", e)
			}
		}
		for name, c := range map[string]struct {
			q    storage.EventQuery
			want []storage.Event
		}{
			"of one": {storage.EventQuery{Limit: 9, GUN: "example.org/b"}, got[2:3]},
			"page":   {storage.EventQuery{Limit: 2, After: got[0].ID}, got[1:3]},
			"newest": {storage.EventQuery{Limit: 2, Newest: true}, got[2:]},
			"none":   {storage.EventQuery{Limit: 2, After: got[3].ID}, nil},
		} {
			if diff := cmp.Diff(c.want, events(t, s, c.q)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})
}

// Text that the encoding of the database may lack is written all the same.
func TestAuditASCII(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		e := storage.Event{Action: storage.ActionPurge, Origin: storage.Origin{Actor: "client:łukasz\xff\n"}, Reason: `C:\é "日本" 'x' 😀`}
		if err := s.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		got := events(t, s, storage.EventQuery{Limit: 1})[0]
		if got.Actor != `client:\u0142ukasz\xff\n` || got.Reason != `C:\\\u00e9 "\u65e5\u672c" 'x' \U0001f600` {
			t.Errorf("%q, %q", got.Actor, got.Reason)
		}
	})
}

// What is in the audit log stays there.
func TestAuditOnlyGrows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "server.db")
	for driver, c := range map[string]sqldb.Config{
		"postgres": {Backend: "postgres", URL: pgtest.URL(t)},
		"sqlite":   {Backend: "sqlite3", URL: path},
	} {
		s := metadb.New(open(t, c))
		if err := s.Record(t.Context(), storage.Event{Action: storage.ActionDelete}); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open(driver, c.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		statements := []string{`delete from countersign_audit`, `update countersign_audit set actor = 'nobody'`}
		if driver == "postgres" {
			statements = append(statements, `truncate countersign_audit`)
		}
		for _, statement := range statements {
			if _, err := db.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "can only be added to") {
				t.Errorf("%s: %s: %v", driver, statement, err)
			}
		}
		if got := events(t, s, storage.EventQuery{Limit: 5}); len(got) != 1 {
			t.Errorf("%s: %v", driver, got)
		}
	}
}

// A database without our tables is served all the same.
func TestWithoutAudit(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		for _, table := range []string{"countersign_audit", "countersign_doomed_key", "countersign_purge"} {
			typed(`drop table ` + table)
		}
		s = s.WithoutAudit()
		r := storagetest.NewRepo("example.org/a", "one")
		set := r.Next(tuf.RoleRoot, tuf.RoleTargets)
		set.Event = &storage.Event{Action: storage.ActionPublish}
		if err := s.Publish(t.Context(), set); err != nil {
			t.Error(err)
		}
		if err := s.Record(t.Context(), storage.Event{Action: storage.ActionRotate}); err != nil {
			t.Error(err)
		}
		if ok, err := s.Delete(t.Context(), r.GUN); !ok || err != nil {
			t.Error(ok, err)
		}
		if doomed, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 1}); err != nil || len(doomed) > 0 {
			t.Error(doomed, err)
		}
	})
}
