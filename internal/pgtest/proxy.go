package pgtest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// A Fault is one way in which a connection can break.
type Fault int

const (
	// None forwards everything.
	None Fault = iota
	// LoseRequest cuts the connection in place of the next request: the
	// database never sees it.
	LoseRequest
	// LoseAnswer cuts the connection in place of the next answer: the database
	// has done what it was asked.
	LoseAnswer
	// Refuse cuts all connections, and each new one at once.
	Refuse
	// Stall keeps all connections open and forwards nothing more.
	Stall
)

// A Proxy stands between a program and the database.
type Proxy struct {
	listener net.Listener
	target   string

	// mu guards the rest. It is not held while reading from or writing to a
	// connection.
	mu    sync.Mutex
	fault Fault
	skip  int // requests or answers that a one-time fault lets pass first
	conns map[net.Conn]bool
	heal  chan struct{} // closed when a Stall ends
	seen  int           // requests that came by
}

// NewProxy returns a proxy in front of the cluster that rawURL points to, and
// the same URL with the proxy's address. It ends with the test.
func NewProxy(t testing.TB, rawURL string) (*Proxy, string) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal("the URL to put a proxy in front of cannot be parsed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: u.Host, conns: map[net.Conn]bool{}, heal: make(chan struct{})}
	u.Host = l.Addr().String()
	go p.accept()
	t.Cleanup(func() {
		l.Close()
		p.Set(Refuse)
	})
	return p, u.String()
}

// Set makes the fault happen. LoseRequest and LoseAnswer happen once; the
// others last until the next Set.
func (p *Proxy) Set(f Fault) { p.SetAfter(0, f) }

// SetAfter is Set, but lets n requests or answers pass before LoseRequest or
// LoseAnswer happens.
func (p *Proxy) SetAfter(n int, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == Stall && f != Stall {
		close(p.heal)
		p.heal = make(chan struct{})
	}
	p.fault, p.skip = f, n
	if f == Refuse {
		for c := range p.conns {
			c.Close()
		}
	}
}

// Requests is how often data went from a program to the database: with a
// driver that sends a statement in one go, the number of round trips.
func (p *Proxy) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", p.target)
		if err != nil {
			c.Close()
			continue
		}
		if !p.add(c, s) {
			c.Close()
			s.Close()
			continue
		}
		go p.pipe(s, c, LoseRequest)
		go p.pipe(c, s, LoseAnswer)
	}
}

func (p *Proxy) add(c, s net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == Refuse {
		return false
	}
	p.conns[c], p.conns[s] = true, true
	return true
}

// pipe forwards from src to dst until either closes, or the fault mine happens.
func (p *Proxy) pipe(dst, src net.Conn, mine Fault) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, src)
		src.Close()
		dst.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !p.pass(mine) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits out a Stall and reports whether the data may go on.
func (p *Proxy) pass(mine Fault) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mine == LoseRequest {
		p.seen++
	}
	for p.fault == Stall {
		heal := p.heal
		p.mu.Unlock()
		<-heal
		p.mu.Lock()
	}
	switch p.fault {
	case Refuse:
		return false
	case mine:
		if p.skip > 0 {
			p.skip--
			return true
		}
		p.fault = None
		return false
	}
	return true
}
