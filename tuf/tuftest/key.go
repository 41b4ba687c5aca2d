package tuftest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"

	"countersign/tuf"
)

// A Key is a key pair, or only the public half of one.
type Key struct {
	tuf.Key
	// Private signs. It is nil for a key whose private half someone else has.
	Private crypto.Signer
	// SignMethod is the method that Sign uses and names, if it is not the usual
	// one of the key's type.
	SignMethod string
}

// NewKey makes a key of type ecdsa (on P-256) or ed25519, or takes one of type
// rsa (2048 bits) from a small pool that repeats itself.
func NewKey(tb testing.TB, typ string) *Key {
	tb.Helper()
	switch typ {
	case tuf.KeyECDSA:
		return NewECDSAKey(tb, elliptic.P256())
	case tuf.KeyED25519:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		must(tb, err)
		return &Key{Key: tuf.Key{Type: typ, Public: public}, Private: private}
	case tuf.KeyRSA:
		return bare(tb, typ, nextRSA(tb))
	}
	tb.Fatalf("tuftest: no way to make a key of type %q", typ)
	return nil
}

// NewECDSAKey makes a key on that curve.
func NewECDSAKey(tb testing.TB, curve elliptic.Curve) *Key {
	tb.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(tb, err)
	return bare(tb, tuf.KeyECDSA, private)
}

// NewRSAKey makes a key of that size. It takes its time.
func NewRSAKey(tb testing.TB, bits int) *Key {
	tb.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	must(tb, err)
	return bare(tb, tuf.KeyRSA, private)
}

// Public returns the public half of k alone.
func Public(k tuf.Key) *Key { return &Key{Key: k} }

func bare(tb testing.TB, typ string, private crypto.Signer) *Key {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must(tb, err)
	return &Key{Key: tuf.Key{Type: typ, Public: der}, Private: private}
}

// pool holds RSA keys, of which making one takes longer than most tests.
var pool struct {
	sync.Mutex // guards the fields; held while a key is made, so that each is made once
	keys       [4]*rsa.PrivateKey
	next       int
}

func nextRSA(tb testing.TB) *rsa.PrivateKey {
	tb.Helper()
	pool.Lock()
	defer pool.Unlock()
	k := &pool.keys[pool.next%len(pool.keys)]
	pool.next++
	if *k == nil {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		must(tb, err)
		*k = private
	}
	return *k
}

// A Cert says what a certificate is like. The zero value is docker's: self
// signed, a leaf, for signing code.
type Cert struct {
	CN                  string
	NotBefore, NotAfter time.Time
	Algorithm           x509.SignatureAlgorithm // zero: the usual one for the key
	CA                  bool
	Issuer              *Key // an x509 key with CA set, whose bundle is appended; nil: self-signed
}

// Certify returns the same key pair in a certificate.
func (k *Key) Certify(tb testing.TB, c Cert) *Key {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	must(tb, err)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: c.CN},
		NotBefore:             c.NotBefore,
		NotAfter:              c.NotAfter,
		SignatureAlgorithm:    c.Algorithm,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
		IsCA:                  c.CA,
	}
	if c.CA {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, k.Private
	var chain []byte
	if c.Issuer != nil {
		block, _ := pem.Decode(c.Issuer.Public)
		parent, err = x509.ParseCertificate(block.Bytes)
		must(tb, err)
		signer, chain = c.Issuer.Private, c.Issuer.Public
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Private.Public(), signer)
	must(tb, err)
	typ := tuf.KeyECDSAX509
	if _, ok := k.Private.(*rsa.PrivateKey); ok {
		typ = tuf.KeyRSAX509
	}
	bundle := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), chain...)
	return &Key{Key: tuf.Key{Type: typ, Public: bundle}, Private: k.Private}
}

// PEM returns the same RSA key pair with a public half in PEM, which signs by
// the method of PyCrypto.
func (k *Key) PEM() *Key {
	p := *k
	p.Public = bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.Public}))
	p.SignMethod = tuf.MethodPyCrypto
	return &p
}

// Sign signs message as the clients do.
func (k *Key) Sign(tb testing.TB, message []byte) tuf.Signature {
	tb.Helper()
	s := tuf.Signature{KeyID: k.ID(), Method: k.SignMethod}
	if s.Method == "" {
		s.Method = k.Method()
	}
	if k.Private == nil {
		tb.Fatalf("tuftest: no private half of key %s", s.KeyID)
	}
	digest := sha256.Sum256(message)
	var err error
	switch private := k.Private.(type) {
	case *ecdsa.PrivateKey:
		s.Sig = signECDSA(tb, private, digest[:])
	case ed25519.PrivateKey:
		s.Sig = ed25519.Sign(private, message)
	default:
		var opts crypto.SignerOpts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		if s.Method == tuf.MethodRSAPKCS1v15 {
			opts = crypto.SHA256
		}
		s.Sig, err = private.Sign(rand.Reader, digest[:], opts)
		must(tb, err)
	}
	return s
}

// signECDSA returns r‖s, each at the width of the curve.
func signECDSA(tb testing.TB, private *ecdsa.PrivateKey, digest []byte) []byte {
	tb.Helper()
	der, err := ecdsa.SignASN1(rand.Reader, private, digest)
	must(tb, err)
	var sig struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(der, &sig)
	must(tb, err)
	width := (private.Curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*width)
	sig.R.FillBytes(out[:width])
	sig.S.FillBytes(out[width:])
	return out
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatalf("tuftest: %v", err)
	}
}
