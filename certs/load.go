// Package certs loads certificates, keys and CAs from files, loads them anew
// when the files change, and holds the TLS configurations of the listeners and
// of the client between the two programs. It also makes the certificates of a
// development set-up.
package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Files names the PEM files of a Store. Cert and Key go together; without
// them there is no certificate of our own. CA, if set, holds the CAs of the
// peer, exclusively. Any certificate in it is a trust anchor, an intermediate
// too.
type Files struct {
	Cert, Key, CA string
}

// material is what the files hold. It does not change.
type material struct {
	sum  [sha256.Size]byte // of all files
	cert *tls.Certificate  // nil: none
	pool *x509.CertPool    // nil: the system's
}

// load reads all files. The error names every file at fault.
func (f Files) load() (*material, error) {
	h := sha256.New()
	read := func(what, path string) ([]byte, error) {
		if path == "" {
			return nil, nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = pe.Err
			}
			return nil, fmt.Errorf("reading the %s %s: %w", what, path, err)
		}
		fmt.Fprintf(h, "%d:", len(raw))
		h.Write(raw)
		return raw, nil
	}
	cert, certErr := read("certificate", f.Cert)
	key, keyErr := read("private key", f.Key)
	ca, caErr := read("CA file", f.CA)
	m := &material{}
	if certErr == nil && keyErr == nil && f.Cert != "" {
		m.cert, certErr = f.keyPair(cert, key)
	}
	if caErr == nil && f.CA != "" {
		m.pool, caErr = poolOf(ca, f.CA)
	}
	if err := errors.Join(certErr, keyErr, caErr); err != nil {
		return nil, err
	}
	m.sum = [sha256.Size]byte(h.Sum(nil))
	return m, nil
}

// keyPair is tls.X509KeyPair with errors that say which file, and what to do.
func (f Files) keyPair(cert, key []byte) (*tls.Certificate, error) {
	if !hasBlock(cert, isCertificate) {
		if hasBlock(cert, isKey) {
			return nil, fmt.Errorf("%s holds a private key where a certificate belongs; are certificate and key swapped?", f.Cert)
		}
		return nil, fmt.Errorf("%s holds no PEM certificate", f.Cert)
	}
	if hasBlock(key, isEncryptedKey) {
		return nil, fmt.Errorf("the private key %s is encrypted; make sure the key is not encrypted (openssl pkey -in %s -out FILE)", f.Key, f.Key)
	}
	if !hasBlock(key, isKey) {
		return nil, fmt.Errorf("%s holds no PEM private key", f.Key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil && strings.Contains(err.Error(), "does not match") {
		return nil, fmt.Errorf("the private key %s does not belong to the certificate %s", f.Key, f.Cert)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the certificate %s with the key %s: %w", f.Cert, f.Key, err)
	}
	return &pair, nil
}

// poolOf skips what it cannot parse, as every TLS library does with bundles,
// but not all of it.
func poolOf(raw []byte, path string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if pool.AppendCertsFromPEM(raw) {
		return pool, nil
	}
	if hasBlock(raw, isCertificate) {
		return nil, fmt.Errorf("no certificate in the CA file %s can be parsed", path)
	}
	return nil, fmt.Errorf("the CA file %s holds no PEM certificate", path)
}

func isCertificate(b *pem.Block) bool { return b.Type == "CERTIFICATE" }

func isKey(b *pem.Block) bool {
	return b.Type == "PRIVATE KEY" || strings.HasSuffix(b.Type, " PRIVATE KEY")
}

func isEncryptedKey(b *pem.Block) bool {
	return b.Type == "ENCRYPTED PRIVATE KEY" || isKey(b) && strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED")
}

func hasBlock(raw []byte, is func(*pem.Block) bool) bool {
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if is(block) {
			return true
		}
	}
	return false
}
