package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// Files are looked at this often, as certificates are. A notification would miss
// what Kubernetes does to mounted files.
const lookEvery = 5 * time.Second

// maxFile bounds a file of certificates, users or rules.
const maxFile = 8 << 20

// A watched is what a file says, and is read again when the file changes. What
// cannot be read or parsed leaves the last good value in force: to let nobody in
// because an editor was half done would be worse, and is told in the log.
type watched[T any] struct {
	path  string
	parse func([]byte) (T, error)
	log   *slog.Logger

	current atomic.Pointer[T]
	raw     []byte // what was last looked at, good or bad; only look changes it
	told    string // the last error that is in the log, lest each look repeats it
}

// watch reads the file once. The error names the file.
func watch[T any](path string, log *slog.Logger, parse func([]byte) (T, error)) (*watched[T], error) {
	w := &watched[T]{path: path, parse: parse, log: log}
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	v, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w.raw = raw
	w.current.Store(&v)
	return w, nil
}

// get returns the value in force. It must not be changed.
func (w *watched[T]) get() T { return *w.current.Load() }

// run looks for changes until ctx ends.
func (w *watched[T]) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look(ctx)
		}
	}
}

func (w *watched[T]) look(ctx context.Context) {
	raw, err := readFile(w.path)
	if err == nil && bytes.Equal(raw, w.raw) {
		w.told = ""
		return
	}
	var v T
	if err == nil {
		w.raw = raw
		v, err = w.parse(raw)
	}
	if err != nil {
		if w.told != err.Error() {
			w.told = err.Error()
			w.log.ErrorContext(ctx, "a file cannot be used; what it said before stays in force", "path", w.path, "error", err)
		}
		return
	}
	w.told = ""
	w.current.Store(&v)
	w.log.WarnContext(ctx, "a file was read anew", "path", w.path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, errors.New(path + ": the file is larger than 8 MiB")
	}
	return raw, nil
}
