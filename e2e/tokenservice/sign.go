package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"
)

// A key signs tokens. It is RSA, or ECDSA on P-256.
type key struct {
	crypto.Signer
	cert *x509.Certificate
}

func loadKey(files keyFiles) (*key, error) {
	cert, err := readPEM(files.Cert)
	if err != nil {
		return nil, err
	}
	private, err := readPEM(files.Key)
	if err != nil {
		return nil, err
	}
	k := &key{}
	if k.cert, err = x509.ParseCertificate(cert); err != nil {
		return nil, err
	}
	if rsaKey, err := x509.ParsePKCS1PrivateKey(private); err == nil {
		k.Signer = rsaKey
		return k, nil
	}
	k.Signer, err = x509.ParseECPrivateKey(private)
	return k, err
}

func readPEM(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New(path + ": no PEM")
	}
	return block.Bytes, nil
}

// stranger makes a key of the kind of k, with a certificate that says the same.
func (k *key) stranger() (*key, error) {
	var s crypto.Signer
	var err error
	if _, ok := k.Signer.(*rsa.PrivateKey); ok {
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: k.cert.Subject.CommonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, s.Public(), s)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &key{Signer: s, cert: cert}, err
}

// claims are Harbor's, in its order.
type claims struct {
	Issuer    string  `json:"iss"`
	Subject   string  `json:"sub"`
	Audience  any     `json:"aud"`
	Expires   int64   `json:"exp"`
	NotBefore int64   `json:"nbf"`
	IssuedAt  int64   `json:"iat"`
	ID        string  `json:"jti"`
	Access    []grant `json:"access"`
}

// token makes a token for what is granted, with the fault that was asked for.
func (s *service) token(a asking, access []grant, now time.Time) (string, error) {
	c := claims{
		Issuer: s.Issuer, Subject: a.user, Audience: a.service,
		Expires: now.Add(tokenLife).Unix(), NotBefore: now.Unix(), IssuedAt: now.Unix(),
		ID: rand.Text(), Access: access,
	}
	switch a.style.fault {
	case "expired":
		c.Expires, c.NotBefore, c.IssuedAt = now.Add(-2*time.Minute).Unix(), now.Add(-tokenLife).Unix(), now.Add(-tokenLife).Unix()
	case "just-expired":
		c.Expires = now.Add(-20 * time.Second).Unix()
	case "early":
		c.NotBefore = now.Add(2 * time.Minute).Unix()
	case "nearly-early":
		c.NotBefore = now.Add(20 * time.Second).Unix()
	case "audience":
		c.Audience = "another-service"
	case "issuer":
		c.Issuer = "another-issuer"
	}
	if a.style.audArray {
		c.Audience = []any{c.Audience}
	}
	named := s.keys[a.style.key]
	signer := named
	if a.style.fault == "stranger" || a.style.fault == "impostor" {
		var err error
		if signer, err = named.stranger(); err != nil {
			return "", err
		}
	}
	if a.style.fault == "impostor" {
		named = signer
	}
	return serialize(c, named, signer, a.style)
}

// serialize is the compact form: header, claims and signature.
func serialize(c claims, named, signer *key, st style) (string, error) {
	header, err := named.header(st.names)
	if err != nil {
		return "", err
	}
	sign := signer.signature
	switch st.fault {
	case "none":
		header["alg"] = "none"
		sign = func([]byte) ([]byte, error) { return nil, nil }
	case "hs256-public", "hs256-cert":
		header["alg"] = "HS256"
		sign = func(input []byte) ([]byte, error) { return named.mac(st.fault == "hs256-cert", input) }
	}
	head, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	input := base64url(head) + "." + base64url(body)
	signature, err := sign([]byte(input))
	if err != nil {
		return "", err
	}
	token := input + "." + base64url(signature)
	if st.fault == "truncated" {
		token = token[:len(token)-20]
	}
	return token, nil
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (k *key) algorithm() string {
	if _, ok := k.Signer.(*rsa.PrivateKey); ok {
		return "RS256"
	}
	return "ES256"
}

func (k *key) signature(input []byte) ([]byte, error) {
	sum := sha256.Sum256(input)
	ec, ok := k.Signer.(*ecdsa.PrivateKey)
	if !ok {
		return k.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	r, s, err := ecdsa.Sign(rand.Reader, ec, sum[:])
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}

// mac is what verifies where a public key is taken for the secret of a MAC.
func (k *key) mac(cert bool, input []byte) ([]byte, error) {
	block := &pem.Block{Type: "CERTIFICATE", Bytes: k.cert.Raw}
	if !cert {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		block = &pem.Block{Type: "PUBLIC KEY", Bytes: der}
	}
	h := hmac.New(sha256.New, pem.EncodeToMemory(block))
	h.Write(input)
	return h.Sum(nil), nil
}

// header names the key in one of the ways of a [style].
func (k *key) header(names string) (map[string]any, error) {
	h := map[string]any{"typ": "JWT", "alg": k.algorithm()}
	switch names {
	case "kid":
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		h["kid"] = libtrustID(der)
	case "kid-rfc7638":
		raw, err := json.Marshal(k.jwk()) // of strings alone, by name: the form that is hashed
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(raw)
		h["kid"] = base64url(sum[:])
	case "x5c":
		h["x5c"] = []string{base64.StdEncoding.EncodeToString(k.cert.Raw)}
	case "jwk":
		h["jwk"] = k.jwk()
	default:
		return nil, fmt.Errorf("no key is named by %q", names)
	}
	return h, nil
}

// libtrustID is the ID that docker's library gives to a key: the first 240 bits
// of a hash in base32, in twelve groups.
func libtrustID(der []byte) string {
	sum := sha256.Sum256(der)
	id := base32.StdEncoding.EncodeToString(sum[:30])
	var groups []string
	for i := 0; i < len(id); i += 4 {
		groups = append(groups, id[i:i+4])
	}
	return strings.Join(groups, ":")
}

// jwk is the public key in the members that RFC 7638 hashes.
func (k *key) jwk() map[string]string {
	if pub, ok := k.Public().(*rsa.PublicKey); ok {
		return map[string]string{"kty": "RSA", "n": base64url(pub.N.Bytes()), "e": base64url(big.NewInt(int64(pub.E)).Bytes())}
	}
	pub := k.Public().(*ecdsa.PublicKey)
	// 4, then both coordinates: a key that was parsed or made is on its curve.
	point, _ := pub.Bytes()
	return map[string]string{"kty": "EC", "crv": "P-256", "x": base64url(point[1:33]), "y": base64url(point[33:])}
}
