package certs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"countersign/certs"
)

// TestVersionsAndSuites offers one version or suite at a time, to a server with
// an ECDSA and one with an RSA key.
func TestVersionsAndSuites(t *testing.T) {
	root := ca(t, nil, "root")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	withECDSA := load(t, files(t, []*issuer{leaf(t, root, "signer")})).HTTPS()
	withRSA := load(t, files(t, []*issuer{issueFor(t, rsaKey, root, x509.Certificate{DNSNames: []string{"signer"}})})).HTTPS()
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	for name, c := range map[string]struct {
		server  *tls.Config
		version uint16
		suite   uint16
		ok      bool
	}{
		"1.3":                           {withECDSA, tls.VersionTLS13, 0, true},
		"1.1":                           {withECDSA, tls.VersionTLS11, 0, false},
		"1.2 ECDSA AES-256-GCM":         {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true},
		"1.2 ECDSA AES-128-GCM":         {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true},
		"1.2 ECDSA AES-256-CBC":         {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, true},
		"1.2 ECDSA AES-128-CBC":         {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, true},
		"1.2 ECDSA ChaCha20":            {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false},
		"1.2 ECDSA AES-128-CBC, SHA256": {withECDSA, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, false},
		"1.2 RSA AES-256-GCM":           {withRSA, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, true},
		"1.2 RSA AES-128-GCM":           {withRSA, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
		"1.2 RSA AES-256-CBC":           {withRSA, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, true},
		"1.2 RSA AES-128-CBC":           {withRSA, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, true},
		"1.2 RSA ChaCha20":              {withRSA, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, false},
		"1.2 RSA key exchange":          {withRSA, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := &tls.Config{RootCAs: pool, ServerName: "signer", MinVersion: c.version, MaxVersion: c.version, NextProtos: []string{"h2", "http/1.1"}}
			if c.suite != 0 {
				client.CipherSuites = []uint16{c.suite}
			}
			r := connect(t, c.server, client)
			if r.ok() != c.ok {
				t.Errorf("client %v, server %v", r.client, r.server)
			}
			if p := r.state.NegotiatedProtocol; p != "" {
				t.Errorf("the HTTPS listener negotiates %q", p)
			}
		})
	}
}

func TestSignerALPN(t *testing.T) {
	root := ca(t, nil, "root")
	server := load(t, files(t, []*issuer{leaf(t, root, "signer")})).Signer()
	client := load(t, files(t, nil, root)).Client("signer")
	client.NextProtos = []string{"h2"}
	if r := connect(t, server, client); !r.ok() || r.state.NegotiatedProtocol != "h2" {
		t.Errorf("client %v, server %v, protocol %q", r.client, r.server, r.state.NegotiatedProtocol)
	}
	client.NextProtos = []string{"spdy/3"}
	if r := connect(t, server, client); r.ok() {
		t.Error("a client that offers only another protocol was let in")
	}
}

