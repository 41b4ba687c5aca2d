package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A need is one action on one resource, as the detail of a 401 has it.
type need struct{ Type, Class, Name, Action string }

func needs(typ, name string, actions ...string) []need {
	var all []need
	for _, a := range actions {
		all = append(all, need{Type: typ, Name: name, Action: a})
	}
	return all
}

// scope is how the challenge has it.
func scope(all []need) string {
	actions := make([]string, len(all))
	for i, n := range all {
		actions[i] = n.Action
	}
	return all[0].Type + ":" + all[0].Name + ":" + strings.Join(actions, ",")
}

// catalog is what all that is about no GUN needs.
var catalog = needs("registry", "catalog", "*")

// A verdict is how a server takes a request. Of a 200 nothing else counts.
type verdict struct {
	status    int
	challenge string
	code      string
	message   string
	need      []need
}

// A wireCase is a request that a server with tokens is to judge.
type wireCase struct {
	name          string
	method        string // GET if empty
	path          string // for reading the private GUN if empty
	authorization string // the header; none if empty
	// mint, if set, makes the header when the case is judged: tokens do not live long.
	mint    func(t *testing.T) string
	status  int
	problem string // of the challenge: "", "invalid_token" or "insufficient_scope"
	need    []need // pull on the private GUN if empty
	// upstreamDiffers says why upstream's server takes it for an invalid token,
	// or the other way round.
	upstreamDiffers string
}

