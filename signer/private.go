package signer

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
	"errors"
	"fmt"
	"math/big"

	"countersign/tuf"
)

// A private is an opened key.
type private struct {
	public tuf.Key
	key    crypto.Signer // *ecdsa.PrivateKey, *rsa.PrivateKey or ed25519.PrivateKey
}

// generate makes a key of a type that checkAlgorithm lets through.
func generate(algorithm string) (*private, error) {
	switch algorithm {
	case tuf.KeyECDSA:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generating: %w", err)
		}
		return newPrivate(algorithm, key)
	case tuf.KeyED25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generating: %w", err)
		}
		return newPrivate(algorithm, key)
	}
	return nil, fmt.Errorf("generating: key type %.64q", algorithm)
}

func newPrivate(algorithm string, key crypto.Signer) (*private, error) {
	p := &private{public: tuf.Key{Type: algorithm}, key: key}
	if k, ok := key.(ed25519.PrivateKey); ok {
		p.public.Public = bytes.Clone(k[ed25519.SeedSize:])
		return p, nil
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	p.public.Public = der
	return p, nil
}

// marshal returns the form that is sealed, which is upstream's. The caller
// wipes it.
func (p *private) marshal() ([]byte, error) {
	switch k := p.key.(type) {
	case *ecdsa.PrivateKey:
		return x509.MarshalECPrivateKey(k)
	case ed25519.PrivateKey:
		// The public key twice: once of its own, once in Go's private key.
		return append(bytes.Clone(p.public.Public), k...), nil
	}
	return nil, fmt.Errorf("encoding private key: type %T", p.key)
}

// parsePrivate reads what was sealed: SEC 1 for ecdsa, PKCS #1 for rsa, and 96
// bytes for ed25519. The texts of its errors hold nothing of the plaintext.
func parsePrivate(algorithm string, plaintext []byte) (*private, error) {
	switch algorithm {
	case tuf.KeyECDSA:
		key, err := x509.ParseECPrivateKey(plaintext)
		if err != nil {
			return nil, errors.New("not an EC private key")
		}
		return newPrivate(algorithm, key)
	case tuf.KeyRSA:
		key, err := x509.ParsePKCS1PrivateKey(plaintext)
		if err != nil {
			return nil, errors.New("not an RSA private key")
		}
		return newPrivate(algorithm, key)
	case tuf.KeyED25519:
		if len(plaintext) != ed25519.PublicKeySize+ed25519.PrivateKeySize {
			return nil, errors.New("not an Ed25519 private key")
		}
		public, key := plaintext[:ed25519.PublicKeySize], plaintext[ed25519.PublicKeySize:]
		// A private key with a foreign public half would sign, and leak itself.
		whole := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
		if !bytes.Equal(whole, key) || !bytes.Equal(public, whole[ed25519.SeedSize:]) {
			return nil, errors.New("the halves of an Ed25519 key do not match")
		}
		return newPrivate(algorithm, whole)
	}
	return nil, fmt.Errorf("key type %.64q", algorithm)
}

// matches reports whether public is the public part of p.
func (p *private) matches(public tuf.Key) bool {
	return p.public.Type == public.Type && bytes.Equal(p.public.Public, public.Public)
}

// sign returns the signature of content in the form that metadata holds.
func (p *private) sign(content []byte) ([]byte, error) {
	switch k := p.key.(type) {
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(content)
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			return nil, err
		}
		width := (k.Curve.Params().BitSize + 7) / 8
		sig := make([]byte, 2*width)
		r.FillBytes(sig[:width])
		s.FillBytes(sig[width:])
		return sig, nil
	case *rsa.PrivateKey:
		digest := sha256.Sum256(content)
		return rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case ed25519.PrivateKey:
		return ed25519.Sign(k, content), nil
	}
	return nil, fmt.Errorf("key of type %T", p.key)
}

// wipe overwrites what can be reached of the private key. Go's libraries keep
// copies that cannot be, until the collector takes them.
func (p *private) wipe() {
	switch k := p.key.(type) {
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 there is no other way to reach it
		wipeInt(k.D)
	case *rsa.PrivateKey:
		wipeInt(k.D)
		for _, prime := range k.Primes {
			wipeInt(prime)
		}
		wipeInt(k.Precomputed.Dp)
		wipeInt(k.Precomputed.Dq)
		wipeInt(k.Precomputed.Qinv)
	case ed25519.PrivateKey:
		clear(k)
	}
}

func wipeInt(n *big.Int) {
	if n != nil {
		clear(n.Bits())
	}
}
