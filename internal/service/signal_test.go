package service_test

import (
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"countersign/internal/service"
)

// TestWatchLevel sends itself the signals, one after the other.
func TestWatchLevel(t *testing.T) {
	level := new(slog.LevelVar)
	level.Set(slog.LevelError)
	out := &buffer{}
	service.WatchLevel(level, out)
	said := 0
	send := func(s syscall.Signal, want string, at slog.Level) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		said++
		eventually(t, want, func() bool { return strings.Count(out.String(), "\n") == said })
		lines := strings.Split(out.String(), "\n")
		if got := lines[said-1]; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
		if level.Level() != at {
			t.Errorf("after %q the level is %v", want, level.Level())
		}
	}
	const up, down = syscall.SIGUSR1, syscall.SIGUSR2
	send(up, "Successfully setting log level to warning", slog.LevelWarn)
	send(up, "Successfully setting log level to info", slog.LevelInfo)
	send(up, "Successfully setting log level to debug", slog.LevelDebug)
	send(up, "Attempt to increase log level failed, will remain at debug level, error: log level can not be set higher than Debug", slog.LevelDebug)
	for _, l := range []struct {
		name string
		at   slog.Level
	}{{"info", slog.LevelInfo}, {"warning", slog.LevelWarn}, {"error", slog.LevelError}, {"fatal", service.LevelFatal}, {"panic", service.LevelPanic}} {
		send(down, "Successfully setting log level to "+l.name, l.at)
	}
	send(down, "Attempt to decrease log level failed, will remain at panic level, error: log level can not be set lower than Panic", service.LevelPanic)

	level.Set(service.LevelTrace)
	send(up, "Attempt to increase log level failed, will remain at trace level, error: log level can not be set higher than Debug", service.LevelTrace)
	send(down, "Successfully setting log level to debug", slog.LevelDebug)
}
