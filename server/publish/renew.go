package publish

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// renewTries bounds how often a renewal is built anew because somebody else
// published first. One of them always did, and then its timestamp is served.
const renewTries = 8

// Timestamp returns the current timestamp of gun. While the stored one has not
// expired this is one query, and needs no signer. An expired one is renewed on
// the spot, once for all who wait, here and on other replicas; a snapshot that
// the server can sign is renewed with it if it would expire first. What else
// of the repository has expired does not matter: clients judge that.
//
// The error wraps storage.ErrNotFound if gun has no timestamp, and
// storage.ErrUnavailable if database or signer could not be asked.
func (p *Publisher) Timestamp(ctx context.Context, gun tuf.GUN) (storage.Metadata, error) {
	gen, err := p.cfg.Store.Generation(ctx, gun)
	if err != nil {
		return storage.Metadata{}, fmt.Errorf("loading the timestamp of %s: %w", gun, err)
	}
	expires, err := expiry(gen.Timestamp)
	if err != nil {
		return storage.Metadata{}, err
	}
	if tuf.CheckExpiry(tuf.RoleTimestamp, expires, p.cfg.Now()) == nil {
		return gen.Timestamp, nil
	}
	return p.renewOnce(ctx, gun)
}

// Snapshot returns the snapshot that the current timestamp names, after it has
// been renewed, if need be, like the timestamp. An expired snapshot that only a
// client can sign is returned as it is.
func (p *Publisher) Snapshot(ctx context.Context, gun tuf.GUN) (storage.Metadata, error) {
	gen, snapshot, err := p.snapshot(ctx, gun)
	if err != nil {
		return storage.Metadata{}, err
	}
	expires, err := expiry(gen.Timestamp)
	if err != nil {
		return storage.Metadata{}, err
	}
	now := p.cfg.Now()
	timestampGood := tuf.CheckExpiry(tuf.RoleTimestamp, expires, now) == nil
	if timestampGood && tuf.CheckExpiry(tuf.RoleSnapshot, gen.Snapshot.Expires, now) == nil {
		return snapshot, nil
	}
	if timestampGood && p.stuck.has(snapshot.Checksum, now) {
		return snapshot, nil
	}
	if _, err := p.renewOnce(ctx, gun); err != nil {
		if !timestampGood {
			return storage.Metadata{}, err
		}
		if !errors.Is(err, storage.ErrUnavailable) && !errors.Is(err, storage.ErrKeySealed) && ctx.Err() == nil {
			p.stuck.add(snapshot.Checksum, now)
		}
		p.cfg.Log.WarnContext(ctx, "serving an expired snapshot: it can not be renewed", "gun", string(gun), "error", err)
		return snapshot, nil
	}
	_, snapshot, err = p.snapshot(ctx, gun)
	return snapshot, err
}

const (
	// stuckFor is how long it is remembered that a snapshot can not be renewed.
	stuckFor = 10 * time.Minute
	maxStuck = 4096
)

// A stuckSet remembers expired snapshots that the server can not sign anew, so
// that not each of the anonymous who ask for one costs queries and the signer's
// time. A publish makes another snapshot, which is not in it.
type stuckSet struct {
	mu    sync.Mutex // guards until; held for a look at it
	until map[tuf.Checksum]time.Time
}

func (s *stuckSet) has(sum tuf.Checksum, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.until[sum])
}

func (s *stuckSet) add(sum tuf.Checksum, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil || len(s.until) >= maxStuck {
		s.until = make(map[tuf.Checksum]time.Time) // all are asked about again
	}
	s.until[sum] = now.Add(stuckFor)
}

func (p *Publisher) snapshot(ctx context.Context, gun tuf.GUN) (*storage.Generation, storage.Metadata, error) {
	gen, err := p.cfg.Store.Generation(ctx, gun, tuf.RoleSnapshot)
	if err != nil {
		return nil, storage.Metadata{}, fmt.Errorf("loading the snapshot of %s: %w", gun, err)
	}
	s, ok := gen.Files[tuf.RoleSnapshot]
	if !ok || gen.Snapshot == nil {
		return nil, s, fmt.Errorf("loading the snapshot of %s: %w", gun, storage.ErrDamaged)
	}
	return gen, s, nil
}

// expiry reads when a stored file expires.
func expiry(m storage.Metadata) (time.Time, error) {
	env, err := tuf.ParseEnvelope(m.Data)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the stored %s: %w: %v", m.Role, storage.ErrDamaged, err)
	}
	return env.Expires, nil
}

