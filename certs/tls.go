package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// Cipher suites for TLS 1.2. Clients of upstream's server may be old: it offers
// them AES-CBC too, always with ephemeral keys. TLS 1.3 has its own suites.
var (
	clientSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
	serverSuites = append(clientSuites[:len(clientSuites):len(clientSuites)],
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
		tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	)
)

// served is material with the configurations that are made of it. One
// configuration for all connections lets sessions be resumed.
type served struct {
	*material
	https, signer *tls.Config
}

func serve(m *material) *served {
	s := &served{material: m}
	if m.cert == nil {
		return s
	}
	base := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: serverSuites,
		Certificates: []tls.Certificate{*m.cert},
	}
	if m.pool != nil {
		base.ClientAuth = tls.RequireAndVerifyClientCert
		base.ClientCAs = m.pool
		// A resumed session would outlive a CA that was taken from the file.
		base.SessionTicketsDisabled = true
	}
	s.https = base
	s.signer = base.Clone()
	s.signer.NextProtos = []string{"h2", "http/1.1"}
	return s
}

// HTTPS is the configuration of the server's listener: no ALPN, so that
// clients speak HTTP/1.1. If there is a CA file, clients must show a
// certificate that it vouches for.
func (s *Store) HTTPS() *tls.Config {
	return s.server(func(c *served) *tls.Config { return c.https })
}

// Signer is the configuration of the signer's gRPC listener, with ALPN "h2",
// "http/1.1" for those who probe the port, and the same rule for clients. If
// names are given, a client's certificate must also be for one of them: a DNS
// name, URI, IP or e-mail address among its subject alternative names, or its
// common name if it has none of these. Names without a CA file let nobody in.
func (s *Store) Signer(names ...string) *tls.Config {
	return s.server(func(c *served) *tls.Config {
		if len(names) == 0 || c.signer == nil {
			return c.signer
		}
		signer := c.signer.Clone()
		signer.VerifyConnection = allowOnly(names)
		return signer
	})
}

func (s *Store) server(pick func(*served) *tls.Config) *tls.Config {
	c := pick(s.current.Load())
	if c == nil {
		panic("certs: a listener needs a certificate")
	}
	c = c.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return pick(s.current.Load()), nil
	}
	return c
}

// Client is the configuration of a client of the signer, whose certificate
// must be for serverName, a DNS name or an IP address. Each connection uses
// the files as last loaded.
func (s *Store) Client(serverName string) *tls.Config {
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: clientSuites,
		ServerName:   serverName,
		// Upstream's client keeps its certificate to itself when the signer
		// advertises other CAs. This one always shows it: the signer then says
		// what it thinks of it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert := s.current.Load().cert; cert != nil {
				return cert, nil
			}
			return &tls.Certificate{}, nil
		},
	}
	if s.cfg.Files.CA != "" {
		// The pool of a tls.Config is fixed; ours is not. So the library's
		// verification is switched off, and VerifyConnection, which runs on
		// every handshake, does the same against the current pool.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			return s.verify(cs.PeerCertificates, serverName)
		}
	}
	return c
}

func (s *Store) verify(chain []*x509.Certificate, serverName string) error {
	if len(chain) == 0 {
		return errors.New("the peer shows no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:         s.current.Load().pool,
		Intermediates: x509.NewCertPool(),
		DNSName:       serverName,
		CurrentTime:   s.cfg.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok && len(chain[0].DNSNames)+len(chain[0].IPAddresses) == 0 {
		return fmt.Errorf("the certificate of %s has only a common name (%q); it must be issued anew with %s as subject alternative name: %w",
			serverName, chain[0].Subject.CommonName, serverName, err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("the certificate of %s was issued by %q, which %s does not hold: %w", serverName, chain[0].Issuer, s.cfg.Files.CA, err)
	}
	return fmt.Errorf("the certificate of %s: %w", serverName, err)
}
