package metadb_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
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

const purged tuf.GUN = "example.org/a"

// published stores a repository of some versions, and one beside it.
func published(t *testing.T, s *metadb.Store) *storagetest.Repo {
	t.Helper()
	r := storagetest.NewRepo(purged, "one")
	for _, set := range []storage.Set{r.Next(tuf.RoleRoot, tuf.RoleTargets), r.Next("targets/a"), storagetest.NewRepo(purged+"b", "two").Next(tuf.RoleRoot, tuf.RoleTargets)} {
		if err := s.Publish(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func contents(t *testing.T, s *metadb.Store) (rows []storage.FileRow, infos []storage.FileInfo, changes []storage.Change) {
	t.Helper()
	infos, changes, err := s.Contents(t.Context(), purged)
	if err == nil {
		err = s.EachFile(t.Context(), purged, func(f storage.FileRow) error { rows = append(rows, f); return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	return rows, infos, changes
}

func TestPurgeSteps(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		r := published(t, s)
		_, old, _ := contents(t, s)
		if err := s.Publish(t.Context(), r.Next()); err != nil {
			t.Fatal(err)
		}
		p := metadb.Purge{GUN: purged, Archive: "/a.tar", Digest: strings.Repeat("d", 64), Actor: "operator x", Reason: "why", Keys: []tuf.KeyID{"k1", "k2"}}
		doomed := []storage.DoomedKey{{GUN: purged, Role: "timestamp", ID: "k1"}, {GUN: purged, Role: "snapshot", ID: "k2"}}
		event := storage.Event{Action: storage.ActionPurge, GUN: purged, Origin: storage.Origin{Actor: p.Actor}, Reason: p.Reason}
		begin := func(rows []storage.FileInfo) (int64, error) { return s.BeginPurge(t.Context(), p, rows, doomed, event) }

		rows, infos, changes := contents(t, s)
		changed := slices.Clone(infos)
		changed[1].SHA256 = "other"
		for name, wrong := range map[string][]storage.FileInfo{"older": old, "less": infos[1:], "none": nil, "changed": changed, "more": slices.Concat(infos, infos[:1])} {
			if _, err := begin(wrong); !errors.Is(err, storage.ErrStale) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if now, _, _ := contents(t, s); len(now) != len(rows) {
			t.Fatal("a purge that is refused has removed rows")
		}
		id, err := begin(infos)
		if err != nil {
			t.Fatal(err)
		}
		_, left, feed := contents(t, s)
		if last := feed[len(feed)-1]; len(left) != 0 || len(feed) != len(changes)+1 || last.Category != storage.ChangeDeletion {
			t.Errorf("%d rows left, changes %+v", len(left), feed)
		}
		if list, err := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10}); err != nil || len(list) != 2 {
			t.Errorf("doomed: %+v, %v", list, err)
		}
		open, err := s.Purges(t.Context(), metadb.PurgeQuery{GUN: purged, Open: true, Limit: 10})
		if err != nil || len(open) != 1 {
			t.Fatalf("%+v, %v", open, err)
		}
		p.ID = id
		if diff := cmp.Diff(p, open[0], cmpopts.IgnoreFields(metadb.Purge{}, "At")); diff != "" || time.Since(open[0].At) > time.Minute {
			t.Error(diff)
		}
		ends(t, s, id)
		restores(t, s, rows, infos, changes)
		typed(`delete from countersign_doomed_key`)
	})
}

// ends: what fails leaves the purge open, and it ends once.
func ends(t *testing.T, s *metadb.Store, id int64) {
	t.Helper()
	stop := errors.New("stop")
	if _, err := s.EndPurge(t.Context(), id, func(context.Context, *sqldb.Tx, metadb.Purge, map[tuf.KeyID]bool) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	for i := range 2 {
		calls := 0
		ended, err := s.EndPurge(t.Context(), id, func(_ context.Context, _ *sqldb.Tx, _ metadb.Purge, doomed map[tuf.KeyID]bool) error {
			calls++
			if !doomed["k1"] || !doomed["k2"] || len(doomed) != 2 {
				t.Errorf("doomed: %v", doomed)
			}
			return nil
		})
		if err != nil || ended != (i == 0) || calls != 1-i {
			t.Errorf("ended %v, %d calls, %v", ended, calls, err)
		}
	}
	open, err := s.Purges(t.Context(), metadb.PurgeQuery{Open: true, Limit: 10})
	all, err2 := s.Purges(t.Context(), metadb.PurgeQuery{Limit: 10})
	doomed, err3 := s.Doomed(t.Context(), storage.DoomedQuery{Limit: 10})
	if err := errors.Join(err, err2, err3); err != nil || len(open) != 0 || len(all) != 1 || all[0].Ended.IsZero() || len(doomed) != 0 {
		t.Errorf("%+v, %+v, %+v, %v", open, all, doomed, err)
	}
}

func restores(t *testing.T, s *metadb.Store, rows []storage.FileRow, infos []storage.FileInfo, changes []storage.Change) {
	t.Helper()
	_, _, before := contents(t, s)
	r := metadb.Restoration{GUN: purged, Files: infos, Changes: changes, Event: storage.Event{Action: storage.ActionRestore, GUN: purged},
		Each: func(f func(storage.FileRow) error) error {
			for _, row := range rows {
				if err := f(row); err != nil {
					return err
				}
			}
			return nil
		}}
	short := r
	short.Files = infos[:len(infos)-1]
	long := r
	long.Files = slices.Concat(infos, infos[:1])
	for name, r := range map[string]metadb.Restoration{"too many": short, "too few": long} {
		if done, err := s.Restore(t.Context(), r); done || !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
	for i := range 2 {
		if done, err := s.Restore(t.Context(), r); done != (i == 0) || err != nil {
			t.Fatalf("%v, %v", done, err)
		}
		now, _, feed := contents(t, s)
		ignore := cmpopts.IgnoreFields(storage.FileInfo{}, "ID")
		if diff := cmp.Diff(rows, now, ignore); diff != "" {
			t.Error(diff)
		}
		if len(feed) != len(before)+1 {
			t.Errorf("%d entries in the feed, %d before", len(feed), len(before))
		}
	}
	other := r
	other.Files = slices.Clone(infos)
	other.Files[0].Size++
	if _, err := s.Restore(t.Context(), other); !errors.Is(err, storage.ErrVersionConflict) {
		t.Errorf("over other rows: %v", err)
	}
}

// A feed that lost a part gets that part back, and nothing twice.
func TestRestoreChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, typed func(string, ...any)) {
		published(t, s)
		rows, infos, changes := contents(t, s)
		typed(`delete from tuf_files where gun = $1`, string(purged))
		typed(`delete from changefeed where gun = $1 and version = 1`, string(purged))
		r := metadb.Restoration{GUN: purged, Files: infos, Changes: changes, Each: func(f func(storage.FileRow) error) error {
			for _, row := range rows {
				if err := f(row); err != nil {
					return err
				}
			}
			return nil
		}}
		if _, err := s.Restore(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		_, _, feed := contents(t, s)
		var versions []tuf.Version
		for i, c := range feed {
			versions = append(versions, c.Version)
			if i > 0 && c.ID <= feed[i-1].ID {
				t.Errorf("%+v", feed)
			}
		}
		if !slices.Equal(versions, []tuf.Version{2, 1, 2}) || !feed[1].CreatedAt.Equal(changes[0].CreatedAt) {
			t.Errorf("%+v", feed)
		}
	})
}

func TestSucceed(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		r := published(t, s)
		base := r.Current[tuf.RoleTimestamp]
		next := storage.NewMetadata(tuf.RoleTimestamp, 50, base.Data)
		e := storage.Event{Action: storage.ActionRestore, GUN: purged}
		if err := s.Succeed(t.Context(), purged, tuf.Sum([]byte("x")), next, e); !errors.Is(err, storage.ErrStale) {
			t.Errorf("on another base: %v", err)
		}
		if err := s.Succeed(t.Context(), purged, base.Checksum, base, e); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("the same version: %v", err)
		}
		if err := s.Succeed(t.Context(), purged, base.Checksum, next, e); err != nil {
			t.Fatal(err)
		}
		v, err := s.MaxTimestamp(t.Context(), purged)
		gen, err2 := s.Generation(t.Context(), purged)
		if err := errors.Join(err, err2); err != nil || v != 50 || gen.Timestamp.Version != 50 {
			t.Errorf("%d, %v", v, err)
		}
		if v, err := s.MaxTimestamp(t.Context(), "none"); v != 0 || err != nil {
			t.Errorf("%d, %v", v, err)
		}
	})
}

