package rpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

func dialTCP(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, time.Second) }

// cutter is a listener whose connections can be cut as the death of the
// process would cut them.
type cutter struct {
	net.Listener
	mu    sync.Mutex // guards conns
	conns []*net.TCPConn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn.(*net.TCPConn))
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.Listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.SetLinger(0) // a reset, no orderly end
		conn.Close()
	}
}

// relisten listens again where lis was.
func relisten(t *testing.T, addr string) net.Listener {
	t.Helper()
	var lis net.Listener
	eventually(t, "port free again", func() (ok bool) {
		var err error
		lis, err = net.Listen("tcp", addr)
		return err == nil
	})
	return lis
}

// TestRestarts: the signer ends twenty times, in order and like a killed
// process, and is away for a while, under load. No request fails, and none
// takes five seconds.
func TestRestarts(t *testing.T) {
	const restarts = 20
	pki, k := newPKI(t), &keys{}
	cfg := rpc.ServerConfig{Keys: k, Health: healthy, TLS: pki.server, Log: (&logBuffer{}).logger()}
	lis := &cutter{Listener: listen(t, "127.0.0.1:0")}
	addr := lis.Addr().String()
	stop := serve(t, cfg, lis)
	client := dial(t, rpc.ClientConfig{Addr: addr, TLS: pki.client})

	var calls, slowest atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				_, err := client.Sign(t.Context(), gun, tuf.RoleTimestamp, keyA, []byte("content"))
				if err != nil {
					t.Errorf("request %d failed after %v: %v", calls.Load(), time.Since(start), err)
				}
				calls.Add(1)
				for took := int64(time.Since(start)); ; {
					old := slowest.Load()
					if took <= old || slowest.CompareAndSwap(old, took) {
						break
					}
				}
			}
		})
	}
	for i := range restarts {
		before := calls.Load()
		eventually(t, "requests answered", func() bool { return calls.Load() > before+100 })
		if i%2 == 1 {
			lis.cut()
		}
		stop()
		select {
		case <-time.After(time.Duration(i) * 30 * time.Millisecond): // away
		case <-t.Context().Done():
		}
		lis = &cutter{Listener: relisten(t, addr)}
		stop = serve(t, cfg, lis)
	}
	before := calls.Load()
	eventually(t, "requests answered in the end", func() bool { return calls.Load() > before+100 })
	cancel()
	wg.Wait()
	if took := time.Duration(slowest.Load()); took > 5*time.Second {
		t.Errorf("the slowest of %d requests took %v", calls.Load(), took)
	} else {
		t.Logf("%d requests over %d restarts, the slowest took %v", calls.Load(), restarts, took)
	}
}

// TestDown: whatever is wrong with the signer's end, a request says so soon, and
// works as soon as the signer does.
func TestDown(t *testing.T) {
	pki := newPKI(t)
	nobody := listen(t, "127.0.0.1:0")
	mute := listen(t, "127.0.0.1:0") // accepts, says nothing
	t.Cleanup(func() { mute.Close() })
	other := newPair(t, nil) // has another authority
	addr := nobody.Addr().String()
	nobody.Close()
	var wg sync.WaitGroup
	for name, tt := range map[string]struct {
		cfg  rpc.ClientConfig
		text string
	}{
		"nobody listens":        {rpc.ClientConfig{Addr: addr, TLS: pki.client}, "refused"},
		"no answer":             {rpc.ClientConfig{Addr: mute.Addr().String(), TLS: pki.client}, ""},
		"unknown host":          {rpc.ClientConfig{Addr: "signer.invalid:7899", TLS: pki.client}, "signer.invalid"},
		"other authority":       {rpc.ClientConfig{Addr: other.addr, TLS: pki.client}, "certificate"},
		"no client certificate": {rpc.ClientConfig{Addr: other.addr, TLS: other.pki.stranger}, ""},
	} {
		wg.Go(func() {
			client := dial(t, tt.cfg)
			for range 2 { // the second meets a connection that has failed before
				start := time.Now()
				_, err := client.Sign(t.Context(), gun, tuf.RoleTimestamp, keyA, nil)
				if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%s: got %v", name, err)
				}
				if took := time.Since(start); took > 4*time.Second {
					t.Errorf("%s: took %v", name, took)
				}
			}
			if err := client.Check(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: Check: got %v", name, err)
			}
		})
	}
	wg.Wait()
	if asked := other.keys.asked(); len(asked) > 0 {
		t.Errorf("a signer was asked %q by clients that it must not know", asked)
	}
}

// TestComesUpLate: the first request after the signer's start succeeds.
func TestComesUpLate(t *testing.T) {
	pki := newPKI(t)
	lis := listen(t, "127.0.0.1:0")
	addr := lis.Addr().String()
	lis.Close()
	client := dial(t, rpc.ClientConfig{Addr: addr, TLS: pki.client})
	if _, err := client.Sign(t.Context(), gun, tuf.RoleTimestamp, keyA, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	serve(t, rpc.ServerConfig{Keys: &keys{}, Health: healthy, TLS: pki.server, Log: (&logBuffer{}).logger()}, relisten(t, addr))
	if _, err := client.Sign(t.Context(), gun, tuf.RoleTimestamp, keyA, nil); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestHungSigner: upstream's server waits for ever.
func TestHungSigner(t *testing.T) {
	p := newPair(t, nil)
	release := make(chan struct{})
	defer close(release)
	// Not even the end of the caller's time ends it: that is known here a little
	// earlier than there, and an answer could still arrive.
	p.keys.set(nil, func(context.Context) { <-release })
	client := dial(t, rpc.ClientConfig{Addr: p.addr, TLS: p.pki.client, Deadline: 300 * time.Millisecond})
	start := time.Now()
	if _, err := client.Sign(t.Context(), gun, tuf.RoleTimestamp, keyA, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.client.Sign(ctx, gun, tuf.RoleTimestamp, keyA, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("with the caller's deadline: got %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}
