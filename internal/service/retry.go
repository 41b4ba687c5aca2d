package service

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
	repeat     = time.Minute
)

// Retry runs f until it succeeds, with growing pauses, or until ctx ends or f
// fails in a way that transient denies. doing is what f does, for the log: the
// first error is logged at once, another one as well, and the same one every
// minute. The error is that of f, or nil.
func Retry(ctx context.Context, log *slog.Logger, doing string, transient func(error) bool, f func(context.Context) error) error {
	told, at := "", time.Time{}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := f(ctx)
		switch {
		case err == nil:
			if told != "" {
				log.InfoContext(ctx, doing+": it works now")
			}
			return nil
		case ctx.Err() != nil || !transient(err):
			return err
		case err.Error() != told || time.Since(at) >= repeat:
			log.ErrorContext(ctx, doing+": not possible yet, trying on", "error", err)
			told, at = err.Error(), time.Now()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)): // replicas must not come back in step
		}
	}
}
