package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"countersign/proto"
)

// maxRequestID bounds what a caller can put into our log.
const maxRequestID = 64

// An interceptor stands before every RPC.
type interceptor struct {
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
}

// observe gives the RPC a request ID, logs its end and counts it. It is the
// only place where an error of an RPC is logged.
func (i *interceptor) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := i.now()
	ctx = context.WithValue(ctx, requestIDKey{}, incomingRequestID(ctx))
	resp, err := next(ctx, req)
	took := i.now().Sub(start)
	method, code := path.Base(info.FullMethod), status.Code(err)
	i.metrics.observe(method, code, took)
	level := slog.LevelDebug
	switch code {
	case codes.OK:
	case codes.Internal, codes.Unavailable, codes.FailedPrecondition, codes.DeadlineExceeded:
		level = slog.LevelError
	case codes.NotFound:
		level = slog.LevelInfo
		if info.FullMethod == proto.Signer_Sign_FullMethodName {
			// A root lists it, or nobody would ask. Its row is gone.
			level = slog.LevelWarn
		}
	default:
		level = slog.LevelInfo
	}
	if i.log.Enabled(ctx, level) {
		i.tell(ctx, level, err, "method", method, "code", code.String(), "request_id", RequestID(ctx), "duration", took)
	}
	return resp, err
}

// tell writes the line of an RPC. The message names the kind of fault in words
// that do not change, for those who watch for it; the error has the particulars.
func (i *interceptor) tell(ctx context.Context, level slog.Level, err error, attrs ...any) {
	msg := "rpc"
	if err != nil {
		msg = "rpc failed"
		attrs = append(attrs, "error", err.Error())
	}
	if f, ok := errors.AsType[*fault](err); ok && f.cause != nil {
		msg += ": " + f.cause.Error()
	}
	if a, ok := errors.AsType[interface {
		error
		LogAttrs() []any
	}](err); ok {
		attrs = append(attrs, a.LogAttrs()...)
	}
	i.log.Log(ctx, level, msg, attrs...)
}

// guard bounds the RPC in time and turns a panic into an answer: upstream's
// signer dies of one, and takes everybody's signatures with it.
func (i *interceptor) guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxHandling)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			// Only the type of v: its text may hold what was being signed.
			text := fmt.Sprintf("panic of type %T", v)
			if e, ok := v.(interface{ RuntimeError() }); ok {
				text = fmt.Sprint("panic: ", e)
			}
			i.log.ErrorContext(ctx, "rpc panicked", "method", path.Base(info.FullMethod), "request_id", RequestID(ctx), "panic", text, "stack", string(debug.Stack()))
			resp, err = nil, &fault{errors.New(text), status.New(codes.Internal, "internal error"), nil}
		}
	}()
	return next(ctx, req)
}

type requestIDKey struct{}

// RequestID returns the request ID of the RPC that ctx belongs to, for the log
// lines of a KeyService: the caller's, or a new one if it sent none. It is ""
// outside of an RPC.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// incomingRequestID is the caller's, if it sent one that can be logged.
func incomingRequestID(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	id := first(md, metaRequestID)
	if id == "" || len(id) > maxRequestID {
		return rand.Text()
	}
	for _, r := range id {
		if r <= ' ' || r > '~' {
			return rand.Text()
		}
	}
	return id
}

// metrics has labels with fixed value sets only: the methods of the services
// and the codes of gRPC.
type metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "countersign", Subsystem: "signer", Name: "rpcs_total",
			Help: "RPCs answered, by method and status code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "countersign", Subsystem: "signer", Name: "rpc_duration_seconds",
			Help:    "Time to answer an RPC, by method.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"method"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range [...]prometheus.Collector{m.calls, m.duration} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(method string, code codes.Code, took time.Duration) {
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
}
