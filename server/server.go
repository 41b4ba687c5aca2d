// Package server is the HTTP half of trust-server: routes, bodies, headers, and
// the answer to every error. What is published, and whether it may be, is
// decided by package publish; what is stored, by a [storage.MetadataStore].
//
// The clients are frozen, so every status, code and body that they can tell
// apart is upstream's. In one thing it is stricter: a request that makes no
// sense gets a 4xx, and a 5xx says that this side failed.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// A Publisher checks and completes what is stored. [publish.Publisher] is one.
// Its errors are its own *[publish.Rejection] or wrap a sentinel of package
// storage. Timestamp and Snapshot must wrap [storage.ErrNotFound] only if the
// store has no such file, and never for a key.
type Publisher interface {
	Publish(ctx context.Context, gun tuf.GUN, upload publish.Upload) error
	// Delete reports whether there was anything.
	Delete(ctx context.Context, gun tuf.GUN) (bool, error)
	Timestamp(ctx context.Context, gun tuf.GUN) (storage.Metadata, error)
	Snapshot(ctx context.Context, gun tuf.GUN) (storage.Metadata, error)
	Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.Key, error)
	RotateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.Key, error)
}

// Config is what the handler is made of. Fields are required unless they say
// otherwise.
type Config struct {
	Store     storage.MetadataStore
	Publisher Publisher

	// Health names the checks that fail now, and why, in words that may be
	// shown to anybody. It is called for each request and must not wait.
	// Optional: without it the service is always healthy.
	Health func() map[string]string
	// Access decides who may do what. Optional: without it everybody may do
	// everything, and answers may be cached by anybody.
	Access AccessFunc
	// Prefixes, each ending in a slash, limit the GUNs that are served.
	// Optional: none, all GUNs.
	Prefixes []string

	// CurrentMaxAge and ConsistentMaxAge say how long others may keep what was
	// read by role name, and by checksum or version. In whole seconds; 0
	// forbids it.
	CurrentMaxAge    time.Duration
	ConsistentMaxAge time.Duration

	// Limits on requests. Optional: see [Limits] for the defaults.
	Limits Limits

	// Registerer takes the metrics of this package, Gatherer is what /metrics
	// shows.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer

	Log *slog.Logger
	Now func() time.Time // time.Now, except in tests
}

// Limits are what requests may ask for, one and all together. Zero values stand
// for the defaults, which no real client meets.
type Limits struct {
	Time        time.Duration // for one request; 60 s
	Stall       time.Duration // for any 160 KiB of an upload, and for the rest; 10 s
	Body        int64         // bytes of an upload; 32 MiB
	Part        int64         // bytes of one file in it; 16 MiB
	Parts       int           // files in one upload; 1000
	PartHeader  int64         // bytes between two files of an upload; 16 KiB
	Uploads     int64         // bytes of all uploads that are in memory at once; 128 MiB
	Answers     int64         // bytes of all answers that are in memory at once; 128 MiB
	ChangesPage int           // changefeed entries in one answer; 10000
}

// freeBytes of each upload and of each answer are not counted in Uploads and
// Answers: what usual clients do is never refused for what others do. How much
// that is together goes by the number of connections.
const freeBytes = 64 << 10

// At most largeWork uploads of more than largeUpload bytes, and at most
// smallWork others, are parsed and published at once: meanwhile an upload can
// take ten times its size in memory. More wait.
const (
	largeUpload = 1 << 20
	largeWork   = 2
	smallWork   = 64
)

func (l Limits) withDefaults() Limits {
	l.Time = or(l.Time, time.Minute)
	l.Stall = or(l.Stall, 10*time.Second)
	l.Body = or(l.Body, 32<<20)
	l.Part = or(l.Part, 16<<20)
	l.Parts = or(l.Parts, 1000)
	l.PartHeader = or(l.PartHeader, 16<<10)
	l.Uploads = or(l.Uploads, 128<<20)
	l.Answers = or(l.Answers, 128<<20)
	l.ChangesPage = or(l.ChangesPage, 10_000)
	return l
}

