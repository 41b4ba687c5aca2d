package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/server"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// upstreamServer is Debian's build of the server that this one replaces.
const upstreamServer = "/usr/bin/notary-server"

// startUpstream runs it on a port of its own, with keys and metadata in
// memory, and returns its address.
func startUpstream(t *testing.T, more map[string]any) string {
	t.Helper()
	if _, err := os.Stat(upstreamServer); err != nil {
		t.Fatalf("upstream's server, which this test compares with, is missing: apt-get install notary (%v)", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	config := map[string]any{
		"server":        map[string]any{"http_addr": addr},
		"trust_service": map[string]any{"type": "local"},
		"storage":       map[string]any{"backend": "memory"},
		"logging":       map[string]any{"level": "panic"},
	}
	for key, value := range more {
		config[key] = value
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(upstreamServer, "-config", path)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("upstream's server does not start: %v", err)
		}
	}
}

// A side is one of the two servers, with the repositories that were made for it.
type side struct {
	t     *testing.T
	addr  string
	repos map[tuf.GUN]*tuftest.Repo
}

// repo returns the repository that a client has made for gun on this side.
func (s *side) repo(gun tuf.GUN, delegations ...tuf.RoleName) *tuftest.Repo {
	if s.repos[gun] == nil {
		s.repos[gun] = tuftest.New(s.t, gun, tuftest.Options{
			Timestamp: serverKey(s.t, s.addr, gun, tuf.RoleTimestamp), Snapshot: serverKey(s.t, s.addr, gun, tuf.RoleSnapshot),
			Delegations: delegations,
		})
	}
	return s.repos[gun]
}

// A step is one request that both sides get.
type step struct {
	name string
	make func(*side) call
}

// A difference is that the answers to some steps are not upstream's, on purpose.
type difference struct {
	steps        string // an expression for the whole of their names
	theirs, ours string // as [reply.short]
	why          string
}

// short is status and code of an answer.
func (r reply) short() string {
	if r.status == 0 {
		return "connection closed"
	}
	var b struct{ Errors []struct{ Code string } }
	if json.Unmarshal([]byte(r.body), &b) == nil && len(b.Errors) == 1 {
		return fmt.Sprintf("%d %s", r.status, b.Errors[0].Code)
	}
	return fmt.Sprint(r.status)
}

// comparable is an answer without what differs between any two servers: the
// time, keys, and what is signed with them.
func (r reply) comparable() string {
	h := r.header.Clone()
	for _, key := range []string{
		"Date", "Connection",
		// What only ours has.
		"Etag", "X-Request-Id", "X-Content-Type-Options",
		// Upstream leaves it out when a body is long.
		"Content-Length",
	} {
		h.Del(key)
	}
	if h.Get("Last-Modified") != "" {
		h.Set("Last-Modified", "some time")
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d\n", r.status)
	if err := h.WriteSubset(&text, nil); err != nil {
		panic(err) // a builder takes all
	}
	var v any
	d := json.NewDecoder(strings.NewReader(r.body))
	d.UseNumber()
	if r.status != http.StatusOK || d.Decode(&v) != nil {
		return text.String() + "\n" + r.body
	}
	out, err := json.MarshalIndent(mask(v), "", " ")
	if err != nil {
		panic(err) // it was JSON before
	}
	return text.String() + "\n" + string(out)
}

var (
	keyID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	timed = regexp.MustCompile(`^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)
)

// mask replaces what depends on keys and time.
func mask(v any) any {
	switch v := v.(type) {
	case string:
		switch {
		case timed.MatchString(v):
			return "some time"
		case len(v) > 128:
			return "many characters"
		case len(v) >= 40 && strings.TrimSpace(v) != "":
			return fmt.Sprintf("%d characters", len(v))
		}
	case []any:
		for i := range v {
			v[i] = mask(v[i])
		}
	case map[string]any:
		var keys []string // the values of members named by key IDs
		for name, value := range v {
			value = mask(value)
			if name == "length" { // of a file with signatures and a certificate
				value = "some bytes"
			}
			if v[name] = value; keyID.MatchString(name) {
				delete(v, name)
				keys = append(keys, fmt.Sprint(value))
			}
		}
		if keys != nil {
			slices.Sort(keys)
			v["keys, by any ID"] = keys
		}
	}
	return v
}

// replay sends each step to both servers and compares the answers.
func replay(t *testing.T, steps []step, differences []difference, sides ...*side) {
	t.Helper()
	used := make([]int, len(differences))
	for _, st := range steps {
		theirs := st.make(sides[0]).send(t, sides[0].addr)
		ours := st.make(sides[1]).send(t, sides[1].addr)
		same := theirs.comparable() == ours.comparable()
		if ours.status < 200 || ours.status >= 500 {
			t.Errorf("%s: we answer %s", st.name, ours.comparable())
		}
		if length := ours.header.Get("Content-Length"); length == "" && (ours.status == http.StatusOK || ours.status >= 400) {
			t.Errorf("%s: no Content-Length", st.name)
		}
		i := slices.IndexFunc(differences, func(d difference) bool {
			return regexp.MustCompile("^(?:" + d.steps + ")$").MatchString(st.name)
		})
		switch {
		case i >= 0:
			d := differences[i]
			used[i]++
			if same || theirs.short() != d.theirs || ours.short() != d.ours {
				t.Errorf("%s: theirs is %q, ours %q (the same: %v); listed are %q and %q:\n%s", st.name, theirs.short(), ours.short(), same, d.theirs, d.ours, ours.comparable())
			}
		case !same:
			t.Errorf("%s: -theirs +ours\n%s", st.name, cmp.Diff(theirs.comparable(), ours.comparable()))
		}
	}
	total := 0
	for i, d := range differences {
		if total += used[i]; used[i] == 0 {
			t.Errorf("difference %q: no such request", d.steps)
		}
	}
	t.Logf("%d requests to each server; %d answered differently, for %d reasons", len(steps), total, len(differences))
}

// wire writes a path as it goes into a request line.
func wire(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c == '%' || c == '?' || c == '#' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func fixed(name string, c call) step { return step{name, func(*side) call { return c }} }

// pathSteps are all routes and odd paths with all methods, on a server that
// has nothing.
func pathSteps() []step {
	paths := append(slices.Clone(oddPaths), "//v2/", "/v2//a/../b", "/v2/./", "/a/b/../c", "/v2/a/_trust/tuf/./root.json", "/metrics/", "/_notary_server/health", "/_notary_server/health/", "/x?y=z")
	var steps []step
	for _, path := range paths {
		for _, method := range methods {
			steps = append(steps, fixed(method+" "+wire(path), call{method: method, target: wire(path)}))
		}
	}
	for _, method := range []string{"OPTIONS", "TRACE", "CONNECT", "BREW", "get"} {
		for _, path := range []string{"/", "/v2/", "/v2/a/_trust/tuf/", "/metrics", "/x//y"} {
			steps = append(steps, fixed(method+" "+path, call{method: method, target: path}))
		}
	}
	return steps
}

func TestPathsLikeUpstream(t *testing.T) {
	ours := newStackWith(t, tuf.KeyED25519, nil)
	theirs := startUpstream(t, nil)
	replay(t, pathSteps(), pathDifferences, &side{t: t, addr: theirs}, &side{t: t, addr: ours.addr})
}

func TestPrefixesLikeUpstream(t *testing.T) {
	ours := newStackWith(t, tuf.KeyED25519, func(c *server.Config) {
		c.Prefixes = []string{"a/", "b/"}
		c.CurrentMaxAge, c.ConsistentMaxAge = 0, 0
	})
	theirs := startUpstream(t, map[string]any{
		"repositories": map[string]any{"gun_prefixes": []string{"a/", "b/"}},
		"caching":      map[string]any{"max_age": map[string]any{"current_metadata": 0, "consistent_metadata": 0}},
	})
	var steps []step
	for _, gun := range []string{"a", "a/b", "ab/c", "c/a/b", "b/"} {
		for _, target := range []string{"tuf/", "tuf/root.json", "tuf/1.root.json", "tuf/timestamp.key", "tuf/root." + hex64 + ".json", "changefeed?records=1", "nothing"} {
			for _, method := range []string{"GET", "POST", "DELETE", "PUT"} {
				c := call{method: method, target: "/v2/" + gun + "/_trust/" + target}
				steps = append(steps, fixed(method+" "+c.target, c))
			}
		}
	}
	steps = append(steps,
		step{"publish with a prefix", func(s *side) call { return upload("a/b", s.repo("a/b").Upload()) }},
		fixed("not to be cached", call{method: "GET", target: "/v2/a/b/_trust/tuf/root.json"}),
		fixed("not to be cached either", call{method: "GET", target: "/v2/a/b/_trust/tuf/1.targets.json"}),
		fixed("nor this", call{method: "GET", target: "/v2/a/b/_trust/tuf/timestamp.json"}),
	)
	replay(t, steps, prefixDifferences, newSide(t, theirs), newSide(t, ours.addr))
	ours.check("a/b")
}

func newSide(t *testing.T, addr string) *side {
	return &side{t: t, addr: addr, repos: map[tuf.GUN]*tuftest.Repo{}}
}

// The same families of metrics, with the same labels.
func TestMetricsLikeUpstream(t *testing.T) {
	ours := newStackWith(t, tuf.KeyED25519, nil)
	theirs := startUpstream(t, nil)
	line := regexp.MustCompile(`(?m)^(notary_server_[a-z_]+)(?:\{(.*)\})? |^# TYPE (notary_server_.*)$`)
	value := regexp.MustCompile(`="[^"]*"`)
	names := func(addr string) []string {
		s := newSide(t, addr)
		for _, c := range []call{{method: "GET", target: app + "root.json"}, upload(gunApp, s.repo(gunApp).Upload())} {
			c.send(t, addr)
		}
		var found []string
		for _, m := range line.FindAllStringSubmatch(call{method: "GET", target: "/metrics"}.send(t, addr).body, -1) {
			found = append(found, m[1]+" "+value.ReplaceAllString(m[2], "")+m[3])
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	if diff := cmp.Diff(names(theirs), names(ours.addr)); diff != "" {
		t.Errorf("-theirs +ours\n%s", diff)
	}
}
