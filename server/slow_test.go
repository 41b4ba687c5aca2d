package server_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/server"
	"countersign/storage"
	"countersign/tuf"
)

// dial connects to s. Nothing on the connection takes more than a minute.
func (s *stack) dial() *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// postHead is the head of an upload of n bytes.
func postHead(n int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", app, formHeader().Get("Content-Type"), n)
}

// readReply reads an answer from a connection.
func readReply(t *testing.T, conn net.Conn) reply {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal("no answer: ", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

// An upload that stops, or of which a byte comes now and then, is refused, and
// gives back what it held.
func TestStalledUpload(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Limits.Stall, c.Limits.Uploads = 100*time.Millisecond, 1<<20 })
	for name, trickles := range map[string]bool{"silent": false, "trickling": true} {
		conn := s.dial()
		open := strings.TrimSuffix(file("root", ""), "\r\n")
		if _, err := io.WriteString(conn, postHead(8<<20)+open+strings.Repeat(" ", 1<<20)); err != nil {
			t.Fatal(err)
		}
		answered := make(chan struct{})
		var wg sync.WaitGroup
		if trickles {
			wg.Go(func() {
				for tick := time.NewTicker(5 * time.Millisecond); ; {
					select {
					case <-answered:
						return
					case <-tick.C:
						_, _ = io.WriteString(conn, " ") // it fails once the server has closed
					}
				}
			})
		}
		r := readReply(t, conn)
		close(answered)
		wg.Wait()
		if r.status != http.StatusBadRequest || r.code(t) != "MALFORMED_UPLOAD" || !strings.Contains(r.body, "the upload is too slow") {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		if r := s.do(asForm(gunApp, file("root", strings.Repeat(" ", 1<<20))+last)); r.status != http.StatusBadRequest || r.code(t) != "MALFORMED_JSON" {
			t.Errorf("after one that was %s: %d %s", name, r.status, r.body)
		}
	}
}

// However fast it comes, an upload has no more time than any request.
func TestEndlessUpload(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Limits.Time = 100 * time.Millisecond })
	conn := s.dial()
	if _, err := io.WriteString(conn, postHead(8<<20)); err != nil {
		t.Fatal(err)
	}
	if r := readReply(t, conn); r.status != http.StatusBadRequest || !strings.Contains(r.body, "the upload is too slow") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// Of large uploads two at once are worked on. More wait, and small ones do not
// wait for them.
func TestLargeUploadsTakeTurns(t *testing.T) {
	release := make(chan struct{})
	var inside atomic.Int32
	s := newStack(t, func(c *server.Config) {
		breakAll(func(ctx context.Context) error {
			if server.RequestID(ctx) != "small" {
				inside.Add(1)
				<-release
			}
			return nil
		})(c)
		c.Limits.Time = 3 * time.Second
	})
	large := asForm(gunApp, file("root", envelope+strings.Repeat(" ", 2<<20))+last)
	replies := make(chan reply, 3)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { replies <- s.do(large) })
	}
	small := asForm(gunApp, file("root", envelope)+last)
	small.header = append(small.header, [2]string{"X-Request-Id", "small"})
	s.do(small).want(t, http.StatusOK, "", "")
	select {
	case r := <-replies:
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("the third got %d %s", r.status, r.body)
		}
	case <-time.After(30 * time.Second):
		t.Error("all were let in")
	}
	if n := inside.Load(); n != 2 {
		t.Errorf("%d were let in", n)
	}
	close(release)
	wg.Wait()
	for range 2 {
		select {
		case r := <-replies:
			r.want(t, http.StatusOK, "", "")
		default:
			t.Error("an answer is missing")
		}
	}
	s.do(large).want(t, http.StatusOK, "", "") // the places are free again
}

