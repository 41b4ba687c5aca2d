package server_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/server"
	"countersign/server/auth"
)

func allowAll(*http.Request, []auth.Access) (string, error) { return "somebody", nil }

// refusal is what a token check says of a request without a token.
type refusal struct{ error }

func (refusal) Challenge() string { return `Bearer realm="https://auth.example.org/token"` }
func (refusal) Public() string    { return "" }

var needed = []call{
	{method: "GET", target: "/v2/"}, {method: "GET", target: "/nothing"}, {method: "HEAD", target: "/v2/"}, {method: "GET", target: "/v2/_trust/changefeed?records=1"},
	{method: "POST", target: "/v2/a/b/_trust/tuf/"}, {method: "DELETE", target: "/v2/a/b/_trust/tuf/"}, {method: "PUT", target: "/v2/a/b/_trust/tuf/"},
	{method: "GET", target: "/v2/a/b/_trust/tuf/root.json"}, {method: "GET", target: "/v2/a/b/_trust/tuf/1.root.json"}, {method: "GET", target: "/v2/a/b/_trust/tuf/root." + hex64 + ".json"},
	{method: "GET", target: "/v2/a/b/_trust/tuf/snapshot.key"}, {method: "POST", target: "/v2/a/b/_trust/tuf/snapshot.key"}, {method: "GET", target: "/v2/a/b/_trust/changefeed?records=1"},
}

// Section 7: what each route needs.
func TestNeededAccess(t *testing.T) {
	var mu sync.Mutex // guards asked
	asked := map[string][]auth.Access{}
	s := newStack(t, func(c *server.Config) {
		c.Access = func(r *http.Request, need []auth.Access) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[r.Method+" "+r.URL.Path] = need
			return "", nil
		}
	})
	for _, c := range needed {
		s.do(c)
	}
	for _, c := range []call{{method: "GET", target: "/metrics"}, {method: "GET", target: "/_notary_server/health"}, {method: "PATCH", target: "/v2/"}, {method: "GET", target: "/v2//"}} {
		s.do(c)
	}
	repository := func(actions ...string) (need []auth.Access) {
		for _, a := range actions {
			need = append(need, auth.Access{Type: "repository", Name: "a/b", Action: a})
		}
		return need
	}
	catalog := []auth.Access{{Type: "registry", Name: "catalog", Action: "*"}}
	want := map[string][]auth.Access{
		"GET /v2/": catalog, "GET /nothing": catalog, "HEAD /v2/": catalog, "GET /v2/_trust/changefeed": catalog,
		"PUT /v2/a/b/_trust/tuf/":                        catalog,
		"POST /v2/a/b/_trust/tuf/":                       repository("push", "pull"),
		"DELETE /v2/a/b/_trust/tuf/":                     repository("*"),
		"GET /v2/a/b/_trust/tuf/root.json":               repository("pull"),
		"GET /v2/a/b/_trust/tuf/1.root.json":             repository("pull"),
		"GET /v2/a/b/_trust/changefeed":                  repository("pull"),
		"GET /v2/a/b/_trust/tuf/snapshot.key":            repository("push", "pull"),
		"POST /v2/a/b/_trust/tuf/snapshot.key":           repository("*"),
		"GET /v2/a/b/_trust/tuf/root." + hex64 + ".json": repository("pull"),
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
}

func TestAccessRefused(t *testing.T) {
	s := newStack(t, func(c *server.Config) {
		c.Prefixes = []string{"a/"}
		c.Access = func(*http.Request, []auth.Access) (string, error) { return "", refusal{errors.New("no token")} }
	})
	for _, c := range needed {
		r := s.do(c)
		if r.status != http.StatusUnauthorized || r.header.Get("Www-Authenticate") != `Bearer realm="https://auth.example.org/token"` {
			t.Errorf("%s %s: %d %v", c.method, c.target, r.status, r.header)
		}
	}
	s.get("/v2/a/b/_trust/tuf/snapshot.key").want(t, http.StatusUnauthorized, jsonType,
		`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[`+
			`{"Type":"repository","Class":"","Name":"a/b","Action":"push"},{"Type":"repository","Class":"","Name":"a/b","Action":"pull"}]}]}`+"\n")
	// The prefix is looked at first: who asks for what is not here needs no token to be told so.
	s.get("/v2/c/_trust/tuf/root.json").want(t, http.StatusNotFound, jsonType, bodyNoRoute)
	// A name that would make the body longer than clients read.
	r := s.get("/v2/a/" + strings.Repeat("%01", 250) + "/_trust/tuf/snapshot.key")
	if r.status != http.StatusUnauthorized || len(r.body) > server.MaxErrorBody {
		t.Errorf("%d with %d bytes", r.status, len(r.body))
	}
}

// A check that cannot be made is no refusal: a client must not be told to log in.
func TestAccessBroken(t *testing.T) {
	s := newStack(t, func(c *server.Config) {
		c.Access = func(*http.Request, []auth.Access) (string, error) { return "", errors.New("key file is gone") }
	})
	r := s.get("/v2/")
	r.want(t, http.StatusInternalServerError, jsonType, `{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{}}]}`+"\n")
	if r.header.Get("Www-Authenticate") != "" {
		t.Error("there is a challenge")
	}
}

// Who cannot be looked at now is to come again, not to log in.
func TestAccessBusy(t *testing.T) {
	s := newStack(t, func(c *server.Config) {
		c.Access = func(*http.Request, []auth.Access) (string, error) { return "", auth.ErrBusy }
	})
	for _, c := range needed {
		r := s.do(c)
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || r.header.Get("Www-Authenticate") != "" {
			t.Errorf("%s %s: %d %v", c.method, c.target, r.status, r.header)
		}
	}
}

// wordy is a refusal that says more than an answer can hold.
type wordy struct{ refusal }

func (wordy) Public() string { return strings.Repeat("\x01", 5000) }

func TestAccessRefusedAtLength(t *testing.T) {
	s := newStack(t, func(c *server.Config) {
		c.Access = func(*http.Request, []auth.Access) (string, error) { return "", wordy{refusal{errors.New("no")}} }
	})
	r := s.get("/v2/")
	if r.status != http.StatusUnauthorized || len(r.body) > server.MaxErrorBody || !strings.Contains(string(r.body), `"message":"authentication required: `) {
		t.Errorf("%d with %d bytes: %.100s", r.status, len(r.body), r.body)
	}
}
