package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/server"
	"countersign/tuf"
)

const (
	gunApp = tuf.GUN("registry.example.org:5000/team/app")
	app    = "/v2/" + string(gunApp) + "/_trust/tuf/"

	bodyNotFound = `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":{}}]}` + "\n"
	bodyNoRoute  = `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist."}]}` + "\n"
	jsonType     = "application/json; charset=utf-8"
	plainType    = "text/plain; charset=utf-8"
)

// want compares an answer with what it should be.
func (r reply) want(t *testing.T, status int, contentType, body string) {
	t.Helper()
	if r.status != status || r.header.Get("Content-Type") != contentType || r.body != body {
		t.Errorf("got %d, %q\n%s\nwant %d, %q\n%s", r.status, r.header.Get("Content-Type"), r.body, status, contentType, body)
	}
	if length := r.header.Get("Content-Length"); length != fmt.Sprint(len(body)) {
		t.Errorf("Content-Length %q of a body of %d bytes", length, len(body))
	}
	if r.header.Get("X-Request-Id") == "" {
		t.Error("no request ID")
	}
}

func (r reply) code(t *testing.T) string {
	t.Helper()
	var b struct{ Errors []struct{ Code string } }
	if err := json.Unmarshal([]byte(r.body), &b); err != nil || len(b.Errors) != 1 {
		t.Fatalf("no error body: %d %s", r.status, r.body)
	}
	return b.Errors[0].Code
}

// Section 1: what is no route.
func TestNoSuchRoute(t *testing.T) {
	s := newStack(t, nil)
	s.publish(gunApp, s.newRepo(gunApp).Upload())
	for _, c := range []call{
		{method: "GET", target: "/"}, {method: "GET", target: "/v2"}, {method: "GET", target: "/V2/"}, {method: "POST", target: "/v2/"},
		{method: "PUT", target: app}, {method: "POST", target: strings.TrimSuffix(app, "/")}, {method: "DELETE", target: strings.TrimSuffix(app, "/")},
		{method: "GET", target: app}, {method: "PUT", target: app + "root.json"}, {method: "POST", target: app + "root.json"},
		{method: "GET", target: app + "root.JSON"}, {method: "GET", target: app + "mirrors.json"}, {method: "GET", target: app + "root.key"},
		{method: "GET", target: app + "root." + hex64[1:] + ".json"}, {method: "GET", target: app + "targets/a%20b.json"}, {method: "GET", target: app + "targets/a%0Ab.json"},
		{method: "GET", target: "/v2/a*b/_trust/tuf/root.json"}, {method: "GET", target: "/v2/_trust/tuf/root.json"},
		{method: "GET", target: "/v2/a/_trust/changefeed/"}, {method: "POST", target: "/v2/a/_trust/changefeed?records=1"}, {method: "POST", target: "/v2/_trust/changefeed"},
		{method: "GET", target: "/metrics/"}, {method: "POST", target: "/metrics"}, {method: "GET", target: "/_notary_server/health/"}, {method: "POST", target: "/_notary_server/health"},
	} {
		t.Run(c.method+" "+c.target, func(t *testing.T) {
			s.do(c).want(t, http.StatusNotFound, jsonType, bodyNoRoute)
		})
	}
	// Names that the routes take and that nothing can have.
	for _, c := range []call{
		{method: "GET", target: "/v2/" + strings.Repeat("a", 256) + "/_trust/tuf/root.json"}, {method: "GET", target: "/v2/a%00b/_trust/tuf/root.json"},
		{method: "GET", target: "/v2/a%FFb/_trust/tuf/timestamp.key"}, {method: "DELETE", target: "/v2/a%00b/_trust/tuf/"},
		{method: "GET", target: "/v2/a%00b/_trust/changefeed?records=1"}, {method: "POST", target: "/v2/a%00b/_trust/tuf/snapshot.key"},
	} {
		s.do(c).want(t, http.StatusNotFound, jsonType, bodyNotFound)
	}
	for _, target := range []string{"/v2/", app + "root.json", "/metrics", "/_notary_server/health", "/v2/_trust/changefeed?records=1"} {
		r := s.do(call{method: "HEAD", target: target})
		if r.status != http.StatusNotFound || r.header.Get("Content-Length") != fmt.Sprint(len(bodyNoRoute)) || r.header.Get("Etag") != "" {
			t.Errorf("HEAD %s: %d %v", target, r.status, r.header)
		}
	}
	for _, method := range []string{"PATCH", "OPTIONS", "TRACE", "BREW"} {
		for _, target := range []string{"/v2/", app, app + "root.json", "/metrics", "/nothing"} {
			r := s.do(call{method: method, target: target})
			if r.want(t, http.StatusMethodNotAllowed, "", ""); r.header.Get("Allow") != "" {
				t.Errorf("%s %s: Allow: %s", method, target, r.header.Get("Allow"))
			}
		}
	}
	s.check(gunApp)
}

