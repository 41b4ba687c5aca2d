package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A chain comes from whoever sends a token, and each link costs a signature
// check. Without these bounds, and one subject for one certificate, a header
// would buy a hundred checks of the slowest kind.
const (
	maxChain   = 8
	maxRSABits = 8192
)

// crypto/rsa refuses to check with a shorter one.
const minRSABits = 1024

// A bundle is the certificates of the token service.
type bundle struct {
	certs  []*x509.Certificate
	roots  *x509.CertPool
	keys   map[string]*x509.Certificate // by libtrust's key ID, and by RFC 7638's
	ids    []string                     // libtrust's, as certs
	others int                          // PEM entries that are no certificates
	broken int                          // entries that do not decode
}

// parseBundle skips what is no certificate, as upstream does. A certificate that
// cannot be used is an error.
func parseBundle(raw []byte) (*bundle, error) {
	b := &bundle{roots: x509.NewCertPool(), keys: map[string]*x509.Certificate{}}
	b.broken = bytes.Count(raw, []byte("-----BEGIN "))
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		b.broken--
		if block.Type != "CERTIFICATE" {
			b.others++
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("unable to parse token auth root certificate: certificate %d: %w", len(b.certs)+1, err)
		}
		if err := b.add(cert); err != nil {
			return nil, fmt.Errorf("unable to get public key from token auth root certificate: certificate %d, %s: %w", len(b.certs)+1, name(cert), err)
		}
	}
	if len(b.certs) == 0 {
		return nil, errors.New("token auth requires at least one token signing root certificate: put those of the token service there, as PEM")
	}
	return b, nil
}

