// Package service is what both programs need to run: the log and its signals,
// listeners with limits, health checks, the debug port, and the patience with a
// database that is not there yet.
package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Levels that upstream has and log/slog has not.
const (
	LevelTrace = slog.LevelDebug - 4
	LevelFatal = slog.LevelError + 4
	LevelPanic = slog.LevelError + 8
)

// levels are ordered from the least to the most verbose.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"panic", LevelPanic},
	{"fatal", LevelFatal},
	{"error", slog.LevelError},
	{"warning", slog.LevelWarn},
	{"info", slog.LevelInfo},
	{"debug", slog.LevelDebug},
	{"trace", LevelTrace},
}

// ParseLevel returns the level of that name, in upstream's spelling; "warn" and
// "warning" are the same.
func ParseLevel(name string) (slog.Level, error) {
	for _, l := range levels {
		if strings.EqualFold(name, l.name) || l.name == "warning" && strings.EqualFold(name, "warn") {
			return l.level, nil
		}
	}
	return 0, fmt.Errorf("%q is not a log level", name)
}

// levelName is the name of the level, or of the next more severe one.
func levelName(level slog.Level) string {
	name := levels[0].name
	for _, l := range levels {
		if level <= l.level {
			name = l.name
		}
	}
	return name
}

// NewLogger returns a log of one line an event on w, in format "json", "logfmt"
// or "text". Member names and levels are upstream's: time, level, msg.
func NewLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: replaceAttr}
	switch format {
	case "logfmt":
		return slog.New(slog.NewTextHandler(w, opts))
	case "text":
		return slog.New(newTextHandler(w, level))
	default:
		return slog.New(slog.NewJSONHandler(w, opts))
	}
}

func replaceAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch v := a.Value.Any().(type) {
	case slog.Level:
		if a.Key == slog.LevelKey {
			return slog.String(slog.LevelKey, levelName(v))
		}
	case time.Time:
		if a.Key == slog.TimeKey {
			return slog.String(slog.TimeKey, v.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
		}
	}
	return a
}

// textHandler writes lines for people: time of day, level, message, then the
// attributes as logfmt.
type textHandler struct {
	out   *textOut
	attrs slog.Handler // writes into out.buf
}

type textOut struct {
	mu  sync.Mutex // guards buf, and keeps lines whole on w
	buf bytes.Buffer
	w   io.Writer
}

func newTextHandler(w io.Writer, level slog.Leveler) *textHandler {
	out := &textOut{w: w}
	drop := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && slices.Contains([]string{slog.TimeKey, slog.LevelKey, slog.MessageKey}, a.Key) {
			return slog.Attr{}
		}
		return a
	}
	return &textHandler{out: out, attrs: slog.NewTextHandler(&out.buf, &slog.HandlerOptions{Level: level, ReplaceAttr: drop})}
}

func (h *textHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attrs.Enabled(ctx, level)
}

func (h *textHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.buf.Reset()
	fmt.Fprintf(&h.out.buf, "%s %-7s %s ", r.Time.Format("15:04:05.000"), levelName(r.Level), r.Message)
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	line := bytes.TrimRight(h.out.buf.Bytes(), " \n")
	_, err := h.out.w.Write(append(line, '\n'))
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{out: h.out, attrs: h.attrs.WithAttrs(attrs)}
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	return &textHandler{out: h.out, attrs: h.attrs.WithGroup(name)}
}