// or returns v, or, if it is not set, def.
func or[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// server is the handler that New returns.
type server struct {
	Config
	router  *mux.Router
	metrics *metrics
	uploads budget
	answers budget
	// A place in one of these is held while an upload is parsed and published.
	large, small chan struct{}
	// private: answers are for the caller alone, since others may not be
	// allowed to read them.
	private bool
}

// New returns the handler of all routes. It serves any number of requests at
// once.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Store == nil || c.Publisher == nil:
		return nil, errors.New("a server needs a store and a publisher")
	case c.Registerer == nil || c.Gatherer == nil:
		return nil, errors.New("a server needs a metrics registry")
	case c.Log == nil || c.Now == nil:
		return nil, errors.New("a server needs a log and a clock")
	case c.CurrentMaxAge < 0 || c.ConsistentMaxAge < 0:
		return nil, errors.New("a cache age is negative")
	case slices.Contains(c.Prefixes, ""):
		return nil, errors.New("a GUN prefix is empty")
	}
	l := &c.Limits
	if min(int64(l.Time), int64(l.Stall), l.Body, l.Part, int64(l.Parts), l.PartHeader, l.Uploads, l.Answers, int64(l.ChangesPage)) < 0 {
		return nil, errors.New("a limit is negative")
	}
	*l = l.withDefaults()
	if c.Health == nil {
		c.Health = func() map[string]string { return nil }
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	s := &server{
		Config: c, metrics: m, private: c.Access != nil,
		large: make(chan struct{}, largeWork), small: make(chan struct{}, smallWork),
	}
	s.uploads.left.Store(c.Limits.Uploads)
	s.answers.left.Store(c.Limits.Answers)
	s.router = s.routes()
	return s, nil
}

// routes places what a mux can tell apart. The router also redirects paths
// that are not clean, with 301, before anything else is looked at.
func (s *server) routes() *mux.Router {
	scrape := promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.Log.Handler(), slog.LevelError),
		MaxRequestsInFlight: 4,
		Timeout:             s.Limits.Time,
	})
	r := mux.NewRouter()
	r.Methods(http.MethodGet).Path("/v2/").Handler(s.handle(opPing, s.ping))
	r.Methods(http.MethodGet).Path("/_notary_server/health").Handler(s.handle(opHealth, s.health))
	r.Methods(http.MethodGet).Path("/metrics").Handler(s.handle(opMetrics, func(w http.ResponseWriter, q *request) error {
		scrape.ServeHTTP(w, q.Request)
		return nil
	}))
	r.PathPrefix("/v2/").Handler(s.handle(opUnknown, s.trust))
	r.NotFoundHandler = s.handle(opUnknown, s.unknown)
	r.MethodNotAllowedHandler = r.NotFoundHandler
	return r
}

// trust serves everything that is about a GUN, in this order: which route, is
// the GUN served here, may the caller, then the handler.
func (s *server) trust(w http.ResponseWriter, q *request) error {
	t, ok := splitPath(q.Method, q.URL.Path)
	if !ok {
		return s.unknown(w, q)
	}
	q.op, q.target = t.op, t
	if err := s.admit(q); err != nil {
		return err
	}
	if err := s.authorize(q); err != nil {
		return err
	}
	switch t.op {
	case opUpdate:
		return s.update(w, q)
	case opByHash:
		return s.byHash(w, q)
	case opByVersion:
		return s.byVersion(w, q)
	case opCurrent:
		return s.current(w, q)
	case opGetKey:
		return s.key(w, q, s.Publisher.Key)
	case opRotateKey:
		return s.key(w, q, s.Publisher.RotateKey)
	case opDelete:
		return s.delete(w, q)
	case opChangefeed:
		return s.changefeed(w, q)
	}
	return s.unknown(w, q)
}

// ping answers the first request of every client.
func (s *server) ping(w http.ResponseWriter, q *request) error {
	if err := s.authorize(q); err != nil {
		return err
	}
	writeBody(w, http.StatusOK, plain, []byte("{}"))
	return nil
}

// unknown answers what no route fits: 404, or 405 for a method that no route
// has. HEAD is no shorter GET here.
func (s *server) unknown(w http.ResponseWriter, q *request) error {
	q.op = opUnknown
	switch q.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodHead, http.MethodDelete:
		if err := s.authorize(q); err != nil {
			return err
		}
		return answerNoRoute
	}
	q.op = opBadMethod
	writeBody(w, http.StatusMethodNotAllowed, "", nil)
	return nil
}
