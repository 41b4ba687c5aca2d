package publish_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// recording makes a stack whose store keeps on record what is done.
func recording(t *testing.T, backend string) *stack {
	t.Helper()
	s := stackOn(t, backend)
	s.Publisher = s.newPublisher(func(c *publish.Config) { c.Archivist = metadb.New(s.db) })
	return s
}

func (s *stack) doomed() int {
	s.Helper()
	list, err := metadb.New(s.db).Doomed(s.Context(), storage.DoomedQuery{Limit: 1000})
	if err != nil {
		s.Fatal(err)
	}
	return len(list)
}

// Who publishes, rotates and deletes is on record; who only reads is not.
func TestOnRecord(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := recording(t, backend)
		as := func(actor string) context.Context {
			return storage.WithOrigin(t.Context(), storage.Origin{Actor: actor, RequestID: "of " + actor})
		}
		r := s.repo(true)
		if err := s.Publish(as("alice"), r.GUN, upload(r.Upload())); err != nil {
			t.Fatal(err)
		}
		if err := s.Publish(as("mallory"), r.GUN, upload(r.Upload())); err == nil {
			t.Error("the same upload was taken twice")
		}
		if _, err := s.Key(as("reader"), r.GUN, tuf.RoleTimestamp); err != nil {
			t.Error(err)
		}
		s.clock.Advance(publish.TimestampLife)
		if _, err := s.Timestamp(as("reader"), r.GUN); err != nil {
			t.Error(err)
		}
		if _, err := s.RotateKey(as("bob"), r.GUN, tuf.RoleTimestamp); err != nil {
			t.Error(err)
		}
		if ok, err := s.Delete(as("carol"), r.GUN); !ok || err != nil {
			t.Error(ok, err)
		}
		got, err := metadb.New(s.db).Events(t.Context(), storage.EventQuery{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		event := func(action, actor, roles string) storage.Event {
			return storage.Event{Action: action, GUN: r.GUN, Roles: roles, Origin: storage.Origin{Actor: actor, RequestID: "of " + actor}}
		}
		want := []storage.Event{
			event("publish", "alice", "root 1, targets 1, snapshot 1, timestamp 1"), event("rotate", "bob", "timestamp"), event("delete", "carol", ""),
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(storage.Event{}, "ID", "At")); diff != "" {
			t.Error(diff)
		}
	})
}

// The keys of a deleted repository go with it; if the signer cannot be asked
// then, they go later.
func TestDeleteTakesKeys(t *testing.T) {
	t.Parallel()
	for _, serverSnapshot := range []bool{true, false} {
		s := recording(t, "sqlite3")
		for _, down := range []bool{false, true} {
			r, other := s.repo(serverSnapshot), s.repoFor("example.org/other", true)
			for _, repo := range []struct {
				gun   tuf.GUN
				files files
			}{{r.GUN, r.Upload()}, {other.GUN, other.Upload()}} {
				if err := s.Publish(t.Context(), repo.gun, upload(repo.files)); err != nil && repo.gun == r.GUN {
					t.Fatal(err)
				}
			}
			ids := serverKeyIDs(t, s, r.GUN)
			if down {
				s.signer.set(func(context.Context, string, tuf.RoleName) error { return storage.ErrUnavailable })
			}
			if ok, err := s.Delete(t.Context(), r.GUN); !ok || err != nil {
				t.Fatal(ok, err)
			}
			s.signer.set(nil)
			if down {
				for _, id := range ids {
					if !s.signer.has(id) {
						t.Error("a signer that is down has deleted a key")
					}
				}
				if err := s.Bury(t.Context()); err != nil {
					t.Error(err)
				}
			}
			for _, id := range ids {
				if s.signer.has(id) {
					t.Errorf("key %s is still there", id)
				}
			}
			if n := s.doomed(); n != 0 || len(ids) == 0 {
				t.Errorf("%d keys of %d left to delete", n, len(ids))
			}
			for _, id := range serverKeyIDs(t, s, other.GUN) {
				if !s.signer.has(id) {
					t.Error("the key of another repository is gone")
				}
			}
		}
	}
}

// serverKeyIDs lists the keys for gun that the signer has.
func serverKeyIDs(t *testing.T, s *stack, gun tuf.GUN) (ids []tuf.KeyID) {
	t.Helper()
	s.signer.mu.Lock()
	defer s.signer.mu.Unlock()
	for id, k := range s.signer.keys {
		if k.gun == gun {
			ids = append(ids, id)
		}
	}
	return ids
}

