package rpc

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Harbor's chart has Kubernetes probe the signer with "GET /" on this port, for
// readiness and for liveness, and takes a 200 for good: what upstream's gRPC
// library of 2016 answers to anything. gRPC's of today answers 415, and the pod
// is restarted for ever. So every request that is not gRPC's gets a 200 while
// the process serves, whatever the state of the database: no restart of the
// signer mends that. Who wants to know more asks gRPC's health service.
const plainBody = "trust-signer: signs for a Notary v1 server, over gRPC. This answer says only that it runs; " +
	"ask grpc.health.v1.Health/Check whether it can sign.\n"

const plainType = "text/plain; charset=utf-8"

// Limits for those who do not speak gRPC. Probes ask once.
const (
	plainLife     = 30 * time.Second // of an HTTP/2 connection
	plainLinger   = time.Second
	plainRequests = 100 // on one connection: all answers together fit the first flow control window
	maxPlainFrame = 16 << 10
	// maxHeld bounds the frames of one header block, a flood of empty ones too.
	maxHeld      = 64 << 10
	maxPlainHead = 16 << 10 // HTTP/1.1
	maxPlainRest = 1 << 20  // HTTP/1.1: what is read of a body, so that its sender reads the answer
)

// answerHTTP1 answers one request. The deadline of conn is the handshake's.
func answerHTTP1(conn *tls.Conn) {
	limited := &io.LimitedReader{R: conn, N: maxPlainHead}
	req, err := http.ReadRequest(bufio.NewReader(limited))
	if err != nil || req.ProtoMajor != 1 {
		return
	}
	limited.N = maxPlainRest
	if req.Header.Get("Expect") == "" {
		_, _ = io.Copy(io.Discard, req.Body) // the answer is the same for half of it
	}
	a := http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req, Close: true,
		Header:        http.Header{"Content-Type": {plainType}, "Cache-Control": {"no-store"}},
		ContentLength: int64(len(plainBody)), Body: io.NopCloser(strings.NewReader(plainBody)),
	}
	if a.Write(conn) != nil || conn.CloseWrite() != nil {
		return
	}
	// Closed with something unread, the connection would be reset, and the
	// answer might be lost on its way.
	_ = conn.SetReadDeadline(time.Now().Add(plainLinger))
	_, _ = io.Copy(io.Discard, limited)
}

// A plainConn is an HTTP/2 connection as gRPC reads it, until its first request
// is known. Frames before that are passed on one by one, so that gRPC greets
// and is greeted as ever. A first request of gRPC's ends its work: what follows
// is not looked at. After any other, gRPC is given only the frames of the
// connection itself (settings, pings), and every request is answered here.
//
// Read is called by one goroutine, gRPC's reader. Its writer writes whole
// frames: ours fit in between.
type plainConn struct {
	net.Conn
	state    plainState
	held     held   // the bytes of the frame being read
	ready    []byte // what Read returns next
	frames   *http2.Framer
	settled  bool   // the client's settings were seen
	window   uint32 // of a new stream, as the client wants it
	last     uint32 // the ID of the last request
	requests int
	open     map[uint32]bool // requests whose body is not at its end; true for HEAD
	leaving  bool            // no further request is answered
}

type plainState int

const (
	greeting plainState = iota // the client's preface
	undecided
	transparent
	answering
)

func newPlainConn(conn net.Conn) *plainConn {
	c := &plainConn{Conn: conn, window: 65_535, open: map[uint32]bool{}}
	c.frames = http2.NewFramer(nil, io.TeeReader(conn, &c.held))
	c.frames.SetMaxReadFrameSize(maxPlainFrame)
	c.frames.MaxHeaderListSize = maxHeaderBytes
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return c
}

// held remembers bytes, and how many it takes.
type held struct{ bytes.Buffer }

var errHeadTooLong = errors.New("header block of too many frames")

func (h *held) Write(p []byte) (int, error) {
	if h.Len()+len(p) > maxHeld {
		return 0, errHeadTooLong
	}
	return h.Buffer.Write(p)
}

func (c *plainConn) Read(p []byte) (int, error) {
	for {
		if len(c.ready) > 0 {
			n := copy(p, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		}
		var err error
		switch c.state {
		case transparent:
			c.frames, c.held, c.ready = nil, held{}, nil
			return c.Conn.Read(p)
		case greeting:
			err = c.greet()
		case undecided:
			err = c.decide()
		case answering:
			err = c.answer()
		}
		if err != nil {
			return 0, err
		}
	}
}

// pass gives gRPC what was read, and what follows in state next.
func (c *plainConn) pass(next plainState) {
	c.ready, c.state = c.held.Bytes(), next
}

func (c *plainConn) greet() error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.Conn, preface); err != nil {
		return err
	}
	c.ready, c.state = preface, undecided
	if string(preface) != http2.ClientPreface {
		c.state = transparent // gRPC refuses it
	}
	return nil
}

// decide reads one frame. What breaks the protocol is left to gRPC.
func (c *plainConn) decide() error {
	c.held.Reset()
	f, err := c.frames.ReadFrame()
	if err != nil {
		if !isProtocol(err) {
			return err
		}
		c.pass(transparent)
		return nil
	}
	h, ok := f.(*http2.MetaHeadersFrame)
	switch {
	case !ok:
		c.note(f)
		c.pass(undecided)
	case !c.settled || h.Truncated || isGRPC(h):
		c.pass(transparent)
	default:
		c.state = answering
		now := time.Now()
		// The later one is for the farewell.
		_ = c.SetReadDeadline(now.Add(plainLife))
		_ = c.SetWriteDeadline(now.Add(plainLife + plainLinger))
		return c.reply(h)
	}
	return nil
}

