package rpc

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// How often health is asked for: sooner while it is bad, so that a signer that
// has just got its database back is used again at once.
const (
	healthyEvery   = 5 * time.Second
	unhealthyEvery = time.Second
	healthDeadline = 5 * time.Second
)

// healthPoller makes the answers of the health service follow a function.
type healthPoller struct {
	server *health.Server
	check  func(context.Context) error
	log    *slog.Logger
}

func newHealthPoller(check func(context.Context) error, log *slog.Logger) *healthPoller {
	p := &healthPoller{server: health.NewServer(), check: check, log: log}
	p.set(healthpb.HealthCheckResponse_NOT_SERVING)
	return p
}

func (p *healthPoller) set(s healthpb.HealthCheckResponse_ServingStatus) {
	for _, service := range [...]string{"", healthKeyManagement, healthSigner} {
		p.server.SetServingStatus(service, s)
	}
}

// run polls until ctx is done. It logs changes only.
func (p *healthPoller) run(ctx context.Context) {
	var last string
	first := true
	for {
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		wait, state, text := healthyEvery, healthpb.HealthCheckResponse_SERVING, ""
		if err != nil {
			wait, state, text = unhealthyEvery, healthpb.HealthCheckResponse_NOT_SERVING, err.Error()
		}
		// The log first: who sees the new state finds the reason.
		switch {
		case err != nil && text != last:
			p.log.ErrorContext(ctx, "signer is not healthy", "error", err)
		case err == nil && (first || last != ""):
			p.log.InfoContext(ctx, "signer is healthy")
		}
		p.set(state)
		last, first = text, false
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (p *healthPoller) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthDeadline)
	defer cancel()
	return p.check(ctx)
}
