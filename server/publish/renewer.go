package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"countersign/storage"
	"countersign/tuf"
)

const (
	// maxRound bounds the memory of one round; the next one goes on.
	maxRound = 100_000
	// maxDown ends a round: when so many renewals in a row could not reach the
	// signer or the database, the next thousand will not either.
	maxDown = 10
)

// A dueStore can say which GUNs have a timestamp made before a time. Repeated
// calls must come to all of them, also past those that stay as they are.
type dueStore interface {
	Due(ctx context.Context, before time.Time, limit int) ([]tuf.GUN, error)
}

// RunRenewer renews timestamps, and the snapshots that the server can sign,
// before they expire, until ctx ends. Several replicas may do so at once: what
// one has renewed is no longer due for the others. It returns nil when ctx
// ends, and an error that wraps errors.ErrUnsupported, at once, if the store
// cannot say what is due.
func (p *Publisher) RunRenewer(ctx context.Context) error {
	if _, ok := p.cfg.Store.(dueStore); !ok {
		return fmt.Errorf("renewing in the background: listing what is due: %w", errors.ErrUnsupported)
	}
	wait := min(p.cfg.RenewInterval, time.Minute)
	for {
		// Replicas that start together do not look together.
		if sleep(ctx, wait/2+rand.N(wait)) != nil {
			return nil
		}
		wait = p.cfg.RenewInterval
		n, err := p.RenewDue(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			p.cfg.Log.ErrorContext(ctx, "renewing timestamps before they expire: not done", "renewed", n, "error", err)
		case n > 0:
			p.cfg.Log.InfoContext(ctx, "renewed timestamps before they expire", "renewed", n)
		}
		if err := p.Bury(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.ErrorContext(ctx, "deleting keys of deleted repositories: not done", "error", err)
		}
	}
}

// RenewDue is one round of RunRenewer: it renews whatever is due now, and
// returns how many GUNs it has renewed. A GUN that cannot be renewed is logged
// and does not stop the others; the error is about the round as a whole.
func (p *Publisher) RenewDue(ctx context.Context) (int, error) {
	store, ok := p.cfg.Store.(dueStore)
	if !ok {
		return 0, fmt.Errorf("listing what is due: %w", errors.ErrUnsupported)
	}
	before := p.cfg.Now().Add(-p.renewAge())
	seen := map[tuf.GUN]bool{}
	r := round{p: p}
	for len(seen) < maxRound {
		page, err := store.Due(ctx, before, p.cfg.RenewPage)
		if err != nil {
			return r.count(), fmt.Errorf("listing what is due: %w", err)
		}
		var todo []tuf.GUN
		for _, gun := range page {
			if !seen[gun] {
				seen[gun] = true
				todo = append(todo, gun)
			}
		}
		if len(todo) == 0 {
			return r.count(), nil
		}
		// Another order than that of the other replicas: each renews another part.
		rand.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
		if err := r.renew(ctx, todo); err != nil {
			return r.count(), err
		}
	}
	return r.count(), nil
}

// renewAge is the age at which a timestamp is renewed.
func (p *Publisher) renewAge() time.Duration {
	return time.Duration(p.cfg.RenewAfter * float64(TimestampLife))
}

// early reports whether a timestamp of the usual life is old enough.
func (p *Publisher) early(expires, now time.Time) bool {
	return expires.Before(now.Add(TimestampLife - p.renewAge()))
}

type round struct {
	p       *Publisher
	renewed atomic.Int64
	down    atomic.Int64 // renewals in a row that could not reach signer or database
}

func (r *round) count() int { return int(r.renewed.Load()) }

func (r *round) renew(ctx context.Context, guns []tuf.GUN) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.p.cfg.RenewConcurrency)
	for _, gun := range guns {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.one(ctx, gun); err != nil {
				return err
			}
			return sleep(ctx, rand.N(2*r.p.cfg.RenewPause))
		})
	}
	return g.Wait()
}

// one renews gun. The error ends the round.
func (r *round) one(ctx context.Context, gun tuf.GUN) error {
	ctx, cancel := context.WithTimeout(ctx, r.p.cfg.RenewTimeout)
	defer cancel()
	_, own, err := r.p.renewSafely(ctx, gun, r.p.early)
	switch {
	case err == nil:
		r.down.Store(0)
		if own {
			r.renewed.Add(1)
		}
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, storage.ErrNotFound): // deleted in the meantime
		return nil
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		if n := r.down.Add(1); n >= maxDown {
			return fmt.Errorf("giving up after %d failures in a row: %w", n, err)
		}
	default:
		r.down.Store(0)
	}
	r.p.cfg.Log.WarnContext(ctx, "timestamp can not be renewed before it expires", "gun", string(gun), "error", err)
	return nil
}
