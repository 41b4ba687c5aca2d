package auth_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"time"
)

// A tokenCase is a token, and whether it may pull tokenGUN.
type tokenCase struct {
	name  string
	token string
	why   string // "" if it may, else what the log says
	// differs from upstream, on purpose: stricter or laxer
	differs bool
}

func tokenCases(gun string) []tokenCase {
	return slices.Concat(keyCases(gun), claimCases(gun), formCases(gun))
}

func keyCases(gun string) []tokenCase {
	k := tokenKeys()
	rsaDER := x509.MarshalPKCS1PublicKey(k.rsa.Public().(*rsa.PublicKey))
	spki, err := x509.MarshalPKIXPublicKey(k.rsa.Public())
	if err != nil {
		panic(err)
	}
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	with := func(key *tokenKey, header object) string { return key.sign(header, grantWith(gun)) }
	rs := func(alg string) string {
		return (&tokenKey{k.rsa, alg, k.rsa.cert}).byKID(grantWith(gun))
	}
	long := make([]*tokenKey, 8)
	for i := range long {
		long[i] = k.ec
	}
	stranger := &tokenKey{k.attacker, "ES256", issueCert(k.attacker, k.attacker, func(c *x509.Certificate) { c.Subject.CommonName = "leaf" })}
	late := &tokenKey{k.leaf, "ES256", issueCert(k.leaf, k.ec, func(c *x509.Certificate) { c.NotAfter = tokenNow.Add(-time.Minute) })}
	huge := hugeRSA(k.ec)
	const badJWK = "jwk: "
	return []tokenCase{
		{"kid ES256", k.ec.byKID(grantWith(gun)), "", false},
		{"kid ES384", k.ec384.byKID(grantWith(gun)), "", false},
		{"kid ES512", k.ec512.byKID(grantWith(gun)), "", false},
		{"kid RS256", k.rsa.byKID(grantWith(gun)), "", false},
		{"kid RS384", rs("RS384"), "", false},
		{"kid RS512", rs("RS512"), "", false},
		{"kid of an expired certificate", k.expired.byKID(grantWith(gun)), "", false},
		{"kid of RFC 7638, EC", with(k.ec, object{"kid": k.ec.rfc7638KID()}), "", true},
		{"kid of RFC 7638, RSA", with(k.rsa, object{"kid": k.rsa.rfc7638KID()}), "", true},
		{"kid of another key", with(k.ec, object{"kid": k.expired.libtrustKID()}), "not by the signing key", false},
		{"kid unknown", k.attacker.byKID(grantWith(gun)), "which is no key of the bundle", false},
		{"kid of the leaf", k.leaf.byKID(grantWith(gun)), "which is no key of the bundle", false},
		{"no key", with(k.ec, nil), "none of x5c, jwk and kid", false},
		{"kid empty", with(k.ec, object{"kid": ""}), "none of x5c, jwk and kid", false},
		{"kid a number", with(k.ec, object{"kid": 7}), "the header: json", false},

		{"x5c leaf and root", with(k.leaf, object{"x5c": k.leaf.x5c(k.ec)}), "", false},
		{"x5c leaf alone", with(k.leaf, object{"x5c": k.leaf.x5c()}), "", false},
		{"x5c of the bundle itself", with(k.rsa, object{"x5c": k.rsa.x5c()}), "", false},
		{"x5c before kid", with(k.leaf, object{"x5c": k.leaf.x5c(), "kid": "unknown"}), "", false},
		{"x5c before a good kid", with(k.ec, object{"x5c": k.attacker.x5c(), "kid": k.ec.libtrustKID()}), "x5c: x509: certificate signed by unknown authority", false},
		{"x5c empty, kid", with(k.ec, object{"x5c": []string{}, "kid": k.ec.libtrustKID()}), "", false},
		{"x5c of an untrusted CA", with(stranger, object{"x5c": stranger.x5c(k.attacker)}), "x5c: x509: certificate signed by unknown authority", false},
		{"x5c of an untrusted CA with the root behind", with(stranger, object{"x5c": stranger.x5c(k.attacker, k.rsa)}), "x5c: x509: certificate signed by unknown authority", false},
		{"x5c with two of one subject", with(k.leaf, object{"x5c": k.leaf.x5c(k.ec, k.attacker)}), "x5c: certificate 3 has the subject of another", true},
		{"x5c with one twice", with(k.leaf, object{"x5c": k.leaf.x5c(k.ec, k.ec)}), "", false},
		{"x5c of the leaf, by another key", with(k.attacker, object{"x5c": k.leaf.x5c()}), "not by the signing key", false},
		{"x5c late", with(late, object{"x5c": late.x5c()}), "x5c: x509: certificate has expired", false},
		{"x5c under an expired root", with(k.expired, object{"x5c": k.expired.x5c()}), "x5c: x509: certificate has expired", false},
		{"x5c no base64", with(k.leaf, object{"x5c": []string{"%"}}), "x5c: certificate 1 is not base64", false},
		{"x5c no certificate", with(k.leaf, object{"x5c": []string{"AAAA"}}), "x5c: certificate 1: x509", false},
		{"x5c no certificate behind the leaf", with(k.leaf, object{"x5c": append(k.leaf.x5c(), "AAAA")}), "x5c: certificate 2: x509", false},
		{"x5c a string", with(k.leaf, object{"x5c": k.leaf.x5c()[0]}), "the header: json", false},
		{"x5c too long", with(k.leaf, object{"x5c": k.leaf.x5c(long...)}), "x5c has 9 certificates, want 8 at most", true},

		{"x5c of a huge RSA key", with(k.leaf, object{"x5c": []string{huge}}), "x5c: certificate 1 has an RSA key of 8201 bits, want 8192 at most", false},
		{"x5c with a huge RSA key behind", with(k.leaf, object{"x5c": append(k.leaf.x5c(), huge)}), "x5c: certificate 2 has an RSA key of 8201 bits", true},

		{"jwk EC", with(k.ec, object{"jwk": k.ec.jwk()}), "", false},
		{"jwk RSA", with(k.rsa, object{"jwk": k.rsa.jwkWith("kid", k.rsa.libtrustKID())}), "", false},
		{"jwk with x5c", with(k.leaf, object{"jwk": k.leaf.jwkWith("x5c", k.leaf.x5c(k.ec))}), "", false},
		{"jwk null, kid", with(k.ec, object{"jwk": nil, "kid": k.ec.libtrustKID()}), "", false},
		{"jwk with another kid", with(k.ec, object{"jwk": k.ec.jwkWith("kid", "mine")}), "", true},
		{"jwk of an attacker", with(k.attacker, object{"jwk": k.attacker.jwk()}), "which the bundle has not", false},
		{"jwk of an attacker, with our kid", with(k.attacker, object{"jwk": k.attacker.jwkWith("kid", k.ec.libtrustKID()), "kid": k.ec.libtrustKID()}), "which the bundle has not", false},
		{"jwk of the bundle, by an attacker", with(k.attacker, object{"jwk": k.ec.jwk()}), "not by the signing key", false},
		{"jwk of an attacker with our x5c", with(k.attacker, object{"jwk": k.attacker.jwkWith("x5c", k.leaf.x5c())}), badJWK, false},
		{"jwk with x5c of an attacker", with(k.attacker, object{"jwk": k.attacker.jwkWith("x5c", k.attacker.x5c())}), "jwk with x5c: x509: certificate signed by unknown", false},
		{"jwk of the bundle with x5c that does not lead there", with(k.expired, object{"jwk": k.expired.jwkWith("x5c", k.expired.x5c())}), "jwk with x5c: x509: certificate has expired", false},
		{"jwk private", with(k.ec, object{"jwk": k.ec.jwkWith("d", "AAAA")}), badJWK, true},
		{"jwk symmetric", with(k.ec, object{"jwk": object{"kty": "oct", "k": "AAAA"}}), badJWK, false},
		{"jwk no object", with(k.ec, object{"jwk": "no"}), badJWK, false},
		{"jwk off its curve", with(k.ec, object{"jwk": k.ec.jwkWith("x", k.ec384.jwk()["x"])}), badJWK, false},
		{"jwk of a strange curve", (&tokenKey{k.strange, "ES256", nil}).sign(object{"jwk": k.strange.jwk()}, grantWith(gun)), badJWK, false},

		{"none", b64(marshal(object{"alg": "none", "kid": k.ec.libtrustKID()})) + "." + b64(marshal(grantWith(gun))) + ".", "it has no signature", false},
		{"none, signed", k.ec.signRaw("ES256", marshal(object{"alg": "none", "kid": k.ec.libtrustKID()}), marshal(grantWith(gun))), `algorithm is "none"`, false},
		{"HS256 with the key as PEM", hmacToken(rsaPEM, k.rsa.libtrustKID(), grantWith(gun)), `algorithm is "HS256"`, false},
		{"HS256 with the key as SPKI", hmacToken(spki, k.rsa.libtrustKID(), grantWith(gun)), `algorithm is "HS256"`, false},
		{"HS256 with the key as PKCS 1", hmacToken(rsaDER, k.rsa.libtrustKID(), grantWith(gun)), `algorithm is "HS256"`, false},
		{"HS256 with the certificate", hmacToken(tokenBundle(k.rsa), k.rsa.libtrustKID(), grantWith(gun)), `algorithm is "HS256"`, false},
		{"no algorithm", k.ec.signRaw("ES256", marshal(object{"kid": k.ec.libtrustKID()}), marshal(grantWith(gun))), `algorithm is ""`, false},
		{"PS256", k.rsa.signRaw("RS256", marshal(object{"alg": "PS256", "kid": k.rsa.libtrustKID()}), marshal(grantWith(gun))), `algorithm is "PS256"`, false},
		{"ES256 said, RSA key", k.rsa.signRaw("RS256", marshal(object{"alg": "ES256", "kid": k.rsa.libtrustKID()}), marshal(grantWith(gun))), `algorithm "ES256" does not fit`, false},
		{"RS256 said, EC key", k.ec.signRaw("ES256", marshal(object{"alg": "RS256", "kid": k.ec.libtrustKID()}), marshal(grantWith(gun))), `algorithm "RS256" does not fit`, false},
		{"ES384 said, P-256 key", k.ec.signRaw("ES384", marshal(object{"alg": "ES384", "kid": k.ec.libtrustKID()}), marshal(grantWith(gun))), `algorithm "ES384" does not fit`, false},
		{"ES256 said, P-384 key", k.ec384.signRaw("ES256", marshal(object{"alg": "ES256", "kid": k.ec384.libtrustKID()}), marshal(grantWith(gun))), `algorithm "ES256" does not fit`, false},
	}
}

