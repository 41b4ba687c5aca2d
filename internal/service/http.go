package service

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of an HTTP listener that no real client meets.
const (
	readHeaderTimeout = 10 * time.Second // the TLS handshake included
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10 // bearer tokens are of some KiB
	// slack is what a request may take beyond its time: the handler answers a
	// late request itself, and should be able to.
	slack = 15 * time.Second
	// Grace is how long requests under way may take once the program is told to
	// end. It is below the 30 s after which Kubernetes kills.
	Grace = 20 * time.Second
)

// HTTPConfig is what an HTTP listener is made of.
type HTTPConfig struct {
	Handler http.Handler
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// RequestTime is what the handler allows a request; reading its body and
	// writing its answer must be done within it, and a little more.
	RequestTime time.Duration
	// Log gets what goes wrong with connections, such as failed handshakes, at
	// level info: whoever can connect can cause it.
	Log *slog.Logger

	// These replace the constants in tests.
	HeaderTime, IdleTime, Slack, Grace time.Duration
}

func (c HTTPConfig) withDefaults() HTTPConfig {
	for _, d := range []struct {
		field *time.Duration
		def   time.Duration
	}{{&c.HeaderTime, readHeaderTimeout}, {&c.IdleTime, idleTimeout}, {&c.Slack, slack}, {&c.Grace, Grace}} {
		if *d.field <= 0 {
			*d.field = d.def
		}
	}
	return c
}

// ServeHTTP serves HTTP/1.1 on lis until ctx ends, and closes it. Then it takes
// no new request and gives those under way the grace before it cuts them off.
// The error is nil if ctx ended it, even if requests were cut off, which is
// logged.
func ServeHTTP(ctx context.Context, lis net.Listener, cfg HTTPConfig) error {
	cfg = cfg.withDefaults()
	srv := &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: cfg.HeaderTime,
		ReadTimeout:       cfg.RequestTime + cfg.Slack,
		WriteTimeout:      cfg.RequestTime + cfg.Slack,
		IdleTimeout:       cfg.IdleTime,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelInfo),
		// No HTTP/2: clients do not use it, and its streams would not be
		// bounded by the number of connections.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	if cfg.TLS != nil {
		// Not ServeTLS, which would offer ALPN. The limit is beneath TLS, so that
		// the server sees *tls.Conn and can answer plain HTTP in words.
		lis = tls.NewListener(lis, cfg.TLS)
	}
	drained := make(chan struct{})
	failed, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(drained)
		<-failed.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Grace)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			cfg.Log.WarnContext(ctx, "requests under way were cut off", "grace", cfg.Grace)
			_ = srv.Close()
		}
	}()
	err := srv.Serve(lis)
	cancel()
	<-drained
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving HTTP on %s: %w", lis.Addr(), err)
}
