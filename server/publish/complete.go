package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"countersign/storage"
	"countersign/tuf"
)

const (
	// maxServerKeys bounds what one upload can ask of the signer.
	maxServerKeys = 16
	signAtOnce    = 4
	// maxSigned is what upstream's signer takes in one message, less its frame.
	maxSigned = 4<<20 - 1024
)

// complete makes the roles that the server signs: the snapshot, unless the
// client did, and always the timestamp.
func (p *Publisher) complete(ctx context.Context, c *checked) (storage.Set, error) {
	set := storage.Set{GUN: c.gun, Files: c.files, Revived: c.revived}
	mark, err := p.spare(ctx, c.gun, c.fresh)
	if err != nil {
		return set, err
	}
	set.Mark = mark
	if err := p.checkFresh(ctx, c.gun, c.fresh); err != nil {
		return set, rejectKey(c.gun, c.base == nil, err)
	}
	var snapshotBase, timestampBase tuf.Version
	if c.base != nil {
		set.Base = &c.base.Timestamp.Checksum
		snapshotBase, timestampBase = c.base.Snapshot.Version, c.base.Timestamp.Version
	}
	snapshot := c.snapshot
	if snapshot == nil {
		s, err := p.makeSnapshot(ctx, c.gun, c.root, &tuf.Snapshot{Version: snapshotBase, Meta: c.meta}, c.now)
		if err != nil {
			return set, rejectKey(c.gun, c.base == nil, err)
		}
		snapshot = &s
	}
	timestamp, err := p.makeTimestamp(ctx, c.gun, c.root, timestampBase, snapshot.Data, c.now)
	if err != nil {
		return set, rejectKey(c.gun, c.base == nil, err)
	}
	set.Files = append(slices.Clone(set.Files), *snapshot, timestamp)
	return set, nil
}

// makeSnapshot signs the successor of prev, which says the same as prev.
func (p *Publisher) makeSnapshot(ctx context.Context, gun tuf.GUN, root *tuf.Root, prev *tuf.Snapshot, now time.Time) (storage.Metadata, error) {
	version, err := next(tuf.RoleSnapshot, prev.Version)
	if err != nil {
		return storage.Metadata{}, err
	}
	s := &tuf.Snapshot{Version: version, Expires: now.Add(SnapshotLife).UTC(), Meta: prev.Meta}
	canonical, err := s.Canonical()
	if err != nil {
		return storage.Metadata{}, fmt.Errorf("making the snapshot: %w", err)
	}
	if len(canonical) > maxSigned {
		return storage.Metadata{}, reject(KindValidation, "the repository has too many delegations: its snapshot would have %d bytes, the signer takes %d", len(canonical), maxSigned)
	}
	return p.seal(ctx, gun, root, tuf.RoleSnapshot, version, canonical)
}

// makeTimestamp signs the successor of the timestamp of version prev, over the
// bytes of the snapshot as they will be stored.
func (p *Publisher) makeTimestamp(ctx context.Context, gun tuf.GUN, root *tuf.Root, prev tuf.Version, snapshot []byte, now time.Time) (storage.Metadata, error) {
	version, err := next(tuf.RoleTimestamp, prev)
	if err != nil {
		return storage.Metadata{}, err
	}
	t := &tuf.Timestamp{Version: version, Expires: now.Add(TimestampLife).UTC(), Snapshot: tuf.MetaOf(snapshot)}
	canonical, err := t.Canonical()
	if err != nil {
		return storage.Metadata{}, fmt.Errorf("making the timestamp: %w", err)
	}
	return p.seal(ctx, gun, root, tuf.RoleTimestamp, version, canonical)
}

func next(role tuf.RoleName, v tuf.Version) (tuf.Version, error) {
	if v >= tuf.MaxVersion {
		return 0, reject(KindValidation, "the %s has reached version %d, the last that can be stored: delete the repository (notary delete --remote) and publish it anew", role, v)
	}
	return v + 1, nil
}

