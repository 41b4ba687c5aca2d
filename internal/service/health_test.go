package service_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"countersign/internal/service"
)

// A patient fails on command.
type patient struct{ fault atomic.Pointer[error] }

func (p *patient) set(err error) { p.fault.Store(&err) }

func (p *patient) check(name string) service.Check {
	return service.Check{
		Name: name,
		Run: func(context.Context) error {
			if err := p.fault.Load(); err != nil {
				return *err
			}
			return nil
		},
		Public: func(error) string { return "in plain words" },
	}
}

func TestHealth(t *testing.T) {
	db, trust := &patient{}, &patient{}
	log := &buffer{}
	h := service.NewHealth(service.HealthConfig{
		Checks:   []service.Check{db.check("DB operational"), trust.check("Trust operational")},
		Interval: time.Millisecond, Log: service.NewLogger(log, "logfmt", slog.LevelInfo),
	})
	want := map[string]string{"DB operational": "not checked yet", "Trust operational": "not checked yet"}
	if diff := cmp.Diff(want, h.Failing()); diff != "" {
		t.Errorf("before the first run (-want +got):\n%s", diff)
	}
	go h.Run(t.Context())
	eventually(t, "all is well", func() bool { return len(h.Failing()) == 0 })

	trust.set(errors.New("dial tcp 10.0.0.7:7899: secret address"))
	eventually(t, "the failure shows", func() bool { return len(h.Failing()) > 0 })
	if diff := cmp.Diff(map[string]string{"Trust operational": "in plain words"}, h.Failing()); diff != "" {
		t.Errorf("failing (-want +got):\n%s", diff)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, nil)
	if rec.Code != http.StatusServiceUnavailable || rec.Body.String() != `{"Trust operational":"in plain words"}`+"\n" {
		t.Errorf("answer %d %s", rec.Code, rec.Body)
	}
	trust.set(nil)
	eventually(t, "the recovery shows", func() bool { return len(h.Failing()) == 0 })
	rec = httptest.NewRecorder()
	h.ServeHTTP(rec, nil)
	if rec.Code != http.StatusOK || rec.Body.String() != "{}\n" || rec.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("answer %d %s %v", rec.Code, rec.Body, rec.Header())
	}
	eventually(t, "both changes are logged, once", func() bool {
		return strings.Count(log.String(), `level=error msg="health check fails" check="Trust operational" error="dial tcp 10.0.0.7:7899: secret address"`) == 1 &&
			strings.Count(log.String(), "succeeds again") == 1
	})
	h.Failing()["x"] = "y"
	if len(h.Failing()) > 0 {
		t.Error("the map is not the caller's own")
	}
}

// TestHealthHangs: a check that hangs is given up, and delays no other.
func TestHealthHangs(t *testing.T) {
	fine := &patient{}
	var runs atomic.Int32
	hangs := service.Check{Name: "hangs", Public: error.Error, Run: func(ctx context.Context) error {
		runs.Add(1)
		<-ctx.Done()
		return ctx.Err()
	}}
	ctx, cancel := context.WithCancel(t.Context())
	h := service.NewHealth(service.HealthConfig{
		Checks: []service.Check{hangs, fine.check("fine")}, Interval: time.Millisecond, Timeout: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	eventually(t, "the other is well", func() bool { _, bad := h.Failing()["fine"]; return !bad })
	eventually(t, "it is given up and tried again", func() bool {
		return runs.Load() > 2 && h.Failing()["hangs"] == context.DeadlineExceeded.Error()
	})
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestServeDebug(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "debug_test_total", Help: "x"}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	health := service.NewHealth(service.HealthConfig{Log: log})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	go func() { done <- service.ServeDebug(ctx, addr, log, health, reg) }()
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body) // what is missing shows below
		return resp.StatusCode, string(body)
	}
	eventually(t, "it listens", func() bool { code, _ := get("/debug/health"); return code == http.StatusOK })
	for path, want := range map[string]string{
		"/debug/health": "{}", "/debug/vars": "memstats", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": "service.test", "/metrics": "debug_test_total 0",
	} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200q", path, code, body)
		}
	}
	err = service.ServeDebug(t.Context(), addr, log, health, reg)
	if err == nil || !strings.HasPrefix(err.Error(), "listening on the debug interface: ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second one: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
