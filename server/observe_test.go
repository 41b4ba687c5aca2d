package server_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"countersign/server"
	"countersign/server/auth"
	"countersign/storage"
	"countersign/tuf"
)

// What a client may choose as the ID of its request, and what not.
func TestRequestID(t *testing.T) {
	s := newStack(t, nil)
	seen := map[string]bool{}
	for _, given := range []string{"", "a b", "<script>", "né", strings.Repeat("a", 65), strings.Repeat("a", 70_000)} {
		r := s.do(call{method: "GET", target: "/v2/", header: [][2]string{{"X-Request-Id", given}}})
		id := r.header.Get("X-Request-Id")
		if !regexp.MustCompile(`^[A-Z2-7]{26}$`).MatchString(id) || seen[id] {
			t.Errorf("given %.20q: %q", given, id)
		}
		seen[id] = true
	}
	for _, given := range []string{"a", "0e37-5ffe_B.c", strings.Repeat("Z", 64)} {
		if r := s.do(call{method: "GET", target: "/nothing", header: [][2]string{{"X-Request-Id", given}}}); r.header.Get("X-Request-Id") != given {
			t.Errorf("given %q: %q", given, r.header.Get("X-Request-Id"))
		}
	}
}

// The context of what is done for a request knows its ID.
func TestRequestIDInContext(t *testing.T) {
	var id string
	s := newStack(t, breakAll(func(ctx context.Context) error { id = server.RequestID(ctx); return storage.ErrNotFound }))
	if r := s.get(app + "root.json"); id == "" || id != r.header.Get("X-Request-Id") {
		t.Errorf("%q in the context, %q in the answer", id, r.header.Get("X-Request-Id"))
	}
	if id := server.RequestID(t.Context()); id != "" {
		t.Errorf("%q without a request", id)
	}
}

// One line per request, with the status that the client has seen.
func TestAccessLog(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Access = allowAll })
	repo := s.newRepo(gunApp) // two requests for keys
	c := upload(gunApp, repo.Upload())
	c.header = append(c.header, [2]string{"User-Agent", strings.Repeat("docker", 100)}, [2]string{"X-Forwarded-For", "192.0.2.1"})
	s.do(c)
	s.get(app + "root.json")
	s.do(call{method: "GET", target: app + "targets/none.json"})
	s.do(call{method: "GET", target: "/nothing/" + strings.Repeat("n", 1000)})
	s.do(call{method: "PATCH", target: "/v2/"})
	s.do(call{method: "GET", target: "/v2//a"})
	s.do(asForm(gunApp, file("x", "")+last))
	lines := s.log.lines(t, "request", 9)[2:]
	if len(lines) != 7 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range []map[string]any{
		{"method": "POST", "operation": "UpdateTUF", "status": 200.0, "bytes": 0.0, "gun": string(gunApp), "forwarded_for": "192.0.2.1", "user_agent": strings.Repeat("docker", 100)[:256], "subject": "somebody"},
		{"method": "GET", "operation": "GetRole", "status": 200.0, "bytes": float64(len(repo.File(tuf.RoleRoot))), "role": "root", "subject": "somebody"},
		{"operation": "GetRole", "status": 404.0, "role": "targets/none", "bytes": float64(len(bodyNotFound)), "path": nil},
		{"operation": "Unknown", "status": 404.0, "gun": nil, "path": ("/nothing/" + strings.Repeat("n", 1000))[:256]},
		{"method": "PATCH", "operation": "BadMethod", "status": 405.0},
		{"operation": "UncleanPath", "status": 301.0, "path": "/v2//a"},
		{"operation": "UpdateTUF", "status": 400.0, "error": "reading the upload: INVALID_ROLE: The role you are attempting to operate on is invalid."},
	} {
		for key, value := range want {
			if lines[i][key] != value {
				t.Errorf("line %d: %s is %v, want %v", i, key, lines[i][key], value)
			}
		}
		if lines[i]["level"] != "INFO" || lines[i]["request_id"] == "" || !strings.HasPrefix(fmt.Sprint(lines[i]["remote"]), "127.0.0.1:") || lines[i]["duration"] == nil {
			t.Errorf("line %d: %v", i, lines[i])
		}
	}
	s.check(gunApp)
}

// Section 10: upstream's names and labels, and no label that a client can fill.
func TestMetrics(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp)
	s.publish(gunApp, repo.Upload())
	s.get(app + "root.json")
	s.get(app + "root.json")
	s.get(app + "9.root.json")
	s.get("/v2/")
	s.get("/nothing")
	s.do(call{method: "PATCH", target: app})
	s.log.lines(t, "request", 9)
	r := s.get("/metrics")
	if r.status != http.StatusOK || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %v", r.status, r.header)
	}
	for _, line := range []string{
		`notary_server_http_requests_total{code="200",method="get",operation="GetKey"} 2`,
		`notary_server_http_requests_total{code="200",method="post",operation="UpdateTUF"} 1`,
		`notary_server_http_requests_total{code="200",method="get",operation="GetRole"} 2`,
		`notary_server_http_requests_total{code="404",method="get",operation="GetRoleByVersion"} 1`,
		`notary_server_http_request_duration_microseconds_count{operation="GetRole"} 2`,
		`notary_server_http_request_duration_microseconds_count{operation="DeleteTUF"} 0`,
		`notary_server_http_request_size_bytes_count{operation="UpdateTUF"} 1`,
		fmt.Sprintf(`notary_server_http_response_size_bytes_sum{operation="GetRole"} %d`, 2*len(repo.File(tuf.RoleRoot))),
	} {
		if !strings.Contains(r.body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, q := range []string{"0.5", "0.9", "0.99"} {
		if !strings.Contains(r.body, `notary_server_http_request_duration_microseconds{operation="GetRole",quantile="`+q+`"}`) {
			t.Errorf("no quantile %s", q)
		}
	}
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var operations []string
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				switch l.GetName() {
				case "operation":
					operations = append(operations, l.GetValue())
				case "code", "method":
				default:
					t.Errorf("%s has a label %s", f.GetName(), l.GetName())
				}
			}
		}
	}
	slices.Sort(operations)
	want := []string{"Changefeed", "DeleteTUF", "GetKey", "GetRole", "GetRoleByHash", "GetRoleByVersion", "RotateKey", "UpdateTUF"}
	if got := slices.Compact(operations); !slices.Equal(got, want) {
		t.Errorf("operations %v, want %v", got, want)
	}
	s.check(gunApp)
}

// Whatever a client is named, the audit log does not take him for an operator.
func TestActorOfClients(t *testing.T) {
	actor := ""
	fail := breakAll(func(ctx context.Context) error { actor = storage.OriginOf(ctx).Actor; return storage.ErrNotFound })
	s := newStack(t, func(c *server.Config) {
		fail(c)
		c.Access = func(*http.Request, []auth.Access) (string, error) { return "operator root", nil }
	})
	s.get(app + "root.json")
	if actor != "client:operator root" {
		t.Errorf("it is on record as %q", actor)
	}
}