// A key that the repository lists again, published anew with its old root before
// the signer could be asked, stays.
func TestDeletedAndBack(t *testing.T) {
	t.Parallel()
	s := recording(t, "sqlite3")
	r := s.repo(true)
	first := r.Upload()
	if err := s.Publish(t.Context(), r.GUN, upload(first)); err != nil {
		t.Fatal(err)
	}
	s.signer.set(func(_ context.Context, call string, _ tuf.RoleName) error {
		if call == "delete" {
			return storage.ErrUnavailable
		}
		return nil
	})
	if _, err := s.Delete(t.Context(), r.GUN); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), r.GUN, upload(first)); err != nil {
		t.Fatal(err)
	}
	s.signer.set(nil)
	if err := s.Bury(t.Context()); err != nil {
		t.Error(err)
	}
	if n := s.doomed(); n != 0 {
		t.Errorf("%d keys left to delete", n)
	}
	if err := s.Publish(t.Context(), r.GUN, upload(r.Next(tuf.RoleTargets))); err != nil {
		t.Errorf("the repository has lost its keys: %v", err)
	}
}

// Whoever lists another's key in his root, in a database that upstream's server
// has written to, does not take it with him.
func TestDeleteForeignKey(t *testing.T) {
	t.Parallel()
	s := recording(t, "sqlite3")
	r := s.repo(true)
	if err := s.Publish(t.Context(), r.GUN, upload(r.Upload())); err != nil {
		t.Fatal(err)
	}
	s.failDelete(storage.ErrKeyForbidden)
	if ok, err := s.Delete(t.Context(), r.GUN); !ok || err != nil {
		t.Error(ok, err)
	}
	if n := s.doomed(); n != 0 {
		t.Errorf("%d keys left to delete, for ever", n)
	}
}

// failDelete has the signer refuse to delete keys; nil lets it again.
func (s *stack) failDelete(err error) {
	s.signer.set(func(_ context.Context, call string, _ tuf.RoleName) error {
		if call == "delete" {
			return err
		}
		return nil
	})
}