func claimCases(gun string) []tokenCase {
	k := tokenKeys()
	with := func(pairs ...any) string { return k.ec.byKID(grantWith(gun, pairs...)) }
	ago := func(d time.Duration) int64 { return tokenNow.Add(-d).Unix() }
	const malformed = "the claims: json"
	return []tokenCase{
		{"aud an array of one", with("aud", []string{tokenService}), "", true},
		{"aud an array of two", with("aud", []string{"x", tokenService}), "", true},
		{"aud another", with("aud", "harbor-registry"), `audience is ["harbor-registry"], want "harbor-notary"`, false},
		{"aud an array without us", with("aud", []string{"x", "y"}), `audience is ["x" "y"], want "harbor-notary"`, false},
		{"aud missing", with("aud", nil), "audience is [], want", false},
		{"aud empty", with("aud", ""), `audience is [""], want`, false},
		{"aud an empty array", with("aud", []string{}), "audience is [], want", false},
		{"aud null", with("aud", json.RawMessage("null")), "audience is [], want", false},
		{"aud an array of numbers", with("aud", []int{1}), malformed, false},
		{"aud an object", with("aud", object{"harbor-notary": 1}), malformed, false},
		{"iss another", with("iss", "someone"), `issuer is "someone", want "harbor-token-issuer"`, false},
		{"iss missing", with("iss", nil), `issuer is ""`, false},
		{"iss by case", with("iss", "Harbor-token-issuer"), `issuer is "Harbor-token-issuer"`, false},
		{"exp within the leeway", with("exp", ago(20*time.Second)), "", false},
		{"exp beyond the leeway", with("exp", ago(61*time.Second)), "it expired at ", false},
		{"exp missing", with("exp", nil), "does not say when it expires", false},
		{"exp zero", with("exp", 0), "it expired at 1970", false},
		{"exp negative", with("exp", -1<<63), "it expired at ", false},
		{"exp a string", with("exp", "tomorrow"), malformed, false},
		{"exp a fraction", with("exp", 1e10+0.5), malformed, false},
		{"nbf within the leeway", with("nbf", ago(-40*time.Second)), "", false},
		{"nbf beyond the leeway", with("nbf", ago(-10*time.Minute)), "it is not valid before", false},
		{"nbf missing", with("nbf", nil), "", false},
		{"nbf absurd", with("nbf", int64(1<<63-1)), "it is not valid before", true},
		{"sub missing", with("sub", nil), "", false},
		{"sub a robot", with("sub", "robot$ci"), "", false},
		{"iat and jti missing", with("iat", nil, "jti", nil), "", false},
		{"more than we know", with("email", "a@example.com", "nested", object{"a": []int{1}}), "", false},

		{"access null", with("access", json.RawMessage("null")), "does not grant pull on " + gun, false},
		{"access empty", with("access", []object{}), "does not grant pull", false},
		{"access missing", with("access", nil), "does not grant pull", false},
		{"access without actions", with("access", granting(gun)), "does not grant pull", false},
		{"access by a scanner", with("access", granting(gun, "scanner-pull")), "does not grant pull", false},
		{"access by a scanner too", with("access", granting(gun, "scanner-pull", "pull", "delete")), "", false},
		{"access star", with("access", granting(gun, "*")), "", false},
		{"access to push", with("access", granting(gun, "push")), "does not grant pull", false},
		{"access by case", with("access", granting(gun, "Pull")), "does not grant pull", false},
		{"access without the port", with("access", []object{{"type": "repository", "name": "example.com/library/app", "actions": []string{"pull"}}}), "does not grant pull", false},
		{"access to a part of the name", with("access", []object{{"type": "repository", "name": gun + "/", "actions": []string{"pull"}}}), "does not grant pull", false},
		{"access of another type", with("access", []object{{"type": "registry", "name": gun, "actions": []string{"pull"}}}), "does not grant pull", false},
		{"access of a class", with("access", []object{{"type": "repository", "class": "plugin", "name": gun, "actions": []string{"pull"}}}), "", false},
		{"access in two entries", with("access", append(granting(gun, "push"), granting(gun, "pull")...)), "", false},
		{"access behind others", with("access", append([]object{{"type": "repository", "name": "x", "actions": []string{"*"}}}, granting(gun, "pull")...)), "", false},
		{"access with entries that say nothing", with("access", append([]object{{}}, granting(gun, "pull")...)), "", false},
		{"access no array", with("access", "pull"), malformed, false},
		{"access with actions that are no array", with("access", []object{{"type": "repository", "name": gun, "actions": "pull"}}), malformed, false},
	}
}

