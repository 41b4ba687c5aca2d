package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"countersign/signer/rpc"
	"countersign/tuf"
)

// newOpenPair is a pair whose server asks for no client certificate, as
// Harbor's does: that is the one that gets probed.
func newOpenPair(t testing.TB, change func(*rpc.ServerConfig)) *pair {
	t.Helper()
	return newPair(t, func(c *rpc.ServerConfig) {
		c.TLS = c.TLS.Clone()
		c.TLS.ClientAuth = tls.NoClientCert
		if change != nil {
			change(c)
		}
	})
}

// browser is a client that verifies nothing, as Kubernetes' probes.
func browser(t testing.TB, protocols ...string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, NextProtos: protocols},
		ForceAttemptHTTP2: len(protocols) > 0 && protocols[0] == "h2",
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func isPlain(t testing.TB, what string, r *http.Response, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%s: status %d, %v, %v", what, r.StatusCode, r.Header, err)
	}
	if head := r.Request.Method == http.MethodHead; head != (len(body) == 0) || r.ContentLength <= 0 {
		t.Errorf("%s: body %q of length %d", what, body, r.ContentLength)
	} else if !head && !strings.Contains(string(body), "trust-signer") {
		t.Errorf("%s: the body does not say what this is: %q", what, body)
	}
}

// Everything but gRPC is answered 200, over each protocol, while RPCs go on.
func TestPlainRequests(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	stop := make(chan struct{})
	var rpcs sync.WaitGroup
	rpcs.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := p.client.Sign(t.Context(), "g", tuf.RoleTimestamp, "id", []byte("x")); err != nil {
				t.Errorf("RPC %d beside plain requests: %v", i, err)
				return
			}
		}
	})
	for name, c := range map[string]struct {
		client *http.Client
		proto  string
	}{
		"h2":       {browser(t, "h2", "http/1.1"), "HTTP/2.0"},
		"http/1.1": {browser(t, "http/1.1"), "HTTP/1.1"},
		"no ALPN":  {browser(t), "HTTP/1.1"},
	} {
		for _, path := range []string{"/", "/healthz", "/proto.Signer/Sign?x=y"} {
			r, err := c.client.Get("https://" + p.addr + path)
			isPlain(t, name+" GET "+path, r, err)
			if err == nil && r.Proto != c.proto {
				t.Errorf("%s: answered over %s", name, r.Proto)
			}
		}
		r, err := c.client.Head("https://" + p.addr + "/")
		isPlain(t, name+" HEAD", r, err)
		for _, size := range []int{10, 40 << 10, 300 << 10} {
			for range 3 {
				r, err = c.client.Post("https://"+p.addr+"/", "application/json", bytes.NewReader(make([]byte, size)))
				isPlain(t, fmt.Sprint(name, " POST ", size), r, err)
			}
		}
	}
	close(stop)
	rpcs.Wait()
}

// More requests than one connection answers, at once and one after the other,
// on a client that keeps its connections.
func TestPlainManyRequests(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	c := browser(t, "h2")
	for range 230 {
		r, err := c.Get("https://" + p.addr + "/")
		isPlain(t, "GET", r, err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			r, err := c.Get("https://" + p.addr + "/")
			isPlain(t, "GET", r, err)
		})
	}
	wg.Wait()
}

// The client that operators have at hand, over both protocols.
func TestPlainCurl(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("this test needs curl: ", err)
	}
	p := newOpenPair(t, nil)
	for _, args := range [][]string{{"--http2"}, {"--http1.1"}, {"--no-alpn"}, {"--http2", "-d", strings.Repeat("x", 5000)}, {"--http1.1", "-d", strings.Repeat("x", 5000)}, {"--http2", "-I"}} {
		args = append(args, "-sSk", "-o", "/dev/null", "-w", "%{http_code}\n")
		for range 3 { // on one connection, where there can be one
			args = append(args, "https://"+p.addr+"/")
		}
		args = append(args, "-o", "/dev/null", "-o", "/dev/null")
		out, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
		if err != nil || string(out) != "200\n200\n200\n" {
			t.Errorf("curl %.40q: %q, %v", args, out, err)
		}
	}
}

// With client certificates there is no answer without one.
func TestPlainNeedsCertificate(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	for _, proto := range []string{"h2", "http/1.1"} {
		if r, err := browser(t, proto).Get("https://" + p.addr + "/"); err == nil {
			t.Errorf("%s: answered %d to a stranger", proto, r.StatusCode)
			r.Body.Close()
		}
	}
	eventually(t, "the refusal is logged", func() bool { return strings.Contains(p.log.String(), "TLS handshake failed") })
}

