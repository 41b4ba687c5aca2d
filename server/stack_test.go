package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/migrations"
	"countersign/server"
	"countersign/server/publish"
	"countersign/signer"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A stack is the server over a real store, real rules and a real signer, in one
// process.
type stack struct {
	t        *testing.T
	handler  http.Handler
	addr     string
	store    storage.MetadataStore
	signer   *keyService
	registry *prometheus.Registry
	log      *logBuffer
	clock    *clock
}

// newStack starts a server, whose configuration edit may change first.
func newStack(t *testing.T, edit func(*server.Config)) *stack {
	t.Helper()
	return newStackWith(t, tuf.KeyECDSA, edit)
}

// newStackWith is newStack with keys of that type.
func newStackWith(t *testing.T, algorithm string, edit func(*server.Config)) *stack {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "server.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrations.Apply(t.Context(), db, migrations.Server); err != nil {
		t.Fatal(err)
	}
	store := metadb.New(db)
	s := &stack{t: t, store: store, signer: newKeyService(t, db), registry: prometheus.NewRegistry(), log: &logBuffer{}, clock: &clock{}}
	p, err := publish.New(publish.Config{Store: s.store, Signer: s.signer, Archivist: store, KeyAlgorithm: algorithm, Now: s.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	config := server.Config{
		Store: s.store, Publisher: p, CurrentMaxAge: 300 * time.Second, ConsistentMaxAge: 2592000 * time.Second,
		Registerer: s.registry, Gatherer: s.registry, Now: time.Now,
		Log: slog.New(slog.NewJSONHandler(s.log, nil)),
	}
	if edit != nil {
		edit(&config)
	}
	h, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.handler = h
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
	return s
}

// check ends a test: every GUN must be what a client accepts.
func (s *stack) check(guns ...tuf.GUN) {
	s.t.Helper()
	for _, gun := range guns {
		if err := publish.Fsck(s.t.Context(), s.store, gun, s.clock.Now()); err != nil {
			s.t.Error(err)
		}
	}
}

// A reply is one answer, as it came over the wire.
type reply struct {
	status int
	header http.Header
	body   string
}

// A call is one request, written to the wire as it stands: http.Client would
// mend what is to be tested.
type call struct {
	method, target string
	header         [][2]string
	body           string
	chunked        bool // no Content-Length
}

// send makes the request to addr, over a connection of its own.
func (c call) send(t testing.TB, addr string) reply {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", c.method, c.target, addr)
	for _, h := range c.header {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case c.chunked:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(c.body), c.body)
	case c.body != "" || c.method == http.MethodPost:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(c.body), c.body)
	default:
		b.WriteString("\r\n")
	}
	// The server may answer, and close, before it has read all.
	_, writeErr := conn.Write(b.Bytes())
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method})
	if err != nil {
		// What upstream does where it panics.
		return reply{status: 0, header: http.Header{}, body: fmt.Sprintf("no answer: %v %v", err, writeErr)}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the body: %v", c.method, c.target, err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

func (s *stack) do(c call) reply {
	s.t.Helper()
	return c.send(s.t, s.addr)
}

func (s *stack) get(target string) reply {
	s.t.Helper()
	return s.do(call{method: http.MethodGet, target: target})
}

// upload is the request by which a client publishes files.
func upload(gun tuf.GUN, files map[tuf.RoleName][]byte) call {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, role := range slices.Sorted(maps.Keys(files)) {
		part, err := w.CreateFormFile("files", string(role))
		if err == nil {
			_, err = part.Write(files[role])
		}
		if err != nil {
			panic(err) // a buffer takes all
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return call{method: http.MethodPost, target: "/v2/" + string(gun) + "/_trust/tuf/",
		header: [][2]string{{"Content-Type", w.FormDataContentType()}}, body: body.String()}
}

// publish uploads files and fails the test unless that succeeds.
func (s *stack) publish(gun tuf.GUN, files map[tuf.RoleName][]byte) {
	s.t.Helper()
	r := s.do(upload(gun, files))
	if r.status != http.StatusOK || r.body != "" || r.header.Get("Content-Length") != "0" {
		s.t.Fatalf("publishing %s: %d %s %q", gun, r.status, r.header, r.body)
	}
}

// serverKey asks the server at addr for its key, as a client does that makes a
// new repository.
func serverKey(t *testing.T, addr string, gun tuf.GUN, role tuf.RoleName) *tuf.Key {
	t.Helper()
	r := call{method: http.MethodGet, target: fmt.Sprintf("/v2/%s/_trust/tuf/%s.key", gun, role)}.send(t, addr)
	var k struct {
		Type  string                  `json:"keytype"`
		Value struct{ Public []byte } `json:"keyval"`
	}
	if err := json.Unmarshal([]byte(r.body), &k); err != nil || r.status != http.StatusOK {
		t.Fatalf("%s key of %s: %d %s", role, gun, r.status, r.body)
	}
	return &tuf.Key{Type: k.Type, Public: k.Value.Public}
}

// newRepo makes a repository as docker does: the server signs its snapshots.
func (s *stack) newRepo(gun tuf.GUN, delegations ...tuf.RoleName) *tuftest.Repo {
	s.t.Helper()
	return tuftest.New(s.t, gun, tuftest.Options{
		Timestamp: serverKey(s.t, s.addr, gun, tuf.RoleTimestamp), Snapshot: serverKey(s.t, s.addr, gun, tuf.RoleSnapshot),
		Delegations: delegations,
	})
}

// A keyService is the signer without the wire, until it is broken.
type keyService struct {
	*signer.Service
	fail atomic.Pointer[error] // what every call then returns
}

func newKeyService(t *testing.T, db *sqldb.DB) *keyService {
	t.Helper()
	if err := migrations.Apply(t.Context(), db, migrations.Signer); err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(seal.Config{Passphrase: func(string) (string, error) { return "correct horse", nil }, Iterations: seal.MinIterations})
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.New(signer.Config{Store: keydb.New(db), Sealer: sealer, DefaultAlias: "alias", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &keyService{Service: s}
}

// breakWith makes every call fail with err, or none if it is nil.
func (k *keyService) breakWith(err error) {
	if err == nil {
		k.fail.Store(nil)
		return
	}
	k.fail.Store(&err)
}

func (k *keyService) broken() error {
	if err := k.fail.Load(); err != nil {
		return *err
	}
	return nil
}

func (k *keyService) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (tuf.Key, error) {
	if err := k.broken(); err != nil {
		return tuf.Key{}, err
	}
	row, err := k.Service.CreateKey(ctx, gun, role, algorithm)
	return tuf.Key{Type: row.Algorithm, Public: row.Public}, err
}

func (k *keyService) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (tuf.Key, error) {
	if err := k.broken(); err != nil {
		return tuf.Key{}, err
	}
	row, err := k.Service.Key(ctx, gun, role, id)
	return tuf.Key{Type: row.Algorithm, Public: row.Public}, err
}

func (k *keyService) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) ([]byte, error) {
	if err := k.broken(); err != nil {
		return nil, err
	}
	_, sig, err := k.Service.Sign(ctx, gun, role, id, content)
	return sig.Sig, err
}

func (k *keyService) DeleteKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error {
	if err := k.broken(); err != nil {
		return err
	}
	return k.Service.DeleteOwnedKey(ctx, gun, role, id)
}

// A clock is the time of day until it is set forward.
type clock struct {
	mu      sync.Mutex // guards forward
	forward time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.forward)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forward += d
}

// A logBuffer keeps the lines of a JSON log.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines returns the lines with that message. A line may be written after its
// answer has arrived, so it waits until there are at least n.
func (l *logBuffer) lines(t testing.TB, msg string, n int) []map[string]any {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var found []map[string]any
		l.mu.Lock()
		text := l.buf.String()
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("log line %q: %v", line, err)
			}
			if m["msg"] == msg {
				found = append(found, m)
			}
		}
		if len(found) >= n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines %q in the log, want %d:\n%s", len(found), msg, n, text)
		}
	}
}