func (p *Publisher) seal(ctx context.Context, gun tuf.GUN, root *tuf.Root, role tuf.RoleName, version tuf.Version, canonical []byte) (storage.Metadata, error) {
	authority := root.Authority(role)
	sigs, err := p.sign(ctx, gun, role, authority, canonical)
	if err != nil {
		return storage.Metadata{}, err
	}
	data, err := tuf.Seal(canonical, sigs)
	if err != nil {
		return storage.Metadata{}, fmt.Errorf("making the %s: %w", role, err)
	}
	// Each signature is right by now, and still a client may refuse the file:
	// one key under two IDs counts once. Nothing is stored that would not verify.
	env, err := tuf.ParseEnvelope(data)
	if err == nil {
		err = env.Verify(role, authority)
	}
	if err != nil {
		return storage.Metadata{}, &keyError{role, "", fmt.Errorf("%w: %w", errUnverified, err)}
	}
	return storage.NewMetadata(role, version, data), nil
}

// A keyError says which key did not sign, and why. An ID of "" means that the
// role lists no keys, or fewer than its threshold.
type keyError struct {
	role tuf.RoleName
	id   tuf.KeyID
	err  error
}

func (e *keyError) Error() string {
	if e.id == "" {
		return fmt.Sprintf("signing %s: %v", e.role, e.err)
	}
	return fmt.Sprintf("signing %s with key %.80s: %v", e.role, e.id, e.err)
}

func (e *keyError) Unwrap() error { return e.err }

var (
	errTooFewKeys = errors.New("root lists fewer keys than the threshold")
	errUnusable   = errors.New("key is of no type that can sign")
	// errUnverified: such as one key under two IDs, and a threshold of two.
	errUnverified = errors.New("what all the keys that root lists have signed does not verify")
)

// A listedKey is a key that root lists for a role of the server.
type listedKey struct {
	role      tuf.RoleName
	id        tuf.KeyID // as listed
	canonical tuf.KeyID
}

// freshKeys lists the keys of snapshot and timestamp that root lists and prev,
// which may be nil, does not. Those that can not sign are left to the signing.
func freshKeys(prev, root *tuf.Root) (list []listedKey) {
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		known := map[tuf.KeyID]bool{}
		if prev != nil {
			for _, id := range prev.Roles[role].KeyIDs {
				known[id] = true
			}
		}
		a := root.Authority(role)
		if len(a.Keys) > maxServerKeys {
			continue // the server will not sign with these
		}
		for id, k := range a.Keys {
			canonical, err := k.CanonicalID()
			if err == nil && k.Method() != "" && !known[id] {
				list = append(list, listedKey{role, id, canonical})
			}
		}
	}
	return list
}

// checkFresh asks the signer for what each key was made, before it first signs
// for a repository. Our signer tells that with each signature, too; upstream's
// signs with any key for anybody, but names the role of one that it is asked
// about. A key that the signer does not have is a client's. The error is a
// *keyError.
func (p *Publisher) checkFresh(ctx context.Context, gun tuf.GUN, keys []listedKey) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signAtOnce)
	for _, k := range keys {
		g.Go(func() (err error) {
			defer p.recovered(ctx, gun, "asking the signer for a key", &err)
			rpc, cancel := context.WithTimeout(ctx, p.cfg.SignTimeout)
			defer cancel()
			_, err = p.cfg.Signer.Key(rpc, gun, k.role, k.canonical)
			if err == nil || errors.Is(err, storage.ErrNotFound) {
				return nil
			}
			if rpc.Err() != nil && ctx.Err() == nil {
				err = fmt.Errorf("%w: the signer did not answer within %v", storage.ErrUnavailable, p.cfg.SignTimeout)
			}
			return &keyError{k.role, k.id, err}
		})
	}
	return g.Wait()
}

