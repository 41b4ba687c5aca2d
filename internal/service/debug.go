package service

import (
	"context"
	"expvar"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DebugAddr is where both programs listen under -debug; upstream's, and fixed.
const DebugAddr = "localhost:8080"

// ServeDebug serves pprof, expvar, /debug/health and /metrics on addr until ctx
// ends. The error is nil if ctx ended it.
func ServeDebug(ctx context.Context, addr string, log *slog.Logger, health http.Handler, metrics prometheus.Gatherer) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/vars", expvar.Handler())
	mux.Handle("/debug/health", health)
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	lis, err := Listen(ctx, addr, 64)
	if err != nil {
		return fmt.Errorf("listening on the debug interface: %w", err)
	}
	log.InfoContext(ctx, "debug server listening", "address", addr)
	// Profiles run for as long as the caller says.
	return ServeHTTP(ctx, lis, HTTPConfig{Handler: mux, RequestTime: 10 * time.Minute, Log: log, Grace: time.Second})
}
