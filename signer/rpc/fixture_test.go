package rpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

// pki is a certificate authority and the two sides' configurations.
type pki struct {
	server, client, stranger *tls.Config
}

func newPKI(t testing.TB) pki {
	t.Helper()
	ca, caKey := certificate(t, "test CA", nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	pair := func(name string) tls.Certificate {
		c, k := certificate(t, name, ca, caKey)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: k}
	}
	return pki{
		server:   &tls.Config{Certificates: []tls.Certificate{pair("signer")}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
		client:   &tls.Config{Certificates: []tls.Certificate{pair("server")}, RootCAs: pool, MinVersion: tls.VersionTLS12},
		stranger: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}
}

func certificate(t testing.TB, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage = x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// keys is a KeyService that remembers what it was asked, and answers err if
// that is set. hook, if set, runs first.
type keys struct {
	mu    sync.Mutex // guards the fields below
	calls []string
	err   error
	hook  func(context.Context)
	role  tuf.RoleName // of the key that Key returns
}

func (k *keys) ask(ctx context.Context, call string) error {
	k.mu.Lock()
	k.calls = append(k.calls, call)
	hook, err := k.hook, k.err
	k.mu.Unlock()
	if hook != nil {
		hook(ctx)
	}
	return err
}

func (k *keys) set(err error, hook func(context.Context)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.hook, k.calls = err, hook, nil
}

func (k *keys) asked() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

var public = bytes.Repeat([]byte{7}, 32)

func (k *keys) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	err := k.ask(ctx, fmt.Sprintf("create %q %q %q", gun, role, algorithm))
	return storage.Key{ID: "new", GUN: gun, Role: role, Algorithm: algorithm, Public: public}, err
}

func (k *keys) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (storage.Key, error) {
	err := k.ask(ctx, fmt.Sprintf("key %q %q %q", gun, role, id))
	return storage.Key{ID: id, GUN: gun, Role: k.role, Algorithm: tuf.KeyED25519, Public: public}, err
}

func (k *keys) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) (storage.Key, tuf.Signature, error) {
	err := k.ask(ctx, fmt.Sprintf("sign %q %q %q", gun, role, id))
	sig := tuf.Signature{KeyID: id, Method: "eddsa", Sig: fmt.Appendf(nil, "signature over %d bytes", len(content))}
	return storage.Key{ID: id, Algorithm: tuf.KeyED25519, Public: public}, sig, err
}

func (k *keys) DeleteKey(ctx context.Context, id tuf.KeyID) error {
	return k.ask(ctx, fmt.Sprintf("delete %q", id))
}

func (k *keys) DeleteOwnedKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error {
	return k.ask(ctx, fmt.Sprintf("delete %q %q %q", gun, role, id))
}

// logBuffer is a log that tests can read while it is written.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// serve runs a server on lis until the test ends or stop is called, which
// waits for its end.
func serve(t testing.TB, cfg rpc.ServerConfig, lis net.Listener) (stop func()) {
	t.Helper()
	s, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) { // a cutter closes its listener itself
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// pair is a running server, our client of it, and a bare connection to it.
type pair struct {
	keys   *keys
	client *rpc.Client
	conn   *grpc.ClientConn
	log    *logBuffer
	pki    pki
	addr   string
}

// healthy is a health function that finds no fault.
func healthy(context.Context) error { return nil }

func newPair(t testing.TB, change func(*rpc.ServerConfig)) *pair {
	t.Helper()
	p := &pair{keys: &keys{role: tuf.RoleSnapshot}, log: &logBuffer{}, pki: newPKI(t)}
	cfg := rpc.ServerConfig{Keys: p.keys, Health: healthy, TLS: p.pki.server, Log: p.log.logger()}
	if change != nil {
		change(&cfg)
	}
	lis := listen(t, "127.0.0.1:0")
	p.addr = lis.Addr().String()
	serve(t, cfg, lis)
	p.client = dial(t, rpc.ClientConfig{Addr: p.addr, TLS: p.pki.client})
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(credentials.NewTLS(p.pki.client)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.conn = conn
	return p
}

func dial(t testing.TB, cfg rpc.ClientConfig) *rpc.Client {
	t.Helper()
	c, err := rpc.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
