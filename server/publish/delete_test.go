package publish_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
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
	list, err := metadb.New(s.db).Doomed(s.Context(), "", 100)
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
// has written to, does not take it with him. And upstream's signer is not asked
// at all, since it would not look whose a key is.
func TestDeleteForeignKey(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{storage.ErrKeyForbidden, errors.ErrUnsupported} {
		s := recording(t, "sqlite3")
		r := s.repo(true)
		if err := s.Publish(t.Context(), r.GUN, upload(r.Upload())); err != nil {
			t.Fatal(err)
		}
		s.signer.set(func(_ context.Context, call string, _ tuf.RoleName) error {
			if call == "delete" {
				return refusal
			}
			return nil
		})
		if ok, err := s.Delete(t.Context(), r.GUN); !ok || err != nil {
			t.Error(ok, err)
		}
		if n := s.doomed(); n != 0 {
			t.Errorf("%v: %d keys left to delete, for ever", refusal, n)
		}
	}
}