// rawH2 is an HTTP/2 client that may misbehave.
type rawH2 struct {
	*tls.Conn
	*http2.Framer
	enc  *hpack.Encoder
	head bytes.Buffer
}

func dialRaw(t testing.TB, addr string) *rawH2 {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := &rawH2{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	r.enc = hpack.NewEncoder(&r.head)
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return r
}

func (r *rawH2) greet(t testing.TB, settings ...http2.Setting) {
	t.Helper()
	if _, err := io.WriteString(r.Conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
}

func (r *rawH2) block(fields ...string) []byte {
	r.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		// A buffer never fails.
		_ = r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(r.head.Bytes())
}

func (r *rawH2) get(id uint32, more ...string) error {
	fields := append([]string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"}, more...)
	return r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block(fields...), EndHeaders: true, EndStream: true})
}

// until reads frames until one fits.
func (r *rawH2) until(t testing.TB, what string, fits func(http2.Frame) bool) http2.Frame {
	t.Helper()
	var last string
	for {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for %s: %v; the last frame was %v", what, err, last)
		}
		if fits(f) {
			return f
		}
		last = fmt.Sprint(f)
	}
}

func (r *rawH2) ended(id uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		return f.Header().StreamID == id && f.Header().Flags.Has(http2.FlagDataEndStream)
	}
}

func is[F http2.Frame](f http2.Frame) bool { _, ok := f.(F); return ok }

// A connection that has asked plainly is still a connection: pings and settings
// are answered, and a client with a window too small for the body gets none.
func TestPlainConnection(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	r := dialRaw(t, p.addr)
	r.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.until(t, "settings", is[*http2.SettingsFrame])
	for id := uint32(1); id < 8; id += 2 {
		// Fields of the second request refer to those of the first.
		if err := r.get(id, "x-some", "header"); err != nil {
			t.Fatal(err)
		}
		f := r.until(t, "answer", func(f http2.Frame) bool { return is[*http2.MetaHeadersFrame](f) }).(*http2.MetaHeadersFrame)
		if f.StreamID != id || f.PseudoValue("status") != "200" || !f.StreamEnded() {
			t.Errorf("request %d: %v", id, f)
		}
	}
	// One only: gRPC hangs up on a client that pings often, here as everywhere.
	if err := r.WritePing(false, [8]byte{7}); err != nil {
		t.Fatal(err)
	}
	r.until(t, "ping", func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() && p.Data[0] == 7 })
	if err := r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535}); err != nil {
		t.Fatal(err)
	}
	r.until(t, "settings", func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() })
	if err := r.get(9); err != nil {
		t.Fatal(err)
	}
	r.until(t, "a body", func(f http2.Frame) bool { return is[*http2.DataFrame](f) && r.ended(9)(f) })
	// A gRPC request is turned away in the way that its client repeats it elsewhere.
	if err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: 11, EndHeaders: true, BlockFragment: r.block(
		":method", "POST", ":scheme", "https", ":path", "/proto.Signer/Sign", "content-type", "application/grpc")}); err != nil {
		t.Fatal(err)
	}
	f := r.until(t, "goaway", is[*http2.GoAwayFrame]).(*http2.GoAwayFrame)
	if f.LastStreamID != 9 || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("goaway: %v", f)
	}
}

// A connection answers a bounded number of plain requests.
func TestPlainRequestsBounded(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	r := dialRaw(t, p.addr)
	r.greet(t)
	r.until(t, "settings", is[*http2.SettingsFrame])
	for i := range uint32(100) {
		if err := r.get(2*i + 1); err != nil {
			t.Fatal(err)
		}
		r.until(t, "an answer", r.ended(2*i+1))
	}
	if f := r.until(t, "goaway", is[*http2.GoAwayFrame]).(*http2.GoAwayFrame); f.LastStreamID != 199 || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("goaway: %v", f)
	}
}

