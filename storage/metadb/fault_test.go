package metadb_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// TestConnectionCut: the connection breaks once, before the statement arrives
// or before its answer does. Either way the publish is stored, once.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url, MaxOpen: 2}))
	r := storagetest.NewRepo(gun, "cut")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	publishes := 1
	for range 3 {
		for _, f := range []pgtest.Fault{pgtest.LoseRequest, pgtest.LoseAnswer} {
			proxy.Set(f)
			publish(t, s, r.Next(tuf.RoleTargets, relA))
			publishes++
			r.Holds(t, s)
		}
	}
	changes, err := s.Changes(t.Context(), storage.ChangeQuery{Limit: 100})
	if err != nil || len(changes) != publishes {
		t.Errorf("%d changes (%v), want %d", len(changes), err, publishes)
	}
	// A deletion that may have been done is not reported as not found.
	proxy.Set(pgtest.LoseAnswer)
	if _, err := s.Delete(t.Context(), gun); err != nil && !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("delete: %v", err)
	}
	// Reads are simply asked again.
	r = storagetest.NewRepo("other", "cut")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	for _, f := range []pgtest.Fault{pgtest.LoseRequest, pgtest.LoseAnswer} {
		proxy.Set(f)
		r.Holds(t, s)
	}
}

// TestCutAnywhere: a deletion, and a publish that must remove rows first, are
// several statements. Wherever the connection breaks, all is done or nothing,
// and what is reported as done is.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url, MaxOpen: 1}))
	for step := range 9 {
		for _, f := range []pgtest.Fault{pgtest.LoseRequest, pgtest.LoseAnswer} {
			g := tuf.GUN(fmt.Sprintf("cut/%d/%d", step, f))
			r := storagetest.NewRepo(g, "cut")
			publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA))
			publish(t, s, r.Remove(relA))
			before, after := *r, *r
			set := after.Next(relA)
			proxy.SetAfter(step, f)
			err := s.Publish(t.Context(), set)
			proxy.Set(pgtest.None)
			gen, readErr := storagetest.Verify(t.Context(), s, g)
			if readErr != nil {
				t.Fatalf("step %d, fault %d: %v", step, f, readErr)
			}
			now := &before
			if gen.Timestamp.Version == 3 {
				now = &after
			}
			now.Holds(t, s)
			switch {
			case err == nil && now != &after:
				t.Errorf("step %d, fault %d: reported as stored, and is not", step, f)
			case err != nil && !errors.Is(err, storage.ErrUnavailable):
				t.Errorf("step %d, fault %d: %v", step, f, err)
			}

			proxy.SetAfter(step, f)
			deleted, err := s.Delete(t.Context(), g)
			proxy.Set(pgtest.None)
			_, readErr = storagetest.Verify(t.Context(), s, g)
			gone := errors.Is(readErr, storage.ErrNotFound)
			if !gone && readErr != nil || deleted && !gone || err != nil && !errors.Is(err, storage.ErrUnavailable) || err == nil && !deleted {
				t.Errorf("step %d, fault %d: deleted %v, %v; then %v", step, f, deleted, err, readErr)
			}
			feed, err := s.Changes(t.Context(), storage.ChangeQuery{GUN: g, Newest: true, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if (feed[0].Category == storage.ChangeDeletion) != gone {
				t.Errorf("step %d, fault %d: gone %v, and the feed ends with %s", step, f, gone, feed[0].Category)
			}
		}
	}
}

// TestLoserIsNotTheWinner: who resends after a broken connection, and finds
// that another has won in between, has lost.
func TestLoserIsNotTheWinner(t *testing.T) {
	t.Parallel()
	direct := pgtest.URL(t)
	proxy, url := pgtest.NewProxy(t, direct)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	rival := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: direct}))
	a := storagetest.NewRepo(gun, "a")
	publish(t, s, a.Next(tuf.RoleRoot, tuf.RoleTargets))
	g, err := storagetest.Verify(t.Context(), s, gun)
	if err != nil {
		t.Fatal(err)
	}
	b := storagetest.From(g, "b")
	publish(t, rival, b.Next(tuf.RoleTargets))
	proxy.Set(pgtest.LoseRequest)
	if err := s.Publish(t.Context(), a.Next(tuf.RoleTargets)); !errors.Is(err, storage.ErrVersionConflict) {
		t.Errorf("got %v, want a version conflict", err)
	}
	b.Holds(t, s)
}

