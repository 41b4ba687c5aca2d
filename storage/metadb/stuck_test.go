package metadb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// TestStuckTransaction: a session that has taken a lock and then does nothing
// does not keep a publish, or a deletion, for as long as its caller would wait.
func TestStuckTransaction(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, statement string
		named           bool // the error says who holds the lock
		deletes         bool // a deletion meets it too
	}{
		{"changefeed row", `insert into changefeed (gun, version, sha256) values ('other', 1, '')`, true, true},
		{"timestamp row", `select id from tuf_files where role = 'timestamp' for update`, false, true},
		{"same version", `insert into tuf_files (gun, role, version, data) values ('` + string(gun) + `', 'timestamp', 2, 'x')`, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
			r := storagetest.NewRepo(gun, "stuck")
			publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
			before := *r
			set := r.Next(tuf.RoleTargets)
			hand := prompt(t, url)
			holder := fmt.Sprintf("process %d (idle in transaction)", hand.number(`select pg_backend_pid()`))
			hand.run(`begin`)
			hand.run(test.statement)
			calls := map[string]func(context.Context) error{"publish": func(ctx context.Context) error { return s.Publish(ctx, set) }}
			if test.deletes {
				calls["delete"] = func(ctx context.Context) error { _, err := s.Delete(ctx, gun); return err }
			}
			for what, call := range calls {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := call(ctx)
				if !errors.Is(err, storage.ErrUnavailable) || ctx.Err() != nil {
					t.Errorf("%s: got %v, want ErrUnavailable before the caller gives up", what, err)
				}
				if test.named && !strings.Contains(fmt.Sprint(err), holder) {
					t.Errorf("%s: the error does not say %s: %v", what, holder, err)
				}
			}
			hand.run(`rollback`)
			before.Holds(t, s)
			publish(t, s, set)
			r.Holds(t, s)
		})
	}
}

// TestDeleteAgainstRevival: a publish that removes the rows of an earlier life
// locks the timestamp and then those rows. A deletion that took them the other
// way round would meet it in a deadlock.
func TestDeleteAgainstRevival(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	hand := prompt(t, url)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	r := storagetest.NewRepo(gun, "revival")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA))
	publish(t, s, r.Remove(relA))
	set := r.Next(relA)

	hand.run(`begin`)
	hand.run(`select id from tuf_files where role = $1 for update`, string(relA))
	eye := prompt(t, url)
	deleted := background(func() error { _, err := s.Delete(context.Background(), gun); return err })
	eye.waiting(1)
	if n := eye.number(`select count(*) from (select 1 from tuf_files where role = 'timestamp' and version = 2 for update skip locked) free`); n != 0 {
		t.Error("the deletion waits for another row while the timestamp is not locked")
	}
	published := background(func() error { return s.Publish(context.Background(), set) })
	eye.waiting(2)
	hand.run(`commit`)
	if err := <-deleted; err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := <-published; !errors.Is(err, storage.ErrStale) {
		t.Errorf("publish: got %v, want ErrStale", err)
	}
	if n := hand.number(`select count(*) from tuf_files`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestSequenceBehind: after a restore that forgot the sequences an ID is drawn
// that is taken. That is no race, and no loss to another publisher.
func TestSequenceBehind(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	hand := prompt(t, url)
	for _, table := range []string{"tuf_files", "changefeed"} {
		r := storagetest.NewRepo(tuf.GUN(table), "restored")
		publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
		before := *r
		last := hand.number(`select last_value from ` + table + `_id_seq`)
		hand.run(`alter sequence ` + table + `_id_seq restart`)
		err := s.Publish(t.Context(), r.Next(tuf.RoleTargets))
		for _, not := range []error{nil, storage.ErrStale, storage.ErrVersionConflict, storage.ErrUnavailable, storage.ErrInvalid, sqldb.ErrUnique} {
			if errors.Is(err, not) {
				t.Errorf("%s: got %v", table, err)
			}
		}
		if !strings.Contains(fmt.Sprint(err), "the sequence of IDs of table "+table) {
			t.Errorf("%s: the error does not say what to mend: %v", table, err)
		}
		before.Holds(t, s)
		hand.run(`select setval($1, $2)`, table+"_id_seq", last)
	}
}
