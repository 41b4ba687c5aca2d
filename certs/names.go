package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

// maxToldNames bounds what a certificate can put into the log.
const maxToldNames = 10

// namesOf lists what c is for: its subject alternative names, in the forms in
// which they are written, or its common name if it has none of any kind.
func namesOf(c *x509.Certificate) []string {
	names := append([]string(nil), c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, c.EmailAddresses...)
	if len(names) == 0 && !hasSAN(c) && c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// hasSAN also sees the kinds of names that the library does not read.
func hasSAN(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == "2.5.29.17" {
			return true
		}
	}
	return false
}

// sameName compares DNS names and the like without regard to case, addresses
// by value. A wildcard stands for nothing but itself.
func sameName(allowed, name string) bool {
	if a := net.ParseIP(allowed); a != nil {
		return a.Equal(net.ParseIP(name))
	}
	return strings.EqualFold(strings.TrimSuffix(allowed, "."), strings.TrimSuffix(name, "."))
}

// allowOnly is the VerifyConnection of a listener that serves only certificates
// for one of the names. The chain has been verified before.
func allowOnly(allowed []string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("the client shows no certificate, so none for a name that is allowed")
		}
		names := namesOf(state.PeerCertificates[0])
		for _, name := range names {
			for _, a := range allowed {
				if sameName(a, name) {
					return nil
				}
			}
		}
		if len(names) == 0 {
			return errors.New("the client's certificate is for no name at all, and server.client_names asks for one")
		}
		var told []string
		for _, name := range names[:min(len(names), maxToldNames)] {
			told = append(told, fmt.Sprintf("%.255q", name))
		}
		return fmt.Errorf("the client's certificate is for %s, which server.client_names does not list", strings.Join(told, ", "))
	}
}
