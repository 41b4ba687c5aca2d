package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"countersign/tuf"
)

// A request is one request with what is known of it so far. It is made by
// [server.ServeHTTP] and filled in on the way to the handler.
type request struct {
	*http.Request
	id      string
	op      operation
	target  target
	gun     tuf.GUN // checked; "" where the path has none
	subject string  // who the caller is, as the access check says
	failure error   // what the answer says or hides
}

// requestKey is where the context holds the *request.
type requestKey struct{}

// RequestID returns the ID of the request that ctx belongs to, or "": for what
// is done and logged elsewhere on behalf of it.
func RequestID(ctx context.Context) string {
	if q, ok := ctx.Value(requestKey{}).(*request); ok {
		return q.id
	}
	return ""
}

// requestIDHeader carries the request ID, in both directions.
const requestIDHeader = "X-Request-Id"

// ServeHTTP is around every request: its ID, its deadline, its line in the
// log, its metrics, and the end of a panic.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.Now()
	// Until a route is found, all that can answer is the router itself.
	q := &request{id: requestID(r.Header.Get(requestIDHeader)), op: opUncleanPath}
	ctx, cancel := context.WithTimeout(r.Context(), s.Limits.Time)
	defer cancel()
	q.Request = r.WithContext(context.WithValue(ctx, requestKey{}, q))

	rec := &recorder{ResponseWriter: w}
	rec.Header().Set(requestIDHeader, q.id)
	rec.Header().Set("X-Content-Type-Options", "nosniff")
	defer func() {
		broken := s.rescue(rec, q, recover())
		took := s.Now().Sub(start)
		s.metrics.observe(q, rec, took)
		s.logRequest(q, rec, took)
		if broken {
			panic(http.ErrAbortHandler)
		}
	}()
	s.router.ServeHTTP(rec, q.Request)
}

// rescue turns a panic into a 500. If part of an answer has been sent, all that
// is left is to break the connection, lest the client take it for the whole.
func (s *server) rescue(rec *recorder, q *request, p any) (broken bool) {
	switch {
	case p == nil:
		return false
	case p == any(http.ErrAbortHandler):
		return true
	}
	s.Log.Error("panic in a handler", s.attributes(q, slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))...)
	if rec.status != 0 {
		return true
	}
	a := answerTo(q.op, errors.New("panic"))
	q.failure = a
	a.write(rec)
	return false
}

// handle makes h a handler for op. It is the only code that writes an error to
// a client.
func (s *server) handle(op operation, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.Context().Value(requestKey{}).(*request)
		q.Request, q.op = r, op
		err := h(w, q)
		if err == nil {
			return
		}
		a := answerTo(q.op, err).under(q.id)
		q.failure = err
		if rec, ok := w.(*recorder); ok && rec.gone(r.Context(), a) {
			rec.status = statusGone
			// What net/http would send by itself is a 200.
			panic(http.ErrAbortHandler)
		}
		if a.status >= http.StatusInternalServerError {
			s.Log.Error("request failed", s.attributes(q, slog.Any("error", err))...)
		}
		if c, ok := errors.AsType[Challenger](err); ok && a.status == http.StatusUnauthorized {
			w.Header().Set("Www-Authenticate", c.Challenge())
		}
		s.drain(w, r, err)
		a.write(w)
	})
}

// logRequest writes the line that every request has.
func (s *server) logRequest(q *request, rec *recorder, took time.Duration) {
	if !s.Log.Enabled(q.Context(), slog.LevelInfo) {
		return
	}
	attrs := s.attributes(q,
		slog.String("method", bound(q.Method, 16)),
		slog.Int("status", rec.code()),
		slog.Int64("bytes", rec.bytes),
		slog.Duration("duration", took),
		slog.String("remote", q.RemoteAddr),
	)
	optional := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, bound(value, 256)))
		}
	}
	// Anybody can write this header: it is a claim, not an address.
	optional("forwarded_for", q.Header.Get("X-Forwarded-For"))
	optional("user_agent", q.UserAgent())
	optional("subject", q.subject)
	if q.op == opUnknown || q.op == opUncleanPath {
		optional("path", q.URL.Path)
	}
	if q.failure != nil && rec.code() < http.StatusInternalServerError {
		optional("error", q.failure.Error())
	}
	s.Log.Info("request", attrs...)
}

// attributes are the fields by which lines about one request are found.
func (s *server) attributes(q *request, more ...any) []any {
	attrs := []any{slog.String("request_id", q.id), slog.String("operation", string(q.op))}
	if q.target.gun != "" {
		attrs = append(attrs, slog.String("gun", bound(q.target.gun, tuf.MaxName)))
	}
	if q.target.role != "" {
		attrs = append(attrs, slog.String("role", bound(q.target.role, tuf.MaxName)))
	}
	return append(attrs, more...)
}

// requestID returns given, if a proxy in front may have made it, or a new ID.
// What else a client sends is not repeated to it, nor to the log.
func requestID(given string) string {
	for i := range len(given) {
		c := given[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.') {
			return rand.Text()
		}
	}
	if given == "" || len(given) > 64 {
		return rand.Text()
	}
	return given
}

// bound returns at most n bytes of s, as valid UTF-8.
func bound(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// A recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int // 0 until the answer has begun
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets [http.ResponseController] reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// gone reports whether the request failed only because its client has hung up.
func (r *recorder) gone(ctx context.Context, a *answer) bool {
	return r.status == 0 && a.status == http.StatusServiceUnavailable && errors.Is(ctx.Err(), context.Canceled)
}

// code is the status that the client sees.
func (r *recorder) code() int { return or(r.status, http.StatusOK) }