func (b *bundle) add(cert *x509.Certificate) error {
	if _, err := algorithmsOf(cert.PublicKey); err != nil {
		return err
	}
	id, err := libtrustID(cert.PublicKey)
	if err != nil {
		return err
	}
	thumbprint, err := (&jose.JSONWebKey{Key: cert.PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	b.certs, b.ids = append(b.certs, cert), append(b.ids, id)
	b.roots.AddCert(cert)
	b.keys[id] = cert
	b.keys[base64.RawURLEncoding.EncodeToString(thumbprint)] = cert
	return nil
}

// warn tells what in the bundle may not do what its owner thinks.
func (b *bundle) warn(path string, log *slog.Logger, now time.Time) {
	for _, cert := range b.certs {
		if now.After(cert.NotAfter) {
			log.Warn("a certificate of the token service has expired; tokens that name its key by kid are accepted, tokens with a chain (x5c) are not",
				"path", path, "subject", name(cert), "not_after", cert.NotAfter.UTC())
		}
	}
	if b.broken > 0 || b.others > 0 {
		log.Warn("the bundle of the token service has entries that are not used", "path", path, "broken", b.broken, "no_certificates", b.others)
	}
}

// name tells certificates apart: Harbor's have no subject.
func name(cert *x509.Certificate) string {
	subject := "no subject"
	if s := cert.Subject.String(); s != "" {
		subject = "subject " + inQuotes(s)
	}
	return subject + ", serial " + cut(fmt.Sprintf("%x", cert.SerialNumber), 48)
}

// algorithmsOf returns what key may have signed with. An algorithm belongs to
// the key, never to the token alone.
func algorithmsOf(key any) ([]jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
		return nil, errors.New("its elliptic curve is not supported: use P-256, P-384 or P-521")
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits {
			return nil, fmt.Errorf("its RSA key has %d bits, and less than %d prove nothing: give the token service a new key", n, minRSABits)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512}, nil
	}
	return nil, fmt.Errorf("a key of type %T is not supported: use RSA or ECDSA", key)
}

// libtrustID is the key ID of docker's libtrust: 240 bits of the hash of the
// key, in twelve groups.
func libtrustID(key any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(der)
	var groups []string
	for group := range slices.Chunk([]byte(base32.StdEncoding.EncodeToString(hash[:30])), 4) {
		groups = append(groups, string(group))
	}
	return strings.Join(groups, ":"), nil
}

// checkKey finds the key that the token says it is signed with, and whether it
// is trusted. The first that is there of x5c, jwk and kid decides alone.
func (t *Tokens) checkKey(v *inspection) error {
	switch h := v.header; {
	case h == nil:
		return errNoHeader
	case len(h.X5C) > 0:
		chain, err := parseChain(h.X5C)
		if err != nil {
			return err
		}
		return v.trustChain("x5c", chain)
	case h.JWK != nil:
		return v.trustJWK()
	case h.KeyID != "":
		cert, ok := v.bundle.keys[h.KeyID]
		if !ok {
			return failing("add the certificate of the key that signed to auth.options.rootcertbundle, which has keys "+list(v.bundle.ids),
				"kid is %s, which is no key of the bundle", inQuotes(h.KeyID))
		}
		v.key = cert.PublicKey
		v.say("kid is the key of the bundle's certificate with %s", name(cert))
		return nil
	}
	return failing("have the token service put kid into the header", "the header has none of x5c, jwk and kid")
}

func parseChain(x5c []string) ([]*x509.Certificate, error) {
	const remedy = "have the token service send DER in base64, the signing certificate first"
	if len(x5c) > maxChain {
		return nil, failing(remedy, "x5c has %d certificates, want %d at most", len(x5c), maxChain)
	}
	var chain []*x509.Certificate
	for i, text := range x5c {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, failing(remedy, "x5c: certificate %d is not base64", i+1)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, failing(remedy, "x5c: certificate %d: %s", i+1, printable(err.Error(), 256))
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// trustChain trusts the key of the first certificate if the bundle leads to it.
func (v *inspection) trustChain(from string, chain []*x509.Certificate) error {
	const remedy = "the chain must end at a certificate of auth.options.rootcertbundle, and all of it must be valid now"
	if len(chain) > maxChain {
		return failing(remedy, "%s has %d certificates, want %d at most", from, len(chain), maxChain)
	}
	intermediates, bySubject := x509.NewCertPool(), map[string]*x509.Certificate{}
	for i, cert := range chain {
		if k, ok := cert.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSABits {
			return failing(remedy, "%s: certificate %d has an RSA key of %d bits, want %d at most", from, i+1, k.N.BitLen(), maxRSABits)
		}
		if i == 0 {
			continue
		}
		// More than one could have signed the link before: all paths would be tried.
		if other := bySubject[string(cert.RawSubject)]; other != nil && !other.Equal(cert) {
			return failing(remedy, "%s: certificate %d has the subject of another", from, i+1)
		}
		bySubject[string(cert.RawSubject)] = cert
		intermediates.AddCert(cert)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: v.bundle.roots, Intermediates: intermediates, CurrentTime: v.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return failing(remedy, "%s: %s", from, printable(err.Error(), 256))
	}
	v.key = chain[0].PublicKey
	v.say("%s has the certificate with %s, under the bundle's with %s", from, name(chain[0]), name(paths[0][len(paths[0])-1]))
	return nil
}

// trustJWK trusts the key in the header if the bundle has it, or leads to the
// certificate that comes with it. Its own kid proves nothing.
func (v *inspection) trustJWK() error {
	const remedy = "jwk must be a key of auth.options.rootcertbundle, or bring a chain (x5c) that ends there"
	// go-jose reads a foreign key safely only as part of a token. Nothing is
	// verified here: that the algorithm is a good one is another step.
	jws, err := jose.ParseSignedCompact(v.token, []jose.SignatureAlgorithm{v.header.Algorithm})
	if err != nil {
		return failing(remedy, "jwk: %s", printable(err.Error(), 256))
	}
	jwk := jws.Signatures[0].Protected.JSONWebKey
	if jwk == nil {
		return failing(remedy, "jwk is no key")
	}
	if _, err := algorithmsOf(jwk.Key); err != nil {
		return failing(remedy, "jwk: %s", err)
	}
	if len(jwk.Certificates) > 0 {
		// go-jose has seen to it that the first is of this key.
		return v.trustChain("jwk with x5c", jwk.Certificates)
	}
	id, err := libtrustID(jwk.Key)
	if err != nil {
		return failing(remedy, "jwk: %s", printable(err.Error(), 256))
	}
	cert, ok := v.bundle.keys[id]
	if !ok {
		return failing(remedy+"; the bundle has keys "+list(v.bundle.ids), "jwk is key %s, which the bundle has not", inQuotes(id))
	}
	v.key = cert.PublicKey
	v.say("jwk is the key of the bundle's certificate with %s", name(cert))
	return nil
}

func (t *Tokens) checkSignature(v *inspection) error {
	if v.key == nil {
		return errNoKey
	}
	fit, err := algorithmsOf(v.key)
	if err != nil {
		return failing("", "the signing certificate: %s", err)
	}
	jws, err := jose.ParseSignedCompact(v.token, fit)
	if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		return failing("have the token service sign with what fits its key", "algorithm %s does not fit the signing key, want one of %s", inQuotes(string(v.header.Algorithm)), fit)
	}
	if err != nil {
		return failing("", "parsing the token: %s", printable(err.Error(), 256))
	}
	if _, err := jws.Verify(v.key); err != nil {
		return failing("the token was changed on its way, or the token service signs with another key than it names", "it is not by the signing key")
	}
	v.say("%s by the signing key", v.header.Algorithm)
	return nil
}
