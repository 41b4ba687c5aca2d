package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

// Whoever watches the health under one of its names is told of each change.
func TestHealthWatch(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	p := newPair(t, func(c *rpc.ServerConfig) {
		c.Health = func(context.Context) error {
			if sick.Load() {
				return errors.New("no database")
			}
			return nil
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	health := healthpb.NewHealthClient(p.conn)
	watches := map[string]healthpb.Health_WatchClient{}
	for _, name := range []string{"", "grpc.health.v1.Health.KeyManagement", "grpc.health.v1.Health.Signer", "x"} {
		w, err := health.Watch(ctx, &healthpb.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		watches[name] = w
	}
	until := func(want healthpb.HealthCheckResponse_ServingStatus) {
		for name, w := range watches {
			for r := (*healthpb.HealthCheckResponse)(nil); r.GetStatus() != want; {
				var err error
				if r, err = w.Recv(); err != nil {
					t.Fatalf("%q, waiting for %v: %v", name, want, err)
				}
			}
		}
	}
	if r, err := watches["x"].Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("an unknown service: %v, %v", r, err)
	}
	delete(watches, "x")
	until(healthpb.HealthCheckResponse_SERVING)
	sick.Store(true)
	until(healthpb.HealthCheckResponse_NOT_SERVING)
	sick.Store(false)
	until(healthpb.HealthCheckResponse_SERVING)
}

// named is an error with fields for the log.
type named struct{ error }

func (n named) Unwrap() error { return n.error }
func (named) LogAttrs() []any { return []any{"key_id", "k1", "alias", "hush"} }

// Each fault of a key arrives as itself and as none of the others; its
// particulars stay in the log, where its line begins with words of its own.
func TestKeyFaults(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	classes := map[error]codes.Code{
		storage.ErrNoPassphrase: codes.FailedPrecondition, storage.ErrWrongPassphrase: codes.FailedPrecondition, storage.ErrKeyCorrupt: codes.FailedPrecondition,
		storage.ErrNotFound: codes.NotFound, storage.ErrUnavailable: codes.Unavailable, storage.ErrKeyForbidden: codes.PermissionDenied,
	}
	for class, code := range classes {
		p.keys.set(named{fmt.Errorf("%w %q: %s", class, "hush", "the row says so")}, nil)
		for call, f := range map[string]func() error{
			"Key": func() error { _, err := p.client.Key(t.Context(), "g", tuf.RoleSnapshot, "k1"); return err },
			"Sign": func() error {
				_, err := p.client.Sign(t.Context(), "g", tuf.RoleSnapshot, "k1", []byte("x"))
				return err
			},
			"Create": func() error {
				_, err := p.client.CreateKey(t.Context(), "g", tuf.RoleSnapshot, tuf.KeyECDSA)
				return err
			},
		} {
			err := f()
			for other := range classes {
				if is := errors.Is(err, other); is != (other == class) {
					t.Errorf("%s: %v arrives as %v: %v", call, class, err, is)
				}
			}
			sealed := class == storage.ErrNoPassphrase || class == storage.ErrWrongPassphrase || class == storage.ErrKeyCorrupt
			if status.Code(err) != code || errors.Is(err, storage.ErrKeySealed) != sealed || strings.Contains(err.Error(), "hush") {
				t.Errorf("%s: %v arrives as %v", call, class, err)
			}
		}
		if line := fmt.Sprintf(`"msg":"rpc failed: %v"`, class); strings.Count(p.log.String(), line) < 3 {
			t.Errorf("the log does not hold three times %s", line)
		}
	}
	if n := strings.Count(p.log.String(), `"key_id":"k1","alias":"hush"`); n < 3*len(classes) {
		t.Errorf("key and alias are %d times in the log", n)
	}
	// What a newer signer may say of a sealed key is still one.
	p.keys.set(fmt.Errorf("%w: in a way of the future", storage.ErrKeySealed), nil)
	if _, err := p.client.Key(t.Context(), "g", tuf.RoleSnapshot, "k1"); !errors.Is(err, storage.ErrKeySealed) || errors.Is(err, storage.ErrKeyCorrupt) {
		t.Errorf("another fault: %v", err)
	}
}
