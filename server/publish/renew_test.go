package publish_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const day = 24 * time.Hour

// A counting store counts what a Publisher asks of a store.
type counting struct {
	dueStore
	mu     sync.Mutex // guards the fields below
	reads  int
	writes int
}

type dueStore interface {
	storage.MetadataStore
	Due(ctx context.Context, before time.Time, limit int) ([]tuf.GUN, error)
}

func (s *counting) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	return s.dueStore.Generation(ctx, gun, roles...)
}

func (s *counting) Publish(ctx context.Context, set storage.Set) error {
	s.mu.Lock()
	s.writes++
	s.mu.Unlock()
	return s.dueStore.Publish(ctx, set)
}

func (s *counting) reset() (reads, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads, writes = s.reads, s.writes
	s.reads, s.writes = 0, 0
	return reads, writes
}

// countingStack is a stack whose round trips are counted.
func countingStack(t testing.TB, backend string, change ...func(*publish.Config)) (*stack, *counting) {
	t.Helper()
	var store *counting
	change = append(change, func(c *publish.Config) {
		store = &counting{dueStore: c.Store.(dueStore)}
		c.Store = store
	})
	return stackOn(t, backend, change...), store
}

func (s *stack) timestamp(gun tuf.GUN) storage.Metadata {
	s.Helper()
	m, err := s.Timestamp(s.Context(), gun)
	if err != nil {
		s.Fatal(err)
	}
	return m
}

func TestTimestampUnexpired(t *testing.T) {
	s, store := countingStack(t, "sqlite3")
	r := s.repo(false)
	s.must(r, r.Upload())
	want := s.generation(r.GUN).Timestamp.Checksum
	s.clock.Advance(14 * day) // to the second
	s.signer.set(func(context.Context, string, tuf.RoleName) error { return storage.ErrUnavailable })
	store.reset()
	if got := s.timestamp(r.GUN); got.Checksum != want {
		t.Error("another timestamp is served")
	}
	if reads, writes := store.reset(); reads != 1 || writes != 0 {
		t.Errorf("%d reads, %d writes", reads, writes)
	}
	if _, err := s.Timestamp(t.Context(), "nobody"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("unknown GUN: %v", err)
	}
	if _, err := s.Snapshot(t.Context(), "nobody"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("snapshot of an unknown GUN: %v", err)
	}
}

// All readers who meet an expired timestamp, on two replicas, get the same new
// one, and it is one version.
func TestTimestampRenewedOnce(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := stackOn(t, backend)
		replica := s.replica()
		r := s.repo(false)
		s.must(r, r.Upload())
		s.clock.Advance(14*day + time.Second)
		before := s.signer.count("sign")
		const readers = 200
		got := make([]storage.Metadata, readers)
		errs := make([]error, readers)
		var wg sync.WaitGroup
		for i := range readers {
			p := s.Publisher
			if i%2 == 1 {
				p = replica
			}
			wg.Go(func() { got[i], errs[i] = p.Timestamp(t.Context(), r.GUN) })
		}
		wg.Wait()
		for i := range readers {
			if errs[i] != nil || got[i].Version != 2 || got[i].Checksum != got[0].Checksum {
				t.Fatalf("reader %d: version %d, %v", i, got[i].Version, errs[i])
			}
		}
		gen := s.generation(r.GUN)
		if gen.Timestamp.Checksum != got[0].Checksum {
			t.Error("what was served is not what is stored")
		}
		if n := s.signer.count("sign") - before; n > 2 { // two replicas may race; one's is stored
			t.Errorf("%d signatures", n)
		}
		changes, err := s.store.Changes(t.Context(), storage.ChangeQuery{GUN: r.GUN, Limit: 10})
		if err != nil || len(changes) != 2 {
			t.Errorf("%d changes, %v, want one for the publish and one for the renewal", len(changes), err)
		}
		s.fsck(r.GUN)
	})
}