// loose is the last letter of a signature of 64 bytes, with a bit set that stands
// for nothing.
func loose(last byte) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return letters[strings.IndexByte(letters, last)|1:][:1]
}

func formCases(gun string) []tokenCase {
	k := tokenKeys()
	good := k.ec.byKID(grantWith(gun))
	parts := strings.Split(good, ".")
	header := marshal(object{"alg": "ES256", "kid": k.ec.libtrustKID()})
	raw := func(claims string) string { return k.ec.signRaw("ES256", header, []byte(claims)) }
	plain := string(marshal(grantWith(gun)))
	other := k.ec.byKID(claimsWith("access", granting(gun, "*")))
	join := func(p ...string) string { return strings.Join(p, ".") }
	return []tokenCase{
		{"empty", "", "it has 1 parts", false},
		{"one part", "abc", "it has 1 parts", false},
		{"no signature", join(parts[0], parts[1]), "it has 2 parts", false},
		{"empty signature", join(parts[0], parts[1], ""), "it has no signature", false},
		{"four parts", good + ".", "it has 4 parts", false},
		{"five parts", good + ".a.b", "it has 5 parts", false},
		{"cut in the signature", good[:len(good)-2], "not by the signing key", false},
		{"cut by one", good[:len(good)-1], "the signature: not base64url", false},
		{"loose bits in the signature", good[:len(good)-1] + loose(good[len(good)-1]), "the signature: not base64url", true},
		{"longer", good + "AAAA", "not by the signing key", false},
		{"padded", join(parts[0], parts[1], parts[2]) + "==", "the signature: not base64url", true},
		{"standard base64", strings.NewReplacer("-", "+", "_", "/").Replace(join(parts[0], parts[1], "-_"+parts[2])), "the signature: not base64url", false},
		{"changed claims", join(parts[0], strings.Split(other, ".")[1], parts[2]), "not by the signing key", false},
		{"changed header", join(strings.Split(k.ec.sign(object{"kid": k.ec.libtrustKID(), "cty": "x"}, grantWith(gun)), ".")[0], parts[1], parts[2]), "not by the signing key", false},
		{"zero signature", join(parts[0], parts[1], b64(make([]byte, 64))), "not by the signing key", false},
		{"header no JSON", join(b64([]byte("{")), parts[1], parts[2]), "the header: ", false},
		{"header an array", join(b64([]byte("[]")), parts[1], parts[2]), "the header: ", false},
		{"claims no JSON", raw("hello"), "the claims: ", false},
		{"claims an array", raw("[]"), "the claims: ", false},
		{"claims and more", raw(plain + "{}"), "the claims: ", false},
		{"a claim twice", raw(`{"iss":"x",` + plain[1:]), "the claims: json: duplicate key", true},
		{"access twice", raw(`{"access":[],` + plain[1:]), "the claims: json: duplicate key", true},
		{"claims by another case", raw(strings.Replace(plain, `"iss"`, `"ISS"`, 1)), `issuer is ""`, true},
		{"alg twice", k.ec.signRaw("ES256", []byte(`{"alg":"none",`+string(header[1:])), []byte(plain)), "the header: json: duplicate key", true},
		{"crit", k.ec.sign(object{"kid": k.ec.libtrustKID(), "crit": []string{"exp"}}, grantWith(gun)), "critical members", true},
		{"b64", k.ec.sign(object{"kid": k.ec.libtrustKID(), "crit": []string{"b64"}, "b64": false}, grantWith(gun)), "critical members", true},
		{"too long", k.ec.byKID(grantWith(gun, "pad", strings.Repeat("x", 64<<10))), "want 65536 at most", true},
	}
}
