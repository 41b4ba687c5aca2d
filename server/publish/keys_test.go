package publish_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/storagetest"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

func TestKey(t *testing.T) {
	s := newStack(t)
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
		first, again := s.serverKey(testGUN, role), s.serverKey(testGUN, role)
		if first.ID() != again.ID() {
			t.Errorf("%s: another key although the first is not used", role)
		}
		if s.rotated(testGUN, role).ID() != first.ID() {
			t.Errorf("%s: rotation makes a second unused key", role)
		}
	}
	r := s.repo(false)
	s.must(r, r.Upload())
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
		listed := r.Root.Roles[role].KeyIDs[0]
		if got := s.serverKey(testGUN, role).ID(); got != listed {
			t.Errorf("%s: got %s, root lists %s", role, got, listed)
		}
		rotated := s.rotated(testGUN, role).ID()
		if rotated == listed || s.rotated(testGUN, role).ID() != rotated {
			t.Errorf("%s: after use a rotation must make one new key", role)
		}
		if got := s.serverKey(testGUN, role).ID(); got != listed {
			t.Errorf("%s: the new key is handed out before root lists it", role)
		}
		s.signer.forget(listed)
		if role == tuf.RoleTimestamp { // never a client's, so it is lost
			if k, err := s.Key(t.Context(), testGUN, role); !errors.Is(err, storage.ErrKeyMissing) || errors.Is(err, storage.ErrNotFound) {
				t.Errorf("%s: the listed key is gone; got %v, %v, want ErrKeyMissing", role, k, err)
			}
		} else if got := s.serverKey(testGUN, role).ID(); got != rotated {
			t.Errorf("%s: the listed key is gone; got %s, want the unused one", role, got)
		}
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, "targets/a", ""} {
		if _, err := s.Key(t.Context(), testGUN, role); !errors.Is(err, tuf.ErrBadName) {
			t.Errorf("key of %q: %v", role, err)
		}
		if _, err := s.RotateKey(t.Context(), testGUN, role); !errors.Is(err, tuf.ErrBadName) {
			t.Errorf("rotating %q: %v", role, err)
		}
	}
}

// The client signs the snapshot: its key is in root, but not in the signer.
func TestKeyListedButNotOurs(t *testing.T) {
	s := newStack(t)
	r := s.repo(true)
	s.must(r, r.Upload())
	k := s.serverKey(r.GUN, tuf.RoleSnapshot)
	if k.ID() == r.Root.Roles[tuf.RoleSnapshot].KeyIDs[0] {
		t.Error("the client's own key is handed out")
	}
	r.Manage(tuf.RoleSnapshot, *k)
	s.must(r, r.Next(tuf.RoleRoot))
}

// A fault is returned as a fault, and makes no key.
func TestKeyFaults(t *testing.T) {
	var faulty *storagetest.Faulty
	s := newStack(t, func(c *publish.Config) {
		faulty = storagetest.NewFaulty(c.Store)
		c.Store = faulty
	})
	r := s.repo(false)
	s.must(r, r.Upload())
	created := s.signer.count("create")
	for _, fault := range []error{storage.ErrUnavailable, storage.ErrKeySealed, storage.ErrKeyForbidden, errors.New("broken")} {
		s.signer.set(func(context.Context, string, tuf.RoleName) error { return fault })
		if _, err := s.Key(t.Context(), r.GUN, tuf.RoleTimestamp); !errors.Is(err, fault) {
			t.Errorf("got %v, want %v", err, fault)
		}
		if n := s.signer.count("create"); n != created {
			t.Errorf("%v: a key was asked for", fault)
		}
	}
	s.signer.set(nil)
	faulty.Down(true)
	if _, err := s.Key(t.Context(), r.GUN, tuf.RoleTimestamp); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("database down: %v", err)
	}
	if n := s.signer.count("create"); n != created {
		t.Error("database down: a key was asked for")
	}
	faulty.Down(false)

	s.signer.mu.Lock() // the signer answers with another key
	other := tuftest.NewKey(t, tuf.KeyECDSA)
	s.signer.keys[r.Root.Roles[tuf.RoleTimestamp].KeyIDs[0]].Key = other
	s.signer.mu.Unlock()
	if k, err := s.Key(t.Context(), r.GUN, tuf.RoleTimestamp); err == nil {
		t.Errorf("a key that root does not list is handed out: %s", k.ID())
	}
}

func TestConcurrentKeys(t *testing.T) {
	s := newStack(t)
	ids := make([]tuf.KeyID, 20)
	var wg sync.WaitGroup
	s.serverKey(testGUN, tuf.RoleTimestamp)
	for i := range ids {
		wg.Go(func() {
			if k, err := s.Key(t.Context(), testGUN, tuf.RoleTimestamp); err == nil {
				ids[i] = k.ID()
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("keys differ: %v", ids)
		}
	}
}

func TestNew(t *testing.T) {
	s := newStack(t)
	for name, cfg := range map[string]publish.Config{
		"no store":      {Signer: s.signer},
		"no signer":     {Store: s.store},
		"share of life": {Store: s.store, Signer: s.signer, RenewAfter: 1},
		"rsa":           {Store: s.store, Signer: s.signer, KeyAlgorithm: tuf.KeyRSA},
	} {
		if _, err := publish.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	p, err := publish.New(publish.Config{Store: s.store, Signer: s.signer, KeyAlgorithm: tuf.KeyED25519})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := p.RotateKey(t.Context(), testGUN, tuf.RoleSnapshot); err != nil || k.Type != tuf.KeyED25519 {
		t.Errorf("%s key, %v", k.Type, err)
	}
}
