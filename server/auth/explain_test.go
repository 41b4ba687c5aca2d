package auth_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"countersign/server/auth"
)

var checkNames = []string{"form", "algorithm", "issuer", "audience", "expiry", "not before", "signing key", "signature"}

// explained returns the texts of the checks by name, with "ok: " before those
// that pass.
func explained(t testing.TB, tokens *auth.Tokens, token string, need []auth.Access) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for i, c := range tokens.Explain(token, need) {
		if i < len(checkNames) && c.Name != checkNames[i] || i >= len(checkNames) && !strings.HasPrefix(c.Name, "access ") {
			t.Errorf("check %d is %q", i, c.Name)
		}
		text := c.Text
		if c.OK {
			text = "ok: " + text
		}
		texts[c.Name] = text
	}
	if len(texts) != len(checkNames)+len(need) {
		t.Errorf("%d checks", len(texts))
	}
	return texts
}

// Who needs full_access_actions learns of it here, and nobody else.
func TestExplainFullAccess(t *testing.T) {
	t.Parallel()
	const remedy, check = "auth.options.full_access_actions", "access * on " + tokenGUN
	token := tokenKeys().ec.byKID(claimsWith())
	for _, full := range [][]string{nil, {"push", "pull", "delete"}} {
		tokens := newTokens(t, func(c *auth.TokenConfig) { c.FullAccessActions = full })
		if text := explained(t, tokens, token, on(tokenGUN, "*"))[check]; strings.Contains(text, remedy) != (full == nil) {
			t.Errorf("%v: %s", full, text)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	tokens := newTokens(t, func(c *auth.TokenConfig) { c.FullAccessActions = []string{"push", "pull", "delete"} })
	old := tokenNow.Add(-time.Hour)
	for _, c := range []struct {
		name  string
		token string
		need  []auth.Access
		want  map[string]string // by check, a part of its text
	}{
		{"good", k.rsa.byKID(claimsWith()), on(tokenGUN, "push"), map[string]string{
			"form": "ok: three parts", "algorithm": "ok: RS256", "issuer": `ok: "harbor-token-issuer", as wanted`, "audience": `ok: ["harbor-notary"], as wanted`,
			"expiry": "ok: until " + tokenNow.Add(30*time.Minute).UTC().Format(time.RFC3339), "not before": "ok: since ",
			"signing key": "ok: kid is the key of the bundle's certificate with no subject, serial ", "signature": "ok: RS256 by the signing key",
			"access push on " + tokenGUN: `ok: granted: ["pull" "push"]`,
		}},
		{"all wrong at once", k.attacker.byKID(claimsWith("iss", "x", "aud", "y", "exp", old.Unix(), "nbf", tokenNow.Add(time.Hour).Unix(), "access", nil)), on(tokenGUN, "push"), map[string]string{
			"form": "ok: ", "algorithm": "ok: ES256", "issuer": `issuer is "x", want "harbor-token-issuer"; the token is of another token service, or auth.options.issuer is wrong`,
			"audience": `audience is ["y"], want "harbor-notary"; `, "expiry": "it expired at " + old.UTC().Format(time.RFC3339) + ", now is " + tokenNow.UTC().Format(time.RFC3339) + "; ask for a new token",
			"not before": "it is not valid before ", "signing key": k.ec.libtrustKID(), "signature": "not checked: there is no trusted key",
			"access push on " + tokenGUN: `the token grants [] on "repository:` + tokenGUN + `", want "push"`,
		}},
		{"half of it", strings.Join(strings.Split(k.ec.byKID(claimsWith("iss", "x")), ".")[:2], ".") + ".", on(tokenGUN, "pull"), map[string]string{
			"form": "it has no signature; ", "issuer": `issuer is "x"`, "audience": "ok: ", "signing key": "ok: ", "signature": "it is not by the signing key", "access pull on " + tokenGUN: "ok: ",
		}},
		{"claims unreadable", k.ec.signRaw("ES256", marshal(object{"alg": "ES256", "kid": k.ec.libtrustKID()}), []byte("{")), on(tokenGUN, "pull"), map[string]string{
			"form": "the claims: ", "algorithm": "ok: ", "issuer": "not checked: the claims", "audience": "not checked", "expiry": "not checked", "not before": "not checked",
			"signing key": "ok: ", "signature": "ok: ", "access pull on " + tokenGUN: "not checked",
		}},
		{"nothing", "", on(tokenGUN, "pull"), map[string]string{
			"form": "it has 1 parts, want 3 with dots between them; give the token", "algorithm": "not checked: the header", "signing key": "not checked: the header", "signature": "not checked",
		}},
		{"x5c", k.leaf.sign(object{"x5c": k.leaf.x5c()}, claimsWith()), nil, map[string]string{
			"signing key": `ok: x5c has the certificate with subject "CN=leaf", serial `, "signature": "ok: ",
		}},
		{"jwk", k.ec.sign(object{"jwk": k.ec.jwk()}, claimsWith()), nil, map[string]string{
			"signing key": `ok: jwk is the key of the bundle's certificate with subject "CN=token service"`,
		}},
		{"jwk, and an algorithm that does not do", k.ec.signRaw("ES256", marshal(object{"alg": "none", "jwk": k.ec.jwk()}), marshal(claimsWith())), nil, map[string]string{
			"algorithm": `algorithm is "none", want one of [ES256 ES384 ES512 RS256 RS384 RS512]`, "signing key": "ok: ", "signature": `algorithm "none" does not fit the signing key, want one of [ES256]`,
		}},
		{"no star", k.ec.byKID(claimsWith()), on(tokenGUN, "pull", "*"), map[string]string{
			"access pull on " + tokenGUN: "ok: ", "access * on " + tokenGUN: `the token grants ["pull" "push"] on "repository:` + tokenGUN + `", want "*"; the user may not`,
		}},
		{"star", k.ec.byKID(claimsWith("access", granting(tokenGUN, "*"))), on(tokenGUN, "pull"), map[string]string{"access pull on " + tokenGUN: `ok: granted by "*"`}},
		{"star by three", k.ec.byKID(claimsWith("access", granting(tokenGUN, "pull", "delete", "push"))), on(tokenGUN, "*"), map[string]string{
			"access * on " + tokenGUN: `ok: granted by ["push" "pull" "delete"] together`,
		}},
		{"another host", k.ec.byKID(claimsWith()), on("example.com/library/app", "pull"), map[string]string{
			"access pull on example.com/library/app": `the token is about ["repository:` + tokenGUN + `"]: the name must be the same to the letter, with host and port`,
		}},
	} {
		texts := explained(t, tokens, c.token, c.need)
		for check, want := range c.want {
			if got := texts[check]; !strings.Contains(got, want) || strings.HasPrefix(got, "ok: ") != strings.HasPrefix(want, "ok: ") {
				t.Errorf("%s, %s: %q, want %q", c.name, check, got, want)
			}
		}
	}
}

// What a stranger puts into a token is told short, in one line and in ASCII.
func TestExplainBounds(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	tokens := newTokens(t, nil)
	odd := "\x1b[31m\n\u202e" + strings.Repeat("x", 5000)
	var many []object
	for i := range 100 {
		many = append(many, object{"type": "repository", "name": fmt.Sprint(odd[:300], i), "actions": []string{odd}})
	}
	for _, token := range []string{
		k.ec.sign(object{"kid": odd}, claimsWith("iss", odd, "aud", []string{odd, odd}, "access", many)),
		k.ec.sign(object{"kid": odd, "alg": odd}, claimsWith("sub", odd)),
		k.ec.sign(object{"x5c": []string{odd}}, claimsWith("exp", json9000)),
		k.ec.signRaw("ES256", []byte(`{"`+strings.Repeat("y", 3000)+`":1,"`+strings.Repeat("y", 3000)+`":2}`), []byte("{}")),
	} {
		for _, c := range tokens.Explain(token, on("é\x1b\n/"+odd, "pull")) {
			for _, text := range []string{c.Name, c.Text} {
				if len(text) > 2500 || strings.ContainsAny(text, "\x1b\n\u202e") {
					t.Errorf("%d bytes: %q", len(text), text)
				}
			}
		}
		if _, err := tokens.Authorize(bearer(token), on("a", "pull")); err == nil || len(err.Error()) > 1200 || strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
			t.Errorf("error %v", err)
		}
	}
}

var json9000 = strings.Repeat("9", 9000)
