package publish_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A signer like upstream's signs with any key for anybody. It is asked for what
// a key was made when a root brings one, and then only.
func TestLaxSigner(t *testing.T) {
	for _, client := range []bool{false, true} {
		s := newStack(t)
		s.signer.lax = true
		r := s.repo(client)
		own := r.Root.Roles[tuf.RoleTimestamp]
		foreign := tuftest.NewKey(t, tuf.KeyECDSA)
		s.signer.add(foreign, r.GUN, tuf.RoleTargets)
		asked := s.signer.count("key")
		up := func(files files) (int, error) {
			err := s.publish(r.GUN, files)
			n := s.signer.count("key") - asked
			asked += n
			return n, err
		}

		r.SetKeys(tuf.RoleTimestamp, 1, tuftest.Public(foreign.Key))
		_, err := up(r.Upload())
		wantRejection(t, err, publish.KindBadRoot, "was made for another repository or role")

		r.Root.Roles[tuf.RoleTimestamp] = own
		if n, err := up(r.Upload()); n != 2 || err != nil {
			t.Errorf("first publish: asked about %d keys, %v", n, err)
		}
		if n, err := up(r.Next(targets)); n != 0 || err != nil {
			t.Errorf("targets: asked about %d keys, %v", n, err)
		}
		if n, err := up(r.Next(root)); n != 0 || err != nil {
			t.Errorf("a root of the same keys: asked about %d keys, %v", n, err)
		}
		r.SetKeys(tuf.RoleTimestamp, 1, tuftest.Public(r.Root.Keys[own.KeyIDs[0]]), tuftest.Public(foreign.Key))
		n, err := up(r.Next(root))
		if n != 1 {
			t.Errorf("a root of one new key: asked about %d", n)
		}
		wantRejection(t, err, publish.KindBadRoot, "was made for another repository or role")
	}
}

// What the signer can not be asked is not taken for granted.
func TestSignerFaultsAboutNewKeys(t *testing.T) {
	for name, c := range map[string]struct{ err, want error }{
		"down":   {storage.ErrUnavailable, storage.ErrUnavailable},
		"sealed": {storage.ErrKeySealed, storage.ErrKeySealed},
		"broken": {errors.New("broken"), nil},
		"hangs":  {nil, storage.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, func(c *publish.Config) { c.SignTimeout = 50 * time.Millisecond })
			r := s.repo(false)
			s.signer.set(func(ctx context.Context, op string, _ tuf.RoleName) error {
				if op != "key" {
					return nil
				}
				if c.err == nil {
					<-ctx.Done()
					return ctx.Err()
				}
				return c.err
			})
			err := s.publish(r.GUN, r.Upload())
			var rejection *publish.Rejection
			if err == nil || errors.As(err, &rejection) || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			s.signer.set(nil)
			s.must(r, r.Upload())
		})
	}
}

// A client of the signer that panics costs an answer, and not the process:
// none of the goroutines in which it is called is a request's own.
func TestSignerPanics(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	s.must(r, r.Upload())
	s.signer.set(func(context.Context, string, tuf.RoleName) error { panic("in the signer's client") })
	if err := s.publish(r.GUN, r.Next(targets)); err == nil {
		t.Error("published")
	}
	other := s.repoForgotten("example.org/other")
	if err := s.publish(other.GUN, other.Upload()); err == nil {
		t.Error("published a new repository")
	}
	s.clock.Advance(10 * day)
	if n, err := s.RenewDue(t.Context()); n != 0 || err != nil {
		t.Errorf("renewed %d, %v", n, err)
	}
	s.clock.Advance(10 * day)
	if _, err := s.Timestamp(t.Context(), r.GUN); err == nil {
		t.Error("renewed")
	}
	s.signer.set(nil)
	if m := s.timestamp(r.GUN); m.Version != 2 {
		t.Errorf("version %d, want 2", m.Version)
	}
}

// A store that panics, in the goroutine of a renewal itself.
func TestStorePanics(t *testing.T) {
	store := &panicking{}
	s := newStack(t, func(c *publish.Config) {
		store.dueStore = c.Store.(dueStore)
		c.Store = store
	})
	r := s.repo(false)
	s.must(r, r.Upload())
	s.clock.Advance(10 * day)
	store.on = true
	if n, err := s.RenewDue(t.Context()); n != 0 || err != nil {
		t.Errorf("renewed %d, %v", n, err)
	}
	s.clock.Advance(10 * day)
	if _, err := s.Timestamp(t.Context(), r.GUN); err == nil {
		t.Error("renewed")
	}
	store.on = false
	if m := s.timestamp(r.GUN); m.Version != 2 {
		t.Errorf("version %d, want 2", m.Version)
	}
	if n := s.Locks(); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

// panicking panics in Publish while it is on.
type panicking struct {
	dueStore
	on bool
}

func (s *panicking) Publish(ctx context.Context, set storage.Set) error {
	if s.on {
		panic("in the store")
	}
	return s.dueStore.Publish(ctx, set)
}

// repoForgotten makes a repository of keys that the signer is asked about.
func (s *stack) repoForgotten(gun tuf.GUN) *tuftest.Repo {
	s.Helper()
	opts := tuftest.Options{Now: s.clock.Now()}
	for role, key := range map[tuf.RoleName]**tuf.Key{tuf.RoleTimestamp: &opts.Timestamp, tuf.RoleSnapshot: &opts.Snapshot} {
		*key = s.signer.add(tuftest.NewKey(s, tuf.KeyECDSA), gun, role)
	}
	return tuftest.New(s, gun, opts)
}

// A delegation that upstream's server has left without a vouched file can be
// given another key before somebody signs the file with one.
func TestUnvouchedDelegationCanBeMended(t *testing.T) {
	for _, client := range []bool{false, true} {
		lenient := func(c *publish.Config) { c.AllowUnvouched = true }
		s := newStack(t)
		upstreams := s.newPublisher(lenient)
		r := s.repo(client, a, ab, c)
		s.must(r, r.Upload())
		r.Raw[a] = r.File(a)
		first := r.Rotate(a)
		if err := upstreams.Publish(t.Context(), r.GUN, upload(r.Next(targets))); err != nil {
			t.Fatal(err)
		}
		second := r.NewKey(a)
		r.SetKeys(a, 1, first, second)
		if err := s.Publish(t.Context(), r.GUN, upload(r.Next(targets))); err != nil {
			t.Errorf("another key for a delegation that nobody vouches for: %v", err)
		}
		// One that is vouched for stays so.
		old := r.Keys[c][0]
		r.Raw[c] = r.File(c)
		r.Rotate(c)
		wantRejection(t, s.Publish(t.Context(), r.GUN, upload(r.Next(targets))), publish.KindBadTargets, "targets/c as stored on the server "+witness)
		r.SetKeys(c, 1, old)
		delete(r.Raw, a)
		r.Keys[a] = []*tuftest.Key{second}
		s.must(r, r.Next(targets, a))
	}
}
