package certs_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/certs"
)

// A logbook collects log lines while they are written.
type logbook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// eventually polls until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// watch loads files and looks at them every few milliseconds.
func watch(t *testing.T, f certs.Files, log *logbook, now func() time.Time) *certs.Store {
	t.Helper()
	s, err := certs.Load(certs.Config{Files: f, Interval: 5 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil)), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Watch(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// TestReload swaps everything under a server and a client that go on using the
// same configurations.
func TestReload(t *testing.T) {
	oldCA, newCA := ca(t, nil, "old"), ca(t, nil, "new")
	serverFiles := files(t, []*issuer{leaf(t, oldCA, "signer")}, oldCA)
	clientFiles := files(t, []*issuer{leaf(t, oldCA, "client")}, oldCA)
	log := &logbook{}
	server := watch(t, serverFiles, log, nil).Signer()
	client := watch(t, clientFiles, log, nil).Client("signer")
	if r := connect(t, server, client); !r.ok() {
		t.Fatalf("before: client %v, server %v", r.client, r.server)
	}

	replace := func(f certs.Files, host string) {
		next := leaf(t, newCA, host)
		write(t, f.Cert, certPEM(next))
		write(t, f.Key, keyPEM(t, next))
		write(t, f.CA, certPEM(newCA))
	}
	replace(serverFiles, "signer")
	eventually(t, "the server has the new files", func() bool {
		r := connect(t, server, client)
		return r.client != nil && strings.Contains(r.client.Error(), `issued by "CN=new"`)
	})
	replace(clientFiles, "client")
	eventually(t, "both have the new files", func() bool { return connect(t, server, client).ok() })

	old := load(t, files(t, []*issuer{leaf(t, oldCA, "client")}, newCA)).Client("signer")
	if r := connect(t, server, old); r.ok() {
		t.Error("a client of the old CA is still let in")
	}
	if !strings.Contains(log.String(), "certificate files loaded anew") {
		t.Errorf("the change was not logged:\n%s", log)
	}
}

// TestHalfReplaced: a pair of which one half is new, or a file that is gone,
// changes nothing, is told once, and is made good by the other half.
func TestHalfReplaced(t *testing.T) {
	root := ca(t, nil, "root")
	f := files(t, []*issuer{leaf(t, root, "signer")})
	log := &logbook{}
	store := watch(t, f, log, nil)
	server, client := store.Signer(), load(t, files(t, nil, root)).Client("signer")
	end := store.NotAfter()

	next := issue(t, root, x509.Certificate{DNSNames: []string{"signer"}, NotAfter: time.Now().Add(50 * time.Hour)})
	write(t, f.Cert, certPEM(next))
	eventually(t, "the fault is logged", func() bool { return strings.Contains(log.String(), "does not belong to the certificate") })
	if r := connect(t, server, client); !r.ok() || !r.state.PeerCertificates[0].NotAfter.Equal(end) {
		t.Errorf("with half a pair: client %v, server %v", r.client, r.server)
	}
	write(t, f.Key, keyPEM(t, next))
	eventually(t, "the new pair is in use", func() bool { return store.NotAfter().Equal(next.cert.NotAfter) })
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("the fault was logged %d times:\n%s", n, log)
	}
}

func TestExpiryIsTold(t *testing.T) {
	root := ca(t, nil, "root")
	start := time.Now()
	f := files(t, []*issuer{issue(t, root, x509.Certificate{DNSNames: []string{"signer"}, NotAfter: start.Add(40 * 24 * time.Hour)})})
	var mu sync.Mutex // guards now
	now := start
	log := &logbook{}
	watch(t, f, log, func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	})
	after := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = start.Add(d)
	}
	after(20 * 24 * time.Hour)
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "expires soon") })
	if !strings.Contains(log.String(), "days_left=19") && !strings.Contains(log.String(), "days_left=20") {
		t.Errorf("days left:\n%s", log)
	}
	after(20*24*time.Hour + 23*time.Hour)
	after(21*24*time.Hour + time.Hour)
	eventually(t, "the next day's warning", func() bool { return strings.Count(log.String(), "expires soon") == 2 })
	after(41 * 24 * time.Hour)
	eventually(t, "the end is told", func() bool { return strings.Contains(log.String(), "level=ERROR msg=\"the certificate has expired") })
}
