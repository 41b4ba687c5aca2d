package publish_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// An interrupted store lets a test act between two steps of a publish: what
// another replica does just then.
type interrupted struct {
	dueStore
	mu     sync.Mutex // guards the fields below; not held while they run
	read   int        // how many reads until onRead
	onRead func()
	write  func() // ahead of each write
}

func (s *interrupted) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	s.mu.Lock()
	s.read--
	f := s.onRead
	if s.read != 0 {
		f = nil
	}
	s.mu.Unlock()
	if f != nil {
		f()
	}
	return s.dueStore.Generation(ctx, gun, roles...)
}

func (s *interrupted) Publish(ctx context.Context, set storage.Set) error {
	s.mu.Lock()
	f := s.write
	s.mu.Unlock()
	if f != nil {
		f()
	}
	return s.dueStore.Publish(ctx, set)
}

// once lets f run ahead of the next write only.
func (s *interrupted) once(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write = sync.OnceFunc(f)
}

// interruptedStack has a Publisher whose store can be interrupted, and another
// replica's.
func interruptedStack(t *testing.T) (*stack, *interrupted, *publish.Publisher) {
	t.Helper()
	store := &interrupted{}
	s := newStack(t, func(c *publish.Config) {
		store.dueStore = c.Store.(dueStore)
		c.Store = store
	})
	return s, store, s.replica()
}

func (s *stack) by(p *publish.Publisher, gun tuf.GUN, up files) {
	s.Helper()
	if err := p.Publish(s.Context(), gun, upload(up)); err != nil {
		s.Errorf("the other: %v", err)
	}
}

// What another replica does between our check and our write.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		client bool
		// ours is what we publish; theirs is what is done in between.
		setup func(s *stack, r *tuftest.Repo, other *publish.Publisher) (ours files, theirs func())
		want  error
	}{
		"by a publish of another role": {setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			theirs := r.Next(c)
			return r.Next(a), func() { s.by(other, r.GUN, theirs) }
		}},
		"by a publish of the same role": {setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			theirs := r.Next(a)
			return r.Upload(a), func() { s.by(other, r.GUN, theirs) }
		}, want: storage.ErrVersionConflict},
		"by a renewal": {setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			return r.Next(a), s.renewal(other, r.GUN)
		}},
		"by a renewal, with the client's snapshot": {client: true, setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			return r.Next(a), s.renewal(other, r.GUN)
		}},
		"by another snapshot of the client": {client: true, setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			ours := r.Next(a)
			r.Raw[c] = r.File(c)
			r.Targets[a].Version--
			r.Raw[a] = s.generation(r.GUN, a).Files[a].Data
			theirs := r.Upload(snapshot)
			return ours, func() { s.by(other, r.GUN, theirs) }
		}, want: storage.ErrVersionConflict},
		"by another snapshot, below the client's version": {client: true, setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			theirs := r.Next(c)
			r.Raw[c] = s.generation(r.GUN, c).Files[c].Data
			r.Snapshot.Version += 5
			return r.Next(a), func() { s.by(other, r.GUN, theirs) }
		}, want: storage.ErrVersionConflict},
		"by the first publish of another owner": {setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			if _, err := s.store.Delete(s.Context(), r.GUN); err != nil {
				s.Fatal(err)
			}
			return r.Upload(), func() { s.by(other, r.GUN, s.repo2(r).Upload()) }
		}, want: storage.ErrVersionConflict},
		"by the first publish of another owner, with the client's snapshot": {client: true, setup: func(s *stack, r *tuftest.Repo, other *publish.Publisher) (files, func()) {
			if _, err := s.store.Delete(s.Context(), r.GUN); err != nil {
				s.Fatal(err)
			}
			return r.Upload(), func() { s.by(other, r.GUN, s.repo(false).Upload()) }
		}, want: storage.ErrVersionConflict},
	} {
		t.Run(name, func(t *testing.T) {
			s, store, other := interruptedStack(t)
			r := s.repo(c.client, a, ab, "targets/c")
			s.must(r, r.Upload())
			ours, theirs := c.setup(s, r, other)
			store.once(theirs)
			err := s.Publish(t.Context(), r.GUN, upload(ours))
			if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			s.fsck(r.GUN)
		})
	}
}

// renewal lets other renew the timestamp of gun.
func (s *stack) renewal(other *publish.Publisher, gun tuf.GUN) func() {
	return func() {
		s.clock.Advance(10 * day)
		if n, err := other.RenewDue(s.Context()); n != 1 || err != nil {
			s.Errorf("the other: %d renewed, %v", n, err)
		}
	}
}

// A deletion in between leaves nothing to build on.
func TestOvertakenByDelete(t *testing.T) {
	s, store, _ := interruptedStack(t)
	r := s.repo(false, a)
	s.must(r, r.Upload())
	remove := func() {
		if _, err := store.Delete(t.Context(), r.GUN); err != nil {
			t.Error(err)
		}
	}
	store.once(remove)
	wantRejection(t, s.Publish(t.Context(), r.GUN, upload(r.Next(a))), publish.KindValidation, "no pre-existing root")
	if got := s.current(r.GUN); got != "" {
		t.Error("something was stored after the deletion")
	}
	s.must(r, r.Upload())
	store.once(remove)
	s.clock.Advance(15 * day)
	if _, err := s.Timestamp(t.Context(), r.GUN); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("renewing what was deleted: %v", err)
	}
}

// What happens between the two reads of a check that needs two.
func TestOvertakenBetweenReads(t *testing.T) {
	for _, what := range []string{"publish", "delete", "down"} {
		t.Run(what, func(t *testing.T) {
			s, store, other := interruptedStack(t)
			r := s.repo(false, a, "targets/c")
			s.must(r, r.Upload())
			theirs := r.Next(c)
			r.SetKeys(a, 1, r.Keys[a][0], r.NewKey(a))
			up := r.Next(targets)
			ctx, cancel := context.WithCancel(t.Context())
			store.read, store.onRead = 2, func() {
				switch what {
				case "publish":
					s.by(other, r.GUN, theirs)
				case "delete":
					if _, err := store.Delete(t.Context(), r.GUN); err != nil {
						t.Error(err)
					}
				case "down":
					cancel()
				}
			}
			err := s.Publish(ctx, r.GUN, upload(up))
			cancel()
			switch what {
			case "publish":
				if err != nil {
					t.Error(err)
				}
			case "delete":
				wantRejection(t, err, publish.KindValidation, "no pre-existing root")
			case "down":
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			}
			s.fsck(r.GUN)
		})
	}
}

// Whoever is overtaken each time gives up, after a bounded number of tries.
func TestOvertakenForEver(t *testing.T) {
	t.Parallel()
	s, store, other := interruptedStack(t)
	r := s.repo(false, a, "targets/c")
	s.must(r, r.Upload())
	n := 0
	store.write = func() {
		n++
		s.by(other, r.GUN, r.Next(c))
	}
	err := s.Publish(t.Context(), r.GUN, upload(r.Next(a)))
	if !errors.Is(err, storage.ErrVersionConflict) || n > 100 {
		t.Errorf("after %d tries: %v, want ErrVersionConflict", n, err)
	}
	s.fsck(r.GUN)

	s.clock.Advance(15 * day)
	store.write = func() {
		s.clock.Advance(15 * day) // the other's is expired too
		s.by(other, r.GUN, r.Next(c))
	}
	if _, err := s.Timestamp(t.Context(), r.GUN); err != nil {
		// One of them is good for two weeks at the time of the request.
		t.Error(fmt.Errorf("renewing: %w", err))
	}
}
