package auth_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign/server"
	"countersign/server/auth"
)

// They fit where the server wants them.
var (
	_ server.AccessFunc = (*auth.Tokens)(nil).Authorize
	_ server.Challenger = (*auth.Refusal)(nil)
)

func TestTokens(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	for _, c := range tokenCases(tokenGUN) {
		t.Run(c.name, func(t *testing.T) {
			need := on(tokenGUN, "pull")
			subject, err := tokens.Authorize(bearer(c.token), need)
			passed := 0
			for _, check := range tokens.Explain(c.token, need) {
				if check.OK {
					passed++
				}
				if check.Text == "" || leaks(check.Text, c.token) {
					t.Errorf("%s: text %q", check.Name, check.Text)
				}
			}
			if all := passed == 9; all != (err == nil) {
				t.Errorf("the explanation has %d checks that pass, and the error is %v", passed, err)
			}
			if c.why == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refusal, ok := errors.AsType[*auth.Refusal](err)
			if !ok || !strings.HasPrefix(err.Error(), "token: ") || !strings.Contains(err.Error(), c.why) || leaks(err.Error(), c.token) {
				t.Fatalf("error %v, want %q", err, c.why)
			}
			problem, public, who := "invalid_token", "the token is not valid", ""
			if strings.Contains(c.why, "does not grant") {
				problem, public, who = "insufficient_scope", "the token does not grant pull on "+tokenGUN, "alice"
			}
			challenge := `Bearer realm="` + tokenRealm + `",service="harbor-notary",scope="repository:` + tokenGUN + `:pull",error="` + problem + `"`
			if refusal.Challenge() != challenge || refusal.Public() != public || subject != who {
				t.Errorf("challenge %s\npublic %q\nsubject %q", refusal.Challenge(), refusal.Public(), subject)
			}
		})
	}
}

// leaks tells whether text has a good part of any part of the token.
func leaks(text, token string) bool {
	for part := range strings.SplitSeq(token, ".") {
		if len(part) >= 24 && strings.Contains(text, part[:24]) {
			return true
		}
	}
	return false
}

// The bounds of the leeway are upstream's to the moment.
func TestTokenLeeway(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	token := k.ec.byKID(claimsWith("nbf", tokenNow.Unix(), "exp", tokenNow.Unix()))
	for _, c := range []struct {
		at time.Duration
		ok bool
	}{
		{-61 * time.Second, false}, {-60*time.Second - 1, false}, {-60 * time.Second, true}, {0, true},
		{60 * time.Second, true}, {60*time.Second + 1, false}, {61 * time.Second, false},
	} {
		tokens := newTokens(t, func(cfg *auth.TokenConfig) { cfg.Now = func() time.Time { return tokenNow.Add(c.at) } })
		if _, err := tokens.Authorize(bearer(token), on(tokenGUN, "pull")); (err == nil) != c.ok {
			t.Errorf("at %v: %v", c.at, err)
		}
	}
}

func TestTokenAccess(t *testing.T) {
	t.Parallel()
	catalog := []auth.Access{{Type: "registry", Name: "catalog", Action: "*"}}
	harbor := []string{"push", "pull", "delete"}
	for _, c := range []struct {
		granted []object
		full    []string
		need    []auth.Access
		missing string
	}{
		{granting(tokenGUN, "push", "pull"), nil, on(tokenGUN, "push", "pull"), ""},
		{granting(tokenGUN, "pull"), nil, on(tokenGUN, "push", "pull"), "push on " + tokenGUN},
		{nil, nil, on(tokenGUN, "push", "pull"), "push and pull on " + tokenGUN},
		{granting(tokenGUN, "*"), nil, on(tokenGUN, "push", "pull"), ""},
		{granting(tokenGUN, "*"), nil, on(tokenGUN, "*"), ""},
		{granting(tokenGUN, "push", "pull", "delete"), nil, on(tokenGUN, "*"), "* on " + tokenGUN},
		{granting(tokenGUN, "delete", "scanner-pull", "pull", "push"), harbor, on(tokenGUN, "*"), ""},
		{append(granting(tokenGUN, "delete"), granting(tokenGUN, "pull", "push")...), harbor, on(tokenGUN, "*"), ""},
		{granting(tokenGUN, "push", "pull"), harbor, on(tokenGUN, "*"), "* on " + tokenGUN},
		{granting(tokenGUN, "push", "pull", "delete"), harbor, on("example.com/other", "*"), "* on example.com/other"},
		{granting(tokenGUN, "push", "pull", "delete"), harbor, catalog, "* on registry:catalog"},
		{[]object{{"type": "registry", "name": "catalog", "actions": harbor}}, harbor, catalog, "* on registry:catalog"},
		{[]object{{"type": "registry", "name": "catalog", "actions": []string{"*"}}}, nil, catalog, ""},
		{nil, harbor, nil, ""},
		{nil, nil, on("a\x1b[2J\"<b>é\u202e", "push"), `push on a?[2J"<b>é?`},
		{nil, nil, on(strings.Repeat("<", 300), "push"), "push on " + strings.Repeat("<", 125) + "..."},
	} {
		tokens := newTokens(t, func(cfg *auth.TokenConfig) { cfg.FullAccessActions = c.full })
		token := tokenKeys().ec.byKID(claimsWith("access", c.granted))
		want := ""
		if c.missing != "" {
			want = "the token does not grant " + c.missing
		}
		_, err := tokens.Authorize(bearer(token), c.need)
		refusal, refused := errors.AsType[*auth.Refusal](err)
		if refused != (want != "") || refused && refusal.Public() != want {
			t.Errorf("%v, needing %v: %v, want %q", c.granted, c.need, err, want)
		}
		for _, check := range tokens.Explain(token, c.need)[8:] {
			if action := strings.Fields(check.Name)[1]; check.OK == slices.Contains(strings.Fields(c.missing), action) {
				t.Errorf("%v, needing %v: %+v", c.granted, c.need, check)
			}
		}
	}
}

