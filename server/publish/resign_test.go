package publish_test

import (
	"errors"
	"testing"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// A timestamp may skip versions where clients have seen more than is stored, and
// the repository goes on from there.
func TestSucceed(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := recording(t, backend)
		r := s.repo(false)
		if err := s.Publish(t.Context(), r.GUN, upload(r.Upload())); err != nil {
			t.Fatal(err)
		}
		store := metadb.New(s.db)
		for _, v := range []tuf.Version{0, 1} {
			if _, err := s.Succeed(t.Context(), store, r.GUN, v, storage.Event{}); !errors.Is(err, storage.ErrInvalid) {
				t.Errorf("version %d: %v", v, err)
			}
		}
		if _, err := s.Succeed(t.Context(), store, "example.org/none", 2, storage.Event{}); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("no such repository: %v", err)
		}
		next, err := s.Succeed(t.Context(), store, r.GUN, 40, storage.Event{Action: storage.ActionRestore})
		if err != nil || next.Version != 40 {
			t.Fatal(next.Version, err)
		}
		if err := s.Publish(t.Context(), r.GUN, nil); err != nil {
			t.Error(err)
		}
		gen, err := store.Generation(t.Context(), r.GUN)
		if err != nil || gen.Timestamp.Version != 41 {
			t.Errorf("%+v, %v", gen, err)
		}
		if err := publish.Fsck(t.Context(), store, r.GUN, s.clock.Now()); err != nil {
			t.Error(err)
		}
		if _, err := s.Succeed(t.Context(), store, r.GUN, tuf.MaxVersion, storage.Event{Action: storage.ActionRestore}); err != nil {
			t.Errorf("the last version: %v", err)
		}
	})
}
