package auth_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"countersign/server/auth"
)

// fuzzKey is the same in every process: a seed must stay what it was.
func fuzzKey() *tokenKey {
	raw := sha256.Sum256([]byte("a key for fuzzing"))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:])
	if err != nil {
		panic(err)
	}
	return &tokenKey{key, "ES256", issueCert(key, nil, nil)}
}

// FuzzToken: no bytes panic, none are accepted that a second, simpler verifier
// would not accept, and the explanation always agrees.
func FuzzToken(f *testing.F) {
	k := fuzzKey()
	fixed := claimsWith("exp", int64(1<<40), "nbf", 0, "iat", 0)
	for _, header := range []object{
		{"kid": k.libtrustKID()}, {"kid": k.rfc7638KID()}, {"jwk": k.jwk()}, {"x5c": k.x5c()}, {"jwk": k.jwkWith("x5c", k.x5c())}, {"alg": "none", "kid": k.libtrustKID()}, {"alg": "HS256"},
	} {
		f.Add(k.sign(header, fixed))
	}
	f.Add(k.byKID(claimsWith("aud", []string{tokenService}, "exp", int64(1<<40), "access", append(granting(tokenGUN), object{}))))
	f.Add("..")
	f.Add("a.b.c")
	check := fuzzCheck(f, k)
	f.Fuzz(func(t *testing.T, token string) { check(t, token) })
}

// FuzzTokenContent is FuzzToken behind the signature, where chance does not get.
func FuzzTokenContent(f *testing.F) {
	k := fuzzKey()
	plain := marshal(claimsWith("exp", int64(1<<40), "nbf", 0, "iat", 0))
	for _, header := range []object{{"kid": k.libtrustKID()}, {"jwk": k.jwk()}, {"x5c": k.x5c()}, {"jwk": k.jwkWith("x5c", k.x5c())}, {"kid": k.libtrustKID(), "crit": []string{}}} {
		header["alg"] = "ES256"
		f.Add(marshal(header), plain)
	}
	for _, claims := range []string{
		`{"aud":["harbor-notary"],"exp":1099511627776,"iss":"harbor-token-issuer","access":[null,{"type":"repository","name":"x","actions":["*"]}]}`,
		`{"access":null}`, `{"exp":1e99}`, `{"aud":null,"aud":""}`, `[]`, "",
	} {
		f.Add(marshal(object{"alg": "ES256", "kid": k.rfc7638KID()}), []byte(claims))
	}
	check := fuzzCheck(f, k)
	f.Fuzz(func(t *testing.T, header, claims []byte) { check(t, k.signRaw("ES256", header, claims)) })
}

// fuzzCheck returns what must hold of any token.
func fuzzCheck(f *testing.F, k *tokenKey) func(*testing.T, string) {
	tokens := newTokens(f, func(c *auth.TokenConfig) { putFile(f, c.RootCertBundle, tokenBundle(k)) })
	need := on(tokenGUN, "pull")
	return func(t *testing.T, token string) {
		_, err := tokens.Authorize(bearer(token), need)
		if strings.Contains(token, " ") {
			if err == nil {
				t.Fatal("a token with a blank is accepted")
			}
			return
		}
		all := true
		for _, c := range tokens.Explain(token, need) {
			all = all && c.OK
		}
		if all != (err == nil) {
			t.Fatalf("the explanation says %v, the verification %v", all, err)
		}
		if err == nil && !plainlyValid(k, token) {
			t.Fatal("accepted")
		}
	}
}

// plainlyValid knows one key, one algorithm, and what newTokens wants.
func plainlyValid(k *tokenKey, token string) bool {
	end := strings.LastIndexByte(token, '.')
	input, tail := token[:end], token[end+1:]
	signature, err := base64.RawURLEncoding.DecodeString(tail)
	if err != nil || len(signature) != 64 {
		return false
	}
	hash := sha256.Sum256([]byte(input))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(k.Public().(*ecdsa.PublicKey), hash[:], r, s) {
		return false
	}
	head, body, _ := strings.Cut(input, ".")
	var header, claims map[string]any
	for part, into := range map[string]*map[string]any{head: &header, body: &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return false
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		if err := d.Decode(into); err != nil {
			return false
		}
	}
	aud, isText := claims["aud"].(string)
	if list, ok := claims["aud"].([]any); ok && !isText {
		for _, a := range list {
			if a == tokenService {
				aud = tokenService
			}
		}
	}
	exp, _ := claims["exp"].(float64)
	nbf, _ := claims["nbf"].(float64)
	mayPull := false
	entries, _ := claims["access"].([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		actions, _ := entry["actions"].([]any)
		for _, action := range actions {
			mayPull = mayPull || entry["type"] == "repository" && entry["name"] == tokenGUN && (action == "pull" || action == "*")
		}
	}
	at := float64(tokenNow.Unix())
	return header["alg"] == "ES256" && claims["iss"] == tokenIssuer && aud == tokenService && at <= exp+60 && at >= nbf-60 && mayPull
}
