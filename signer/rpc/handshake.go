package rpc

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	protoHTTP2 = "h2"
	protoHTTP1 = "http/1.1"
)

// serverCredentials are TLS for a port on which others than gRPC's clients ask,
// too: what speaks HTTP/1.1 is answered here, what speaks HTTP/2 by a [plainConn].
type serverCredentials struct {
	// As a whole it is gRPC's own; only the server's side is another.
	credentials.TransportCredentials
	config  *tls.Config
	refused *refusals
}

func newServerCredentials(config *tls.Config, log *slog.Logger, now func() time.Time) *serverCredentials {
	config = config.Clone()
	if len(config.NextProtos) == 0 {
		config.NextProtos = []string{protoHTTP2, protoHTTP1}
	}
	return &serverCredentials{credentials.NewTLS(config), config, &refusals{log: log, now: now}}
}

// ServerHandshake runs within handshakeTimeout, on a goroutine of its own: gRPC
// has set the deadline of raw.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(raw, c.config)
	if err := conn.Handshake(); err != nil {
		c.refused.tell(raw.RemoteAddr(), err)
		conn.Close()
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protoHTTP2 {
		answerHTTP1(conn)
		conn.Close()
		return nil, nil, io.EOF // as of a peer that has left: not worth a word of gRPC's
	}
	info := credentials.TLSInfo{State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	return newPlainConn(conn), info, nil
}

func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.config.Clone(), c.refused}
}

// refusedEvery is how often a failed handshake is logged at most: whoever can
// connect can fail, as often as he likes.
const refusedEvery = time.Second

// refusals logs failed handshakes: a certificate that is not accepted here is
// told nowhere else, and its owner learns no more than that it was not.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex // guards the fields below; held for a look at them
	last   time.Time
	silent int
}

func (r *refusals) tell(peer net.Addr, err error) {
	// A peer that left or went silent, as port scanners do.
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	r.mu.Lock()
	now := r.now()
	if now.Sub(r.last) < refusedEvery {
		r.silent++
		r.mu.Unlock()
		return
	}
	others := r.silent
	r.last, r.silent = now, 0
	r.mu.Unlock()
	attrs := []any{"address", peer.String(), "error", err}
	if others > 0 {
		attrs = append(attrs, "others", others)
	}
	r.log.Warn("connection refused: TLS handshake failed", attrs...)
}
