package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"countersign/storage"
	"countersign/tuf"
)

// doomedPage is how many keys of deleted repositories are looked at together.
const doomedPage = 200

// Delete removes all of gun, and has the signer delete the keys that its roots
// listed for snapshot and timestamp; it reports whether there was anything.
//
// The repository goes first: a reader must not meet one that nobody can renew.
// If the signer cannot be asked now, that is no error. Its keys are remembered
// with the deletion, and [Publisher.Bury] asks again.
func (p *Publisher) Delete(ctx context.Context, gun tuf.GUN) (bool, error) {
	deleted, err := p.cfg.Store.Delete(ctx, gun)
	if err != nil || !deleted || p.cfg.Archivist == nil {
		return deleted, err
	}
	if err := p.bury(ctx, func(k storage.DoomedKey) bool { return k.GUN == gun }); err != nil {
		p.cfg.Log.WarnContext(ctx, "the signer still has keys of a deleted repository; they are deleted later", "gun", string(gun), "error", err)
	}
	return true, nil
}

// Bury has the signer delete all keys of deleted repositories that it may still
// have. Any number of replicas may do so at once.
func (p *Publisher) Bury(ctx context.Context) error {
	if p.cfg.Archivist == nil {
		return nil
	}
	return p.bury(ctx, func(storage.DoomedKey) bool { return true })
}

func (p *Publisher) bury(ctx context.Context, which func(storage.DoomedKey) bool) error {
	for after := tuf.KeyID(""); ; {
		page, err := p.cfg.Archivist.Doomed(ctx, after, doomedPage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].ID
		for _, k := range page {
			if !which(k) {
				continue
			}
			if err := p.buryOne(ctx, k); err != nil {
				return err
			}
		}
	}
}

func (p *Publisher) buryOne(ctx context.Context, k storage.DoomedKey) error {
	listed, err := p.lists(ctx, k)
	if err != nil {
		return err
	}
	if !listed {
		err := p.cfg.Signer.DeleteKey(ctx, k.GUN, k.Role, k.ID)
		switch {
		case errors.Is(err, storage.ErrKeyForbidden):
			// A root can list any key; this one is somebody else's.
		case errors.Is(err, errors.ErrUnsupported):
			// Upstream's signer keeps its keys. trust-admin finds them.
			p.cfg.Log.InfoContext(ctx, "the signer is not ours, and keeps the key of a deleted repository", "gun", string(k.GUN), "key_id", string(k.ID))
		case err != nil:
			return fmt.Errorf("deleting key %s: %w", k.ID, err)
		}
	}
	return p.cfg.Archivist.Buried(ctx, k.ID)
}

// lists reports whether the current root of the key's GUN lists it: the
// repository was published again, or restored, with its old root.
func (p *Publisher) lists(ctx context.Context, k storage.DoomedKey) (bool, error) {
	gen, err := p.cfg.Store.Generation(ctx, k.GUN, tuf.RoleRoot)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("loading the root of %s: %w", k.GUN, err)
	}
	env, err := storedFile(gen, tuf.RoleRoot)
	if err != nil {
		return false, fmt.Errorf("loading the root of %s: %w", k.GUN, err)
	}
	root, err := env.Root()
	if err != nil {
		return false, fmt.Errorf("loading the root of %s: %w", k.GUN, err)
	}
	authority := root.Authority(k.Role)
	return slices.ContainsFunc(authority.KeyIDs, func(id tuf.KeyID) bool {
		canonical, err := authority.Keys[id].CanonicalID()
		return err == nil && canonical == k.ID
	}), nil
}
