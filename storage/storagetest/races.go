package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// testContext: a call whose context has ended says that nobody was asked, and
// never that something is not there.
func testContext(t *testing.T, db MetadataDB) {
	r := NewRepo(gun, "context")
	must(t, db.Store.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := db.Store.Generation(ended, gun, tuf.RoleRoot)
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.ByVersion(ended, gun, tuf.RoleRoot, 1)
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.ByChecksum(ended, gun, tuf.RoleRoot, r.Current[tuf.RoleRoot].Checksum)
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.Changes(ended, storage.ChangeQuery{Limit: 1})
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.Delete(ended, gun)
	wantErr(t, err, storage.ErrUnavailable)
	before := *r
	wantErr(t, db.Store.Publish(ended, r.Next(tuf.RoleTargets)), storage.ErrUnavailable)
	before.Holds(t, db.Store)
}

// A crowd runs functions at once and fails the test with their errors.
type crowd struct {
	t     testing.TB
	start chan struct{}
	wg    sync.WaitGroup
}

func newCrowd(t testing.TB) *crowd { return &crowd{t: t, start: make(chan struct{})} }

func (c *crowd) add(f func() error) {
	c.wg.Go(func() {
		<-c.start
		if err := f(); err != nil {
			c.t.Error(err)
		}
	})
}

func (c *crowd) run() {
	close(c.start)
	c.wg.Wait()
}

// race publishes, from several goroutines over both stores, sets that next
// makes on one base. It returns the winner, and fails unless there is exactly
// one and the others are told lost.
func race(t *testing.T, db MetadataDB, n int, next func(i int) (*Repo, storage.Set), lost ...error) *Repo {
	t.Helper()
	var (
		mu   sync.Mutex // guards won
		won  []*Repo
		many = newCrowd(t)
	)
	for i := range n {
		r, set := next(i)
		s := db.Store
		if i%2 == 1 {
			s = db.Replica
		}
		many.add(func() error {
			err := s.Publish(t.Context(), set)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, r)
				return nil
			}
			for _, l := range lost {
				if errors.Is(err, l) {
					return nil
				}
			}
			return fmt.Errorf("racer %d: %w", i, err)
		})
	}
	many.run()
	if len(won) != 1 {
		t.Fatalf("%d winners", len(won))
	}
	won[0].Holds(t, db.Store)
	return won[0]
}

// testConcurrent: of publishers on one base one wins, and who lost is told why:
// another has taken the version, or has moved the base.
func testConcurrent(t *testing.T, db MetadataDB) {
	r := NewRepo(gun, "base")
	must(t, db.Store.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
	on := func(note string) *Repo {
		return From(&storage.Generation{GUN: gun, Timestamp: r.Current[tuf.RoleTimestamp], Files: r.Current}, note)
	}
	times := rounds(15, 3)
	for round := range times {
		r = race(t, db, 8, func(i int) (*Repo, storage.Set) {
			n := on(fmt.Sprintf("%d/%d", round, i))
			return n, n.Next(tuf.RoleTargets)
		}, storage.ErrVersionConflict)
		r = race(t, db, 8, func(i int) (*Repo, storage.Set) {
			n := on(fmt.Sprintf("%d/%d", round, i))
			return n, n.Next(tuf.RoleName(fmt.Sprintf("targets/r%d/d%d", round, i)))
		}, storage.ErrStale)
	}
	changes, err := db.Store.Changes(t.Context(), storage.ChangeQuery{GUN: gun, Limit: 1000})
	must(t, err)
	if len(changes) != 2*times+1 {
		t.Errorf("%d changes, want one for each of %d publishes", len(changes), 2*times+1)
	}
	for i, c := range changes {
		if int(c.Version) != i+1 {
			t.Errorf("change %d has version %d", i, c.Version)
		}
	}
}

func testConcurrentFirst(t *testing.T, db MetadataDB) {
	for round := range rounds(15, 6) {
		g := tuf.GUN(fmt.Sprintf("first/%d", round))
		if round%3 == 2 { // with debris in the way
			r := NewRepo(g, "debris")
			must(t, db.Store.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets, relB)))
			db.SQL(t, `delete from tuf_files where gun = $1 and role in ('timestamp', 'snapshot', 'targets', 'root')`, string(g))
		}
		race(t, db, 8, func(i int) (*Repo, storage.Set) {
			n := NewRepo(g, fmt.Sprint(i))
			set := n.Next(tuf.RoleRoot, tuf.RoleTargets)
			if i%2 == 1 {
				// Other versions, so that nothing but the timestamp collides.
				for j := range set.Files[:2] {
					set.Files[j].Version += 10
					n.Current[set.Files[j].Role] = set.Files[j]
				}
			}
			return n, set
		}, storage.ErrVersionConflict, storage.ErrStale)
	}
}

// minReads is how many reads of each reader count as reading all the while.
const minReads = 5

