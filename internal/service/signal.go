package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// UntilSignal returns a context that ends with the first SIGTERM or SIGINT.
// From then on, and after stop, these signals do what they do by default, so
// that a second one ends a process that is slow to end.
func UntilSignal(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// WatchLevel makes the log one level more verbose for each SIGUSR1 and one less
// for each SIGUSR2, and says so on out in upstream's sentences. It returns at
// once; from then on, and until the process ends, the signals do not end it: by
// default they would, and one may come while it drains.
func WatchLevel(level *slog.LevelVar, out io.Writer) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range c {
			fmt.Fprintln(out, adjust(level, s == syscall.SIGUSR1))
		}
	}()
}

// adjust moves the level by one step between panic and debug; trace can only be
// left.
func adjust(level *slog.LevelVar, up bool) string {
	name := levelName(level.Level())
	i := slices.IndexFunc(levels, func(l struct {
		name  string
		level slog.Level
	}) bool {
		return l.name == name
	})
	debug := len(levels) - 2
	switch {
	case up && i >= debug:
		return fmt.Sprintf("Attempt to increase log level failed, will remain at %s level, error: log level can not be set higher than Debug", name)
	case !up && i == 0:
		return fmt.Sprintf("Attempt to decrease log level failed, will remain at %s level, error: log level can not be set lower than Panic", name)
	case up:
		i++
	default:
		i--
	}
	level.Set(levels[i].level)
	return "Successfully setting log level to " + levels[i].name
}