func TestPurgeUnrecorded(t *testing.T) {
	onBoth(t, func(t *testing.T, s *metadb.Store, _ func(string, ...any)) {
		published(t, s)
		_, infos, _ := contents(t, s)
		bare := s.WithoutAudit()
		if _, err := bare.BeginPurge(t.Context(), metadb.Purge{GUN: purged}, infos, nil, storage.Event{}); !errors.Is(err, metadb.ErrUnrecorded) {
			t.Errorf("got %v", err)
		}
		if list, err := bare.Purges(t.Context(), metadb.PurgeQuery{Limit: 1}); list != nil || err != nil {
			t.Errorf("%v, %v", list, err)
		}
		if _, now, _ := contents(t, s); len(now) != len(infos) {
			t.Error("rows went unrecorded")
		}
	})
}

// A server that locks nothing, as upstream's, publishes while a purge begins: the
// purge waits for it, and finds that there is more than was archived.
func TestPurgeWaitsForWriters(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	r := published(t, s)
	_, infos, _ := contents(t, s)
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	late := r.Next("targets/b")
	for _, f := range late.Files {
		if _, err := tx.ExecContext(t.Context(), `insert into tuf_files (gun, role, version, sha256, data) values ($1, $2, $3, $4, $5)`,
			string(purged), string(f.Role), int64(f.Version), f.Checksum.String(), f.Data); err != nil {
			t.Fatal(err)
		}
	}
	result := make(chan error)
	go func() {
		_, err := s.BeginPurge(t.Context(), metadb.Purge{GUN: purged, Digest: "d"}, infos, nil, storage.Event{Action: storage.ActionPurge, GUN: purged})
		result <- err
	}()
	await(t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, storage.ErrStale) {
		t.Errorf("got %v", err)
	}
	if _, now, _ := contents(t, s); len(now) != len(infos)+len(late.Files) {
		t.Errorf("%d rows, want %d", len(now), len(infos)+len(late.Files))
	}
	r.Holds(t, s)
}