// isProtocol tells what a peer sent from what happened to the connection.
func isProtocol(err error) bool {
	var ce http2.ConnectionError
	var se http2.StreamError
	return errors.As(err, &ce) || errors.As(err, &se) || errors.Is(err, http2.ErrFrameTooLarge)
}

func isGRPC(h *http2.MetaHeadersFrame) bool {
	if h.PseudoValue("method") != http.MethodPost {
		return false
	}
	for _, f := range h.RegularFields() {
		if f.Name == "content-type" {
			return strings.HasPrefix(f.Value, "application/grpc")
		}
	}
	return false
}

func (c *plainConn) note(f http2.Frame) {
	s, ok := f.(*http2.SettingsFrame)
	if !ok || s.IsAck() {
		return
	}
	c.settled = true
	if size, ok := s.Value(http2.SettingInitialWindowSize); ok {
		c.window = size
	}
}

// answer reads one frame of a connection that is not gRPC's.
func (c *plainConn) answer() error {
	c.held.Reset()
	f, err := c.frames.ReadFrame()
	if err != nil {
		// Its time is over, it broke the protocol, or it is gone.
		_ = c.farewell()
		return io.EOF
	}
	if f.Header().StreamID == 0 {
		c.note(f)
		c.pass(answering)
		return nil
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.reply(f)
	case *http2.DataFrame:
		return c.skip(f)
	case *http2.RSTStreamFrame:
		delete(c.open, f.StreamID)
	}
	return nil
}

// skip passes over a piece of a body, and asks for the next. How long that may
// go on is a matter of plainLife.
func (c *plainConn) skip(f *http2.DataFrame) error {
	if n := f.Length; n > 0 {
		err := c.write(func(w *http2.Framer) error {
			err := w.WriteWindowUpdate(0, n)
			if _, ok := c.open[f.StreamID]; ok && !f.StreamEnded() {
				err = errors.Join(err, w.WriteWindowUpdate(f.StreamID, n))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if f.StreamEnded() {
		return c.finish(f.StreamID)
	}
	return nil
}

// finish answers a request whose body has come to its end. Answered before, and
// reset, some clients take it for a failure.
func (c *plainConn) finish(id uint32) error {
	head, ok := c.open[id]
	if !ok {
		return nil
	}
	delete(c.open, id)
	return c.send(id, head)
}

// reply answers a request, whatever it asks for.
func (c *plainConn) reply(h *http2.MetaHeadersFrame) error {
	switch id := h.StreamID; {
	case id <= c.last && h.StreamEnded():
		return c.finish(id) // these are trailers
	case id%2 == 0 || id <= c.last:
		return io.EOF
	case c.leaving:
		return nil // it was told that this is not answered
	case isGRPC(h):
		// gRPC never saw this connection's headers, and can no longer read
		// them. Its clients ask again on another one.
		_ = c.SetReadDeadline(time.Now().Add(plainLinger))
		return c.farewell()
	}
	c.last = h.StreamID
	c.requests++
	c.open[c.last] = h.PseudoValue("method") == http.MethodHead
	var err error
	if h.StreamEnded() {
		err = c.finish(c.last)
	}
	if err == nil && c.requests == plainRequests {
		err = c.farewell()
	}
	return err
}

// send writes an answer. Header fields are sent in the forms that leave no trace
// in the client's decoder, whose other half is gRPC's.
func (c *plainConn) send(id uint32, head bool) error {
	body := !head && c.window >= uint32(len(plainBody))
	return c.write(func(w *http2.Framer) error {
		err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: plainHead(body || head), EndHeaders: true, EndStream: !body})
		if body {
			err = errors.Join(err, w.WriteData(id, true, []byte(plainBody)))
		}
		return err
	})
}

// farewell tells the client which request was the last to be answered.
func (c *plainConn) farewell() error {
	if c.leaving {
		return nil
	}
	c.leaving = true
	return c.write(func(w *http2.Framer) error { return w.WriteGoAway(c.last, http2.ErrCodeNo, nil) })
}

// write sends what frame makes in one piece.
func (c *plainConn) write(frame func(*http2.Framer) error) error {
	var b bytes.Buffer
	if err := frame(http2.NewFramer(&b, nil)); err != nil {
		return fmt.Errorf("answering a plain request: %w", err)
	}
	_, err := c.Write(b.Bytes())
	return err
}

// plainHead is the header block of every answer: ":status 200" from the static
// table, the rest as literals that are not indexed. long means that the answer
// has a body, or would have one.
func plainHead(long bool) []byte {
	length := 0
	if long {
		length = len(plainBody)
	}
	head := []byte{0x88}
	for _, f := range [...][2]string{
		{"content-type", plainType},
		{"content-length", strconv.Itoa(length)},
		{"cache-control", "no-store"},
	} {
		head = append(head, 0)
		for _, s := range f {
			head = append(append(head, byte(len(s))), s...) // all are shorter than 127
		}
	}
	return head
}
