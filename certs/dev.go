package certs

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
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"countersign/internal/atomicfile"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	leafLife   = 825 * 24 * time.Hour // longer ones are refused by some clients
	renewLeft  = 30 * 24 * time.Hour
	backdating = time.Hour // for clocks that are behind ours
)

// DevConfig says which certificates a development set-up needs.
type DevConfig struct {
	// Dir is the folder of the files; it must exist.
	Dir string
	// Hosts are the names and addresses of the server, besides localhost,
	// 127.0.0.1 and ::1.
	Hosts []string
	// Now is time.Now, except in tests.
	Now func() time.Time
}

// EnsureDev makes what is missing in the folder: a CA (ca.crt, ca.key; ten
// years) and certificates by it with ECDSA P-256 keys for server, signer and
// client (825 days), each as NAME.crt and NAME.key. A certificate that does not
// fit its key, the CA or the hosts any more, or has less than 30 days left, is
// replaced. Files are whole or not there; keys are for their owner alone.
//
// The CA is replaced only within 30 days of its end, for clients have copies of
// it, or if its certificate is gone. If its key is, or one of the two is broken,
// that is the error.
func EnsureDev(cfg DevConfig) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ca, err := cfg.ensureCA()
	if err != nil {
		return fmt.Errorf("development CA: %w", err)
	}
	local := []string{"localhost", "127.0.0.1", "::1"}
	for _, leaf := range []struct {
		name  string
		hosts []string
		usage x509.ExtKeyUsage
	}{
		{"server", append(local[:len(local):len(local)], cfg.Hosts...), x509.ExtKeyUsageServerAuth},
		{"signer", local, x509.ExtKeyUsageServerAuth},
		{"client", nil, x509.ExtKeyUsageClientAuth},
	} {
		if cfg.fits(ca, leaf.name, leaf.hosts) {
			continue
		}
		if err := cfg.issue(ca, leaf.name, leaf.hosts, leaf.usage); err != nil {
			return fmt.Errorf("development certificate of the %s: %w", leaf.name, err)
		}
	}
	return nil
}

func (cfg DevConfig) file(name string) string { return filepath.Join(cfg.Dir, name) }

func (cfg DevConfig) ensureCA() (*tls.Certificate, error) {
	crt, key := cfg.file("ca.crt"), cfg.file("ca.key")
	m, err := Files{Cert: crt, Key: key}.load()
	switch {
	case err == nil && m.cert.Leaf.IsCA && m.cert.Leaf.NotAfter.Sub(cfg.Now()) > renewLeft:
		return m.cert, nil
	case err == nil && !m.cert.Leaf.IsCA:
		return nil, fmt.Errorf("%s is no CA certificate", crt)
	case err != nil && !missing(crt):
		return nil, fmt.Errorf("%w; restore it, or remove the folder %s to begin anew", err, cfg.Dir)
	}
	// Without the certificate a key is of a CA that was being made when a crash
	// came, or of one that was being replaced: both are made anew. The old
	// certificate goes first, or a crash could leave it beside the new key,
	// where it looks like damage.
	if err := os.Remove(crt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	template := cfg.template("Countersign development CA", caLife)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if err := cfg.write("ca", template, nil); err != nil {
		return nil, err
	}
	m, err = Files{Cert: crt, Key: key}.load()
	if err != nil {
		return nil, err
	}
	return m.cert, nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (cfg DevConfig) template(name string, life time.Duration) *x509.Certificate {
	now := cfg.Now()
	return &x509.Certificate{ // CreateCertificate picks a random serial number
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdating),
		NotAfter:  now.Add(life),
	}
}

// fits reports whether the certificate can go on being used.
func (cfg DevConfig) fits(ca *tls.Certificate, name string, hosts []string) bool {
	m, err := Files{Cert: cfg.file(name + ".crt"), Key: cfg.file(name + ".key")}.load()
	if err != nil {
		return false
	}
	leaf := m.cert.Leaf
	for _, h := range hosts {
		if leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return leaf.CheckSignatureFrom(ca.Leaf) == nil && leaf.NotAfter.Sub(cfg.Now()) > renewLeft
}

func (cfg DevConfig) issue(ca *tls.Certificate, name string, hosts []string, usage x509.ExtKeyUsage) error {
	template := cfg.template("Countersign development "+name, leafLife)
	if template.NotAfter.After(ca.Leaf.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return cfg.write(name, template, ca)
}

// write makes a key and its certificate, signed by ca or, if that is nil, by
// itself. The key is written first: what a crash leaves then does not fit, and
// is made anew.
func (cfg DevConfig) write(name string, template *x509.Certificate, ca *tls.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	parent, signer := template, crypto.PrivateKey(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(cfg.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600); err != nil {
		return err
	}
	return atomicfile.Write(cfg.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