// The snapshot is renewed with the timestamp before it would expire, if the
// server has its key.
func TestSnapshotRenewedWithTimestamp(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	r.Root.Expires = s.clock.Now().Add(10 * 365 * day)
	for _, targets := range r.Targets {
		targets.Expires = r.Root.Expires
	}
	s.must(r, r.Upload())
	s.clock.Advance(3*365*day - 15*day)
	s.timestamp(r.GUN)
	if v := s.generation(r.GUN, tuf.RoleSnapshot).Snapshot.Version; v != 1 {
		t.Errorf("snapshot version %d although it is good for longer than the timestamp", v)
	}
	s.clock.Advance(14*day + time.Second)
	s.timestamp(r.GUN)
	gen := s.generation(r.GUN, tuf.RoleSnapshot)
	if gen.Snapshot.Version != 2 || gen.Timestamp.Version != 3 {
		t.Errorf("snapshot version %d, timestamp %d, want 2 and 3", gen.Snapshot.Version, gen.Timestamp.Version)
	}
	s.fsck(r.GUN)
}

// expiring makes a stored repository whose snapshot expires in an hour and
// whose timestamp does not; the server has the keys of both, unless client.
func (s *stack) expiring(client bool) *tuftest.Repo {
	s.Helper()
	r := s.repo(true)
	if !client {
		k := tuftest.NewKey(s, tuf.KeyECDSA)
		s.signer.add(k, r.GUN, tuf.RoleSnapshot)
		r.SetKeys(tuf.RoleSnapshot, 1, k)
	}
	k := tuftest.NewKey(s, tuf.KeyECDSA)
	s.signer.add(k, r.GUN, tuf.RoleTimestamp)
	r.SetKeys(tuf.RoleTimestamp, 1, k)
	r.Snapshot.Expires = s.clock.Now().Add(time.Hour)
	s.force(r)
	s.fsck(r.GUN)
	s.clock.Advance(2 * time.Hour)
	return r
}

func TestExpiredSnapshot(t *testing.T) {
	t.Run("of the server", func(t *testing.T) {
		s := newStack(t)
		r := s.expiring(false)
		m, err := s.Snapshot(t.Context(), r.GUN)
		if err != nil || m.Version != 2 {
			t.Errorf("version %d, %v, want 2", m.Version, err)
		}
		s.fsck(r.GUN)
	})
	t.Run("of the server, signer down", func(t *testing.T) {
		s := newStack(t)
		r := s.expiring(false)
		s.signer.set(func(context.Context, string, tuf.RoleName) error { return storage.ErrUnavailable })
		if m, err := s.Snapshot(t.Context(), r.GUN); err != nil || m.Version != 1 {
			t.Errorf("version %d, %v, want the expired one", m.Version, err)
		}
	})
	t.Run("of a client", func(t *testing.T) {
		s := newStack(t)
		r := s.expiring(true)
		if m, err := s.Snapshot(t.Context(), r.GUN); err != nil || m.Version != 1 {
			t.Errorf("version %d, %v, want the expired one", m.Version, err)
		}
		if m := s.timestamp(r.GUN); m.Version != 1 {
			t.Errorf("timestamp version %d although nothing about it could be mended", m.Version)
		}
		s.clock.Advance(14 * day)
		if m := s.timestamp(r.GUN); m.Version != 2 {
			t.Errorf("timestamp version %d, want it renewed although the snapshot can not be", m.Version)
		}
		// The client mends it.
		r.Timestamp = nil
		r.Snapshot.Expires = s.clock.Now().Add(time.Hour)
		s.must(r, r.Next())
	})
}

