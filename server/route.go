package server

import (
	"net/http"
	"strings"
)

// An operation is what a request asks for. Its name labels metrics and log
// lines; the names of the instrumented ones are upstream's.
type operation string

const (
	opPing         operation = "Ping"
	opUpdate       operation = "UpdateTUF"
	opByHash       operation = "GetRoleByHash"
	opByVersion    operation = "GetRoleByVersion"
	opCurrent      operation = "GetRole"
	opGetKey       operation = "GetKey"
	opRotateKey    operation = "RotateKey"
	opDelete       operation = "DeleteTUF"
	opChangefeed   operation = "Changefeed"
	opHealth       operation = "Health"
	opMetrics      operation = "Metrics"
	opUnknown      operation = "Unknown"
	opBadMethod    operation = "BadMethod"
	opUncleanPath  operation = "UncleanPath"
	allChangesPath           = "/v2/_trust/changefeed"
)

// actions lists what a caller must be allowed to do with the GUN. An operation
// that is not listed needs registry:catalog:*, as does one without a GUN.
var actions = map[operation][]string{
	opUpdate:     {"push", "pull"},
	opByHash:     {"pull"},
	opByVersion:  {"pull"},
	opCurrent:    {"pull"},
	opGetKey:     {"push", "pull"},
	opRotateKey:  {"*"},
	opDelete:     {"*"},
	opChangefeed: {"pull"},
}

// A target is a path below /v2/, taken apart. Its strings are as the client
// sent them: nothing but the shape of the path has been checked.
type target struct {
	op       operation
	gun      string // "" for the changefeed of all GUNs
	role     string
	checksum string // 64, 96 or 128 hex digits of either case
	version  string // decimal digits, any number of them
}

// splitPath takes apart a decoded URL path, which holds more slashes than a
// mux template can place: a GUN is one or more of any character but '*', as
// long as possible. What it accepts is exactly what upstream's routes accept,
// and it takes time linear in the length of the path.
func splitPath(method, path string) (target, bool) {
	below, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return target{}, false
	}
	// A path that fits two routes belongs to the first of these.
	switch method {
	case http.MethodGet:
		if t, ok := splitByHash(below); ok {
			return t, true
		}
		if t, ok := splitByName(below); ok {
			return t, true
		}
		if t, ok := splitKey(below, opGetKey); ok {
			return t, true
		}
		if path == allChangesPath {
			return target{op: opChangefeed}, true
		}
		gun, ok := cutGUN(below, "/_trust/changefeed")
		return target{op: opChangefeed, gun: gun}, ok
	case http.MethodPost:
		if gun, ok := cutGUN(below, trustPath); ok {
			return target{op: opUpdate, gun: gun}, true
		}
		return splitKey(below, opRotateKey)
	case http.MethodDelete:
		gun, ok := cutGUN(below, trustPath)
		return target{op: opDelete, gun: gun}, ok
	}
	return target{}, false
}

// trustPath stands between a GUN and the name of a file.
const trustPath = "/_trust/tuf/"

// cutGUN returns what precedes suffix, if that can be a GUN.
func cutGUN(below, suffix string) (string, bool) {
	gun, ok := strings.CutSuffix(below, suffix)
	return gun, ok && gun != "" && !strings.Contains(gun, "*")
}

func splitKey(below string, op operation) (target, bool) {
	for _, role := range []string{"snapshot", "timestamp"} {
		if gun, ok := cutGUN(below, trustPath+role+".key"); ok {
			return target{op: op, gun: gun, role: role}, true
		}
	}
	return target{}, false
}

// splitByHash matches <gun>/_trust/tuf/<role>.<checksum>.json.
func splitByHash(below string) (target, bool) {
	body, ok := strings.CutSuffix(below, ".json")
	if !ok {
		return target{}, false
	}
	i := len(body)
	for i > 0 && isHex(body[i-1]) {
		i--
	}
	sum := body[i:]
	if n := len(sum); n != 64 && n != 96 && n != 128 || i == 0 || body[i-1] != '.' {
		return target{}, false
	}
	t, ok := splitRole(body[:i-1], false)
	t.op, t.checksum = opByHash, sum
	return t, ok
}

// splitByName matches <gun>/_trust/tuf/[<version>.]<role>.json. The form with
// a version goes first.
func splitByName(below string) (target, bool) {
	body, ok := strings.CutSuffix(below, ".json")
	if !ok {
		return target{}, false
	}
	if t, ok := splitRole(body, true); ok {
		t.op = opByVersion
		return t, true
	}
	t, ok := splitRole(body, false)
	t.op = opCurrent
	return t, ok
}

// splitRole matches <gun>/_trust/tuf/<role> or, versioned,
// <gun>/_trust/tuf/<version>.<role>, with the longest GUN for which it fits:
// "/_trust/tuf/" may stand in a GUN, and in a delegation's name too.
func splitRole(body string, versioned bool) (target, bool) {
	end := len(body)
	if star := strings.IndexByte(body, '*'); star >= 0 {
		// No GUN reaches beyond the star.
		end = min(end, star+len(trustPath))
	}
	for {
		i := strings.LastIndex(body[:end], trustPath)
		if i < 1 {
			return target{}, false
		}
		end = i + len(trustPath) - 1
		t := target{gun: body[:i], role: body[i+len(trustPath):]}
		if versioned {
			n := 0
			for n < len(t.role) && '0' <= t.role[n] && t.role[n] <= '9' {
				n++
			}
			if n == 0 || n == len(t.role) || t.role[n] != '.' {
				continue
			}
			t.version, t.role = t.role[:n], t.role[n+1:]
		}
		switch t.role {
		case "root", "targets", "snapshot", "timestamp":
			return t, true
		}
		if segments, ok := strings.CutPrefix(t.role, "targets/"); ok {
			// If these segments are no delegation, then neither is any longer
			// name that ends in them.
			return t, areSegments(segments)
		}
	}
}

// areSegments reports whether s is a list of names joined by slashes, none of
// which is empty or holds white space.
func areSegments(s string) bool {
	return s != "" && s[0] != '/' && s[len(s)-1] != '/' &&
		!strings.Contains(s, "//") && !strings.ContainsAny(s, "\t\n\f\r ")
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
