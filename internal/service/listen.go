package service

import (
	"context"
	"net"
	"sync"
)

// Listen listens on the TCP address addr. At most connections connections are
// open at once; more wait, in the kernel's queue, until one is closed.
func Listen(ctx context.Context, addr string, connections int) (net.Listener, error) {
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &limitListener{Listener: lis, slots: make(chan struct{}, connections), closed: make(chan struct{})}, nil
}

type limitListener struct {
	net.Listener
	slots  chan struct{} // holds one value per open connection
	once   sync.Once
	closed chan struct{}
}

func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitConn{Conn: c, release: func() { <-l.slots }}, nil
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// Loopback reports whether nobody outside this machine can reach the address.
func Loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
