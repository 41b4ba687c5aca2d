package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLS are the files of a cluster that speaks TLS, for the URLs of clients.
type TLS struct {
	// CA has issued the server's certificate, which is for "localhost" alone,
	// and the clients'. OtherCA has issued nothing.
	CA, OtherCA string
	dir         string
	ca          *x509.Certificate
	key         *ecdsa.PrivateKey
}

// EnableTLS turns TLS on, and replaces pg_hba.conf by rules, which come behind
// one that lets the superuser in. The server is restarted.
func (c *Cluster) EnableTLS(t testing.TB, rules string) *TLS {
	t.Helper()
	f := &TLS{dir: t.TempDir()}
	f.CA, f.ca, f.key = f.authority(t, "ca")
	f.OtherCA, _, _ = f.authority(t, "other")
	cert, key := f.Issue(t, "localhost")
	for name, from := range map[string]string{"server.crt": cert, "server.key": key, "ca.crt": f.CA} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		c.install(t, name, raw)
	}
	c.install(t, "pg_hba.conf", []byte("host all "+admin+" 127.0.0.1/32 scram-sha-256\n"+rules))
	if err := c.admin("alter system set ssl = on"); err != nil {
		t.Fatal(err)
	}
	if err := c.admin("alter system set ssl_ca_file = 'ca.crt'"); err != nil {
		t.Fatal(err)
	}
	c.Stop(t)
	c.Start(t)
	return f
}

// Admin runs a statement as superuser.
func (c *Cluster) Admin(t testing.TB, statement string) {
	t.Helper()
	if err := c.admin(statement); err != nil {
		t.Fatal(err)
	}
}

// install writes a file of the data folder, as the server's own.
func (c *Cluster) install(t testing.TB, name string, content []byte) {
	t.Helper()
	path := filepath.Join(c.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.cred != nil {
		if err := os.Chown(path, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// Issue makes a certificate for a DNS name, which is its common name too, and a
// key with mode 0600, and returns their paths.
func (f *TLS) Issue(t testing.TB, name string) (cert, key string) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	key = f.write(t, name+".key", "PRIVATE KEY", der)
	return f.write(t, name+".crt", "CERTIFICATE", sign(t, template, f.ca, k, f.key)), key
}

func (f *TLS) authority(t testing.TB, name string) (string, *x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := sign(t, template, template, k, k)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return f.write(t, name+".crt", "CERTIFICATE", der), cert, k
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, template, parent *x509.Certificate, key, with *ecdsa.PrivateKey) []byte {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), with)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (f *TLS) write(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
