package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"countersign/proto"
)

// Limits of the listener. No caller of ours or upstream's comes near them.
const (
	maxHeaderBytes   = 16 << 10
	maxStreams       = 1000 // RPCs at once on one connection; more wait
	handshakeTimeout = 10 * time.Second
	// maxHandling bounds an RPC whose caller, like upstream's server, set no
	// deadline or a far one.
	maxHandling = 30 * time.Second
	// drainTimeout is how long RPCs under way may take once the context ends.
	drainTimeout = 5 * time.Second
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	// Keys is what is served. Required.
	Keys KeyService
	// Health returns nil if the signer can work. It is asked when Serve begins
	// and then every few seconds, with a deadline; until it has answered nil,
	// and whenever it last did not, the health service says NOT_SERVING.
	// Required.
	Health func(context.Context) error
	// TLS holds the certificate, and whether clients must show one. Required.
	// Without NextProtos it offers HTTP/2 and HTTP/1.1.
	TLS *tls.Config
	// Log gets one line per failed RPC, and at level debug per RPC: method,
	// code, request_id, never a message; and a line for failed handshakes, at
	// most one a second. nil means slog.Default().
	Log *slog.Logger
	// Registerer gets the metrics. nil means that there are none.
	Registerer prometheus.Registerer
	// Now is time.Now, except in tests.
	Now func() time.Time
}

// A Server serves one KeyService and its health over TLS. Requests over HTTP that
// are not gRPC's get a 200 and a short text: whoever probes finds it alive.
type Server struct {
	grpc   *grpc.Server
	health *healthPoller
}

// NewServer makes a Server. The error is about cfg.
func NewServer(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Keys == nil:
		return nil, errors.New("making the signer's server: no key service")
	case cfg.Health == nil:
		return nil, errors.New("making the signer's server: no health function")
	case cfg.TLS == nil:
		return nil, errors.New("making the signer's server: no TLS configuration")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("making the signer's server: %w", err)
	}
	i := &interceptor{log: cfg.Log, now: cfg.Now, metrics: m}
	s := &Server{
		grpc: grpc.NewServer(
			grpc.Creds(newServerCredentials(cfg.TLS, cfg.Log, cfg.Now)),
			grpc.MaxRecvMsgSize(MaxMessage),
			grpc.MaxSendMsgSize(MaxMessage),
			grpc.MaxHeaderListSize(maxHeaderBytes),
			grpc.MaxConcurrentStreams(maxStreams),
			grpc.ConnectionTimeout(handshakeTimeout),
			// A peer that is gone without a word is noticed in about a minute.
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
			grpc.ChainUnaryInterceptor(i.observe, i.guard),
		),
		health: newHealthPoller(cfg.Health, cfg.Log),
	}
	h := &handlers{keys: cfg.Keys}
	proto.RegisterKeyManagementServer(s.grpc, h)
	proto.RegisterSignerServer(s.grpc, h)
	proto.RegisterCountersignServer(s.grpc, h)
	healthpb.RegisterHealthServer(s.grpc, s.health.server)
	return s, nil
}

// Serve serves lis until ctx is done, and closes it. Then it says NOT_SERVING,
// takes no new RPC, and gives those under way a few seconds before it cuts
// them off. The error is nil if ctx ended it. A Server serves once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		s.health.run(ctx)
	}()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		s.stop()
	}()
	err := s.grpc.Serve(lis)
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	<-drained
	<-polled
	if err != nil {
		return fmt.Errorf("serving the signer: %w", err)
	}
	return nil
}

func (s *Server) stop() {
	s.health.server.Shutdown()
	cut := time.AfterFunc(drainTimeout, s.grpc.Stop)
	defer cut.Stop()
	s.grpc.GracefulStop()
}
