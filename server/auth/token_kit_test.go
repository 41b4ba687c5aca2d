package auth_test

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
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/server/auth"
)

const (
	tokenRealm   = "https://core.example.com/service/token"
	tokenService = "harbor-notary"
	tokenIssuer  = "harbor-token-issuer"
	tokenGUN     = "example.com:5000/library/app"
)

// tokenNow has no part of a second, as the times in tokens.
var tokenNow = time.Now().Truncate(time.Second)

// A tokenKey signs tokens in the name of its certificate.
type tokenKey struct {
	crypto.Signer
	alg  string
	cert *x509.Certificate
}

type object = map[string]any

func newTokenKey(alg string) crypto.Signer {
	curves := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521(), "P-224": elliptic.P224()}
	var key crypto.Signer
	var err error
	if curve := curves[alg]; curve != nil {
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		panic(err)
	}
	return key
}

// issueCert makes a certificate for key, by parent or by itself.
func issueCert(key crypto.Signer, parent *tokenKey, change func(*x509.Certificate)) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "token service"},
		NotBefore: tokenNow.Add(-time.Hour), NotAfter: tokenNow.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if change != nil {
		change(template)
	}
	by, signer := template, key
	if parent != nil {
		by, signer = parent.cert, parent.Signer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

// hugeRSA is a certificate by a trusted key, for an RSA key that nobody has: to
// check anything with it would take long.
func hugeRSA(by *tokenKey) string {
	n := new(big.Int).SetBit(big.NewInt(1), 8200, 1)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "huge"}, NotBefore: tokenNow.Add(-time.Hour), NotAfter: tokenNow.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &rsa.PublicKey{N: n, E: 65537}, by.Signer)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func selfSigned(alg string, change func(*x509.Certificate)) *tokenKey {
	key := newTokenKey(alg)
	return &tokenKey{key, alg, issueCert(key, nil, change)}
}

// tokenKeys are made once: RSA keys take their time.
var tokenKeys = sync.OnceValue(func() (k struct {
	ec, ec384, ec512, rsa, expired, leaf, attacker, strange *tokenKey
	bundle                                                  []byte
}) {
	k.ec, k.ec384, k.ec512 = selfSigned("ES256", nil), selfSigned("ES384", nil), selfSigned("ES512", nil)
	k.rsa = selfSigned("RS256", func(c *x509.Certificate) { c.Subject = pkix.Name{} })
	k.expired = selfSigned("ES256", func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotAfter = "harbor-token-ca", tokenNow.Add(-time.Minute)
	})
	leaf := newTokenKey("ES256")
	k.leaf = &tokenKey{leaf, "ES256", issueCert(leaf, k.ec, func(c *x509.Certificate) {
		c.IsCA, c.Subject.CommonName = false, "leaf"
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})}
	k.attacker, k.strange = selfSigned("ES256", nil), selfSigned("P-224", nil)
	k.bundle = tokenBundle(k.ec, k.ec384, k.ec512, k.rsa, k.expired)
	return k
})

func tokenBundle(keys ...*tokenKey) (all []byte) {
	for _, k := range keys {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert.Raw})...)
	}
	return all
}

// libtrustKID and rfc7638KID are written from their definitions.
func (k *tokenKey) libtrustKID() string {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	hash := sha256.Sum256(der)
	text := base32.StdEncoding.EncodeToString(hash[:])[:48]
	var groups []string
	for i := 0; i < len(text); i += 4 {
		groups = append(groups, text[i:i+4])
	}
	return strings.Join(groups, ":")
}

func (k *tokenKey) jwk() object {
	switch pub := k.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		return object{"kty": "EC", "crv": pub.Curve.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": b64(pub.N.Bytes()), "e": b64(big.NewInt(int64(pub.E)).Bytes())}
	}
	panic("no such key")
}

func (k *tokenKey) rfc7638KID() string {
	sum := sha256.Sum256(marshal(k.jwk())) // sorted, as the RFC wants it
	return b64(sum[:])
}

func (k *tokenKey) jwkWith(key string, value any) object {
	j := k.jwk()
	j[key] = value
	return j
}

func (k *tokenKey) x5c(more ...*tokenKey) (chain []string) {
	for _, each := range append([]*tokenKey{k}, more...) {
		chain = append(chain, base64.StdEncoding.EncodeToString(each.cert.Raw))
	}
	return chain
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// signRaw signs what need not be JSON.
func (k *tokenKey) signRaw(alg string, header, claims []byte) string {
	input := b64(header) + "." + b64(claims)
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	h := hash.New()
	h.Write([]byte(input))
	if key, ok := k.Signer.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, key, h.Sum(nil))
		if err != nil {
			panic(err)
		}
		size := (key.Params().BitSize + 7) / 8
		return input + "." + b64(append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...))
	}
	signature, err := k.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		panic(err)
	}
	return input + "." + b64(signature)
}

func (k *tokenKey) sign(header, claims object) string {
	full := object{"typ": "JWT", "alg": k.alg}
	maps.Copy(full, header)
	return k.signRaw(k.alg, marshal(full), marshal(claims))
}

func (k *tokenKey) byKID(claims object) string {
	return k.sign(object{"kid": k.libtrustKID()}, claims)
}

func granting(gun string, actions ...string) []object {
	return []object{{"type": "repository", "name": gun, "actions": actions}}
}

// claimsWith are good claims, with pairs of name and value changed; a value nil
// takes the claim away.
func claimsWith(pairs ...any) object {
	c := object{
		"iss": tokenIssuer, "aud": tokenService, "sub": "alice", "jti": "Xc3wUXLnBkNhvDCR", "iat": tokenNow.Unix(),
		"exp": tokenNow.Add(30 * time.Minute).Unix(), "nbf": tokenNow.Unix(), "access": granting(tokenGUN, "pull", "push"),
	}
	for i := 0; i < len(pairs); i += 2 {
		if name := pairs[i].(string); pairs[i+1] == nil {
			delete(c, name)
		} else {
			c[name] = pairs[i+1]
		}
	}
	return c
}

// grantWith are the claims of a token to pull and push gun.
func grantWith(gun string, pairs ...any) object {
	return claimsWith(append([]any{"access", granting(gun, "pull", "push")}, pairs...)...)
}

func hmacToken(secret []byte, kid string, claims object) string {
	input := b64(marshal(object{"alg": "HS256", "kid": kid})) + "." + b64(marshal(claims))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

func jsonLog(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

func putFile(t testing.TB, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shortRSACert is for a key that Go itself would not make.
func shortRSACert() []byte {
	n := new(big.Int).SetBit(big.NewInt(1), 511, 1)
	k := tokenKeys().ec
	der, err := x509.CreateCertificate(rand.Reader, k.cert, k.cert, &rsa.PublicKey{N: n, E: 65537}, k.Signer)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newTokens(t testing.TB, change func(*auth.TokenConfig)) *auth.Tokens {
	t.Helper()
	c := auth.TokenConfig{
		Realm: tokenRealm, Service: tokenService, Issuer: tokenIssuer, RootCertBundle: filepath.Join(t.TempDir(), "root.crt"),
		Now: func() time.Time { return tokenNow },
	}
	putFile(t, c.RootCertBundle, tokenKeys().bundle)
	if change != nil {
		change(&c)
	}
	tokens, err := auth.NewTokens(c)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func bearer(token string) *http.Request {
	r := &http.Request{Method: "GET", Host: "notary.example.com", Header: http.Header{}}
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func on(gun string, actions ...string) (need []auth.Access) {
	for _, a := range actions {
		need = append(need, auth.Access{Type: "repository", Name: gun, Action: a})
	}
	return need
}