func TestTokenSubject(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	for sub, want := range map[string]string{
		"alice": "alice", "robot$ci": "robot$ci", "": "", "Zoë 日本": "Zoë 日本", "a\nb\x1b[31m\u202ec": "a?b?[31m?c",
		strings.Repeat("x", 300): strings.Repeat("x", 253) + "...", strings.Repeat("é", 200): strings.Repeat("é", 126) + "...",
	} {
		got, err := tokens.Authorize(bearer(tokenKeys().ec.byKID(claimsWith("sub", sub))), on(tokenGUN, "pull"))
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", sub, got, err)
		}
	}
}

func TestTokenBundleIsReadAnew(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	var path string
	var out strings.Builder
	tokens := newTokens(t, func(c *auth.TokenConfig) { path, c.Log = c.RootCertBundle, jsonLog(&out) })
	passes := func(key *tokenKey) bool {
		_, err := tokens.Authorize(bearer(key.byKID(claimsWith())), on(tokenGUN, "pull"))
		return err == nil
	}
	put := func(bundle []byte) {
		t.Helper()
		putFile(t, path, bundle)
		tokens.Look(context.Background())
	}
	if !passes(k.ec) || passes(k.attacker) {
		t.Fatal("the first bundle")
	}
	both := tokenBundle(k.ec, k.attacker)
	for _, bad := range [][]byte{nil, []byte("soon"), both[:len(both)-100], both[:100], slices.Concat(both[:200], tokenBundle(k.attacker))} {
		if put(bad); !passes(k.ec) || !passes(k.rsa) || passes(k.attacker) {
			t.Fatalf("%d bytes are in force", len(bad))
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	tokens.Look(context.Background())
	tokens.Look(context.Background())
	if !passes(k.ec) || strings.Count(out.String(), "cannot be used") != 1 {
		t.Errorf("without a file: %s", &out)
	}
	if put(both); !passes(k.ec) || !passes(k.attacker) || passes(k.rsa) {
		t.Error("the new bundle is not in force")
	}
}

// What was broken from the beginning does not keep a key in force that was taken
// out of the bundle.
func TestTokenBundleBroken(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	var path string
	broken := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE\n")
	dir := t.TempDir()
	tokens := newTokens(t, func(c *auth.TokenConfig) {
		path = filepath.Join(dir, "bundle.pem")
		putFile(t, path, slices.Concat(tokenBundle(k.ec, k.attacker), broken))
		c.RootCertBundle = path
	})
	passes := func(key *tokenKey) bool {
		_, err := tokens.Authorize(bearer(key.byKID(claimsWith())), on(tokenGUN, "pull"))
		return err == nil
	}
	put := func(bundle []byte) {
		t.Helper()
		putFile(t, path, bundle)
		tokens.Look(context.Background())
	}
	if !passes(k.ec) || !passes(k.attacker) {
		t.Fatal("the first bundle")
	}
	if put(slices.Concat(tokenBundle(k.rsa), broken, broken)); passes(k.rsa) || !passes(k.attacker) {
		t.Error("a bundle with more broken entries is in force")
	}
	if put(slices.Concat(tokenBundle(k.ec), broken)); !passes(k.ec) || passes(k.attacker) {
		t.Error("a key that was taken out is in force")
	}
	if put(tokenBundle(k.ec, k.rsa)); !passes(k.rsa) {
		t.Error("the bundle that was mended is not in force")
	}
	if put(slices.Concat(tokenBundle(k.ec), broken)); !passes(k.rsa) {
		t.Error("a bundle that broke is in force")
	}
}

// Who asks for nothing is not allowed everything.
func TestTokenForNothing(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	if subject, err := tokens.Authorize(bearer(tokenKeys().ec.byKID(claimsWith())), nil); err == nil || subject != "" {
		t.Errorf("%q, %v", subject, err)
	}
}

// In a bubble, where the seconds cost nothing.
func TestTokenWatch(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	synctest.Test(t, func(t *testing.T) {
		var path string
		tokens := newTokens(t, func(c *auth.TokenConfig) { path = c.RootCertBundle })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			tokens.Watch(ctx)
		}()
		request, need := bearer(k.attacker.byKID(claimsWith())), on(tokenGUN, "pull")
		if _, err := tokens.Authorize(request, need); err == nil {
			t.Error("accepted before its key is there")
		}
		putFile(t, path, tokenBundle(k.attacker))
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if _, err := tokens.Authorize(request, need); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	})
}

func TestNewTokens(t *testing.T) {
	t.Parallel()
	k := tokenKeys()
	write := func(raw []byte) func(*auth.TokenConfig) {
		return func(c *auth.TokenConfig) {
			putFile(t, c.RootCertBundle, raw)
		}
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
	for _, c := range []struct {
		name   string
		change func(*auth.TokenConfig)
		want   []string // nil: starts
	}{
		{"good", nil, nil},
		{"no realm", func(c *auth.TokenConfig) { c.Realm = "" }, []string{`token auth requires a valid option string: "realm"`, "auth.options.realm"}},
		{"nothing", func(c *auth.TokenConfig) { *c = auth.TokenConfig{} }, []string{`string: "realm"`, `string: "issuer"`, `string: "service"`, `string: "rootcertbundle"`}},
		{"empty action", func(c *auth.TokenConfig) { c.FullAccessActions = []string{"push", ""} }, []string{"auth.options.full_access_actions"}},
		{"no file", func(c *auth.TokenConfig) { c.RootCertBundle += "x" }, []string{"unable to open token auth root certificate bundle file", "root.crtx", "working directory"}},
		{"empty file", write(nil), []string{"token auth requires at least one token signing root certificate", "root.crt"}},
		{"no certificate", write(private), []string{"at least one token signing root certificate"}},
		{"a key beside", write(slices.Concat(private, k.bundle)), nil},
		{"an entry that is cut off", write(slices.Concat(k.bundle, k.bundle[:100])), nil},
		{"text around", write(slices.Concat([]byte("Harbor\n"), k.bundle, []byte("end"))), nil},
		{"bad certificate", write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), []string{"unable to parse token auth root certificate: certificate 1"}},
		{"strange curve", write(tokenBundle(k.ec, k.strange)), []string{"unable to get public key from token auth root certificate: certificate 2", "P-256"}},
		{"short RSA key", write(shortRSACert()), []string{"512 bits", "new key"}},
	} {
		cfg := auth.TokenConfig{Realm: tokenRealm, Service: tokenService, Issuer: tokenIssuer, RootCertBundle: filepath.Join(t.TempDir(), "root.crt")}
		write(k.bundle)(&cfg)
		if c.change != nil {
			c.change(&cfg)
		}
		_, err := auth.NewTokens(cfg)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", c.name, err, want)
			}
		}
	}
}

