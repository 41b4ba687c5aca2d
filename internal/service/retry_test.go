package service_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign/internal/service"
)

var errDown, errOther, errWrong = errors.New("down"), errors.New("still down, otherwise"), errors.New("wrong")

func transient(err error) bool { return !errors.Is(err, errWrong) }

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &buffer{}
		start, tries := time.Now(), 0
		err := service.Retry(t.Context(), service.NewLogger(log, "logfmt", slog.LevelInfo), "opening", transient, func(context.Context) error {
			tries++
			if tries == 1 && strings.Contains(log.String(), "down") {
				t.Error("told before it was tried")
			}
			if tries == 2 && !strings.Contains(log.String(), `level=error msg="opening: not possible yet, trying on" error=down`) {
				t.Errorf("the first failure is not told at once:\n%s", log)
			}
			switch up := time.Since(start); {
			case up < 30*time.Second:
				return errDown
			case up < 5*time.Minute:
				return errOther
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if tries < 20 || tries > 80 {
			t.Errorf("%d tries in %v", tries, time.Since(start))
		}
		got := log.String()
		if n := strings.Count(got, "error=down"); n != 1 {
			t.Errorf("the first error is told %d times", n)
		}
		if n := strings.Count(got, `error="still down, otherwise"`); n < 4 || n > 6 {
			t.Errorf("in four and a half minutes the second error is told %d times:\n%s", n, got)
		}
		if !strings.HasSuffix(got, "msg=\"opening: it works now\"\n") {
			t.Errorf("the end is not told:\n%s", got)
		}
	})
}

func TestRetryGivesUp(t *testing.T) {
	log := &buffer{}
	logger := service.NewLogger(log, "logfmt", slog.LevelInfo)
	err := service.Retry(t.Context(), logger, "opening", transient, func(context.Context) error { return errWrong })
	if !errors.Is(err, errWrong) || log.String() != "" {
		t.Errorf("%v, log %q", err, log)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = service.Retry(ctx, logger, "opening", transient, func(context.Context) error {
		cancel()
		return errDown
	})
	if !errors.Is(err, errDown) {
		t.Errorf("ended by the context: %v", err)
	}
	if err := service.Retry(t.Context(), logger, "opening", transient, func(context.Context) error { return nil }); err != nil || log.String() != "" {
		t.Errorf("at once: %v, log %q", err, log)
	}
}