// renewOnce renews what has expired, once for all callers who wait. The first
// of them may go away: the others still get their answer.
func (p *Publisher) renewOnce(ctx context.Context, gun tuf.GUN) (storage.Metadata, error) {
	result := p.renewals.DoChan(string(gun), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.RenewTimeout)
		defer cancel()
		m, _, err := p.renewSafely(ctx, gun, time.Time.Before)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("renewing the timestamp of %s: %w: not done within %v", gun, storage.ErrUnavailable, p.cfg.RenewTimeout)
		}
		return m, err
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return storage.Metadata{}, r.Err
		}
		return r.Val.(storage.Metadata), nil
	case <-ctx.Done():
		return storage.Metadata{}, fmt.Errorf("waiting for the timestamp of %s: %w", gun, ctx.Err())
	}
}

// renewSafely is renew for goroutines that no request's handler guards: a panic
// in one of them would end the process.
func (p *Publisher) renewSafely(ctx context.Context, gun tuf.GUN, due func(expires, now time.Time) bool) (m storage.Metadata, own bool, err error) {
	defer p.recovered(ctx, gun, "renewing", &err)
	return p.renew(ctx, gun, due)
}

// recovered makes of a panic an error, and logs it. It must be deferred itself.
func (p *Publisher) recovered(ctx context.Context, gun tuf.GUN, doing string, err *error) {
	if v := recover(); v != nil {
		p.cfg.Log.ErrorContext(ctx, "panic while "+doing, "gun", string(gun), "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		*err = fmt.Errorf("%s: internal fault", doing)
	}
}

// renew signs a new timestamp, if it is due or the snapshot has expired when
// gun's turn has come. It returns the one that is current then, and whether
// that is its own work.
func (p *Publisher) renew(ctx context.Context, gun tuf.GUN, due func(expires, now time.Time) bool) (m storage.Metadata, own bool, err error) {
	unlock, _, err := p.locks.lock(ctx, gun)
	if err != nil {
		return m, false, fmt.Errorf("waiting for a publish of %s: %w", gun, err)
	}
	defer unlock()
	now := p.cfg.Now()
	for try := range renewTries {
		if err := pause(ctx, try); err != nil {
			return m, false, fmt.Errorf("renewing %s: %w", gun, err)
		}
		m, own, err = p.renewNow(ctx, gun, due, now)
		// Somebody else published or renewed, and every publish has a new
		// timestamp: look at that one.
		if !errors.Is(err, storage.ErrStale) && !errors.Is(err, storage.ErrVersionConflict) {
			return m, own, err
		}
	}
	return m, false, fmt.Errorf("renewing %s: %w: others write without a pause", gun, storage.ErrUnavailable)
}

func (p *Publisher) renewNow(ctx context.Context, gun tuf.GUN, due func(expires, now time.Time) bool, now time.Time) (m storage.Metadata, own bool, err error) {
	gen, err := p.cfg.Store.Generation(ctx, gun, tuf.RoleRoot, tuf.RoleSnapshot)
	if err != nil {
		return m, false, fmt.Errorf("loading what to renew of %s: %w", gun, err)
	}
	expires, err := expiry(gen.Timestamp)
	if err != nil {
		return m, false, err
	}
	timestampDue := due(expires, now)
	if !timestampDue && !gen.Snapshot.Expires.Before(now) {
		return gen.Timestamp, false, nil
	}
	base, err := loadBase(gun, gen, now)
	if err != nil {
		return m, false, fmt.Errorf("renewing %s: %w: %v", gun, storage.ErrDamaged, err)
	}
	set := storage.Set{GUN: gun, Base: &gen.Timestamp.Checksum}
	snapshot := gen.Files[tuf.RoleSnapshot]
	renewed, err := p.renewSnapshot(ctx, gun, base.root, gen, now)
	switch {
	case err != nil && (!timestampDue || errors.Is(err, storage.ErrUnavailable)):
		return m, false, hideKey(gun, err)
	case err != nil:
		// It is the client's, or its key is lost. The timestamp can be
		// renewed all the same, so that at least the reason reaches the clients.
		p.cfg.Log.WarnContext(ctx, "renewing a timestamp without its snapshot", "gun", string(gun), "error", err)
	case renewed != nil:
		snapshot = *renewed
		set.Files = append(set.Files, snapshot)
	}
	m, err = p.makeTimestamp(ctx, gun, base.root, gen.Timestamp.Version, snapshot.Data, now)
	if err != nil {
		return m, false, hideKey(gun, err)
	}
	set.Files = append(set.Files, m)
	if err := p.cfg.Store.Publish(ctx, set); err != nil {
		return m, false, fmt.Errorf("storing the renewed timestamp of %s: %w", gun, err)
	}
	m.CreatedAt = now.UTC()
	return m, true, nil
}

// renewSnapshot returns the successor of the current snapshot if that would
// expire during the life of the new timestamp, else nil.
func (p *Publisher) renewSnapshot(ctx context.Context, gun tuf.GUN, root *tuf.Root, gen *storage.Generation, now time.Time) (*storage.Metadata, error) {
	if !gen.Snapshot.Expires.Before(now.Add(TimestampLife)) {
		return nil, nil
	}
	next := *gen.Snapshot
	next.Meta = map[tuf.RoleName]tuf.FileMeta{}
	for role, m := range gen.Snapshot.Meta {
		next.Meta[role] = m
	}
	next.Meta[tuf.RoleRoot] = tuf.MetaOf(gen.Files[tuf.RoleRoot].Data)
	s, err := p.makeSnapshot(ctx, gun, root, &next, now)
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// hideKey keeps a fault of a key or of the repository from being taken for the
// absence of the file that was asked for, which would be 404.
func hideKey(gun tuf.GUN, err error) error {
	if errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrKeySealed) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("renewing %s: %w", gun, err)
	}
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("renewing %s: %w: %v", gun, storage.ErrKeyMissing, err)
	}
	return fmt.Errorf("renewing %s: %v", gun, err)
}