// What is stored while the rows go already is found, and everything stays: the
// trigger that removes late rows would not tell.
func TestPurgeLateRow(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	published(t, s)
	_, infos, _ := contents(t, s)
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The removal waits for this row, with a snapshot that it has already taken.
	if _, err := tx.ExecContext(t.Context(), `select id from tuf_files where gun = $1 and role = 'targets' for update`, string(purged)); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		_, err := s.BeginPurge(t.Context(), metadb.Purge{GUN: purged, Digest: "d"}, infos, nil, storage.Event{Action: storage.ActionPurge, GUN: purged})
		result <- err
	}()
	await(t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'delete from tuf_files%'`)
	if _, err := db.ExecContext(t.Context(), `insert into tuf_files (gun, role, version, data) values ($1, 'targets/late', 1, 'x')`, string(purged)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, storage.ErrStale) {
		t.Errorf("got %v", err)
	}
	if _, now, _ := contents(t, s); len(now) != len(infos)+1 {
		t.Errorf("%d rows, want %d", len(now), len(infos)+1)
	}
}

// Who begins the name while it is restored is first, or is refused; nobody's
// files are mixed.
func TestRestoreRace(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"root", "targets/other"} {
		url := pgtest.URL(t)
		s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
		published(t, s)
		rows, infos, changes := contents(t, s)
		db, err := sql.Open("postgres", url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), `delete from tuf_files where gun = $1`, string(purged)); err != nil {
			t.Fatal(err)
		}
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{`insert into tuf_files (gun, role, version, data) values ($1, '` + role + `', 1, 'x')`,
			`insert into changefeed (gun, version, sha256, category) values ($1, 1, 'x', 'update')`} {
			if _, err := tx.ExecContext(t.Context(), query, string(purged)); err != nil {
				t.Fatal(err)
			}
		}
		result := make(chan error)
		go func() {
			_, err := s.Restore(t.Context(), metadb.Restoration{GUN: purged, Files: infos, Changes: changes, Event: storage.Event{Action: storage.ActionRestore, GUN: purged},
				Each: func(f func(storage.FileRow) error) error {
					for _, row := range rows {
						if err := f(row); err != nil {
							return err
						}
					}
					return nil
				}})
			result <- err
		}()
		await(t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, storage.ErrVersionConflict) {
			t.Errorf("%s: %v", role, err)
		}
		if _, now, _ := contents(t, s); len(now) != 1 {
			t.Errorf("%s: %d rows", role, len(now))
		}
	}
}

// await polls until the query counts something.
func await(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for n := 0; n == 0; {
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
