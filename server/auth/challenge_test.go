package auth_test

import (
	"bufio"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign/server/auth"
)

func challengeOf(t testing.TB, tokens *auth.Tokens, r *http.Request, need []auth.Access) string {
	t.Helper()
	_, err := tokens.Authorize(r, need)
	refusal, ok := errors.AsType[*auth.Refusal](err)
	if !ok {
		t.Fatal(err)
	}
	return refusal.Challenge()
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	const start = `Bearer realm="` + tokenRealm + `",service="harbor-notary"`
	for _, c := range []struct {
		need []auth.Access
		want string
	}{
		{nil, start},
		{on("a/b", "pull"), start + `,scope="repository:a/b:pull"`},
		{on("a/b", "push", "pull"), start + `,scope="repository:a/b:push,pull"`},
		{on("a/b", "pull", "pull"), start + `,scope="repository:a/b:pull"`},
		{[]auth.Access{{Type: "registry", Name: "catalog", Action: "*"}}, start + `,scope="registry:catalog:*"`},
		{append(on("a", "pull"), append(on("b", "*"), on("a", "push")...)...), start + `,scope="repository:a:pull,push repository:b:*"`},
		{on(`a"b\c`, "pull"), start + `,scope="repository:a\"b\\c:pull"`},
		{on("a\r\nX: y\x00\x7f", "pull"), start + `,scope="repository:a\r\nX: y\x00\x7f:pull"`},
		{on("é/日本\xff", "pull"), start + `,scope="repository:\u00e9/\u65e5\u672c\xff:pull"`},
	} {
		if got := challengeOf(t, tokens, &http.Request{}, c.need); got != c.want {
			t.Errorf("%v:\n%s\nwant\n%s", c.need, got, c.want)
		}
	}
}

func TestAutoredirect(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, func(c *auth.TokenConfig) { c.Autoredirect = true })
	for _, host := range []string{"notary.example.com", "notary:4443", "10.0.0.1:4443", "[::1]:4443", "a_b.internal"} {
		if got, want := challengeOf(t, tokens, &http.Request{Host: host}, nil), `Bearer realm="https://`+host+`/auth/token",service="harbor-notary"`; got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
	for _, host := range []string{"", `a"b`, "a/b", "a@b", "a b", "a\r\nb", "a:b:c", "é", "a:123456", "a?", "a#", "a\\", ":80", "a,b", strings.Repeat("a", 262)} {
		if got, want := challengeOf(t, tokens, &http.Request{Host: host}, nil), `Bearer realm="`+tokenRealm+`",service="harbor-notary"`; got != want {
			t.Errorf("%q: %s", host, got)
		}
	}
}

// Over the wire, by either HTTP: the header comes, whole and once, and nothing
// that a name holds gets out of it.
func TestChallengeOnTheWire(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, nil)
	names := []string{"a/b", `"`, "\\", "a\r\nSet-Cookie: x", "\x00\x01\x7f", "é", "\xff\xfe", `",realm="https://evil.example.com`}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tokens.Authorize(r, on(names[len(r.URL.Path)-1], "pull"))
		var refusal *auth.Refusal
		if errors.As(err, &refusal) {
			w.Header().Set("Www-Authenticate", refusal.Challenge())
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for _, protocol := range []int{1, 2} {
		client := server.Client()
		if protocol == 1 {
			transport := client.Transport.(*http.Transport).Clone()
			transport.ForceAttemptHTTP2, transport.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
			defer transport.CloseIdleConnections()
			client = &http.Client{Transport: transport}
		}
		for i, name := range names {
			resp, err := client.Get(server.URL + "/" + strings.Repeat("x", i))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			values := resp.Header.Values("Www-Authenticate")
			if resp.ProtoMajor != protocol || len(values) != 1 || resp.Header.Get("Set-Cookie") != "" {
				t.Fatalf("HTTP/%d, %q: %v", resp.ProtoMajor, name, resp.Header)
			}
			params := parseChallenge(t, values[0])
			if params["realm"] != tokenRealm || params["service"] != tokenService || !strings.HasPrefix(params["scope"], "repository:") || len(params) != 3 {
				t.Errorf("%q: %v", name, params)
			}
		}
	}
}

// parseChallenge reads quoted strings as HTTP has them.
func parseChallenge(t testing.TB, value string) map[string]string {
	t.Helper()
	rest, ok := strings.CutPrefix(value, "Bearer ")
	if !ok {
		t.Fatal(value)
	}
	params := map[string]string{}
	in := bufio.NewReader(strings.NewReader(rest))
	for {
		key, err := in.ReadString('=')
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if quote, err := in.ReadByte(); err != nil || quote != '"' {
			t.Fatalf("%s: no quote", value)
		}
		var text []byte
		for {
			c, err := in.ReadByte()
			if err != nil {
				t.Fatalf("%s: no end", value)
			}
			if c == '"' {
				break
			}
			if c == '\\' {
				if c, err = in.ReadByte(); err != nil {
					t.Fatalf("%s: no end", value)
				}
			}
			text = append(text, c)
		}
		key = strings.TrimSuffix(key, "=")
		if _, twice := params[key]; twice {
			t.Fatalf("%s: %s twice", value, key)
		}
		params[key] = string(text)
		switch c, err := in.ReadByte(); {
		case err != nil:
			return params
		case c != ',':
			t.Fatalf("%s: %q after a value", value, c)
		}
	}
}