// TestUnreachable: nobody answers. The calls say so, within the time that their
// context allows, and never that something is not there.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	db := open(t, sqldb.Config{Backend: "postgres", URL: url, MaxOpen: 4})
	s := metadb.New(db)
	r := storagetest.NewRepo(gun, "unreachable")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	for _, f := range []pgtest.Fault{pgtest.Refuse, pgtest.Stall} {
		proxy.Set(f)
		var wg sync.WaitGroup
		for name, call := range map[string]func(context.Context) error{
			"generation": func(ctx context.Context) error { _, err := s.Generation(ctx, gun, tuf.RoleRoot); return err },
			"version":    func(ctx context.Context) error { _, err := s.ByVersion(ctx, gun, tuf.RoleRoot, 7); return err },
			"changes": func(ctx context.Context) error {
				_, err := s.Changes(ctx, storage.ChangeQuery{Limit: 1})
				return err
			},
			"delete": func(ctx context.Context) error { _, err := s.Delete(ctx, "nobody"); return err },
			"publish": func(ctx context.Context) error {
				return s.Publish(ctx, storagetest.NewRepo("new", "x").Next(tuf.RoleRoot))
			},
			"check": s.Check,
		} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				start := time.Now()
				if err := call(ctx); !errors.Is(err, storage.ErrUnavailable) {
					t.Errorf("fault %d, %s: got %v", f, name, err)
				}
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("fault %d, %s: took %v", f, name, took)
				}
			})
		}
		wg.Wait()
		proxy.Set(pgtest.None)
		r.Holds(t, s)
	}
	if write, _ := db.Stats(); write.OpenConnections > 4 {
		t.Errorf("%d connections", write.OpenConnections)
	}
}

// TestKill9 kills PostgreSQL in the middle of publishes, again and again. What
// was answered is there, what was not is there as a whole or not at all, and
// nothing needs a restart but the database.
func TestKill9(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t)
	s := metadb.New(open(t, sqldb.Config{Backend: "postgres", URL: cluster.URL(t)}))
	const publishers = 4
	var (
		mu    sync.Mutex // guards repos and acked
		repos = map[tuf.GUN]*storagetest.Repo{}
		acked = map[tuf.GUN]tuf.Version{}
	)
	for i := range publishers {
		g := tuf.GUN(fmt.Sprintf("kill/%d", i))
		repos[g] = storagetest.NewRepo(g, "kill")
		publish(t, s, repos[g].Next(tuf.RoleRoot, tuf.RoleTargets, relA))
		acked[g] = 1
	}
	for round := range 3 {
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		count := make(chan struct{}, 10000)
		for g, r := range repos {
			wg.Go(func() {
				for n := 1; ctx.Err() == nil; n++ {
					roles := []tuf.RoleName{tuf.RoleTargets, relA}[:n%3]
					next := *r
					err := s.Publish(t.Context(), next.Next(roles...))
					if err != nil {
						if !errors.Is(err, storage.ErrUnavailable) {
							t.Errorf("round %d: %v", round, err)
						}
						return
					}
					*r = next
					mu.Lock()
					acked[g] = r.Current[tuf.RoleTimestamp].Version
					mu.Unlock()
					count <- struct{}{}
				}
			})
		}
		for range 40 * (round + 1) {
			select {
			case <-count:
			case <-time.After(60 * time.Second):
				t.Fatal("publishing stands still")
			}
		}
		cluster.Kill(t)
		stop()
		wg.Wait()
		cluster.Start(t)
		for g := range repos {
			gen, err := storagetest.Verify(t.Context(), s, g)
			if err != nil {
				t.Fatalf("round %d, %s: %v", round, g, err)
			}
			if v := gen.Timestamp.Version; v != acked[g] && v != acked[g]+1 {
				t.Errorf("round %d, %s: version %d, answered was %d", round, g, v, acked[g])
			}
			repos[g] = storagetest.From(gen, "kill")
			acked[g] = gen.Timestamp.Version
		}
	}
	feed, err := s.Changes(t.Context(), storage.ChangeQuery{Limit: 100000})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, v := range acked {
		total += int(v)
	}
	if len(feed) != total {
		t.Errorf("%d changes for %d stored generations", len(feed), total)
	}
}

// TestRestart: after a restart every pooled connection is dead; no call fails
// for that.
func TestRestart(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t)
	db := open(t, sqldb.Config{Backend: "postgres", URL: cluster.URL(t), MaxOpen: 10})
	s := metadb.New(db)
	fill := func() {
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				r := storagetest.NewRepo(tuf.GUN(fmt.Sprintf("r/%d/%d", time.Now().UnixNano(), i)), "restart")
				if err := s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	fill()
	if write, _ := db.Stats(); write.Idle < 5 {
		t.Fatalf("the test needs idle connections, there are %d", write.Idle)
	}
	cluster.Stop(t)
	cluster.Start(t)
	r := storagetest.NewRepo(gun, "restart")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	cluster.Stop(t)
	cluster.Start(t)
	fill()
	r.Holds(t, s)
}

// TestSQLiteLocked: another process holds the write lock. Readers go on, the
// writer is told within its time.
func TestSQLiteLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "locked.db")
	s := metadb.New(open(t, sqldb.Config{Backend: "sqlite3", URL: path}))
	r := storagetest.NewRepo(gun, "locked")
	publish(t, s, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	lock := typed(t, "sqlite", "file:"+path+"?_txlock=immediate")
	lock(t, `begin immediate`)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	before := *r
	if err := s.Publish(ctx, r.Next()); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	before.Holds(t, s)
	lock(t, `rollback`)
	publish(t, s, before.Next())
	before.Holds(t, s)
}
