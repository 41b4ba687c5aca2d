package service_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/internal/service"
)

// A served is a listener under test.
type served struct {
	addr string
	end  context.CancelFunc
	done chan error
	log  *buffer
}

func serve(t *testing.T, connections int, cfg service.HTTPConfig) *served {
	t.Helper()
	lis, err := service.Listen(t.Context(), "127.0.0.1:0", connections)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &served{addr: lis.Addr().String(), end: cancel, done: make(chan error, 1), log: &buffer{}}
	cfg.Log = service.NewLogger(s.log, "logfmt", slog.LevelDebug)
	if cfg.RequestTime == 0 {
		cfg.RequestTime = time.Minute
	}
	go func() { s.done <- service.ServeHTTP(ctx, lis, cfg) }()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

// wait returns the result of ServeHTTP.
func (s *served) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err // for the cleanup
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// selfSigned borrows the certificate of the standard library's test server.
func selfSigned(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	ts := httptest.NewTLSServer(http.NotFoundHandler())
	ts.Close()
	client = ts.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: ts.TLS.Certificates}, client
}

func TestHTTPOverTLS(t *testing.T) {
	server, client := selfSigned(t)
	s := serve(t, 8, service.HTTPConfig{TLS: server, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	})})
	tr := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.addr)
	}}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(httptest.NewRequest(http.MethodGet, "https://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "HTTP/1.1" || resp.TLS.NegotiatedProtocol != "" {
		t.Errorf("a client that prefers HTTP/2 got %q, ALPN %q, %v", body, resp.TLS.NegotiatedProtocol, err)
	}

	if got := speak(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400") || !strings.Contains(got, "Client sent an HTTP request to an HTTPS server.") {
		t.Errorf("plain HTTP is answered %q", got)
	}
	eventually(t, "the handshake that failed is in the log", func() bool { return strings.Contains(s.log.String(), "level=info msg=\"http: TLS handshake error") })
}

// speak sends raw bytes and returns all that comes back.
func speak(t *testing.T, addr, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn) // the server may reset the connection behind its answer
	return string(got)
}

func TestHeaderLimit(t *testing.T) {
	s := serve(t, 8, service.HTTPConfig{Handler: http.NotFoundHandler()})
	head := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
	if got := speak(t, s.addr, head+strings.Repeat("a", 60<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404") {
		t.Errorf("60 KiB of header: %.40q", got)
	}
	if got := speak(t, s.addr, head+strings.Repeat("a", 100<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("100 KiB of header: %.40q", got)
	}
}

// TestDrain: a request under way is finished, and new ones find nobody.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, 8, service.HTTPConfig{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "whole")
	})})
	got := make(chan string, 1)
	go func() { got <- speak(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }()
	<-entered
	s.end()
	eventually(t, "nobody listens", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	if answer := <-got; !strings.HasSuffix(answer, "whole") {
		t.Errorf("the request under way got %q", answer)
	}
	if err := s.wait(t); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// TestDrainIsBounded: a request that never ends does not keep the program.
func TestDrainIsBounded(t *testing.T) {
	entered := make(chan struct{})
	s := serve(t, 8, service.HTTPConfig{Grace: 20 * time.Millisecond, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})})
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-entered
	s.end()
	if err := s.wait(t); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(s.log.String(), "cut off") {
		t.Errorf("nothing is said of the request:\n%s", s.log)
	}
}

// trickle connects, sends head, and then one byte of more after the other, for
// ever. It returns what the server said, once it has closed the connection.
func trickle(t *testing.T, addr, head, more string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer func() {
		close(stop)
		_ = conn.Close()
		wg.Wait()
	}()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; more != ""; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if _, err := io.WriteString(conn, more[i%len(more):][:1]); err != nil {
				return
			}
		}
	})
	got, err := io.ReadAll(conn)
	if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
		t.Fatal("the connection does not end")
	}
	return string(got)
}

// TestSlowClients: whoever sends a byte now and then, or nothing, does not keep
// a connection. Without the limit that each test is about it would not end.
func TestSlowClients(t *testing.T) {
	const short = 50 * time.Millisecond
	ended := make(chan error, 1)
	reads := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"

	t.Run("header", func(t *testing.T) {
		s := serve(t, 8, service.HTTPConfig{Handler: reads, HeaderTime: short})
		trickle(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\n", "X: y\r\n")
		if len(ended) > 0 {
			t.Error("the handler was called")
		}
	})
	t.Run("body", func(t *testing.T) {
		s := serve(t, 8, service.HTTPConfig{Handler: reads, RequestTime: short, Slack: short})
		trickle(t, s.addr, post, "x")
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the handler's read ended with %v", err)
		}
	})
	t.Run("body that nobody reads", func(t *testing.T) {
		s := serve(t, 8, service.HTTPConfig{Handler: http.NotFoundHandler(), RequestTime: short, Slack: short})
		trickle(t, s.addr, strings.Replace(post, "1000000", "10000", 1), "x")
	})
	t.Run("idle", func(t *testing.T) {
		s := serve(t, 8, service.HTTPConfig{Handler: http.NotFoundHandler(), IdleTime: short})
		if got := trickle(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""); !strings.HasPrefix(got, "HTTP/1.1 404") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("TLS handshake", func(t *testing.T) {
		server, _ := selfSigned(t)
		s := serve(t, 8, service.HTTPConfig{Handler: reads, HeaderTime: short, TLS: server})
		trickle(t, s.addr, "\x16\x03\x01\x02\x00", "\x01")
	})
	t.Run("answer", func(t *testing.T) {
		s := serve(t, 8, service.HTTPConfig{RequestTime: short, Slack: short, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 64<<20)) // more than any socket holds
			ended <- err
		})})
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("writing ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("writing does not end")
		}
	})
}

// TestConnectionLimit: who is too many waits, and is served when one leaves.
func TestConnectionLimit(t *testing.T) {
	const limit, all = 3, 30
	release := make(chan struct{})
	var inside, most atomic.Int32
	s := serve(t, limit, service.HTTPConfig{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		for n := inside.Add(1); ; {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		<-release
		inside.Add(-1)
	})})
	var wg sync.WaitGroup
	for range all {
		wg.Go(func() {
			if got := speak(t, s.addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("got %q", got)
			}
		})
	}
	eventually(t, "every place is taken", func() bool { return inside.Load() == limit })
	for range all {
		release <- struct{}{}
	}
	wg.Wait()
	if m := most.Load(); m > limit {
		t.Errorf("%d at once, want at most %d", m, limit)
	}
}

// TestFullListenerEnds: with every place taken by an idle connection.
func TestFullListenerEnds(t *testing.T) {
	s := serve(t, 1, service.HTTPConfig{Handler: http.NotFoundHandler()})
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Fatal(err)
	}
	s.end()
	if err := s.wait(t); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = service.Listen(t.Context(), taken.Addr().String(), 1)
	if want := "listen tcp " + taken.Addr().String() + ": bind: address already in use"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestListenerThatFails(t *testing.T) {
	lis, err := service.Listen(t.Context(), "127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	err = service.ServeHTTP(t.Context(), lis, service.HTTPConfig{Handler: http.NotFoundHandler(), RequestTime: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), lis.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "0.0.0.0:1": false, "[::]:1": false, "192.0.2.1:1": false} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if service.Loopback(tcp) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
	if service.Loopback(&net.UnixAddr{}) {
		t.Error("what is no TCP address is taken for loopback")
	}
}