// An expired snapshot that only a client can sign is not tried again for each
// of those who ask for it.
func TestExpiredSnapshotIsRemembered(t *testing.T) {
	s, store := countingStack(t, "sqlite3")
	r := s.expiring(true)
	get := func() (reads, signs int) {
		t.Helper()
		store.reset()
		before := s.signer.count("sign")
		if _, err := s.Snapshot(t.Context(), r.GUN); err != nil {
			t.Fatal(err)
		}
		reads, _ = store.reset()
		return reads, s.signer.count("sign") - before
	}
	if reads, signs := get(); reads != 2 || signs != 1 {
		t.Errorf("first: %d reads, %d signatures asked for, want 2 and 1", reads, signs)
	}
	for range 3 {
		if reads, signs := get(); reads != 1 || signs != 0 {
			t.Errorf("again: %d reads, %d signatures asked for, want 1 and none", reads, signs)
		}
	}
	s.clock.Advance(11 * time.Minute)
	if reads, signs := get(); reads != 2 || signs != 1 {
		t.Errorf("later: %d reads, %d signatures asked for, want 2 and 1", reads, signs)
	}
	// A signer that is down says nothing of the kind.
	s.clock.Advance(11 * time.Minute)
	s.signer.set(func(context.Context, string, tuf.RoleName) error { return storage.ErrUnavailable })
	for range 2 {
		if _, signs := get(); signs != 1 {
			t.Errorf("signer down: %d signatures asked for, want 1 each time", signs)
		}
	}
	s.signer.set(nil)
	k := r.Keys[tuf.RoleSnapshot][0]
	s.signer.add(k, r.GUN, tuf.RoleSnapshot) // found again
	if m, err := s.Snapshot(t.Context(), r.GUN); err != nil || m.Version != 2 {
		t.Errorf("version %d, %v, want 2", m.Version, err)
	}
}

// Root expired in both ways: files stay readable, the timestamp is renewed.
func TestRenewUnderExpiredRoot(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	r.Root.Expires = s.clock.Now().Add(time.Hour)
	r.SetKeys(tuf.RoleRoot, 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{
		CN: string(r.GUN), NotBefore: s.clock.Now().Add(-time.Hour), NotAfter: s.clock.Now().Add(time.Hour),
	}))
	s.must(r, r.Upload())
	s.clock.Advance(15 * day)
	if m := s.timestamp(r.GUN); m.Version != 2 {
		t.Errorf("timestamp version %d, want 2", m.Version)
	}
	if _, err := s.Snapshot(t.Context(), r.GUN); err != nil {
		t.Error(err)
	}
}

// A fault while renewing is never "not found", which would make clients start
// the repository anew.
func TestRenewFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"signer down", storage.ErrUnavailable, storage.ErrUnavailable},
		{"key gone", storage.ErrNotFound, nil},
		{"key of another GUN", storage.ErrKeyForbidden, nil},
		{"key sealed", storage.ErrKeySealed, storage.ErrKeySealed},
		{"signer broken", errors.New("broken"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStack(t)
			r := s.repo(false)
			s.must(r, r.Upload())
			s.clock.Advance(15 * day)
			s.signer.set(func(context.Context, string, tuf.RoleName) error { return c.err })
			for name, get := range map[string]func(context.Context, tuf.GUN) (storage.Metadata, error){"timestamp": s.Timestamp, "snapshot": s.Snapshot} {
				_, err := get(t.Context(), r.GUN)
				if err == nil || errors.Is(err, storage.ErrNotFound) || (c.want != nil && !errors.Is(err, c.want)) ||
					(c.want == nil && errors.Is(err, storage.ErrUnavailable)) {
					t.Errorf("%s: %v", name, err)
				}
				var rejection *publish.Rejection
				if errors.As(err, &rejection) {
					t.Errorf("%s: a reader's request is rejected: %v", name, err)
				}
			}
			s.signer.set(nil)
			s.timestamp(r.GUN)
			s.fsck(r.GUN)
		})
	}
}

// A signer that does not answer costs a reader a bounded time; the first
// reader may give up without taking the answer from the others.
func TestRenewHangs(t *testing.T) {
	s := newStack(t, func(c *publish.Config) { c.RenewTimeout = 50 * time.Millisecond })
	r := s.repo(false)
	s.must(r, r.Upload())
	s.clock.Advance(15 * day)
	s.signer.set(func(ctx context.Context, _ string, _ tuf.RoleName) error { <-ctx.Done(); return ctx.Err() })
	if _, err := s.Timestamp(t.Context(), r.GUN); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}

	p := s.newPublisher()
	asked, answer := make(chan struct{}), make(chan struct{})
	s.signer.set(func(context.Context, string, tuf.RoleName) error { close(asked); <-answer; return nil })
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := p.Timestamp(ctx, r.GUN)
		first <- err
	}()
	<-asked
	second := make(chan error)
	go func() {
		_, err := p.Timestamp(t.Context(), r.GUN)
		second <- err
	}()
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	close(answer)
	if err := <-second; err != nil {
		t.Errorf("who waited: %v", err)
	}
	s.signer.set(nil)
	s.fsck(r.GUN)
}