// Whoever sends garbage, stalls or floods hurts nobody but himself.
func TestPlainHostile(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	for name, attack := range map[string]func(*rawH2) error{
		"garbage for a preface": func(r *rawH2) error { _, err := io.WriteString(r.Conn, strings.Repeat("garbage ", 8)); return err },
		"garbage after it":      func(r *rawH2) error { r.greet(t); _, err := r.Conn.Write(bytes.Repeat([]byte{0xff}, 64)); return err },
		"no settings": func(r *rawH2) error {
			_, err := io.WriteString(r.Conn, http2.ClientPreface)
			if err == nil {
				err = r.get(1)
			}
			return err
		},
		"even stream": func(r *rawH2) error { r.greet(t); _ = r.get(1); return r.get(2) },
		"a header block without end": func(r *rawH2) error {
			r.greet(t)
			err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(":method", "GET")})
			for err == nil {
				err = r.WriteContinuation(1, false, nil)
			}
			return nil // it was cut off
		},
		"a header block with an end beyond the limit": func(r *rawH2) error {
			r.greet(t)
			_ = r.get(1, "x", strings.Repeat("y", 10_000))
			return r.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: bytes.Repeat([]byte{0xbe}, 16<<10), EndHeaders: true})
		},
		"broken compression": func(r *rawH2) error {
			r.greet(t)
			return r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dialRaw(t, p.addr)
			if err := attack(r); err != nil {
				t.Logf("while attacking: %v", err)
			}
			for { // the other side ends it
				if _, err := r.ReadFrame(); err != nil {
					if ne, ok := err.(net.Error); ok && ne.Timeout() {
						t.Error("the connection is kept")
					}
					break
				}
			}
			if err := p.client.Check(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	t.Run("HTTP/1.1 without end", func(t *testing.T) {
		t.Parallel()
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		for n := 0; err == nil && n < 10<<20; n += 1 << 10 {
			_, err = io.WriteString(conn, "X: "+strings.Repeat("y", 1<<10)+"\r\n")
		}
		if err == nil {
			t.Error("10 MiB of header were taken")
		}
	})
}

// A byte at a time is slow, not wrong: gRPC's own frames, and a plain request's.
func TestPlainSlowBytes(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	r := dialRaw(t, p.addr)
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(":method", "GET", ":scheme", "https", ":path", "/"), EndStream: true})
	_ = fr.WriteContinuation(1, true, r.block("x-more", "fields"))
	for _, c := range b.Bytes() {
		if _, err := r.Conn.Write([]byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	r.until(t, "answer", func(f http2.Frame) bool { return is[*http2.DataFrame](f) && r.ended(1)(f) })
}

// A client of gRPC's that connects and then waits is left alone: it is greeted,
// its pings are answered, and its first RPC passes whenever it comes.
func TestIdleClient(t *testing.T) {
	t.Parallel()
	p := newOpenPair(t, nil)
	r := dialRaw(t, p.addr)
	r.greet(t)
	r.until(t, "settings", is[*http2.SettingsFrame])
	if err := r.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	r.until(t, "ping", func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() })
	if err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: r.block(
		":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/grpc.health.v1.Health/Check", "content-type", "application/grpc", "te", "trailers")}); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteData(1, true, make([]byte, 5)); err != nil { // an empty message
		t.Fatal(err)
	}
	f := r.until(t, "trailers", r.ended(1)).(*http2.MetaHeadersFrame)
	for _, h := range f.RegularFields() {
		if h.Name == "grpc-status" && h.Value != "0" {
			t.Errorf("health: %v", f)
		}
	}
}

// The end of the server does not wait for those who probed it.
func TestStopWithPlainConnections(t *testing.T) {
	t.Parallel()
	keys := &keys{}
	pki := newPKI(t)
	pki.server.ClientAuth = tls.NoClientCert
	lis := listen(t, "127.0.0.1:0")
	stop := serve(t, rpc.ServerConfig{Keys: keys, Health: healthy, TLS: pki.server, Log: (&logBuffer{}).logger()}, lis)
	c := browser(t, "h2")
	r, err := c.Get("https://" + lis.Addr().String() + "/")
	isPlain(t, "GET", r, err)
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(pki.client)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, PermitWithoutStream: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Connect()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := conn.Invoke(ctx, "/proto.Signer/Nothing", nil, nil); err == nil {
		t.Error("an unknown method exists")
	}
	start := time.Now()
	stop()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the server took %v to end", took)
	}
}

// A client certificate that is verified but not wanted is told by its names.
func TestHandshakeLog(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(c *rpc.ServerConfig) {
		c.TLS = c.TLS.Clone()
		c.TLS.VerifyConnection = func(s tls.ConnectionState) error {
			return fmt.Errorf("not %s", s.PeerCertificates[0].Subject.CommonName)
		}
	})
	if err := p.client.Check(t.Context()); err == nil {
		t.Error("a client that is refused gets through")
	}
	eventually(t, "the refusal is logged with its reason", func() bool { return strings.Contains(p.log.String(), "not server") })
	p.log.mu.Lock()
	p.log.buf.Reset()
	p.log.mu.Unlock()
	for range 20 {
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{RootCAs: x509.NewCertPool()})
		if err == nil {
			conn.Close()
			t.Fatal("verified by nobody")
		}
	}
	if n := strings.Count(p.log.String(), "TLS handshake failed"); n > 5 {
		t.Errorf("20 failed handshakes left %d lines", n)
	}
}
