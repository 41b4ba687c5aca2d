package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A balancer passes TCP connections on to its servers in turn, as what stands in
// front of replicas does.
type balancer struct {
	l net.Listener

	mu      sync.Mutex // guards what follows; nothing is sent or dialled while held
	servers []string
	next    int
	open    map[string]int // connections, by server, also of those removed
}

func newBalancer(t testing.TB, servers ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{l: l, servers: servers, open: map[string]int{}}
	t.Cleanup(func() { l.Close() })
	go b.accept()
	return b
}

func (b *balancer) port() string { return strconv.Itoa(b.l.Addr().(*net.TCPAddr).Port) }

func (b *balancer) accept() {
	for {
		conn, err := b.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go b.pass(conn.(*net.TCPConn))
	}
}

// pass joins a connection to one of the servers, and ends when both directions
// have. With no server it closes the connection.
func (b *balancer) pass(in *net.TCPConn) {
	defer in.Close()
	addr, ok := b.pick()
	if !ok {
		return
	}
	defer b.release(addr)
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	out := conn.(*net.TCPConn)
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // whatever ends it, the other side is told
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}

func (b *balancer) pick() (addr string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.servers) == 0 {
		return "", false
	}
	b.next++
	addr = b.servers[b.next%len(b.servers)]
	b.open[addr]++
	return addr, true
}

func (b *balancer) release(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[addr]--
}

func (b *balancer) add(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = append(b.servers, addr)
}

// remove takes a server out of the turn and waits until its last connection has
// ended.
func (b *balancer) remove(addr string) error {
	b.mu.Lock()
	b.servers = slices.DeleteFunc(b.servers, func(a string) bool { return a == addr })
	b.mu.Unlock()
	return waitFor(20*time.Second, "the connections to "+addr+" to end", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := b.open[addr]; n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}