func TestRenewDue(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := stackOn(t, backend, func(c *publish.Config) { c.RenewPage = 3; c.RenewPause = time.Microsecond })
		guns := make([]tuf.GUN, 10)
		for i := range guns {
			guns[i] = tuf.GUN(fmt.Sprintf("example.org/%d", i))
			r := s.repoFor(guns[i], false)
			s.must(r, r.Upload())
			if i == 4 { // can not be renewed
				s.signer.forget(r.Root.Roles[tuf.RoleTimestamp].KeyIDs[0])
			}
		}
		if n, err := s.RenewDue(t.Context()); n != 0 || err != nil {
			t.Errorf("%d renewed, %v, at once", n, err)
		}
		s.clock.Advance(9 * day)
		young := s.repoFor("example.org/young", false)
		s.must(young, young.Upload())
		if n, err := s.RenewDue(t.Context()); n != 0 || err != nil {
			t.Errorf("%d renewed, %v, after 9 days", n, err)
		}
		s.clock.Advance(day)
		if n, err := s.RenewDue(t.Context()); n != 9 || err != nil {
			t.Errorf("%d renewed, %v, after 10 days, want 9", n, err)
		}
		for i, gun := range guns {
			if v := s.generation(gun).Timestamp.Version; v != 2 && i != 4 {
				t.Errorf("%s: version %d", gun, v)
			}
			s.fsck(gun)
		}
		if n, err := s.RenewDue(t.Context()); n != 0 || err != nil {
			t.Errorf("%d renewed, %v, the second time", n, err)
		}
	})
}

// When the signer is down the round ends soon, whatever there is to do.
func TestRenewDueSignerDown(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *publish.Config) { c.RenewPause = time.Microsecond; c.RenewConcurrency = 1 })
	for i := range 30 {
		r := s.repoFor(tuf.GUN(fmt.Sprintf("example.org/%d", i)), false)
		s.must(r, r.Upload())
	}
	s.clock.Advance(10 * day)
	before := s.signer.count("sign")
	s.signer.set(func(context.Context, string, tuf.RoleName) error { return storage.ErrUnavailable })
	if _, err := s.RenewDue(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if n := s.signer.count("sign") - before; n > 10 {
		t.Errorf("%d calls to a signer that is down", n)
	}
	s.signer.set(nil)
	if n, err := s.RenewDue(t.Context()); n != 30 || err != nil {
		t.Errorf("%d renewed, %v, want 30", n, err)
	}
}

func TestRunRenewer(t *testing.T) {
	s := newStack(t, func(c *publish.Config) { c.RenewInterval = time.Millisecond; c.RenewPause = time.Microsecond })
	r := s.repo(false)
	s.must(r, r.Upload())
	s.clock.Advance(10 * day)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for _, p := range []*publish.Publisher{s.Publisher, s.newPublisher(func(c *publish.Config) { c.RenewInterval = time.Millisecond })} {
		go func() { done <- p.RunRenewer(ctx) }()
	}
	deadline := time.Now().Add(20 * time.Second)
	for s.generation(r.GUN).Timestamp.Version == 1 {
		if time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if v := s.generation(r.GUN).Timestamp.Version; v != 2 {
		t.Errorf("version %d: two replicas have renewed twice", v)
	}
	s.fsck(r.GUN)

	blind := s.newPublisher(func(c *publish.Config) { c.Store = struct{ storage.MetadataStore }{c.Store} })
	if err := blind.RunRenewer(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without Due: %v", err)
	}
	if _, err := blind.RenewDue(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without Due: %v", err)
	}
}