func TestUncleanPathsAreRedirected(t *testing.T) {
	s := newStack(t, nil)
	for target, want := range map[string]string{
		"//v2/": "/v2/", "/v2//": "/v2/", "/v2/./a/_trust/tuf/root.json": "/v2/a/_trust/tuf/root.json", "/v2/a/../b/_trust/tuf/": "/v2/b/_trust/tuf/",
		"/v2/a%2F%2Fb/_trust/tuf/root.json": "/v2/a/b/_trust/tuf/root.json", "/v2/../metrics?a=b": "/metrics?a=b",
	} {
		for _, method := range []string{"GET", "POST", "HEAD", "PATCH"} {
			r := s.do(call{method: method, target: target})
			if r.status != http.StatusMovedPermanently || r.header.Get("Location") != want || r.body != "" {
				t.Errorf("%s %s: %d to %q with %q, want 301 to %q", method, target, r.status, r.header.Get("Location"), r.body, want)
			}
		}
	}
}

func TestPing(t *testing.T) {
	newStack(t, nil).get("/v2/").want(t, http.StatusOK, plainType, "{}")
}

// Section 4: all the names under which a file can be read.
func TestReadMetadata(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp, "targets/releases")
	files := repo.Upload()
	s.publish(gunApp, files)
	for role, data := range files {
		sum := tuf.Sum(data).String()
		for _, name := range []string{string(role), "1." + string(role), "01." + string(role), "0000000000001." + string(role), string(role) + "." + sum} {
			s.get(app+name+".json").want(t, http.StatusOK, plainType, string(data))
		}
		for _, name := range []string{"0." + string(role), "000." + string(role), "2." + string(role), "2147483648." + string(role),
			"4294967297." + string(role), "18446744073709551617." + string(role), string(role) + "." + strings.ToUpper(sum),
			string(role) + "." + sum + sum, string(role) + "." + sum + sum[:32], string(role) + "." + strings.Repeat("0", 64)} {
			s.get(app+name+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
		}
		// Only under its own GUN and its own role.
		other := tuf.RoleRoot
		if role == tuf.RoleRoot {
			other = tuf.RoleTargets
		}
		s.get(app+string(other)+"."+sum+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
		s.get("/v2/other/_trust/tuf/"+string(role)+"."+sum+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	}
	for _, role := range []string{"snapshot", "timestamp"} {
		r := s.get(app + role + ".json")
		if r.status != http.StatusOK {
			t.Fatalf("%s: %d %s", role, r.status, r.body)
		}
		s.get(app+role+"."+tuf.Sum([]byte(r.body)).String()+".json").want(t, http.StatusOK, plainType, r.body)
	}
	for _, name := range []string{"targets/unknown", "targets/a.b", "targets/A", "targets/%C3%84", "targets/a%00b", "targets/" + strings.Repeat("a", 300)} {
		s.get(app+name+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp", "targets/a"} {
		s.get("/v2/nobody/_trust/tuf/"+role+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	}
	// A slash is a slash, however it is written; the rest of a request is of no account.
	escaped := strings.ReplaceAll(string(gunApp), "/", "%2F")
	s.get("/v2/"+escaped+"/_trust/tuf/root.json").want(t, http.StatusOK, plainType, string(files["root"]))
	r := s.do(call{method: "GET", target: app + "root.json?x=y", header: [][2]string{
		{"Range", "bytes=0-1"}, {"If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}, {"Accept-Encoding", "gzip"}}})
	r.want(t, http.StatusOK, plainType, string(files["root"]))
	s.check(gunApp)
}

// Section 2: what others may keep, and for how long.
func TestCacheHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		edit                func(*server.Config)
		current, consistent string
		pragma              string
	}{
		"default": {nil, "public, max-age=300, s-maxage=300, must-revalidate", "public, max-age=2592000, s-maxage=2592000", ""},
		"none": {func(c *server.Config) { c.CurrentMaxAge, c.ConsistentMaxAge = 0, 0 },
			"max-age=0, no-cache, no-store", "max-age=0, no-cache, no-store", "no-cache"},
		"access control": {func(c *server.Config) { c.Access = allowAll },
			"private, max-age=300, must-revalidate", "private, max-age=2592000", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, c.edit)
			files := s.newRepo(gunApp).Upload()
			s.publish(gunApp, files)
			before := time.Now()
			sum := tuf.Sum(files["root"]).String()
			for target, want := range map[string]string{
				"root.json": c.current, "timestamp.json": c.current, "snapshot.json": c.current,
				"1.root.json": c.consistent, "root." + sum + ".json": c.consistent,
			} {
				r := s.get(app + target)
				if got := r.header.Get("Cache-Control"); r.status != http.StatusOK || got != want || r.header.Get("Pragma") != c.pragma {
					t.Errorf("%s: %d, Cache-Control %q, Pragma %q, want %q, %q", target, r.status, got, r.header.Get("Pragma"), want, c.pragma)
				}
				if etag := `"` + tuf.Sum([]byte(r.body)).String() + `"`; r.header.Get("Etag") != etag {
					t.Errorf("%s: ETag %s, want %s", target, r.header.Get("Etag"), etag)
				}
				text := r.header.Get("Last-Modified")
				modified, err := time.Parse(http.TimeFormat, text)
				if age := before.Sub(modified); err != nil || !strings.HasSuffix(text, " GMT") || age < -time.Minute || age > time.Minute {
					t.Errorf("%s: Last-Modified %q", target, text)
				}
			}
			for _, target := range []string{"/v2/", app + "targets/x.json", app + "9.root.json", app + "timestamp.key", "/v2/_trust/changefeed?records=1"} {
				r := s.get(target)
				for _, key := range []string{"Cache-Control", "Pragma", "Etag", "Last-Modified"} {
					if r.header.Get(key) != "" {
						t.Errorf("%s: %d has %s: %s", target, r.status, key, r.header.Get(key))
					}
				}
			}
		})
	}
}

func TestConditionalReads(t *testing.T) {
	s := newStack(t, nil)
	files := s.newRepo(gunApp).Upload()
	s.publish(gunApp, files)
	etag := `"` + tuf.Sum(files["root"]).String() + `"`
	other := `"` + strings.Repeat("0", 64) + `"`
	for _, c := range []struct {
		header string
		status int
	}{
		{etag, 304}, {"W/" + etag, 304}, {other + ", " + etag, 304}, {"*", 304},
		{other, 200}, {strings.Trim(etag, `"`), 200}, {"", 200}, {`"`, 200},
	} {
		for _, target := range []string{"root.json", "1.root.json", "root." + strings.Trim(etag, `"`) + ".json"} {
			r := s.do(call{method: "GET", target: app + target, header: [][2]string{{"If-None-Match", c.header}}})
			if r.status != c.status || r.header.Get("Etag") != etag || r.header.Get("Cache-Control") == "" {
				t.Errorf("%s, If-None-Match %s: %d, want %d; %v", target, c.header, r.status, c.status, r.header)
			}
			if c.status == 304 && r.body != "" {
				t.Errorf("304 with a body of %d bytes", len(r.body))
			}
		}
	}
	// It does not turn a 404 into anything else.
	r := s.do(call{method: "GET", target: app + "targets/x.json", header: [][2]string{{"If-None-Match", "*"}}})
	r.want(t, http.StatusNotFound, jsonType, bodyNotFound)
}

// Section 6.
func TestKeys(t *testing.T) {
	s := newStack(t, nil)
	for _, role := range []string{"timestamp", "snapshot"} {
		r := s.get(app + role + ".key")
		var k struct {
			Keytype string
			Keyval  struct{ Public string }
		}
		if err := json.Unmarshal([]byte(r.body), &k); err != nil {
			t.Fatal(err)
		}
		if public, err := base64.StdEncoding.DecodeString(k.Keyval.Public); err != nil || len(public) != 91 {
			t.Errorf("public key %q", k.Keyval.Public)
		}
		want := `{"keytype":"ecdsa","keyval":{"public":"` + k.Keyval.Public + `","private":null}}`
		r.want(t, http.StatusOK, plainType, want)
		// The unused key is handed out again, whatever the body of a POST says.
		s.get(app+role+".key").want(t, http.StatusOK, plainType, want)
		s.do(call{method: "POST", target: app + role + ".key", body: "whatever"}).want(t, http.StatusOK, plainType, want)
	}
	repo := s.newRepo(gunApp)
	before := s.get(app + "timestamp.key").body
	s.publish(gunApp, repo.Upload())
	rotated := s.do(call{method: "POST", target: app + "timestamp.key"}).body
	if rotated == before {
		t.Error("a key that has signed was handed out for rotation")
	}
	if got := s.get(app + "timestamp.key").body; got != before {
		t.Error("the key in the current root is not the one that is handed out")
	}
	s.check(gunApp)
}

// Section 8.
func TestDelete(t *testing.T) {
	s := newStack(t, nil)
	gone := call{method: "DELETE", target: app}
	s.do(gone).want(t, http.StatusOK, "", "")
	files := s.newRepo(gunApp).Upload()
	s.publish(gunApp, files)
	s.publish("other", s.newRepo("other").Upload())
	s.do(gone).want(t, http.StatusOK, "", "")
	for _, name := range []string{"root", "timestamp", "1.root", "root." + tuf.Sum(files["root"]).String()} {
		s.get(app+name+".json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	}
	s.do(gone).want(t, http.StatusOK, "", "")
	s.publish(gunApp, s.newRepo(gunApp).Upload())
	s.check(gunApp, "other")
}

// Section 10.
func TestHealth(t *testing.T) {
	failing := map[string]string{}
	s := newStack(t, func(c *server.Config) { c.Health = func() map[string]string { return failing } })
	s.get("/_notary_server/health").want(t, http.StatusOK, jsonType, "{}")
	failing = map[string]string{"Trust operational": "no answer", "DB operational": "Cannot access table: tuf_files"}
	s.get("/_notary_server/health").want(t, http.StatusServiceUnavailable, jsonType, `{"DB operational":"Cannot access table: tuf_files","Trust operational":"no answer"}`)
	newStack(t, nil).get("/_notary_server/health").want(t, http.StatusOK, jsonType, "{}")
}

// Section 1, last column.
func TestPrefixes(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Prefixes = []string{"a/", "b/"} })
	refused := `{"errors":[{"code":"INVALID_GUN","message":"The server does not support actions on images of this name.","detail":"Require GUNs with prefix: [a/ b/]"}]}` + "\n"
	for _, gun := range []tuf.GUN{"c/d", "a", "ab/c"} {
		s.do(upload(gun, nil)).want(t, http.StatusBadRequest, jsonType, refused)
		for _, c := range []call{
			{method: "GET", target: "root.json"}, {method: "GET", target: "1.root.json"}, {method: "GET", target: "root." + hex64 + ".json"},
			{method: "GET", target: "timestamp.key"}, {method: "POST", target: "timestamp.key"}, {method: "DELETE", target: ""},
			{method: "GET", target: "../changefeed"},
		} {
			c.target = strings.Replace("/v2/"+string(gun)+"/_trust/tuf/"+c.target, "tuf/../", "", 1)
			s.do(c).want(t, http.StatusNotFound, jsonType, bodyNoRoute)
		}
	}
	s.publish("b/c", s.newRepo("b/c").Upload())
	if r := s.get("/v2/_trust/changefeed?records=1"); r.status != http.StatusOK || !strings.Contains(r.body, `"GUN":"b/c"`) {
		t.Errorf("the changefeed of all GUNs: %d %s", r.status, r.body)
	}
	s.check("b/c")
}