func TestExpiredBundleWarns(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	newTokens(t, func(c *auth.TokenConfig) { c.Log = jsonLog(&out) })
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, &out)
	}
	for _, want := range []string{"has expired", `CN=harbor-token-ca`, tokenKeys().expired.cert.NotAfter.UTC().Format(time.RFC3339), "x5c"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %s", want, &out)
		}
	}
}

// What is refused before the token is looked at has no error in its challenge.
func TestTokenMissing(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	good := tokenKeys().ec.byKID(claimsWith())
	for header, ok := range map[string]bool{
		"": false, "Basic YTpi": false, "Bearer": false, good: false, "Bearer  " + good: false, "Bearer " + good + " x": false, "Bearer\t" + good: false,
		"bearer " + good: true, "BEARER " + good: true, "Bearer " + good: true,
	} {
		r := bearer("")
		r.Header.Set("Authorization", header)
		_, err := tokens.Authorize(r, on(tokenGUN, "pull"))
		if ok {
			if err != nil {
				t.Errorf("%.10q: %v", header, err)
			}
			continue
		}
		refusal, is := errors.AsType[*auth.Refusal](err)
		if want := fmt.Sprintf(`Bearer realm=%q,service="harbor-notary",scope="repository:%s:pull"`, tokenRealm, tokenGUN); !is || refusal.Challenge() != want || refusal.Public() != "" {
			t.Errorf("%.10q: %v\n%s", header, err, refusal.Challenge())
		}
	}
}