// testWire is authentication without clients: each kind of token, and each kind
// of request. Upstream's server, which has the same options, must judge alike.
func (a *authStack) testWire(t *testing.T) {
	t.Parallel()
	gun := cliHost + "/" + privateProject + "/wire"
	a.newPublisher(t, 0, gun, newKeys()).initialize(t, true)
	cases := append(a.goodTokens(gun), a.badTokens(gun)...)
	cases = append(cases, a.malformedTokens(gun)...)
	cases = append(cases, a.insufficient(gun)...)
	for _, c := range cases {
		if c.path == "" {
			c.path = "/v2/" + gun + "/_trust/tuf/root.json"
		}
		if c.need == nil {
			c.need = needs("repository", gun, "pull")
		}
		t.Run(c.name, func(t *testing.T) {
			if c.mint != nil {
				c.authorization = c.mint(t)
			}
			got := a.judge(t, byHarbor, c)
			if diff := cmp.Diff(a.want(c), got, cmp.AllowUnexported(verdict{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			theirs := a.judge(t, byUpstream, c)
			got.message, theirs.message = "", "" // ours tells more
			diff := cmp.Diff(theirs, got, cmp.AllowUnexported(verdict{}))
			if (diff == "") != (c.upstreamDiffers == "") {
				t.Errorf("upstream should differ: %q (-upstream +ours):\n%s", c.upstreamDiffers, diff)
			}
		})
	}
	for _, asks := range []string{byRedirect, byUpstreamRedirect} {
		t.Run(asks, func(t *testing.T) { a.redirects(t, asks) })
	}
	t.Run("cache", func(t *testing.T) { a.cacheControl(t, gun) })
}

// want is the verdict of our server.
func (a *authStack) want(c wireCase) verdict {
	v := verdict{status: c.status}
	if c.status != http.StatusUnauthorized {
		return v
	}
	v.challenge = fmt.Sprintf(`Bearer realm="%s",service="%s",scope=%s`, a.ts.realm(), notaryService, strconv.QuoteToASCII(scope(c.need)))
	v.code, v.need, v.message = "UNAUTHORIZED", c.need, "authentication required"
	switch c.problem {
	case "invalid_token":
		v.message += ": the token is not valid"
	case "insufficient_scope":
		var actions []string
		for _, n := range c.need {
			actions = append(actions, n.Action)
		}
		on := c.need[0].Name
		if c.need[0].Type == "registry" {
			on = "registry:" + on
		}
		v.message += ": the token does not grant " + strings.Join(actions, " and ") + " on " + on
	}
	if c.problem != "" {
		v.challenge += `,error="` + c.problem + `"`
	}
	return v
}

// upstreamScope finds the actions in a challenge: upstream has them in any order.
var upstreamScope = regexp.MustCompile(`:pull,push"`)

// judge sends the request of c to a server.
func (a *authStack) judge(t *testing.T, asks string, c wireCase) verdict {
	t.Helper()
	method := c.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(t.Context(), method, a.url(a.on[asks])+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.authorization != "" {
		req.Header.Set("Authorization", c.authorization)
	}
	resp, err := a.ts.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := verdict{status: resp.StatusCode}
	if v.status != http.StatusUnauthorized {
		if h := resp.Header.Get("Www-Authenticate"); h != "" {
			t.Errorf("%s: a challenge with status %d: %s", asks, v.status, h)
		}
		return v
	}
	var body struct {
		Errors []struct {
			Code, Message string
			Detail        []need
		}
	}
	if err := json.Unmarshal(raw, &body); err != nil || len(body.Errors) != 1 || len(resp.Header["Www-Authenticate"]) != 1 {
		t.Fatalf("%s: %v: %v %s", asks, err, resp.Header, raw)
	}
	v.challenge = resp.Header.Get("Www-Authenticate")
	if asks == byUpstream {
		v.challenge = upstreamScope.ReplaceAllString(v.challenge, `:push,pull"`)
	}
	e := body.Errors[0]
	v.code, v.message, v.need = e.Code, e.Message, e.Detail
	return v
}

// redirects holds a server with autoredirect to send clients to itself, by the
// name that they have called it.
func (a *authStack) redirects(t *testing.T, asks string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url(a.on[asks])+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "trust.example:8443"
	resp, err := a.ts.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := `Bearer realm="https://trust.example:8443/auth/token",service="` + notaryService + `",scope="registry:catalog:*"`
	if got := resp.Header.Get("Www-Authenticate"); resp.StatusCode != http.StatusUnauthorized || got != want {
		t.Errorf("%d with the challenge %s, want 401 with %s", resp.StatusCode, got, want)
	}
}

// bearer is the header with a token for reading gun.
func (a *authStack) bearer(t *testing.T, p person, gun string, words ...string) string {
	t.Helper()
	return "Bearer " + a.ts.token(t, p, words, "repository:"+gun+":pull")
}

// bearerLater is bearer for wireCase.mint.
func (a *authStack) bearerLater(p person, gun string, words ...string) func(*testing.T) string {
	return func(t *testing.T) string { t.Helper(); return a.bearer(t, p, gun, words...) }
}

// later is the same for any scopes.
func (a *authStack) later(p person, scopes ...string) func(*testing.T) string {
	return func(t *testing.T) string { t.Helper(); return "Bearer " + a.ts.token(t, p, nil, scopes...) }
}

// goodTokens are those of Harbor and of other token services.
func (a *authStack) goodTokens(gun string) []wireCase {
	var cases []wireCase
	for _, words := range []string{"", "harbor-2.1.3", "harbor-1.10.6", "key-ec", "key-lapsed", "jwk", "key-ec,jwk", "x5c", "key-leaf,x5c", "just-expired", "nearly-early"} {
		cases = append(cases, wireCase{name: "good " + words, mint: a.bearerLater(reader, gun, words), status: 200})
	}
	lower := func(t *testing.T) string { return strings.Replace(a.bearer(t, reader, gun), "Bearer", "bearer", 1) }
	return append(cases,
		wireCase{name: "good, scheme in lower case", mint: lower, status: 200},
		wireCase{name: "good aud-array", mint: a.bearerLater(reader, gun, "aud-array"), status: 200,
			upstreamDiffers: "the audience must be a string there"},
		wireCase{name: "good kid-rfc7638", mint: a.bearerLater(reader, gun, "kid-rfc7638"), status: 200,
			upstreamDiffers: "a key is only known by libtrust's ID there"},
		wireCase{name: "two entries", status: 200,
			mint: a.later(reader, "repository:other/team/x:push,pull", "repository:"+gun+":pull")},
	)
}

// badTokens are refused whatever they claim to grant: everything, here.
func (a *authStack) badTokens(gun string) []wireCase {
	var cases []wireCase
	for _, words := range []string{
		"expired", "early", "audience", "issuer", "none", "hs256-public", "hs256-cert", "truncated", "stranger", "impostor",
		"key-ec,stranger", "key-ec,none", "key-ec,hs256-public", "key-leaf", "key-leaf,jwk", "key-next", "key-next,x5c",
		"x5c,impostor", "x5c,stranger", "x5c,expired", "key-lapsed,x5c", "key-leaf,x5c,stranger", "jwk,impostor", "jwk,stranger", "jwk,none",
		"kid-rfc7638,impostor", "aud-array,audience", "harbor-1.10.6,expired",
	} {
		cases = append(cases, wireCase{name: "bad " + words, mint: a.bearerLater(admin, gun, words), status: 401, problem: "invalid_token"})
	}
	return cases
}

// malformedTokens are cut, glued or repeated out of a good one, or are none.
func (a *authStack) malformedTokens(gun string) []wireCase {
	var cases []wireCase
	for name, header := range map[string]func(good string) string{
		"no header":      func(string) string { return "" },
		"another scheme": func(string) string { return "Basic " + reader.basic() },
		"scheme alone":   func(string) string { return "Bearer" },
		"three words":    func(good string) string { return "Bearer " + good + " " + good },
		"token alone":    func(good string) string { return good },
	} {
		cases = append(cases, wireCase{name: name, status: 401, mint: func(t *testing.T) string {
			return header(strings.TrimPrefix(a.bearer(t, reader, gun), "Bearer "))
		}})
	}
	for name, token := range map[string]func(good string, p []string) string{
		"two parts":                func(_ string, p []string) string { return p[0] + "." + p[1] },
		"four parts":               func(good string, p []string) string { return good + "." + p[2] },
		"no signature":             func(_ string, p []string) string { return p[0] + "." + p[1] + "." },
		"no claims":                func(_ string, p []string) string { return p[0] + ".." + p[2] },
		"no header part":           func(_ string, p []string) string { return "." + p[1] + "." + p[2] },
		"cut claims":               func(_ string, p []string) string { return p[0] + "." + p[1][:len(p[1])/2] + "." + p[2] },
		"header cut to one letter": func(_ string, p []string) string { return p[0][:1] + "." + p[1] + "." + p[2] },
		"other claims":             func(_ string, p []string) string { return p[0] + "." + p[1][:20] + "A" + p[1][21:] + "." + p[2] },
		"cut in half":              func(good string, _ []string) string { return good[:len(good)/2] },
		"no token at all":          func(string, []string) string { return "x" },
		"base64 of nothing":        func(string, []string) string { return ".." },
		"half a signature":         func(_ string, p []string) string { return p[0] + "." + p[1] + "." + p[2][:len(p[2])/2] },
		"plus and slash":           func(_ string, p []string) string { return p[0] + "." + p[1] + ".++//" },
		"long":                     func(_ string, p []string) string { return p[0] + "." + p[1] + "." + strings.Repeat("A", 20000) },
	} {
		cases = append(cases, wireCase{name: name, status: 401, problem: "invalid_token", mint: func(t *testing.T) string {
			good := strings.TrimPrefix(a.bearer(t, reader, gun), "Bearer ")
			return "Bearer " + token(good, strings.Split(good, "."))
		}})
	}
	return cases
}

// insufficient are good tokens for something else, and requests without any.
func (a *authStack) insufficient(gun string) []wireCase {
	tuf := "/v2/" + gun + "/_trust/tuf/"
	push, all := needs("repository", gun, "push", "pull"), needs("repository", gun, "*")
	other := a.later(admin, "repository:"+gun+"/more:pull", "repository:"+cliHost+"/team:pull")
	ofCatalog := a.later(operator, "registry:catalog:*")
	asks := []wireCase{
		{name: "publish", method: "POST", path: tuf, need: push},
		{name: "key", path: tuf + "timestamp.key", need: push},
		{name: "rotate", method: "POST", path: tuf + "snapshot.key", need: all},
		{name: "delete", method: "DELETE", path: tuf, need: all},
		{name: "all changes", path: "/v2/_trust/changefeed?records=10", need: catalog},
		{name: "ping", path: "/v2/", need: catalog},
		{name: "unknown route", path: "/v3/", need: catalog},
		{name: "unknown route below a GUN", path: tuf + "mirrors.json", need: catalog},
		{name: "unknown method", method: "PUT", path: tuf, need: catalog},
		{name: "unknown method of the ping", method: "DELETE", path: "/v2/", need: catalog},
	}
	var cases []wireCase
	for _, c := range asks {
		with := func(who string, mint func(*testing.T) string, problem string) {
			c := c
			c.name, c.mint, c.problem, c.status = c.name+" "+who, mint, problem, 401
			cases = append(cases, c)
		}
		with("without a token", nil, "")
		switch {
		case c.need[0].Action == "push":
			with("by nobody", a.bearerLater(nobody, gun), "insufficient_scope")
		case c.need[0].Type == "repository":
			with("by who may push, pull and delete", a.bearerLater(admin, gun, "harbor-2.1.3"), "insufficient_scope")
		}
		if c.need[0].Action == "*" {
			with("by a reader", a.bearerLater(reader, gun), "insufficient_scope")
		}
	}
	for _, p := range []person{nobody, anonymous} {
		cases = append(cases, wireCase{name: "read by " + p.String(), mint: a.bearerLater(p, gun), status: 401, problem: "insufficient_scope"})
	}
	odd := func(name string) wireCase {
		return wireCase{name: "GUN " + name, path: "/v2/" + cliHost + "/team/" + url.PathEscape(name) + "/_trust/tuf/root.json", status: 401,
			need: needs("repository", cliHost+"/team/"+name, "pull")}
	}
	foreign := odd("größe")
	foreign.upstreamDiffers = "headers of HTTP/2 are ASCII: there the letters are sent as they are"
	return append(cases, odd(`a"b`), odd(`a\b`), odd("a,b"), foreign,
		wireCase{name: "read with a token for other GUNs", mint: other, status: 401, problem: "insufficient_scope"},
		wireCase{name: "read with one for the catalog", mint: ofCatalog, status: 401, problem: "insufficient_scope"},
		wireCase{name: "changes of a GUN", path: "/v2/" + gun + "/_trust/changefeed?records=10", mint: a.bearerLater(reader, gun), status: 200},
		wireCase{name: "ping with the catalog", path: "/v2/", mint: ofCatalog, need: catalog, status: 200},
		wireCase{name: "changes with the catalog", path: "/v2/_trust/changefeed?records=10", mint: ofCatalog, need: catalog, status: 200},
		wireCase{name: "unknown route with the catalog", path: "/v3/", mint: ofCatalog, need: catalog, status: 404},
		wireCase{name: "health", path: "/_notary_server/health", status: 200},
		wireCase{name: "metrics", path: "/metrics", status: 200},
		wireCase{name: "PATCH", method: "PATCH", path: tuf, status: 405},
	)
}

// A basicCase is a request that a server with passwords is to judge. Its need is
// pull on the private GUN where none is given.
type basicCase struct {
	name, method, path string
	authorization      string
	status             int
	says               string // what the message of a 401 adds
	need               []need
}

// testBasic is the same for passwords, which upstream's server does not know.
func (a *authStack) testBasic(t *testing.T) {
	t.Parallel()
	gun := cliHost + "/" + privateProject + "/basic"
	a.newPublisher(t, 0, gun, newKeys()).initialize(t, true)
	tuf := "/v2/" + gun + "/_trust/tuf/"
	basic := func(name, password string) string { return "Basic " + base64Of(name+":"+password) }
	asReader, asPusher := "Basic "+reader.basic(), "Basic "+pusher.basic()
	const wrong, unreadable = ": user name or password is wrong", ": the header Authorization cannot be read: send one, with Basic credentials"
	for _, c := range []basicCase{
		{name: "right", authorization: asReader, status: 200},
		{name: "scheme in lower case", authorization: strings.ToLower(asReader[:5]) + asReader[5:], status: 200},
		{name: "none", status: 401},
		{name: "wrong password", authorization: basic("reader", "x"), status: 401, says: wrong},
		{name: "somebody else's password", authorization: basic("reader", pusher.password()), status: 401, says: wrong},
		{name: "password and more", authorization: basic("reader", reader.password()+"x"), status: 401, says: wrong},
		{name: "no such user", authorization: basic("stranger", reader.password()), status: 401, says: wrong},
		{name: "name in another case", authorization: basic("Reader", reader.password()), status: 401, says: wrong},
		{name: "no password", authorization: basic("reader", ""), status: 401, says: unreadable},
		{name: "NUL behind the password", authorization: basic("reader", reader.password()+"\x00"), status: 401, says: unreadable},
		{name: "no base64", authorization: "Basic reader:x", status: 401, says: unreadable},
		{name: "a token", authorization: a.bearer(t, admin, gun), status: 401, says: unreadable},
		{name: "a reader publishes", method: "POST", path: tuf, authorization: asReader, status: 401,
			says: ": reader may not push to " + gun, need: needs("repository", gun, "push", "pull")},
		{name: "nobody reads", authorization: "Basic " + nobody.basic(), status: 401, says: ": nobody may not pull from " + gun},
		{name: "a pusher deletes", method: "DELETE", path: tuf, authorization: asPusher, status: 401,
			says: ": pusher may not delete or rotate keys of " + gun, need: needs("repository", gun, "*")},
		{name: "a pusher rotates", method: "POST", path: tuf + "snapshot.key", authorization: asPusher, status: 401,
			says: ": pusher may not delete or rotate keys of " + gun, need: needs("repository", gun, "*")},
		{name: "a login", path: "/v2/", authorization: "Basic " + nobody.basic(), status: 200},
		{name: "ping", path: "/v2/", status: 401, need: catalog},
		{name: "unknown route", path: "/v3/", authorization: asReader, status: 401, says: ": reader may not use what concerns all GUNs", need: catalog},
		{name: "all changes", path: "/v2/_trust/changefeed?records=1", authorization: "Basic " + operator.basic(), status: 200},
		{name: "health", path: "/_notary_server/health", status: 200},
		{name: "metrics", path: "/metrics", status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.path == "" {
				c.path = tuf + "root.json"
			}
			want := verdict{status: c.status}
			if c.status == http.StatusUnauthorized {
				if c.need == nil {
					c.need = needs("repository", gun, "pull")
				}
				want.challenge, want.code, want.need, want.message = `Basic realm="e2e"`, "UNAUTHORIZED", c.need, "authentication required"+c.says
			}
			got := a.judge(t, byPassword, wireCase{method: c.method, path: c.path, authorization: c.authorization})
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// cacheControl holds answers that not everybody may have to stay out of caches
// that serve several people.
func (a *authStack) cacheControl(t *testing.T, gun string) {
	for _, name := range []string{"root.json", "1.root.json", "timestamp.json"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.gunURL(a.on[byHarbor], gun)+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", a.bearer(t, reader, gun))
		resp, err := a.ts.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		directives := strings.Split(resp.Header.Get("Cache-Control"), ", ")
		if resp.StatusCode != http.StatusOK || directives[0] != "private" || slices.Contains(directives, "public") ||
			strings.Contains(resp.Header.Get("Cache-Control"), "s-maxage") {
			t.Errorf("%s: %d with Cache-Control %q, want it private", name, resp.StatusCode, directives)
		}
	}
}
