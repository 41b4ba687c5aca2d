package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// doomedPage is how many keys of deleted repositories are looked at together.
const doomedPage = 200

const (
	// buryTime is how long the client of a deletion waits for the keys to go.
	buryTime = 10 * time.Second
	// maxBuryErrors is how many keys an error of Bury names.
	maxBuryErrors = 5
)

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
	ctx, cancel := context.WithTimeout(ctx, buryTime)
	defer cancel()
	if err := p.bury(ctx, gun); err != nil {
		p.cfg.Log.WarnContext(ctx, "the signer still has keys of a deleted repository; they are deleted later", "gun", string(gun), "error", err)
	}
	return true, nil
}

// Bury has the signer delete all keys of deleted repositories that it may still
// have. Any number of replicas may do so at once. A key that cannot be deleted
// does not keep the others; the error names the first few of them.
func (p *Publisher) Bury(ctx context.Context) error {
	if p.cfg.Archivist == nil {
		return nil
	}
	err := p.bury(ctx, "")
	if errors.Is(err, errors.ErrUnsupported) {
		// It is asked again in the next round: ours may be put in its place.
		p.cfg.Log.InfoContext(ctx, "the signer is upstream's, and keeps the keys of deleted repositories for now: "+
			"trust-admin keys orphans deletes them", "error", err)
		return nil
	}
	return err
}

// bury goes through the doomed keys of gun, or of all if it is "". It ends early
// where the next key would not fare better.
func (p *Publisher) bury(ctx context.Context, gun tuf.GUN) error {
	var failed []error
	n := 0
	for q := (storage.DoomedQuery{GUN: gun, Limit: doomedPage}); ; {
		page, err := p.cfg.Archivist.Doomed(ctx, q)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, k := range page {
			err := p.buryOne(ctx, k)
			if errors.Is(err, storage.ErrUnavailable) || errors.Is(err, errors.ErrUnsupported) || err != nil && ctx.Err() != nil {
				return errors.Join(append(failed, err)...)
			}
			if err == nil {
				continue
			}
			if n++; n <= maxBuryErrors {
				failed = append(failed, err)
			}
		}
		if len(page) < doomedPage {
			break
		}
		q.After = page[len(page)-1]
	}
	if n > maxBuryErrors {
		failed = append(failed, fmt.Errorf("and %d more keys", n-maxBuryErrors))
	}
	return errors.Join(failed...)
}

// buryOne has the signer delete k while the store keeps everybody from using it:
// see [storage.Graveyard]. A look before the call could not do that, since the
// repository can come back, with its old root, between the two.
func (p *Publisher) buryOne(ctx context.Context, k storage.DoomedKey) error {
	return p.cfg.Archivist.Bury(ctx, k, func(ctx context.Context) error {
		err := p.cfg.Signer.DeleteKey(ctx, k.GUN, k.Role, k.ID)
		if errors.Is(err, storage.ErrKeyForbidden) {
			return nil // a root can list any key; this one is somebody else's
		}
		return err
	})
}

// spare makes sure that nobody deletes keys that a root lists anew, because they
// were those of a repository that had the name. It comes before the signer is
// asked for anything: from then on keys that are there stay there.
func (p *Publisher) spare(ctx context.Context, gun tuf.GUN, fresh []listedKey) (*storage.Mark, error) {
	if p.cfg.Archivist == nil || len(fresh) == 0 {
		return nil, nil
	}
	var keys []storage.DoomedKey
	for _, k := range fresh {
		keys = append(keys, storage.DoomedKey{GUN: gun, Role: k.role, ID: k.canonical})
	}
	mark, err := p.cfg.Archivist.Spare(ctx, gun, keys)
	if err != nil {
		return nil, fmt.Errorf("publishing %s: %w", gun, err)
	}
	return &mark, nil
}
