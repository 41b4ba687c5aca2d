package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/internal/service"
)

// A buffer can be read while others write to it.
type buffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually polls until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{
		"panic": 16, "FATAL": 12, "error": 8, "warn": 4, "Warning": 4, "info": 0, "debug": -4, "trace": -8,
	} {
		if got, err := service.ParseLevel(name); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
	for _, name := range []string{"", "2", "loud"} {
		if _, err := service.ParseLevel(name); err == nil {
			t.Errorf("%q is a level", name)
		}
	}
}

func TestFormats(t *testing.T) {
	for format, want := range map[string]string{
		"json":   `^{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":"warning","msg":"two words","gun":"a/b","request":{"level":"x"},"error":"the \\"fault\\""}\n$`,
		"logfmt": `^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warning msg="two words" gun=a/b request.level=x error="the \\"fault\\""\n$`,
		"text":   `^\d\d:\d\d:\d\d\.\d{3} warning two words gun=a/b request.level=x error="the \\"fault\\""\n$`,
	} {
		var out bytes.Buffer
		log := service.NewLogger(&out, format, slog.LevelInfo).With("gun", "a/b")
		log.Debug("not this")
		log.Warn("two words", slog.Group("request", "level", "x"), "error", errors.New(`the "fault"`))
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%s: got %q", format, &out)
		}
	}
	var out bytes.Buffer
	service.NewLogger(&out, "text", slog.LevelInfo).WithGroup("g").Info("no attributes")
	if !strings.HasSuffix(out.String(), " info    no attributes\n") {
		t.Errorf("text: got %q", &out)
	}
}

func TestLevelNames(t *testing.T) {
	for level, want := range map[slog.Level]string{
		service.LevelPanic: "panic", service.LevelFatal: "fatal", slog.LevelError: "error", slog.LevelWarn: "warning",
		slog.LevelInfo: "info", slog.LevelDebug: "debug", service.LevelTrace: "trace", slog.LevelWarn + 1: "error", -20: "trace",
	} {
		var out bytes.Buffer
		service.NewLogger(&out, "json", slog.Level(-100)).Log(t.Context(), level, "x")
		var line struct{ Level string }
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Level != want {
			t.Errorf("level %v is %q, want %q (%v)", level, line.Level, want, err)
		}
	}
}

// TestTextLinesStayWhole: many writers, derived logs too, share one stream.
func TestTextLinesStayWhole(t *testing.T) {
	out := &buffer{}
	log := service.NewLogger(out, "text", slog.LevelInfo)
	var wg sync.WaitGroup
	for range 8 {
		l := log.With("k", strings.Repeat("v", 20))
		wg.Go(func() {
			for range 50 {
				l.InfoContext(context.Background(), "event")
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	whole := regexp.MustCompile(`^\S+ info    event k=v{20}$`)
	for _, l := range lines {
		if !whole.MatchString(l) {
			t.Fatalf("a torn line: %q", l)
		}
	}
	if len(lines) != 400 {
		t.Errorf("%d lines, want 400", len(lines))
	}
}
