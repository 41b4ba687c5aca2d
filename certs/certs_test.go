package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"countersign/certs"
	"countersign/internal/atomicfile"
)

// An issuer is a certificate with its key, as tests make them.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a certificate by parent, or by itself if that is nil.
func issue(t *testing.T, parent *issuer, template x509.Certificate) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issueFor(t, key, parent, template)
}

func issueFor(t *testing.T, key crypto.Signer, parent *issuer, template x509.Certificate) *issuer {
	t.Helper()
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(1000 * time.Hour)
	}
	if template.IsCA {
		template.BasicConstraintsValid = true
		template.KeyUsage = x509.KeyUsageCertSign
	}
	by, signer := &template, key
	if parent != nil {
		by, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert: cert, key: key}
}

func ca(t *testing.T, parent *issuer, name string) *issuer {
	t.Helper()
	return issue(t, parent, x509.Certificate{IsCA: true, Subject: pkix.Name{CommonName: name}})
}

// leaf makes a certificate for both uses.
func leaf(t *testing.T, parent *issuer, hosts ...string) *issuer {
	t.Helper()
	template := x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return issue(t, parent, template)
}

func certPEM(chain ...*issuer) []byte {
	var out []byte
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return out
}

func keyPEM(t *testing.T, i *issuer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// write makes or replaces a file. Who looks at it meanwhile sees all or nothing.
func write(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// files writes a chain with its first member's key, and a pool.
func files(t *testing.T, chain []*issuer, pool ...*issuer) certs.Files {
	t.Helper()
	dir := t.TempDir()
	var f certs.Files
	if len(chain) > 0 {
		f.Cert = write(t, filepath.Join(dir, "x.crt"), certPEM(chain...))
		f.Key = write(t, filepath.Join(dir, "x.key"), keyPEM(t, chain[0]))
	}
	if len(pool) > 0 {
		f.CA = write(t, filepath.Join(dir, "ca.crt"), certPEM(pool...))
	}
	return f
}

func load(t *testing.T, f certs.Files) *certs.Store {
	t.Helper()
	s, err := certs.Load(certs.Config{Files: f})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A result is what the two ends of a connection saw.
type result struct {
	client, server error
	state          tls.ConnectionState // the client's
}

// connect shakes hands over a real connection and exchanges a byte each way,
// since with TLS 1.3 a client learns of a refusal only when it reads.
func connect(t *testing.T, server, client *tls.Config) result {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	deadline := time.Now().Add(10 * time.Second)
	served := make(chan error, 1)
	go func() {
		raw, err := lis.Accept()
		if err != nil {
			served <- err
			return
		}
		defer raw.Close()
		served <- errors.Join(raw.SetDeadline(deadline), pingPong(tls.Server(raw, server)))
	}()
	raw, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	r := result{client: pingPong(conn), state: conn.ConnectionState()}
	_ = raw.Close()
	r.server = <-served
	return r
}

func pingPong(conn *tls.Conn) error {
	if err := conn.Handshake(); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

func (r result) ok() bool { return r.client == nil && r.server == nil }
