package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/server"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// broken is a store and a publisher whose every call ends in f.
type broken struct{ f func(context.Context) error }

func (b broken) Generation(ctx context.Context, _ tuf.GUN, _ ...tuf.RoleName) (*storage.Generation, error) {
	return nil, b.f(ctx)
}

func (b broken) ByChecksum(ctx context.Context, _ tuf.GUN, _ tuf.RoleName, _ tuf.Checksum) (storage.Metadata, error) {
	return storage.Metadata{}, b.f(ctx)
}

func (b broken) ByVersion(ctx context.Context, _ tuf.GUN, _ tuf.RoleName, _ tuf.Version) (storage.Metadata, error) {
	return storage.Metadata{}, b.f(ctx)
}

func (b broken) Delete(ctx context.Context, _ tuf.GUN) (bool, error) { return false, b.f(ctx) }

func (b broken) Changes(ctx context.Context, _ storage.ChangeQuery) ([]storage.Change, error) {
	return nil, b.f(ctx)
}

// brokenStore and brokenPublisher share what they can: their Publish differ.
type brokenStore struct{ broken }

func (b brokenStore) Publish(ctx context.Context, _ storage.Set) error { return b.f(ctx) }

type brokenPublisher struct{ broken }

func (b brokenPublisher) Publish(ctx context.Context, _ tuf.GUN, _ publish.Upload) error {
	return b.f(ctx)
}

func (b brokenPublisher) Timestamp(ctx context.Context, _ tuf.GUN) (storage.Metadata, error) {
	return storage.Metadata{}, b.f(ctx)
}

func (b brokenPublisher) Snapshot(ctx context.Context, _ tuf.GUN) (storage.Metadata, error) {
	return storage.Metadata{}, b.f(ctx)
}

func (b brokenPublisher) Key(ctx context.Context, _ tuf.GUN, _ tuf.RoleName) (tuf.Key, error) {
	return tuf.Key{}, b.f(ctx)
}

func (b brokenPublisher) RotateKey(ctx context.Context, _ tuf.GUN, _ tuf.RoleName) (tuf.Key, error) {
	return tuf.Key{}, b.f(ctx)
}

func breakAll(f func(context.Context) error) func(*server.Config) {
	return func(c *server.Config) {
		c.Store, c.Publisher = brokenStore{broken{f}}, brokenPublisher{broken{f}}
	}
}

// everyCall reaches each operation that can fail.
var everyCall = map[string]call{
	"root":       {method: "GET", target: app + "root.json"},
	"targets":    {method: "GET", target: app + "targets/a.json"},
	"snapshot":   {method: "GET", target: app + "snapshot.json"},
	"timestamp":  {method: "GET", target: app + "timestamp.json"},
	"by hash":    {method: "GET", target: app + "root." + strings.Repeat("0", 64) + ".json"},
	"by version": {method: "GET", target: app + "1.root.json"},
	"key":        {method: "GET", target: app + "timestamp.key"},
	"rotate":     {method: "POST", target: app + "timestamp.key"},
	"delete":     {method: "DELETE", target: app},
	"changefeed": {method: "GET", target: "/v2/_trust/changefeed?records=1"},
	"update":     asForm(gunApp, last),
}

