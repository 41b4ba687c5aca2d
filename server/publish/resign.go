package publish

import (
	"context"
	"errors"
	"fmt"

	"countersign/storage"
	"countersign/tuf"
)

// A Successor stores a timestamp with a version that need not be the next one.
// It must refuse with storage.ErrStale if base is no longer the newest.
type Successor interface {
	Succeed(ctx context.Context, gun tuf.GUN, base tuf.Checksum, next storage.Metadata, e storage.Event) error
}

// Succeed signs the snapshot's timestamp of gun anew, with that version: for a
// repository that was brought back from a time before the one that its clients
// have seen. They refuse a timestamp with a lower version than the last one. The
// error wraps storage.ErrInvalid if the current version is not lower, and
// storage.ErrStale if somebody publishes meanwhile.
func (p *Publisher) Succeed(ctx context.Context, store Successor, gun tuf.GUN, version tuf.Version, e storage.Event) (storage.Metadata, error) {
	next, err := p.succeed(ctx, store, gun, version, e)
	if err != nil {
		return storage.Metadata{}, fmt.Errorf("signing timestamp version %d of %s: %w", version, gun, err)
	}
	return next, nil
}

func (p *Publisher) succeed(ctx context.Context, store Successor, gun tuf.GUN, version tuf.Version, e storage.Event) (storage.Metadata, error) {
	var none storage.Metadata
	gen, err := p.cfg.Store.Generation(ctx, gun, tuf.RoleRoot, tuf.RoleSnapshot)
	if err != nil {
		return none, err
	}
	if version <= gen.Timestamp.Version {
		return none, fmt.Errorf("%w: the current one has version %d", storage.ErrInvalid, gen.Timestamp.Version)
	}
	env, err := storedFile(gen, tuf.RoleRoot)
	if err != nil {
		return none, err
	}
	root, err := env.Root()
	if err != nil {
		return none, err
	}
	snapshot, ok := gen.Files[tuf.RoleSnapshot]
	if !ok {
		return none, errors.New("there is no snapshot")
	}
	next, err := p.makeTimestamp(ctx, gun, root, version-1, snapshot.Data, p.cfg.Now())
	if err != nil {
		return none, err
	}
	e.GUN, e.Roles = gun, storage.RolesOf([]storage.Metadata{next})
	return next, store.Succeed(ctx, gun, gen.Timestamp.Checksum, next, e)
}