func TestClientCertificates(t *testing.T) {
	root := ca(t, nil, "root")
	middle := ca(t, root, "middle")
	member := leaf(t, middle, "client")
	stranger := leaf(t, ca(t, nil, "root"), "client")
	expired := issue(t, middle, x509.Certificate{NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	serverOnly := issue(t, middle, x509.Certificate{DNSNames: []string{"x"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	srv := leaf(t, root, "signer")
	for name, c := range map[string]struct {
		pool  []*issuer
		chain []*issuer
		ok    bool
	}{
		"root as anchor, whole chain":      {[]*issuer{root}, []*issuer{member, middle}, true},
		"root as anchor, no intermediate":  {[]*issuer{root}, []*issuer{member}, false},
		"intermediate as anchor":           {[]*issuer{middle}, []*issuer{member}, true},
		"upstream's chain file as anchor":  {[]*issuer{member, middle}, []*issuer{member, middle}, true},
		"the client's own leaf as anchor":  {[]*issuer{member}, []*issuer{member}, true},
		"no certificate":                   {[]*issuer{middle}, nil, false},
		"of another CA with the same name": {[]*issuer{root}, []*issuer{stranger}, false},
		"expired":                          {[]*issuer{middle}, []*issuer{expired}, false},
		"not for clients":                  {[]*issuer{middle}, []*issuer{serverOnly}, false},
		"none asked for, none shown":       {nil, nil, true},
		"none asked for, one shown":        {nil, []*issuer{stranger}, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := load(t, files(t, []*issuer{srv}, c.pool...))
			client := load(t, files(t, c.chain, root)).Client("signer")
			for listener, cfg := range map[string]*tls.Config{"https": store.HTTPS(), "signer": store.Signer()} {
				if r := connect(t, cfg, client); r.ok() != c.ok {
					t.Errorf("%s: client %v, server %v", listener, r.client, r.server)
				}
			}
		})
	}
}

func TestClientVerifiesSigner(t *testing.T) {
	root := ca(t, nil, "root")
	middle := ca(t, root, "middle")
	expired := issue(t, root, x509.Certificate{DNSNames: []string{"signer"}, NotAfter: time.Now().Add(-time.Minute)})
	clientOnly := issue(t, root, x509.Certificate{DNSNames: []string{"signer"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	nameOnly := issue(t, root, x509.Certificate{Subject: pkix.Name{CommonName: "signer"}})
	for name, c := range map[string]struct {
		chain []*issuer
		pool  []*issuer
		host  string
		want  string // in the client's error; "" if it must work
	}{
		"by name":                {[]*issuer{leaf(t, root, "signer")}, []*issuer{root}, "signer", ""},
		"by IPv4 address":        {[]*issuer{leaf(t, root, "127.0.0.1")}, []*issuer{root}, "127.0.0.1", ""},
		"by IPv6 address":        {[]*issuer{leaf(t, root, "::1")}, []*issuer{root}, "::1", ""},
		"with intermediate":      {[]*issuer{leaf(t, middle, "signer"), middle}, []*issuer{root}, "signer", ""},
		"intermediate as anchor": {[]*issuer{leaf(t, middle, "signer")}, []*issuer{middle}, "signer", ""},
		"second CA of the file":  {[]*issuer{leaf(t, root, "signer")}, []*issuer{ca(t, nil, "other"), root}, "signer", ""},
		"another name":           {[]*issuer{leaf(t, root, "other")}, []*issuer{root}, "signer", "certificate is valid for other, not signer"},
		"address not listed":     {[]*issuer{leaf(t, root, "localhost")}, []*issuer{root}, "127.0.0.1", "doesn't contain any IP SANs"},
		"common name only":       {[]*issuer{nameOnly}, []*issuer{root}, "signer", `has only a common name ("signer"); it must be issued anew`},
		"another CA":             {[]*issuer{leaf(t, root, "signer")}, []*issuer{ca(t, nil, "other")}, "signer", `was issued by "CN=root", which`},
		"system's CAs":           {[]*issuer{leaf(t, root, "signer")}, nil, "signer", "unknown authority"},
		"expired":                {[]*issuer{expired}, []*issuer{root}, "signer", "expired"},
		"not for servers":        {[]*issuer{clientOnly}, []*issuer{root}, "signer", "incompatible key usage"},
	} {
		t.Run(name, func(t *testing.T) {
			server := load(t, files(t, c.chain)).Signer()
			r := connect(t, server, load(t, files(t, nil, c.pool...)).Client(c.host))
			switch {
			case c.want == "" && !r.ok():
				t.Errorf("client %v, server %v", r.client, r.server)
			case c.want != "" && (r.client == nil || !strings.Contains(r.client.Error(), c.want)):
				t.Errorf("client %v, want %q in it", r.client, c.want)
			}
		})
	}
}

// TestClientRefusesOldTLS: the client's own floor.
func TestClientRefusesOldTLS(t *testing.T) {
	root := ca(t, nil, "root")
	srv := leaf(t, root, "signer")
	client := load(t, files(t, nil, root)).Client("signer")
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{srv.cert.Raw}, PrivateKey: srv.key}}, MinVersion: tls.VersionTLS10}
	for name, c := range map[string]struct {
		version, suite uint16
		ok             bool
	}{
		"1.1":     {tls.VersionTLS11, 0, false},
		"1.2 CBC": {tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false},
		"1.2 GCM": {tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true},
	} {
		cfg := server.Clone()
		cfg.MaxVersion = c.version
		if c.suite != 0 {
			cfg.CipherSuites = []uint16{c.suite}
		}
		if r := connect(t, cfg, client); r.ok() != c.ok {
			t.Errorf("%s: client %v, server %v", name, r.client, r.server)
		}
	}
}

// TestResumption: sessions resume where no client certificate is asked for.
// Where one is, they do not: they would outlive a CA that was removed.
func TestResumption(t *testing.T) {
	root := ca(t, nil, "root")
	srv := leaf(t, root, "signer")
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	for name, c := range map[string]struct {
		files certs.Files
		want  bool
	}{
		"open":                {files(t, []*issuer{srv}), true},
		"client certificates": {files(t, []*issuer{srv}, root), false},
	} {
		server := load(t, c.files).HTTPS()
		client := &tls.Config{
			RootCAs: pool, ServerName: "signer", ClientSessionCache: tls.NewLRUClientSessionCache(1),
			Certificates: []tls.Certificate{{Certificate: [][]byte{srv.cert.Raw}, PrivateKey: srv.key}},
		}
		var resumed bool
		for range 2 {
			r := connect(t, server, client)
			if !r.ok() {
				t.Fatalf("%s: client %v, server %v", name, r.client, r.server)
			}
			resumed = r.state.DidResume
		}
		if resumed != c.want {
			t.Errorf("%s: resumed %v, want %v", name, resumed, c.want)
		}
	}
}