// One table: what an error becomes, for each operation. What a fault says of
// this side stays in the log, under the ID that the answer carries.
func TestFaults(t *testing.T) {
	const secret = "dial tcp 10.1.2.3:5432: relation tuf_files"
	rejection := &publish.Rejection{Kind: publish.KindBadRoot, Msg: strings.Repeat("<", 100)}
	for name, c := range map[string]struct {
		err                      error
		read, update, other      int
		readCode, upCode, anyway string
	}{
		"not found":      {storage.ErrNotFound, 404, 500, 500, "METADATA_NOT_FOUND", "UPDATING", "UNKNOWN"},
		"conflict":       {storage.ErrVersionConflict, 500, 400, 500, "UNKNOWN", "VERSION", "UNKNOWN"},
		"stale":          {storage.ErrStale, 500, 400, 500, "UNKNOWN", "VERSION", "UNKNOWN"},
		"damaged":        {storage.ErrDamaged, 500, 500, 500, "UNKNOWN", "UPDATING", "UNKNOWN"},
		"unavailable":    {storage.ErrUnavailable, 503, 503, 503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"},
		"too large":      {storage.ErrTooLarge, 500, 400, 500, "UNKNOWN", "INVALID_UPDATE", "UNKNOWN"},
		"sealed":         {storage.ErrKeySealed, 500, 500, 500, "UNKNOWN", "UPDATING", "UNKNOWN"},
		"forbidden":      {storage.ErrKeyForbidden, 500, 500, 500, "UNKNOWN", "UPDATING", "UNKNOWN"},
		"invalid":        {storage.ErrInvalid, 500, 500, 500, "UNKNOWN", "UPDATING", "UNKNOWN"},
		"malformed":      {tuf.ErrMalformed, 500, 400, 500, "UNKNOWN", "MALFORMED_JSON", "UNKNOWN"},
		"deadline":       {context.DeadlineExceeded, 503, 503, 503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"},
		"anything else":  {errors.New("pq: 42P01"), 500, 500, 500, "UNKNOWN", "UPDATING", "UNKNOWN"},
		"rejection":      {rejection, 500, 400, 500, "UNKNOWN", "INVALID_UPDATE", "UNKNOWN"},
		"both, in doubt": {errors.Join(storage.ErrNotFound, storage.ErrUnavailable), 503, 503, 503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, breakAll(func(context.Context) error { return fmt.Errorf("%s: %w", secret, c.err) }))
			failed := 0
			for op, request := range everyCall {
				status, code := c.other, c.anyway
				switch op {
				case "root", "targets", "snapshot", "timestamp", "by hash", "by version":
					status, code = c.read, c.readCode
				case "update":
					status, code = c.update, c.upCode
				}
				r := s.do(request)
				if r.status != status || r.code(t) != code || r.header.Get("Content-Type") != jsonType {
					t.Errorf("%s: got %d %s, want %d %s", op, r.status, r.body, status, code)
				}
				if retry := r.header.Get("Retry-After"); (retry != "") != (status == 503) {
					t.Errorf("%s: %d with Retry-After %q", op, status, retry)
				}
				if strings.Contains(r.body, "10.1.2.3") || len(r.body) > server.MaxErrorBody {
					t.Errorf("%s: body %s", op, r.body)
				}
				if status < 500 {
					continue
				}
				failed++
				found := 0
				for _, line := range s.log.lines(t, "request failed", failed) {
					if line["request_id"] == r.header.Get("X-Request-Id") {
						found++
						if text := fmt.Sprint(line["error"]); !strings.Contains(text, secret) || line["level"] != "ERROR" {
							t.Errorf("%s: log line %v", op, line)
						}
					}
				}
				if found != 1 {
					t.Errorf("%s: %d lines of its fault in the log", op, found)
				}
			}
		})
	}
}

// Every rejection fits into what clients read, and keeps its name.
func TestLongRejection(t *testing.T) {
	for _, msg := range []string{strings.Repeat("x", 5000), strings.Repeat("<", 5000), strings.Repeat("é", 5000)} {
		r := newStack(t, breakAll(func(context.Context) error {
			return &publish.Rejection{Kind: publish.KindBadHierarchy, Missing: "snapshot", Msg: msg}
		})).do(everyCall["update"])
		prefix := `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrBadHierarchy","Error":{"Missing":"snapshot","Msg":"`
		if r.status != 400 || !strings.HasPrefix(r.body, prefix) || len(r.body) > server.MaxErrorBody || len(r.body) < 500 {
			t.Errorf("%d, %d bytes: %s", r.status, len(r.body), r.body)
		}
		if r.code(t) != "INVALID_UPDATE" {
			t.Errorf("not JSON: %s", r.body)
		}
	}
}