// Key returns the public key that root should list for role, which is snapshot
// or timestamp: the one that the current root lists, if the signer has it, else
// one that has not been used, or a new one. A fault of database or signer is
// returned as such, and no key is made: the client would list a key in its root
// for which there is no need. That the signer has none of the listed timestamp
// keys is such a fault, storage.ErrKeyMissing, for these are never a client's:
// RotateKey mends it, when the owner wants that.
func (p *Publisher) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.Key, error) {
	if err := serverRole(role); err != nil {
		return tuf.Key{}, err
	}
	gen, err := p.cfg.Store.Generation(ctx, gun, tuf.RoleRoot)
	if errors.Is(err, storage.ErrNotFound) {
		return p.newKey(ctx, gun, role)
	}
	if err != nil {
		return tuf.Key{}, fmt.Errorf("loading the root of %s: %w", gun, err)
	}
	env, err := storedFile(gen, tuf.RoleRoot)
	if err != nil {
		return tuf.Key{}, fmt.Errorf("loading the root of %s: %w: %v", gun, storage.ErrDamaged, err)
	}
	root, err := env.Root()
	if err != nil {
		return tuf.Key{}, fmt.Errorf("loading the root of %s: %w: %v", gun, storage.ErrDamaged, err)
	}
	authority := root.Authority(role)
	missing := false
	ids := slices.Sorted(slices.Values(authority.KeyIDs))
	for _, id := range slices.Compact(ids) {
		canonical, err := authority.Keys[id].CanonicalID()
		if err != nil {
			continue // no key of ours
		}
		k, err := p.cfg.Signer.Key(ctx, gun, role, canonical)
		switch {
		case err == nil && k.ID() != canonical:
			return tuf.Key{}, fmt.Errorf("asking the signer for key %s of %s: it answered with another one", canonical, gun)
		case err == nil:
			return k, nil
		case !errors.Is(err, storage.ErrNotFound):
			return tuf.Key{}, fmt.Errorf("asking the signer for key %s of %s: %w", canonical, gun, err)
		}
		missing = true
	}
	if missing && role == tuf.RoleTimestamp {
		return tuf.Key{}, fmt.Errorf("finding the %s key of %s: %w", role, gun, storage.ErrKeyMissing)
	}
	return p.newKey(ctx, gun, role)
}

// RotateKey returns a key for role, which is snapshot or timestamp, that has
// never signed: the unused one, or a new one. It takes effect when a client
// publishes a root that lists it. That it was asked for is on record.
func (p *Publisher) RotateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.Key, error) {
	k, err := p.newKey(ctx, gun, role)
	if err != nil || p.cfg.Archivist == nil {
		return k, err
	}
	e := storage.Event{Action: storage.ActionRotate, GUN: gun, Origin: storage.OriginOf(ctx), Roles: string(role)}
	if err := p.cfg.Archivist.Record(ctx, e); err != nil {
		// The key stays unused, and is handed out when the client asks again.
		return tuf.Key{}, fmt.Errorf("handing out a %s key for %s: %w", role, gun, err)
	}
	return k, nil
}

func (p *Publisher) newKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.Key, error) {
	if err := serverRole(role); err != nil {
		return tuf.Key{}, err
	}
	k, err := p.cfg.Signer.CreateKey(ctx, gun, role, p.cfg.KeyAlgorithm)
	if err != nil {
		return tuf.Key{}, fmt.Errorf("making a %s key for %s: %w", role, gun, err)
	}
	return k, nil
}

func serverRole(role tuf.RoleName) error {
	if role != tuf.RoleSnapshot && role != tuf.RoleTimestamp {
		return fmt.Errorf("%w: the server keeps no key of role %q", tuf.ErrBadName, role)
	}
	return nil
}