// sign has content signed by every key that a lists, and verifies what comes
// back: what the server stores must not depend on the signer being right. The
// error is a *keyError.
func (p *Publisher) sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, a tuf.Authority, content []byte) ([]tuf.Signature, error) {
	ids := slices.Clone(a.KeyIDs)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) > maxServerKeys {
		return nil, reject(KindBadRoot, "root lists %d keys for %s; the server signs with at most %d", len(ids), role, maxServerKeys)
	}
	if len(ids) == 0 || len(ids) < a.Threshold {
		return nil, &keyError{role, "", errTooFewKeys}
	}
	sigs := make([]tuf.Signature, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signAtOnce)
	for i, id := range ids {
		g.Go(func() (err error) {
			defer p.recovered(ctx, gun, "signing "+string(role), &err)
			sig, err := p.signWith(ctx, gun, role, a.Keys[id], content)
			if err != nil {
				return &keyError{role, id, err}
			}
			sigs[i] = tuf.Signature{KeyID: id, Method: a.Keys[id].Method(), Sig: sig}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return sigs, nil
}

func (p *Publisher) signWith(ctx context.Context, gun tuf.GUN, role tuf.RoleName, k tuf.Key, content []byte) ([]byte, error) {
	id, err := k.CanonicalID()
	if err != nil || k.Method() == "" {
		return nil, errUnusable
	}
	rpc, cancel := context.WithTimeout(ctx, p.cfg.SignTimeout)
	defer cancel()
	sig, err := p.cfg.Signer.Sign(rpc, gun, role, id, content)
	if err != nil {
		if rpc.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%w: the signer did not answer within %v", storage.ErrUnavailable, p.cfg.SignTimeout)
		}
		return nil, err
	}
	if err := k.VerifySignature(k.Method(), content, sig); err != nil {
		return nil, errors.New("the signer answered with a signature that does not verify")
	}
	return sig, nil
}

// rejectKey makes of a missing or foreign key what the client must know. begins:
// the GUN has no repository yet. Other faults are not the client's: they stay internal, or storage.ErrUnavailable.
func rejectKey(gun tuf.GUN, begins bool, err error) error {
	var k *keyError
	if !errors.As(err, &k) {
		return err
	}
	missing := errors.Is(k.err, storage.ErrNotFound) || k.err == errTooFewKeys || k.err == errUnusable || errors.Is(k.err, errUnverified)
	if begins && (missing || errors.Is(k.err, storage.ErrKeyForbidden)) {
		return rejectFirst(gun, k)
	}
	switch {
	case errors.Is(k.err, storage.ErrKeyForbidden):
		return reject(KindBadRoot, "key %.80s, which root lists for %s, was made for another repository or role: "+
			"get one for this repository (notary key rotate %.255s %s -r)", k.id, k.role, gun, k.role)
	case missing && k.role == tuf.RoleSnapshot:
		r := reject(KindBadHierarchy, "no snapshot was included in update and server does not hold current snapshot key for repository"+
			" (%v). Publish with the snapshot key at hand, or have the server keep it (notary key rotate %.255s snapshot -r)", k, gun)
		r.Missing = string(tuf.RoleSnapshot)
		return r
	case missing:
		return reject(KindBadRoot, "no %s keys exist on the server (%v). Have the server make one (notary key rotate %.255s %s -r)", k.role, k, gun, k.role)
	}
	return fmt.Errorf("completing %s: %w", gun, err)
}

// rejectFirst is rejectKey for a GUN without a repository, where nothing can be
// rotated: the root is that of a repository which was deleted, or of another one.
func rejectFirst(gun tuf.GUN, k *keyError) error {
	if errors.Is(k.err, storage.ErrKeyForbidden) {
		return reject(KindBadRoot, "key %.80s, which root lists for %s, was made for another repository or role. "+
			"Remove the local trust data (notary delete %.255s) and begin anew (notary init)", k.id, k.role, gun)
	}
	advice := fmt.Sprintf("(%v): the root is of a repository that was deleted, or of another one. "+
		"Remove the local trust data (notary delete %.255s) and begin anew (notary init)", k, gun)
	if k.role == tuf.RoleSnapshot {
		r := reject(KindBadHierarchy, "no snapshot was included in update and server does not hold current snapshot key for repository %s", advice)
		r.Missing = string(tuf.RoleSnapshot)
		return r
	}
	return reject(KindBadRoot, "no %s keys exist on the server for a new repository %s", k.role, advice)
}
