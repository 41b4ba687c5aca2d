package server_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"countersign/server"
)

// Upstream's route table, as regular expressions over the decoded path.
var (
	oracleGUN  = `(?P<gun>[^*]+)`
	oracleRole = `(?P<role>root|targets(?:/[^/\s]+)*|snapshot|timestamp)`
	oracle     = []struct {
		op, method string
		re         *regexp.Regexp
	}{
		{"UpdateTUF", "POST", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/$`)},
		{"GetRoleByHash", "GET", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/` + oracleRole + `\.(?P<checksum>[a-fA-F0-9]{64}|[a-fA-F0-9]{96}|[a-fA-F0-9]{128})\.json$`)},
		{"GetRoleByVersion", "GET", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/(?P<version>[1-9]*[0-9]+)\.` + oracleRole + `\.json$`)},
		{"GetRole", "GET", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/` + oracleRole + `\.json$`)},
		{"GetKey", "GET", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/(?P<role>snapshot|timestamp)\.key$`)},
		{"RotateKey", "POST", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/(?P<role>snapshot|timestamp)\.key$`)},
		{"DeleteTUF", "DELETE", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/tuf/$`)},
		{"Changefeed", "GET", regexp.MustCompile(`^/v2/` + oracleGUN + `/_trust/changefeed$`)},
		{"Changefeed", "GET", regexp.MustCompile(`^/v2/_trust/changefeed$`)},
	}
)

// oracleSplit is what upstream makes of a path.
func oracleSplit(method, path string) (server.Route, bool) {
	for _, o := range oracle {
		match := o.re.FindStringSubmatch(path)
		if o.method != method || match == nil {
			continue
		}
		r := server.Route{Op: o.op}
		for i, name := range o.re.SubexpNames() {
			switch name {
			case "gun":
				r.GUN = match[i]
			case "role":
				r.Role = match[i]
			case "checksum":
				r.Checksum = match[i]
			case "version":
				r.Version = match[i]
			}
		}
		return r, true
	}
	return server.Route{}, false
}

const hex64 = "0123456789abcdefABCDEF00000000000000000000000000000000000000dead"

// oddPaths are paths of every kind that has led to a doubt.
var oddPaths = []string{
	"/", "/v2", "/v2/", "/V2/a/_trust/tuf/root.json", "/v2/_trust/tuf/", "/v2/_trust/changefeed", "/v2/_trust/tuf/root.json",
	"/v2/a/_trust/tuf/", "/v2/a/_trust/tuf", "/v2/a/b/c:5000/d/_trust/tuf/", "/v2/*/_trust/tuf/", "/v2/a*b/_trust/tuf/root.json",
	"/v2/a/_trust/tuf/root.json", "/v2/a/_trust/tuf/root.JSON", "/v2/a/_trust/tuf/mirrors.json", "/v2/a/_trust/tuf/targets.json",
	"/v2/a/_trust/tuf/targets/releases.json", "/v2/a/_trust/tuf/targets/.json", "/v2/a/_trust/tuf/targets//x.json", "/v2/a/_trust/tuf/targets/x/.json",
	"/v2/a/_trust/tuf/targets/a b.json", "/v2/a/_trust/tuf/targets/a\nb.json", "/v2/a/_trust/tuf/targets/a\vb.json", "/v2/a/_trust/tuf/targets/a*b.json",
	"/v2/a/_trust/tuf/targets/Ä.json", "/v2/a/_trust/tuf/targets/\xff.json", "/v2/\xff/_trust/tuf/root.json", "/v2/a\x00b/_trust/tuf/root.json",
	"/v2/a/_trust/tuf/targetsx.json", "/v2/a/_trust/tuf/targets/a.json.json", "/v2/a/_trust/tuf/rootx.json", "/v2/a/_trust/tuf/.json",
	"/v2/a/_trust/tuf/1.root.json", "/v2/a/_trust/tuf/01.root.json", "/v2/a/_trust/tuf/0.root.json", "/v2/a/_trust/tuf/101.targets/x.json",
	"/v2/a/_trust/tuf/1.1.root.json", "/v2/a/_trust/tuf/.root.json", "/v2/a/_trust/tuf/1root.json", "/v2/a/_trust/tuf/-1.root.json", "/v2/a/_trust/tuf/1.root.key",
	"/v2/a/_trust/tuf/1.targets/1.targets.json", "/v2/a/_trust/tuf/99999999999999999999.root.json", "/v2/a/_trust/tuf/٣.root.json",
	"/v2/a/_trust/tuf/root." + hex64 + ".json", "/v2/a/_trust/tuf/root." + hex64[1:] + ".json", "/v2/a/_trust/tuf/root.0" + hex64 + ".json",
	"/v2/a/_trust/tuf/root." + hex64 + hex64[:32] + ".json", "/v2/a/_trust/tuf/root." + hex64 + hex64 + ".json", "/v2/a/_trust/tuf/targets/x." + hex64 + ".json",
	"/v2/a/_trust/tuf/targets/." + hex64 + ".json", "/v2/a/_trust/tuf/1.root." + hex64 + ".json", "/v2/a/_trust/tuf/targets/x." + hex64 + "." + hex64 + ".json",
	"/v2/a/_trust/tuf/1.targets/x." + hex64 + ".json", "/v2/a/_trust/tuf/targets/x" + hex64 + ".json", "/v2/a/_trust/tuf/" + hex64 + ".json",
	"/v2/a/_trust/tuf/timestamp.key", "/v2/a/_trust/tuf/snapshot.key", "/v2/a/_trust/tuf/root.key", "/v2/a/_trust/tuf/targets/x.key",
	"/v2/a/_trust/changefeed", "/v2/a/_trust/changefeed/", "/v2//_trust/changefeed", "/v2///_trust/changefeed", "/v2/_trust/changefeed/_trust/changefeed",
	"/v2/a/_trust/tuf/_trust/tuf/root.json", "/v2/a/_trust/tuf/b/_trust/tuf/root.json", "/v2/a/_trust/tuf/targets/_trust/tuf/x.json",
	"/v2/a/_trust/tuf/targets/_trust/tuf/targets/x.json", "/v2/a/_trust/tuf/targets/*/_trust/tuf/b.json", "/v2/a/_trust/tuf/targets/*/_trust/tuf/root.json",
	"/v2/a/_trust/tuf/targets/_trust/tuf/1.root.json", "/v2/a/_trust/tuf/1.targets/_trust/tuf/root.json", "/v2/a/_trust/tuf/1.targets/b/_trust/tuf/x.json",
	"/v2/a/_trust/tuf/targets/x." + hex64 + "/_trust/tuf/root.json", "/v2/a/_trust/tuf/targets/b/_trust/tuf/root." + hex64 + ".json",
	"/v2/a/_trust/tuf/targets/b/_trust/tuf/x y.json", "/v2/a b/_trust/tuf/targets/b.json", "/v2//_trust/tuf/", "/v2///_trust/tuf/", "/v2/a//_trust/tuf/root.json",
	"/v2/a/_trust/tuf/tuf/_trust/tuf/targets/a.json", "/v2/a/_trust/tuf/targets/b/_trust/tuf/.json",
}

var methods = []string{"GET", "POST", "DELETE", "PUT", "HEAD", "PATCH"}

func compareWithOracle(t *testing.T, method, path string) {
	t.Helper()
	got, ok := server.SplitPath(method, path)
	want, wantOK := oracleSplit(method, path)
	if ok != wantOK || got != want {
		t.Errorf("%s %q:\n got %+v %v\nwant %+v %v", method, path, got, ok, want, wantOK)
	}
}

func TestSplitPathIsUpstreams(t *testing.T) {
	matched := map[string]int{}
	for _, path := range oddPaths {
		for _, method := range methods {
			compareWithOracle(t, method, path)
			if r, ok := oracleSplit(method, path); ok {
				matched[r.Op]++
			}
		}
	}
	for _, o := range oracle {
		if matched[o.op] == 0 {
			t.Errorf("no path in the table reaches %s", o.op)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         server.Route
	}{
		{"GET", "/v2/h:5000/a/b/_trust/tuf/targets/releases.json", server.Route{Op: "GetRole", GUN: "h:5000/a/b", Role: "targets/releases"}},
		{"GET", "/v2/a/_trust/tuf/007.snapshot.json", server.Route{Op: "GetRoleByVersion", GUN: "a", Role: "snapshot", Version: "007"}},
		{"GET", "/v2/a/_trust/tuf/targets/x." + hex64 + ".json", server.Route{Op: "GetRoleByHash", GUN: "a", Role: "targets/x", Checksum: hex64}},
		// The longest GUN for which the rest is a role.
		{"GET", "/v2/a/_trust/tuf/b/_trust/tuf/root.json", server.Route{Op: "GetRole", GUN: "a/_trust/tuf/b", Role: "root"}},
		{"GET", "/v2/a/_trust/tuf/targets/_trust/tuf/x.json", server.Route{Op: "GetRole", GUN: "a", Role: "targets/_trust/tuf/x"}},
		{"POST", "/v2/a/_trust/tuf/", server.Route{Op: "UpdateTUF", GUN: "a"}},
		{"DELETE", "/v2/a/_trust/tuf/", server.Route{Op: "DeleteTUF", GUN: "a"}},
		{"POST", "/v2/a/_trust/tuf/snapshot.key", server.Route{Op: "RotateKey", GUN: "a", Role: "snapshot"}},
		{"GET", "/v2/_trust/changefeed", server.Route{Op: "Changefeed"}},
	} {
		got, ok := server.SplitPath(c.method, c.path)
		if !ok || got != c.want {
			t.Errorf("%s %s: got %+v %v, want %+v", c.method, c.path, got, ok, c.want)
		}
	}
}

// A path of a megabyte that could be split in many places must not cost the
// square of that.
func TestSplitPathIsLinear(t *testing.T) {
	for name, path := range map[string]string{
		"many GUNs":        "/v2/a" + strings.Repeat("/_trust/tuf/x", 80_000) + ".json",
		"many delegations": "/v2/a" + strings.Repeat("/_trust/tuf/targets/b", 50_000) + " .json",
		"many versions":    "/v2/a" + strings.Repeat("/_trust/tuf/1.targets/b", 50_000) + "//.json",
		"digits":           "/v2/a/_trust/tuf/" + strings.Repeat("1", 1<<20) + ".json",
		"hex":              "/v2/a/_trust/tuf/root." + strings.Repeat("a", 1<<20) + ".json",
	} {
		start := time.Now()
		for _, method := range methods {
			server.SplitPath(method, path)
		}
		// It takes some milliseconds; the square of the length, minutes.
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: %v", name, took)
		}
	}
}

func FuzzSplitPath(f *testing.F) {
	for i, path := range oddPaths {
		f.Add(methods[i%3], path)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		if len(path) > 2000 {
			return // the expressions take their time
		}
		compareWithOracle(t, method, path)
		// Most paths that are made up fit no route: try what is below one, too.
		compareWithOracle(t, method, "/v2/a/_trust/tuf/"+path+".json")
	})
}
