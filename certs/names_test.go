package certs_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"countersign/certs"
)

// A certificate gets through if it is for one of the names, in any of the ways
// in which it can be; whoever does not is told of by what his is for.
func TestClientNames(t *testing.T) {
	root := ca(t, nil, "root")
	spiffe, err := url.Parse("spiffe://cluster/notary-server")
	if err != nil {
		t.Fatal(err)
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	full := x509.Certificate{
		ExtKeyUsage: client, Subject: pkix.Name{CommonName: "common"}, DNSNames: []string{"Notary-Server", "*.example.com"},
		IPAddresses: []net.IP{net.ParseIP("10.0.0.7"), net.ParseIP("fe80::1")}, URIs: []*url.URL{spiffe}, EmailAddresses: []string{"ops@example.com"},
	}
	all := issue(t, root, full)
	bare := issue(t, root, x509.Certificate{ExtKeyUsage: client, Subject: pkix.Name{CommonName: "common"}})
	nobody := issue(t, root, x509.Certificate{ExtKeyUsage: client})
	// A name of a kind that the library does not read: [0] otherName.
	other := issue(t, root, x509.Certificate{ExtKeyUsage: client, Subject: pkix.Name{CommonName: "common"}, ExtraExtensions: []pkix.Extension{{
		Id: []int{2, 5, 29, 17}, Value: []byte{0x30, 0x0b, 0xa0, 0x09, 0x06, 0x02, 0x2a, 0x03, 0xa0, 0x03, 0x0c, 0x01, 'x'},
	}}})
	srv := leaf(t, root, "signer")
	for name, c := range map[string]struct {
		chain   []*issuer
		allowed []string
		refusal string // "" if it gets through
	}{
		"DNS":                                  {[]*issuer{all}, []string{"notary-server"}, ""},
		"DNS with a dot at the end":            {[]*issuer{all}, []string{"notary-server."}, ""},
		"second of the list":                   {[]*issuer{all}, []string{"other", "notary-server"}, ""},
		"IPv4":                                 {[]*issuer{all}, []string{"10.0.0.7"}, ""},
		"IPv6 written otherwise":               {[]*issuer{all}, []string{"fe80:0:0::1"}, ""},
		"URI":                                  {[]*issuer{all}, []string{"spiffe://cluster/notary-server"}, ""},
		"e-mail":                               {[]*issuer{all}, []string{"ops@example.com"}, ""},
		"the wildcard by name":                 {[]*issuer{all}, []string{"*.example.com"}, ""},
		"what the wildcard stands for":         {[]*issuer{all}, []string{"a.example.com"}, `is for "Notary-Server", "*.example.com"`},
		"a name that holds it":                 {[]*issuer{all}, []string{"notary-server.evil.com"}, "does not list"},
		"the common name of one with others":   {[]*issuer{all}, []string{"common"}, "does not list"},
		"the common name alone":                {[]*issuer{bare}, []string{"common"}, ""},
		"the common name beside a strange one": {[]*issuer{other}, []string{"common"}, "no name at all"},
		"another common name":                  {[]*issuer{bare}, []string{"uncommon"}, `is for "common", which server.client_names does not list`},
		"no name at all":                       {[]*issuer{nobody}, []string{"common"}, "no name at all"},
		"none shown":                           {nil, []string{"common"}, "didn't provide a certificate"},
		"no list":                              {[]*issuer{nobody}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := load(t, files(t, []*issuer{srv}, root)).Signer(c.allowed...)
			r := connect(t, server, load(t, files(t, c.chain, root)).Client("signer"))
			switch {
			case c.refusal == "" && !r.ok():
				t.Errorf("client %v, server %v", r.client, r.server)
			case c.refusal != "" && (r.server == nil || !strings.Contains(r.server.Error(), c.refusal)):
				t.Errorf("server %v, want %q in it", r.server, c.refusal)
			}
		})
	}
	t.Run("no CA file", func(t *testing.T) {
		server := load(t, files(t, []*issuer{srv})).Signer("common")
		if r := connect(t, server, load(t, files(t, []*issuer{bare}, root)).Client("signer")); r.ok() {
			t.Error("a certificate that nobody verifies got through by its name")
		}
	})
}

// The names hold on for what is loaded anew.
func TestClientNamesReload(t *testing.T) {
	old, root := ca(t, nil, "old"), ca(t, nil, "root")
	names := x509.Certificate{DNSNames: []string{"server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	srv := leaf(t, root, "signer")
	f := files(t, []*issuer{srv}, old)
	store, err := certs.Load(certs.Config{Files: f, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	go store.Watch(t.Context())
	server := store.Signer("server")
	member := load(t, files(t, []*issuer{issue(t, root, names)}, root)).Client("signer")
	if r := connect(t, server, member); r.ok() {
		t.Fatal("a client of another CA got through")
	}
	write(t, f.CA, certPEM(root))
	for deadline := time.Now().Add(10 * time.Second); !connect(t, server, member).ok(); {
		if time.Now().After(deadline) {
			t.Fatal("the new CA is not used")
		}
	}
	stranger := load(t, files(t, []*issuer{leaf(t, root, "other")}, root)).Client("signer")
	if r := connect(t, server, stranger); r.ok() || !strings.Contains(r.server.Error(), "does not list") {
		t.Errorf("after the reload: client %v, server %v", r.client, r.server)
	}
}