// testNeverTorn: readers walk the whole chain all the while that publishers
// publish, renew, add and remove roles.
func testNeverTorn(t *testing.T, db MetadataDB) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r := NewRepo(gun, "torn")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	readers := newCrowd(t)
	const count = 3
	begun := make(chan struct{}, count) // by each that has read once, or never will
	for i := range count {
		s := db.Store
		if i == 1 {
			s = db.Replica
		}
		readers.add(func() error {
			var last tuf.Version
			signalled := sync.OnceFunc(func() { begun <- struct{}{} })
			defer signalled()
			reads := 0
			for ; ctx.Err() == nil; reads++ {
				g, err := Verify(t.Context(), s, gun)
				if err != nil {
					return fmt.Errorf("reader: %w", err)
				}
				if g.Timestamp.Version < last {
					return fmt.Errorf("version %d after %d", g.Timestamp.Version, last)
				}
				last = g.Timestamp.Version
				signalled()
			}
			if reads < minReads {
				return fmt.Errorf("reader %d: only %d reads", i, reads)
			}
			return nil
		})
	}
	go readers.run()
	for range count {
		<-begun
	}
	for i := range rounds(150, 40) {
		var set storage.Set
		switch i % 5 {
		case 0:
			set = r.Next(tuf.RoleTargets, relA)
		case 1:
			set = r.Next()
		case 2:
			set = r.Next(relA, relB)
		case 3:
			set = r.Next(tuf.RoleRoot)
		case 4:
			set = r.Remove(relB)
		}
		must(t, db.Store.Publish(ctx, set))
	}
	stop()
	readers.wg.Wait()
	r.Holds(t, db.Store)
}

// testChangefeedOrder: who pages through the feed by ID, while many write,
// sees each entry once and misses none.
func testChangefeedOrder(t *testing.T, db MetadataDB) {
	writers, each := rounds(8, 4), rounds(25, 8)
	many := newCrowd(t)
	for w := range writers {
		s := db.Store
		if w%2 == 1 {
			s = db.Replica
		}
		many.add(func() error {
			r := NewRepo(tuf.GUN(fmt.Sprintf("writer/%d", w)), "feed")
			for i := range each {
				if i == each/2 {
					if _, err := s.Delete(t.Context(), r.GUN); err != nil {
						return err
					}
					r = NewRepo(r.GUN, "feed")
				}
				if err := s.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		many.run()
	}()
	var seen []storage.Change
	for last, done := int64(0), false; ; {
		page, err := db.Replica.Changes(t.Context(), storage.ChangeQuery{After: last, Limit: 7})
		must(t, err)
		seen = append(seen, page...)
		if len(page) > 0 {
			last = page[len(page)-1].ID
			continue
		}
		if done {
			break
		}
		select {
		case <-written:
			done = true // one more look, for what came since
		case <-time.After(time.Millisecond):
		}
	}
	all, err := db.Store.Changes(t.Context(), storage.ChangeQuery{Limit: 10000})
	must(t, err)
	if len(all) != writers*(each+1) || len(seen) != len(all) {
		t.Errorf("%d entries, the reader saw %d, want %d", len(all), len(seen), writers*(each+1))
	}
	last := map[tuf.GUN]tuf.Version{}
	for _, c := range seen {
		if c.Version != 0 && c.Version != last[c.GUN]+1 {
			t.Errorf("%s: version %d after %d", c.GUN, c.Version, last[c.GUN])
		}
		last[c.GUN] = c.Version
	}
}

// testPurgeRace: deletions, by the store and by hand, at the same moment as
// publishes leave whole repositories or none.
func testPurgeRace(t *testing.T, db MetadataDB) {
	for round := range rounds(60, 12) {
		g := tuf.GUN(fmt.Sprintf("purge/%d", round))
		base := NewRepo(g, "base")
		must(t, db.Store.Publish(t.Context(), base.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
		both := newCrowd(t)
		both.add(func() error {
			if round%2 == 0 {
				db.SQL(t, `delete from tuf_files where gun = $1`, string(g))
				return nil
			}
			_, err := db.Replica.Delete(t.Context(), g)
			return err
		})
		both.add(func() error {
			r := base
			for range 3 {
				roles := []tuf.RoleName{tuf.RoleTargets}
				if round%3 == 0 {
					roles = []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets}
				}
				err := db.Store.Publish(t.Context(), r.Next(roles...))
				if errors.Is(err, storage.ErrStale) {
					return nil // the base is gone
				}
				if err != nil {
					return fmt.Errorf("publishing during a purge: %w", err)
				}
			}
			return nil
		})
		both.run()
		_, err := Verify(t.Context(), db.Store, g)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after purge and publish: %v", err)
		}
		// Whatever is left is no hindrance to a new start.
		if _, err := db.Store.Delete(t.Context(), g); err != nil {
			t.Error(err)
		}
		fresh := NewRepo(g, "fresh")
		must(t, db.Store.Publish(t.Context(), fresh.Next(tuf.RoleRoot, tuf.RoleTargets)))
		fresh.Holds(t, db.Store)
	}
}
