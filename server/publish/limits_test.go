package publish_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// The work that unsigned files ask for grows with their number and with the
// names in a snapshot, and not with the product of both.
func TestManyPartsAndNames(t *testing.T) {
	s := newStack(t)
	list := ""
	for i := range 5_000 {
		list += fmt.Sprintf(`,"targets/d%d/x":{}`, i)
	}
	sum := `{"hashes":{"sha256":"` + wrong256 + `"}}`
	meta := []byte(`{"signed":{"_type":"Snapshot","version":1,"meta":{"root":` + sum + `,"targets":` + sum + list + `}}}`)
	cost := func(parts int) time.Duration {
		up := files{snapshot: meta}
		for i := range parts {
			up[tuf.RoleName(fmt.Sprintf("targets/p%d", i))] = []byte(`{"signed":{}}`)
		}
		best := time.Hour
		for range 2 {
			start := time.Now()
			wantRejection(t, s.Publish(t.Context(), testGUN, upload(up)), publish.KindValidation, "no pre-existing root")
			best = min(best, time.Since(start))
		}
		return best
	}
	if one, many := cost(1), cost(1000); many > 8*one {
		t.Errorf("1000 parts take %v, one %v", many, one)
	}
}

// canceling ends a request when it has read the generation.
type canceling struct {
	storage.MetadataStore
	cancel context.CancelFunc
}

func (s *canceling) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	gen, err := s.MetadataStore.Generation(ctx, gun, roles...)
	if s.cancel != nil {
		s.cancel()
	}
	return gen, err
}

// A request that has ended is not checked on, whatever is wrong with it.
func TestCheckEndsWithRequest(t *testing.T) {
	for name, client := range map[string]bool{"targets": false, "snapshot": true} {
		t.Run(name, func(t *testing.T) {
			store := &canceling{}
			s := newStack(t, func(c *publish.Config) { store.MetadataStore, c.Store = c.Store, store })
			r := s.repo(client, a)
			s.must(r, r.Upload())
			var up files
			if client {
				up = withMeta(r, "targets/d", tuf.MetaOf(nil))
			} else {
				r.Keys[targets] = nil
				up = r.Next(targets)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			store.cancel = cancel
			err := s.Publish(ctx, r.GUN, upload(up))
			store.cancel = nil
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			s.fsck(r.GUN)
		})
	}
}