// Upstream's signer would not look whose a key is. It is asked once a round; when
// ours is in its place the keys go.
func TestBuryUpstream(t *testing.T) {
	t.Parallel()
	s := recording(t, "sqlite3")
	s.failDelete(errors.ErrUnsupported)
	for _, gun := range []tuf.GUN{"example.org/a", "example.org/b"} {
		r := s.repoFor(gun, false)
		if err := s.Publish(t.Context(), r.GUN, upload(r.Upload())); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Delete(t.Context(), r.GUN); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	asked := s.signer.count("delete")
	if err := s.Bury(t.Context()); err != nil {
		t.Error(err)
	}
	if n := s.signer.count("delete") - asked; n != 1 || s.doomed() != 4 {
		t.Errorf("asked %d times, %d keys left", n, s.doomed())
	}
	s.failDelete(nil)
	if err := s.Bury(t.Context()); err != nil || s.doomed() != 0 {
		t.Errorf("%v, %d keys left", err, s.doomed())
	}
}

// A key that cannot be deleted does not keep the others; a signer that is away
// is not asked for each.
func TestBuryGoesOn(t *testing.T) {
	t.Parallel()
	s := recording(t, "sqlite3")
	const keys = 230 // more than a page
	for i := range keys {
		s.exec(`insert into countersign_doomed_key (gun, key_id, role) values ('example.org/a', $1, 'timestamp')`, fmt.Sprintf("key%03d", i))
	}
	s.failDelete(storage.ErrUnavailable)
	if err := s.Bury(t.Context()); !errors.Is(err, storage.ErrUnavailable) || s.signer.count("delete") != 1 || s.doomed() != keys {
		t.Errorf("%v after %d calls", err, s.signer.count("delete"))
	}
	n := 0
	failed := errors.New("no luck")
	s.signer.set(func(_ context.Context, call string, _ tuf.RoleName) error {
		if n++; n <= 10 {
			return failed
		}
		return nil
	})
	if err := s.Bury(t.Context()); !errors.Is(err, failed) || s.doomed() != 10 ||
		strings.Count(err.Error(), "no luck") != 5 || !strings.Contains(err.Error(), "and 5 more keys") {
		t.Errorf("%d left, %v", s.doomed(), err)
	}
}

// A graveyard lets a test act around what a publish and a burial ask of it.
type graveyard struct {
	*metadb.Store
	mu            sync.Mutex // guards the fields below; not held while they run
	before, after func()     // of the next Spare
}

func (g *graveyard) Spare(ctx context.Context, gun tuf.GUN, keys []storage.DoomedKey) (storage.Mark, error) {
	g.mu.Lock()
	before, after := g.before, g.after
	g.before, g.after = nil, nil
	g.mu.Unlock()
	if before != nil {
		before()
	}
	mark, err := g.Store.Spare(ctx, gun, keys)
	if after != nil {
		after()
	}
	return mark, err
}

// revival is a repository that was deleted while the signer was away, and that
// somebody is about to publish again with its old root.
type revival struct {
	*stack
	graves *graveyard
	store  *interrupted
	other  *publish.Publisher
	repo   *tuftest.Repo
	first  files
}

func newRevival(t *testing.T, backend string) *revival {
	t.Helper()
	v := &revival{store: &interrupted{}}
	v.stack = stackOn(t, backend, func(c *publish.Config) {
		v.store.dueStore = c.Store.(dueStore)
		c.Store = v.store
	})
	v.graves = &graveyard{Store: metadb.New(v.db)}
	v.Publisher = v.newPublisher(func(c *publish.Config) { c.Archivist = v.graves })
	replica := metadb.New(openURL(t, backend, v.url, v.clock.Now))
	store := v.stack.store
	v.other = v.newPublisher(func(c *publish.Config) { c.Store, c.Archivist = replica, replica })
	v.stack.store = store
	v.repo = v.stack.repo(false)
	v.first = v.repo.Upload()
	v.by(v.other, v.repo.GUN, v.first)
	v.failDelete(storage.ErrUnavailable)
	if ok, err := v.other.Delete(t.Context(), v.repo.GUN); !ok || err != nil {
		t.Fatal(ok, err)
	}
	v.signer.set(nil)
	if n := v.doomed(); n != 2 {
		t.Fatalf("%d keys are doomed, want 2", n)
	}
	return v
}

func (v *revival) again() error { return v.Publish(v.Context(), v.repo.GUN, upload(v.first)) }

// ends: whatever came first, there is a repository with all its keys, or none.
func (v *revival) ends(err error, stored bool) {
	v.Helper()
	var rejected *publish.Rejection
	switch {
	case stored && err != nil:
		v.Errorf("got %v", err)
	case !stored && (!errors.As(err, &rejected) || !strings.Contains(err.Error(), "begin anew (notary init)") || strings.Contains(err.Error(), "rotate")):
		v.Errorf("got %v, want a rejection that says how to begin anew", err)
	}
	if got := v.current(v.repo.GUN) != ""; got != stored {
		v.Errorf("stored: %v, want %v", got, stored)
	}
	if err := v.Bury(v.Context()); err != nil {
		v.Error(err)
	}
	if stored {
		v.must(v.repo, v.repo.Next(tuf.RoleTargets))
	}
	if n := v.doomed(); n != 0 {
		v.Errorf("%d keys left to delete", n)
	}
}

// A repository comes back with its old root while its keys are being deleted:
// either it keeps them, or it does not come back.
func TestBackWhileBuried(t *testing.T) {
	t.Parallel()
	bury := func(v *revival) {
		if err := v.other.Bury(v.Context()); err != nil {
			v.Error(err)
		}
	}
	for name, c := range map[string]struct {
		stored bool
		do     func(v *revival) error
	}{
		"buried before the keys are spared": {false, func(v *revival) error {
			v.graves.before = func() { bury(v) }
			return v.again()
		}},
		"buried after the keys are spared": {true, func(v *revival) error {
			v.graves.after = func() { bury(v) }
			return v.again()
		}},
		"buried between signing and storing": {true, func(v *revival) error {
			v.store.once(func() { bury(v) })
			return v.again()
		}},
		"published while a key is deleted": {false, func(v *revival) error {
			waits, answer := make(chan struct{}), make(chan error, 1)
			v.graves.before = func() { close(waits) }
			begin := sync.OnceFunc(func() {
				go func() { answer <- v.again() }()
				<-waits
			})
			v.signer.set(func(_ context.Context, call string, _ tuf.RoleName) error {
				if call == "delete" {
					begin()
				}
				return nil
			})
			bury(v)
			return <-answer
		}},
		"published and deleted again meanwhile": {false, func(v *revival) error {
			v.store.once(func() {
				v.by(v.other, v.repo.GUN, v.first)
				if ok, err := v.other.Delete(v.Context(), v.repo.GUN); !ok || err != nil {
					v.Error(ok, err)
				}
			})
			return v.again()
		}},
	} {
		for _, backend := range []string{"sqlite3", "postgres"} {
			t.Run(name+" "+backend, func(t *testing.T) {
				v := newRevival(t, backend)
				v.ends(c.do(v), c.stored)
			})
		}
	}
}
