package service

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	healthInterval = 10 * time.Second
	healthTimeout  = 10 * time.Second
	// While a check fails it runs more often, so that recovery shows soon.
	failingInterval = time.Second
)

// A Check is something that the program needs in order to work.
type Check struct {
	// Name is what clients of the health endpoint see, such as "DB operational".
	Name string
	// Run returns nil if all is well. It should return when ctx ends.
	Run func(ctx context.Context) error
	// Public turns an error of Run into what anybody may read: no addresses, no
	// names, not longer than a line.
	Public func(error) string
}

// HealthConfig is what a Health is made of.
type HealthConfig struct {
	Checks []Check
	// Log gets a line when a check begins to fail, with the whole error, and one
	// when it succeeds again.
	Log *slog.Logger
	// Interval between two runs of a check, Timeout of one. 0 means 10 s.
	Interval, Timeout time.Duration
}

// Health runs checks and keeps their results. Its methods may be called at once.
type Health struct {
	cfg HealthConfig

	// mu guards failing. It is not held while a check runs.
	mu      sync.Mutex
	failing map[string]string
}

// NewHealth makes a Health. Until a check has run once, it counts as failing.
func NewHealth(cfg HealthConfig) *Health {
	if cfg.Interval <= 0 {
		cfg.Interval = healthInterval
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = healthTimeout
	}
	h := &Health{cfg: cfg, failing: map[string]string{}}
	for _, c := range cfg.Checks {
		h.failing[c.Name] = "not checked yet"
	}
	return h
}

// Failing names the checks that failed when they last ran, and why. The map is
// the caller's.
func (h *Health) Failing() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]string, len(h.failing))
	for name, why := range h.failing {
		out[name] = why
	}
	return out
}

// Run runs each check at once and then at every interval, a failing one every
// second, until ctx ends. A check that hangs delays no other.
func (h *Health) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, c := range h.cfg.Checks {
		wg.Go(func() { h.poll(ctx, c) })
	}
	wg.Wait()
}

func (h *Health) poll(ctx context.Context, c Check) {
	next := time.NewTimer(0)
	defer next.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		err := h.run(ctx, c)
		if ctx.Err() != nil {
			return // not the check's fault
		}
		h.record(c, err)
		if err != nil && !failed {
			h.cfg.Log.ErrorContext(ctx, "health check fails", "check", c.Name, "error", err)
		} else if err == nil && failed {
			h.cfg.Log.InfoContext(ctx, "health check succeeds again", "check", c.Name)
		}
		failed = err != nil
		next.Reset(h.cfg.Interval)
		if failed {
			next.Reset(min(h.cfg.Interval, failingInterval))
		}
	}
}

func (h *Health) run(ctx context.Context, c Check) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	return c.Run(ctx)
}

func (h *Health) record(c Check, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.failing, c.Name)
	} else {
		h.failing[c.Name] = c.Public(err)
	}
}

// ServeHTTP answers 200 {}, or 503 and what fails.
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	failing := h.Failing()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if len(failing) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(failing) // a client that is gone needs no answer
}