// A file of millions of small members costs memory by its bytes, not by its
// members, however many come at once.
func TestHostileMembers(t *testing.T) {
	const uploads = 8
	s := newStack(t, nil)
	var body bytes.Buffer
	body.WriteString(strings.TrimSuffix(file("targets", ""), "\r\n") + `{"signed":{`)
	for i := 1_500_000; i > 0; i-- {
		fmt.Fprintf(&body, `"%x":1,`, 1<<20+i)
	}
	body.WriteString(`"a":1},"signatures":[]}` + "\r\n" + last)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range uploads {
		conn := s.dial()
		wg.Go(func() {
			if _, err := io.WriteString(conn, postHead(body.Len())); err != nil {
				t.Error(err)
			}
			_, _ = conn.Write(body.Bytes()) // the server may answer before it has read all
			if r := readReply(t, conn); r.status != http.StatusServiceUnavailable && (r.status != http.StatusBadRequest || r.code(t) != "MALFORMED_JSON") {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	// Without the limit on members it is twice that.
	if most := uint64(12 * uploads * body.Len()); used > most {
		t.Errorf("%d bytes of memory were used, want at most %d", used, most)
	}
}

// bigStore has a file of that size at version 1 of every role, and a small one
// at version 2.
type bigStore struct {
	brokenStore
	big []byte
}

func (b bigStore) ByVersion(_ context.Context, _ tuf.GUN, role tuf.RoleName, v tuf.Version) (storage.Metadata, error) {
	if v == 1 {
		return storage.NewMetadata(role, v, b.big), nil
	}
	return storage.NewMetadata(role, v, []byte(envelope)), nil
}

func (b bigStore) Changes(context.Context, storage.ChangeQuery) ([]storage.Change, error) {
	return make([]storage.Change, 10_000), nil
}

const bigFile = 32 << 20 // more than the sockets of a connection hold

func withBigStore(edit func(*server.Config)) func(*server.Config) {
	return func(c *server.Config) {
		c.Store = bigStore{big: make([]byte, bigFile)}
		edit(c)
	}
}

// All large answers together take no more memory than is set aside for them.
func TestAnswersShareMemory(t *testing.T) {
	s := newStack(t, withBigStore(func(c *server.Config) { c.Limits.Answers = bigFile }))
	slow := s.dial()
	if _, err := fmt.Fprintf(slow, "GET %s1.root.json HTTP/1.1\r\nHost: x\r\n\r\n", app); err != nil {
		t.Fatal(err)
	}
	// What has begun holds the memory.
	if _, err := io.ReadFull(slow, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if r := s.get(app + "1.root.json"); r.status != http.StatusServiceUnavailable || r.code(t) != "UNAVAILABLE" || r.header.Get("Retry-After") == "" || r.header.Get("Etag") != "" {
		t.Errorf("%d %v %.300s", r.status, r.header, r.body)
	}
	if r := s.get("/v2/_trust/changefeed?records=10000"); r.status != http.StatusServiceUnavailable {
		t.Errorf("the changefeed: %d", r.status)
	}
	s.get(app+"2.root.json").want(t, http.StatusOK, plainType, envelope)
	_ = slow.Close()
	var r reply
	for deadline := time.Now().Add(20 * time.Second); r.status != http.StatusOK && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		r = s.get(app + "1.root.json")
	}
	if r.status != http.StatusOK || len(r.body) != bigFile {
		t.Errorf("the memory is not given back: %d", r.status)
	}
}

// Who does not read a large answer is cut off.
func TestSlowReader(t *testing.T) {
	s := newStack(t, withBigStore(func(c *server.Config) { c.Limits.Time, c.Limits.Stall = 100*time.Millisecond, 50*time.Millisecond }))
	if _, err := fmt.Fprintf(s.dial(), "GET %s1.root.json HTTP/1.1\r\nHost: x\r\n\r\n", app); err != nil {
		t.Fatal(err)
	}
	if line := s.log.lines(t, "request", 1)[0]; line["bytes"].(float64) >= bigFile {
		t.Errorf("%v", line)
	}
}

// A deadlined notes what time an answer is given.
type deadlined struct {
	*httptest.ResponseRecorder
	at time.Time
}

func (d *deadlined) SetWriteDeadline(at time.Time) error { d.at = at; return nil }

// The time for an answer goes by its size.
func TestAnswerTime(t *testing.T) {
	for size, want := range map[int]time.Duration{len(envelope): 0, 64<<10 + 1<<20: 12 * time.Second, bigFile: 70 * time.Second} {
		s := newStack(t, func(c *server.Config) { c.Store = bigStore{big: make([]byte, size)} })
		w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
		start := time.Now()
		s.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, app+"1.root.json", nil))
		if want == 0 && !w.at.IsZero() || want > 0 && (w.at.Before(start.Add(want)) || w.at.After(time.Now().Add(want))) {
			t.Errorf("%d bytes: %v, want %v", size, w.at.Sub(start), want)
		}
	}
}

// A client that has hung up is no fault of the server, and gets no answer, least
// of all one that says that all went well.
func TestClientGone(t *testing.T) {
	s := newStack(t, breakAll(func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, ctx.Err())
	}))
	conn := s.dial()
	if _, err := io.WriteString(conn, postHead(len(last))+last); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("it was answered: %q", got)
	}
	line := s.log.lines(t, "request", 1)[0]
	if line["status"] != 499.0 || line["level"] != "INFO" {
		t.Errorf("%v", line)
	}
	if want := `notary_server_http_requests_total{code="499",method="post",operation="UpdateTUF"} 1`; !strings.Contains(s.get("/metrics").body, want) {
		t.Errorf("no line %s", want)
	}
	if lines := s.log.lines(t, "request failed", 0); len(lines) > 0 {
		t.Errorf("%v", lines)
	}
}
