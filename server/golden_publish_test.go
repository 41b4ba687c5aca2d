package server_test

import (
	"strings"
	"testing"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// uploadSteps are broken bodies of every kind.
func uploadSteps() []step {
	type header = [][2]string
	form := header{{"Content-Type", "multipart/form-data; boundary=" + boundary}}
	post := func(name string, h header, body string) step {
		return fixed("upload: "+name, call{method: "POST", target: app, header: h, body: body})
	}
	part := func(disposition string) string {
		return "--" + boundary + "\r\n" + disposition + "\r\n\r\n" + envelope + "\r\n" + last
	}
	long := strings.Repeat("a", 300)
	var steps []step
	for name, h := range map[string]header{
		"no type": nil, "JSON": {{"Content-Type", "application/json"}}, "broken type": {{"Content-Type", "multipart/form-data; boundary"}},
		"related": {{"Content-Type", "multipart/related; boundary=" + boundary}}, "no boundary": {{"Content-Type", "multipart/form-data"}},
		"boundary too long": {{"Content-Type", "multipart/form-data; boundary=" + long}}, "empty boundary": {{"Content-Type", `multipart/form-data; boundary=""`}},
		"mixed": {{"Content-Type", "multipart/mixed; boundary=" + boundary}}, "gzip": {form[0], {"Content-Encoding", "gzip"}},
	} {
		steps = append(steps, post(name, h, file("mirrors", "")+last))
	}
	for name, body := range map[string]string{
		"empty body": "", "cut in a file": file("root", envelope)[:100], "cut behind a file": file("root", envelope), "cut in a header": file("root", envelope) + file("targets", envelope)[:40],
		"no multipart": strings.Repeat("x", 6000), "other boundary": strings.ReplaceAll(file("root", envelope)+last, boundary, "other"),
		"no file name": part(`Content-Disposition: form-data; name="files"`), "empty file name": part(`Content-Disposition: form-data; name="files"; filename=""`),
		"no disposition": part("X: y"), "broken disposition": part("Content-Disposition: form-data; filename"), "only .json": file(".json", envelope) + last,
		"two .json": file("root.json.json", envelope) + last, "unknown role": file("mirrors", envelope) + last, "upper case": file("targets/A", envelope) + last,
		"unclean": file("targets/a/../b", envelope) + last, "trailing slash": file("targets/a/", envelope) + last, "folder": file("a/root", envelope) + last,
		"backslash": file(`a\\root`, envelope) + last, "quotes": file(`a\"b`, envelope) + last, "encoded name": part(`Content-Disposition: form-data; filename*=UTF-8''mirr%6Frs`),
		"markup": file("<b>&", envelope) + last, "300 characters": file("targets/"+long, envelope) + last, "NUL": file("targets/a\x00", envelope) + last, "not UTF-8": file("targets/\xff", envelope) + last,
		"empty file": file("root", "") + last, "not JSON": file("root", "x") + last, "array": file("root", "[]") + last, "string": file("root", `"x"`) + last, "number": file("root", `1`) + last,
		"text version": file("root", `{"signed":{"version":"1"}}`) + last, "broken version": file("root", `{"signed":{"version":1.5}}`) + last, "date only": file("root", `{"signed":{"expires":"2026-01-01"}}`) + last,
		"broken base64": file("root", `{"signatures":[{"sig":"!"}]}`) + last, "cut JSON": file("root", `{"signed":{`) + last, "unbalanced": file("root", `{"signed":{}}}`) + last,
		"JSON before role": file("root", "x") + file("mirrors", "") + last, "role before JSON": file("mirrors", "") + file("root", "x") + last,
		"deep": file("root", strings.Repeat(`{"signed":`, 20_000)) + last, "null": file("root", "null") + last, "empty object": file("root", "{}") + last,
		"null signed": file("root", `{"signed":null}`) + last, "no root": file("targets", envelope) + last, "only a timestamp": file("timestamp", "{}") + last, "nothing": last,
		"broken timestamp": file("timestamp", "x") + last, "duplicate members": file("root", `{"signed":{"version":1,"version":2}}`) + last,
		"version 2^40": file("root", `{"signed":{"_type":"Root","version":1099511627776}}`) + last, "garbage behind": file("root", `{} x`) + last,
		"null signed targets": file("targets", `{"signed":null,"signatures":[{"keyid":"a","method":"ecdsa","sig":"AA=="}]}`) + last,
	} {
		steps = append(steps, post(name, form, body))
	}
	return steps
}

func TestBrokenUploadsLikeUpstream(t *testing.T) {
	ours := newStackWith(t, tuf.KeyED25519, nil)
	replay(t, uploadSteps(), uploadDifferences, newSide(t, startUpstream(t, nil)), newSide(t, ours.addr))
	ours.get(app+"root.json").want(t, 404, jsonType, bodyNotFound)
}

// lifeSteps are the life of a repository.
func lifeSteps() []step {
	get := func(name string, path func(*side) string) step {
		return step{name, func(s *side) call { return call{method: "GET", target: path(s)} }}
	}
	read := func(target string) step { return fixed("GET "+target, call{method: "GET", target: target}) }
	readAll := func(when string) (steps []step) {
		for _, name := range []string{"root", "targets", "snapshot", "timestamp", "targets/releases", "targets/none", "1.root", "2.targets", "1.timestamp", "9.timestamp", "01.root", "1.targets/releases"} {
			steps = append(steps, fixed(when+": "+name, call{method: "GET", target: app + name + ".json"}))
		}
		for _, query := range []string{"records=10", "records=1", "records=-1", "records=0&change_id=1", "records=1&change_id=1", "records=-1&change_id=2", "records=5&change_id=99", "", "records=x", "records=1&change_id=x", "records=2147483648"} {
			for _, gun := range []string{"", string(gunApp) + "/", "nobody/"} {
				steps = append(steps, fixed(when+": changes of "+gun+" "+query, call{method: "GET", target: "/v2/" + gun + "_trust/changefeed?" + query}))
			}
		}
		return steps
	}
	push := func(name string, files func(*tuftest.Repo) map[tuf.RoleName][]byte) step {
		return step{name, func(s *side) call { return upload(gunApp, files(s.repo(gunApp, "targets/releases"))) }}
	}
	byHash := func(name, gun string, role, of tuf.RoleName) step {
		return get(name, func(s *side) string {
			return "/v2/" + gun + "/_trust/tuf/" + string(role) + "." + tuf.Sum(s.repo(gunApp).File(of)).String() + ".json"
		})
	}
	steps := []step{push("first publish", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Upload() })}
	steps = append(steps, readAll("published")...)
	steps = append(steps,
		byHash("by hash", string(gunApp), "root", "root"), byHash("delegation by hash", string(gunApp), "targets/releases", "targets/releases"),
		byHash("hash of another role", string(gunApp), "targets", "root"), byHash("hash of another GUN", "other", "root", "root"),
		get("hash in upper case", func(s *side) string {
			return app + "root." + strings.ToUpper(tuf.Sum(s.repo(gunApp).File("root")).String()) + ".json"
		}),
		read(app+"0.root.json"), read(app+"2147483648.root.json"), read(app+"99999999999999999999.root.json"),
		fixed("timestamp key", call{method: "GET", target: app + "timestamp.key"}), fixed("snapshot key", call{method: "GET", target: app + "snapshot.key"}),
		fixed("rotate timestamp", call{method: "POST", target: app + "timestamp.key", body: "ignored"}), fixed("rotate snapshot", call{method: "POST", target: app + "snapshot.key"}),
		fixed("HEAD", call{method: "HEAD", target: app + "root.json"}),
		fixed("conditional", call{method: "GET", target: app + "root.json", header: [][2]string{{"If-None-Match", "*"}}}),
		fixed("range", call{method: "GET", target: app + "root.json", header: [][2]string{{"Range", "bytes=0-1"}}}),
		push("the same again", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Upload() }),
		push("next targets", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Next("targets") }),
		push("next delegation", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Next("targets/releases") }),
		push("next root", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Next("root") }),
		push("root and all", func(r *tuftest.Repo) map[tuf.RoleName][]byte { return r.Next("root", "targets", "targets/releases") }),
		push("a root ahead", func(r *tuftest.Repo) map[tuf.RoleName][]byte {
			r.Root.Version += 2
			defer func() { r.Root.Version -= 2 }()
			return r.Upload("root")
		}),
		push("targets by a stranger", func(r *tuftest.Repo) map[tuf.RoleName][]byte {
			keys := r.Keys["targets"]
			r.Keys["targets"] = []*tuftest.Key{r.NewKey("targets")}
			r.Targets["targets"].Version++
			defer func() { r.Keys["targets"] = keys; r.Targets["targets"].Version-- }()
			return r.Upload("targets")
		}),
		push("an unknown delegation", func(r *tuftest.Repo) map[tuf.RoleName][]byte {
			return map[tuf.RoleName][]byte{"targets/b": r.File("targets/releases")}
		}),
		push("with a timestamp", func(r *tuftest.Repo) map[tuf.RoleName][]byte {
			files := r.Next("targets")
			files["timestamp"] = []byte(`{}`)
			return files
		}),
		push("nothing", func(*tuftest.Repo) map[tuf.RoleName][]byte { return nil }),
	)
	steps = append(steps, readAll("later")...)
	steps = append(steps,
		fixed("delete", call{method: "DELETE", target: app}), fixed("delete again", call{method: "DELETE", target: app}),
		byHash("by hash, after deletion", string(gunApp), "targets", "targets"),
	)
	return append(steps, readAll("deleted")...)
}

func TestLifeLikeUpstream(t *testing.T) {
	ours := newStackWith(t, tuf.KeyED25519, nil)
	replay(t, lifeSteps(), lifeDifferences, newSide(t, startUpstream(t, nil)), newSide(t, ours.addr))
}
