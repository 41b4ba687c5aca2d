package main

import (
	"context"
	"log/slog"

	"countersign/storage"
)

// withRequest adds the ID of the request on whose behalf something is logged, so
// that what the rules say of a publish is found beside what the client got.
func withRequest(log *slog.Logger) *slog.Logger {
	return slog.New(requestHandler{log.Handler()})
}

type requestHandler struct{ slog.Handler }

func (h requestHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := storage.OriginOf(ctx).RequestID; id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}
