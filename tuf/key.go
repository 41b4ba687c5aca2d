package tuf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"countersign/tuf/cjson"
)

// Signature methods, in the lower case in which they are compared.
const (
	MethodECDSA       = "ecdsa"
	MethodRSAPSS      = "rsapss"
	MethodRSAPKCS1v15 = "rsapkcs1v15"
	MethodEdDSA       = "eddsa"
	// MethodPyCrypto is RSAPSS with a key of type rsa that is PEM, not DER.
	MethodPyCrypto = "pycrypto-pkcs#1 pss"
)

// Sizes of RSA keys, in bits. Upstream knows no upper bound; one verification
// with a key of a few megabytes takes minutes.
const (
	minRSABits = 2048
	maxRSABits = 16384
)

var (
	errBadSignature = errors.New("signature was invalid")
	errKeyType      = errors.New("key type is not valid for signature")
)

// ID returns the key's ID: the hash of its canonical form, in which the private
// half is null.
func (k Key) ID() KeyID {
	b := make([]byte, 0, 64+len(k.Type)+base64.StdEncoding.EncodedLen(len(k.Public)))
	b = append(b, `{"keytype":`...)
	b = cjson.AppendString(b, k.Type)
	b = append(b, `,"keyval":{"private":null,"public":`...)
	b = append(appendBytes(b, k.Public), `}}`...)
	sum := sha256.Sum256(b)
	return KeyID(hex.EncodeToString(sum[:]))
}

// CanonicalID returns the ID under which the signer knows the key: of an x509
// key, that of the bare key in its first certificate. It fails if there is no
// certificate.
func (k Key) CanonicalID() (KeyID, error) {
	bare := map[string]string{KeyECDSAX509: KeyECDSA, KeyRSAX509: KeyRSA}[k.Type]
	if bare == "" {
		return k.ID(), nil
	}
	cert, err := firstCertificate(k.Public)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		return "", err
	}
	return Key{Type: bare, Public: der}.ID(), nil
}

// Method returns the signature method that a key of this type signs with, or ""
// for a type that is not known.
func (k Key) Method() string {
	switch k.Type {
	case KeyECDSA, KeyECDSAX509:
		return MethodECDSA
	case KeyRSA, KeyRSAX509:
		return MethodRSAPSS
	case KeyED25519:
		return MethodEdDSA
	}
	return ""
}

// VerifySignature returns nil if sig is a signature of message by k with that
// method. The digest is SHA-256 throughout, whatever the curve; ECDSA
// signatures are r‖s at the curve's width.
func (k Key) VerifySignature(method string, message, sig []byte) error {
	p, err := k.parse()
	if err != nil {
		return err
	}
	return p.verify(method, message, sha256.Sum256(message), sig)
}

// A publicKey is a parsed Key.
type publicKey struct {
	typ string
	key crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey, or one that nothing verifies with
	pem bool             // type rsa, but PEM
}

func (k Key) parse() (p publicKey, err error) {
	p.typ = k.Type
	switch k.Type {
	case KeyECDSAX509, KeyRSAX509:
		block, _ := pem.Decode(k.Public)
		if block == nil {
			return p, errors.New("no PEM in an x509 key")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return p, err
		}
		p.key = cert.PublicKey
		return p, nil
	case KeyECDSA:
		p.key, err = x509.ParsePKIXPublicKey(k.Public)
		return p, err
	case KeyRSA:
		der := k.Public
		if block, _ := pem.Decode(der); block != nil {
			der, p.pem = block.Bytes, true
		}
		p.key, err = x509.ParsePKIXPublicKey(der)
		return p, err
	case KeyED25519:
		if len(k.Public) != ed25519.PublicKeySize {
			return p, fmt.Errorf("an ed25519 public key has %d bytes, this one %d", ed25519.PublicKeySize, len(k.Public))
		}
		p.key = ed25519.PublicKey(k.Public)
		return p, nil
	}
	return p, fmt.Errorf("unknown key type %.80q", k.Type)
}

// identity is the same for all Keys with the same public key, however wrapped.
func (p publicKey) identity() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(p.key)
	return string(der), err
}

func (p publicKey) verify(method string, message []byte, digest [sha256.Size]byte, sig []byte) error {
	switch method {
	case MethodECDSA:
		if p.typ != KeyECDSA && p.typ != KeyECDSAX509 {
			return errKeyType
		}
		return p.verifyECDSA(digest, sig)
	case MethodRSAPSS, MethodRSAPKCS1v15, MethodPyCrypto:
		if p.typ != KeyRSA && p.typ != KeyRSAX509 || p.pem != (method == MethodPyCrypto) {
			return errKeyType
		}
		return p.verifyRSA(method, digest, sig)
	case MethodEdDSA:
		key, ok := p.key.(ed25519.PublicKey)
		if !ok || p.typ != KeyED25519 {
			return errKeyType
		}
		if len(sig) != ed25519.SignatureSize || !ed25519.Verify(key, message, sig) {
			return errBadSignature
		}
		return nil
	}
	return fmt.Errorf("signing method is not supported: %.80s", method)
}

func (p publicKey) verifyECDSA(digest [sha256.Size]byte, sig []byte) error {
	key, ok := p.key.(*ecdsa.PublicKey)
	if !ok {
		return errKeyType
	}
	width := (key.Curve.Params().BitSize + 7) / 8
	if len(sig) != 2*width {
		return errBadSignature
	}
	r, s := new(big.Int).SetBytes(sig[:width]), new(big.Int).SetBytes(sig[width:])
	if !ecdsa.Verify(key, digest[:], r, s) {
		return errBadSignature
	}
	return nil
}

func (p publicKey) verifyRSA(method string, digest [sha256.Size]byte, sig []byte) error {
	key, ok := p.key.(*rsa.PublicKey)
	if !ok {
		return errKeyType
	}
	if n := key.N.BitLen(); n < minRSABits || n > maxRSABits {
		return fmt.Errorf("RSA key of %d bits: from %d to %d are supported", n, minRSABits, maxRSABits)
	}
	var err error
	if method == MethodRSAPKCS1v15 {
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig)
	} else {
		err = rsa.VerifyPSS(key, crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: sha256.Size})
	}
	if err != nil {
		return errBadSignature
	}
	return nil
}
