package admin

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"

	"countersign/tuf"
)

// List calls f for each repository that is selected, in the order of the
// database: for each as soon as it and those before it have been looked at. A few
// are looked at together; no more than these are in memory.
func (s *Site) List(ctx context.Context, sel Selection, f func(Summary) error) error {
	return s.surveys(ctx, sel, true, func(r *Repository) error { return f(r.Summary) })
}

// surveys looks at each repository that is selected, several at once, and hands
// them to f one by one, in order.
func (s *Site) surveys(ctx context.Context, sel Selection, brief bool, f func(*Repository) error) error {
	if err := sel.check(); err != nil {
		return err
	}
	workers := min(runtime.GOMAXPROCS(0), 4) // a Site opens 4 connections
	work, ctx := errgroup.WithContext(ctx)
	// The capacity bounds how many are looked at, or are ready and wait for f.
	queue := make(chan chan *Repository, workers)
	work.Go(func() error {
		defer close(queue)
		return s.each(ctx, sel, func(gun tuf.GUN) error {
			ready := make(chan *Repository, 1)
			select {
			case queue <- ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			work.Go(func() error {
				r, err := s.survey(ctx, gun, brief)
				if err == nil {
					ready <- r
				}
				return err
			})
			return nil
		})
	})
	work.Go(func() error {
		for ready := range queue {
			select {
			case r := <-ready:
				if err := f(r); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return work.Wait()
}