// A panic costs its request, and neither the process nor the connection.
func TestPanic(t *testing.T) {
	s := newStack(t, breakAll(func(context.Context) error { panic("index out of range") }))
	reused := false
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	for i, want := range []string{"UNKNOWN", "UNKNOWN"} {
		req, err := http.NewRequestWithContext(trace, http.MethodGet, "http://"+s.addr+app+"root.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 2048)
		n, _ := res.Body.Read(body)
		_ = res.Body.Close()
		r := reply{res.StatusCode, res.Header, string(body[:n])}
		if r.status != 500 || r.code(t) != want || strings.Contains(r.body, "index") || reused != (i > 0) {
			t.Errorf("%d %s, connection reused: %v", r.status, r.body, reused)
		}
	}
	if r := s.do(everyCall["update"]); r.status != 500 || r.code(t) != "UPDATING" {
		t.Errorf("%d %s", r.status, r.body)
	}
	for _, line := range s.log.lines(t, "panic in a handler", 3) {
		if line["panic"] != "index out of range" || line["request_id"] == "" || !strings.Contains(fmt.Sprint(line["stack"]), "faults_test.go") {
			t.Errorf("%v", line)
		}
	}
	for _, line := range s.log.lines(t, "request", 3) {
		if line["status"] != 500.0 {
			t.Errorf("%v", line)
		}
	}
}

// Nothing waits for ever.
func TestDeadline(t *testing.T) {
	s := newStack(t, func(c *server.Config) {
		breakAll(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })(c)
		c.Limits.Time = 20 * time.Millisecond
	})
	for name, request := range everyCall {
		if r := s.do(request); r.status != http.StatusServiceUnavailable || r.code(t) != "UNAVAILABLE" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
}

// While the signer is down, what is stored can be read, what needs a signature
// is 503, and nothing is a 404 or a 400.
func TestSignerDown(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp)
	s.publish(gunApp, repo.Upload())
	s.signer.breakWith(fmt.Errorf("signer at 10.9.8.7: %w", storage.ErrUnavailable))
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		if r := s.get(app + role + ".json"); r.status != http.StatusOK {
			t.Errorf("%s: %d %s", role, r.status, r.body)
		}
	}
	for _, c := range []call{
		everyCall["key"], everyCall["rotate"], upload(gunApp, repo.Next(tuf.RoleTargets)),
		{method: "GET", target: "/v2/new/_trust/tuf/timestamp.key"},
	} {
		if r := s.do(c); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || strings.Contains(r.body, "10.9.8.7") {
			t.Errorf("%s %s: %d %s", c.method, c.target, r.status, r.body)
		}
	}
	s.clock.advance(15 * 24 * time.Hour)
	if r := s.get(app + "timestamp.json"); r.status != http.StatusServiceUnavailable {
		t.Errorf("an expired timestamp: %d %s", r.status, r.body)
	}
	s.signer.breakWith(nil)
	s.publish(gunApp, repo.Upload(tuf.RoleTargets))
	s.check(gunApp)
}

func TestConfig(t *testing.T) {
	good := func() server.Config {
		reg := prometheus.NewRegistry()
		var b broken
		return server.Config{Store: brokenStore{b}, Publisher: brokenPublisher{b}, Registerer: reg, Gatherer: reg, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	}
	if _, err := server.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*server.Config){
		"no store":       func(c *server.Config) { c.Store = nil },
		"no publisher":   func(c *server.Config) { c.Publisher = nil },
		"no registerer":  func(c *server.Config) { c.Registerer = nil },
		"no gatherer":    func(c *server.Config) { c.Gatherer = nil },
		"no log":         func(c *server.Config) { c.Log = nil },
		"no clock":       func(c *server.Config) { c.Now = nil },
		"negative age":   func(c *server.Config) { c.CurrentMaxAge = -1 },
		"empty prefix":   func(c *server.Config) { c.Prefixes = []string{"a/", ""} },
		"negative limit": func(c *server.Config) { c.Limits.Parts = -1 },
		"metrics in use": func(c *server.Config) {
			if _, err := server.New(*c); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := good()
		edit(&c)
		if _, err := server.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
