package tuf_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

func targetsChanges() []change {
	const (
		r       = tuf.RoleTargets
		invalid = "targets type metadata invalid: "
	)
	file := func(meta any) func(*testing.T, *tuftest.Repo) {
		return edit(r, func(s map[string]any) { object(s, "targets")["v1"] = meta })
	}
	delegation := func(f func(d map[string]any)) func(*testing.T, *tuftest.Repo) {
		return edit(r, func(s map[string]any) { f(object(s, "delegations")["roles"].([]any)[0].(map[string]any)) })
	}
	return []change{
		{"targets missing", set(r, "targets", nil), "", "", false},
		{"targets null", replace(r, `"targets":{`, `"targets":null,"x":{`), "", "", false},
		{"targets an array", set(r, "targets", []any{}), r, "targets: expected an object, not an array", true},
		{"target null", file(nil), "", "", false},
		{"target a string", file("x"), r, "targets: expected an object, not a string", true},
		{"target without hashes", file(map[string]any{"length": 1}), "", "", false},
		{"hashes null", file(map[string]any{"length": 1, "hashes": nil}), "", "", false},
		{"hashes empty", file(map[string]any{"length": 1, "hashes": map[string]any{}}), "", "", false},
		{"hashes an array", file(map[string]any{"length": 1, "hashes": []any{}}), r, "targets: expected an object, not an array", true},
		{"hash null", file(map[string]any{"hashes": map[string]any{"sha256": nil}}), "", "", false},
		{"hash too short", file(map[string]any{"hashes": map[string]any{"sha256": "AAAA"}}), "", "", false},
		{"hash very long", file(map[string]any{"hashes": map[string]any{"x": strings.Repeat("AAAA", 1000)}}), "", "", false},
		{"hash not base64", file(map[string]any{"hashes": map[string]any{"sha256": "AAA"}}), r, "targets: illegal base64", true},
		{"hash with new lines", file(map[string]any{"hashes": map[string]any{"sha256": "AA\r\nAA"}}), "", "", false},
		{"hash a number", file(map[string]any{"hashes": map[string]any{"sha256": 7}}), r, "targets: expected a string, not a number", true},
		{"hash of an unknown kind", file(map[string]any{"hashes": map[string]any{"md5": "AAAA"}}), "", "", false},
		{"length negative", file(map[string]any{"length": -1}), "", "", false},
		{"length a string", file(map[string]any{"length": "1"}), r, "targets: expected a number, not a string", true},
		{"length with a fraction", file(map[string]any{"length": 1.5}), r, "json: unsupported value: 1.5", false},
		{"length with an exponent", replace(r, `"length":8`, `"length":8e0`), r, "8e0 is no integer", true},
		{"length of 64 bits", replace(r, `"length":8`, `"length":9223372036854775807`), r, "json: unsupported value", true},
		{"custom", file(map[string]any{"custom": map[string]any{"z": []any{1, "<>"}, "a": nil}}), "", "", false},
		{"custom null", file(map[string]any{"custom": nil}), "", "", false},
		{"custom with a fraction", file(map[string]any{"custom": 0.5}), r, "json: unsupported value: 0.5", false},
		{"target without a name", edit(r, func(s map[string]any) { object(s, "targets")[""] = nil }), "", "", false},
		{"target with control characters", edit(r, func(s map[string]any) { object(s, "targets")["\x00\n"] = nil }), "", "", false},

		{"delegations missing", func(t *testing.T, repo *tuftest.Repo) {
			for _, d := range []tuf.RoleName{"targets/a/b", "targets/a", "targets/c"} {
				repo.RemoveDelegation(d)
			}
			set(r, "delegations", nil)(t, repo)
		}, "", "", false},
		{"delegations null", func(t *testing.T, repo *tuftest.Repo) {
			for _, d := range []tuf.RoleName{"targets/a/b", "targets/a", "targets/c"} {
				repo.RemoveDelegation(d)
			}
			replace(r, `"delegations":{`, `"delegations":null,"x":{`)(t, repo)
		}, "", "", false},
		{"all delegations removed", func(_ *testing.T, repo *tuftest.Repo) {
			for _, d := range []tuf.RoleName{"targets/a/b", "targets/a", "targets/c"} {
				repo.RemoveDelegation(d)
			}
			repo.Targets[r].Delegations.Roles = nil // as the clients do
		}, "", "", false},
		{"delegations an array", set(r, "delegations", []any{}), r, "delegations: expected an object, not an array", true},
		{"roles an object", edit(r, func(s map[string]any) { object(s, "delegations")["roles"] = map[string]any{} }), r, "delegations: expected an array, not an object", true},
		{"role null", edit(r, func(s map[string]any) { object(s, "delegations")["roles"] = []any{nil} }), r, "delegations: expected an object, not null", true},
		{"paths missing", delegation(func(d map[string]any) { delete(d, "paths") }), "", "", false},
		{"paths null", delegation(func(d map[string]any) { d["paths"] = nil }), "", "", false},
		{"path null", delegation(func(d map[string]any) { d["paths"] = []any{nil} }), "", "", false},
		{"path a number", delegation(func(d map[string]any) { d["paths"] = []any{1} }), r, "delegations: expected a string, not a number", true},
		{"name missing", delegation(func(d map[string]any) { delete(d, "name") }), r, invalid + "delegation role  invalid", false},
		{"name in upper case", delegation(func(d map[string]any) { d["name"] = "targets/A" }), r, invalid + "delegation role targets/A invalid", false},
		{"name not clean", delegation(func(d map[string]any) { d["name"] = "targets//a" }), r, invalid + "delegation role targets//a invalid", false},
		{"name of a grandchild", delegation(func(d map[string]any) { d["name"] = "targets/a/b" }), r, invalid + "delegation role targets/a/b invalid", false},
		{"name of itself", delegation(func(d map[string]any) { d["name"] = "targets" }), r, invalid + "delegation role targets invalid", false},
		{"name of a base role", delegation(func(d map[string]any) { d["name"] = "snapshot" }), r, invalid + "delegation role snapshot invalid", false},
		{"name twice, the first counts", edit(r, func(s map[string]any) {
			d := object(s, "delegations")
			d["roles"] = append(d["roles"].([]any), map[string]any{"name": "targets/a", "threshold": 1})
		}), "", "", false},
		{"threshold 0", delegation(func(d map[string]any) { d["threshold"] = 0 }), r, invalid + "invalid threshold specified for targets/a: 0 ", false},
		{"key missing", edit(r, func(s map[string]any) { object(s, "delegations")["keys"] = map[string]any{} }), r, invalid + "key ID ", false},
		{"delegation without keys, not used", edit(r, func(s map[string]any) {
			d := object(s, "delegations")
			d["roles"] = append(d["roles"].([]any), map[string]any{"name": "targets/z", "threshold": 1, "keyids": nil})
		}), "", "", false},
	}
}

func delegationChanges() []change {
	const (
		r         = tuf.RoleName("targets/a")
		threshold = "valid signatures did not meet threshold for targets/a"
	)
	now := time.Now()
	good := tuftest.Cert{CN: "anyone", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	certified := func(f func(*testing.T, *tuftest.Cert) *tuftest.Key) func(*testing.T, *tuftest.Repo) {
		return func(t *testing.T, repo *tuftest.Repo) {
			t.Helper()
			c := good
			k := f(t, &c)
			repo.SetKeys(r, 1, k.Certify(t, c))
		}
	}
	return []change{
		{"not in its parent", func(_ *testing.T, repo *tuftest.Repo) {
			repo.Targets["targets"].Delegations.Roles = repo.Targets["targets"].Delegations.Roles[1:]
		}, r, "tuf: invalid role targets/a. delegation does not exist", false},
		{"not in its parent, deeper", func(_ *testing.T, repo *tuftest.Repo) { repo.Targets[r].Delegations.Roles = nil }, "targets/a/b", "tuf: invalid role targets/a/b. delegation does not exist", false},
		{"signed by its parent's key", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[r] = repo.Keys["targets"] }, r, threshold, false},
		{"key IDs null in its parent", func(_ *testing.T, repo *tuftest.Repo) { repo.Delegation(r).KeyIDs = nil }, r, threshold, false},
		{"not signed", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[r] = nil }, r, "tuf: data has no signatures", false},
		{"type wrong", set(r, "_type", "targets/a"), r, "targets/a type metadata invalid: expected type Targets, not targets/a", false},
		{"version 0", set(r, "version", 0), r, "targets/a type metadata invalid: version cannot be less than one", false},
		{"expired", set(r, "expires", "2020-01-02T03:04:05Z"), r, "targets/a expired at Thu Jan 2 03:04:05 UTC 2020", false},
		{"delegates to a sibling", set(r, "delegations", map[string]any{"roles": []any{map[string]any{"name": "targets/b"}}}), r, "targets/a type metadata invalid: delegation role targets/b invalid", false},
		{"role null", set(r, "delegations", map[string]any{"roles": []any{nil}}), r, "delegations: expected an object, not null", true},
		{"signed null", raw(r, func([]byte) []byte { return []byte(`{"signed":null,"signatures":[{}]}`) }), r, "file contained an empty payload", true},

		{"certificate", certified(func(t *testing.T, c *tuftest.Cert) *tuftest.Key { return tuftest.NewKey(t, tuf.KeyECDSA) }), "", "", false},
		{"certificate that has expired", certified(func(t *testing.T, c *tuftest.Cert) *tuftest.Key {
			c.NotAfter = now.Add(-time.Minute)
			return tuftest.NewKey(t, tuf.KeyECDSA)
		}), "", "", false},
		{"certificate that ends before it begins", certified(func(t *testing.T, c *tuftest.Cert) *tuftest.Key {
			c.NotAfter = c.NotBefore.Add(-time.Minute)
			return tuftest.NewKey(t, tuf.KeyECDSA)
		}), r, "certificate validity window is invalid", false},
		{"certificate signed with SHA-1", certified(func(t *testing.T, c *tuftest.Cert) *tuftest.Key {
			c.Algorithm = x509.ECDSAWithSHA1
			return tuftest.NewKey(t, tuf.KeyECDSA)
		}), r, "certificate with CN anyone uses invalid SHA1 signature algorithm", false},
		{"certificate of an RSA key of 1024 bits", certified(func(t *testing.T, c *tuftest.Cert) *tuftest.Key { return tuftest.NewRSAKey(t, 1024) }), r, "RSA bit length is too short", false},
		{"unsound certificate, of a key that has not signed", func(t *testing.T, repo *tuftest.Repo) {
			c := good
			c.NotAfter = c.NotBefore.Add(-time.Minute)
			repo.SetKeys(r, 1, repo.Keys[r][0], tuftest.Public(tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, c).Key))
		}, r, "certificate validity window is invalid", false},
		{"unsound certificate as a key of targets", func(t *testing.T, repo *tuftest.Repo) {
			c := good
			c.NotAfter = c.NotBefore.Add(-time.Minute)
			repo.SetKeys("targets", 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, c))
		}, "", "", false}, // only those of root and of delegations are looked at
	}
}

// metaChanges are about snapshot and timestamp, and what they say of others.
func metaChanges() []change {
	const (
		s  = tuf.RoleSnapshot
		ts = tuf.RoleTimestamp
		// the SHA-256 of nothing
		other    = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
		mismatch = "did not match: expected e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	)
	meta := func(file, role tuf.RoleName, f func(m map[string]any)) func(*testing.T, *tuftest.Repo) {
		return edit(file, func(signed map[string]any) { f(object(signed, "meta", string(role))) })
	}
	hashes := func(file, role tuf.RoleName, hashes map[string]any) func(*testing.T, *tuftest.Repo) {
		return meta(file, role, func(m map[string]any) { m["hashes"] = hashes })
	}
	without := func(file, role tuf.RoleName) func(*testing.T, *tuftest.Repo) {
		return edit(file, func(signed map[string]any) { delete(object(signed, "meta"), string(role)) })
	}
	h := func(kv ...string) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	return []change{
		{"snapshot: signed by another key", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[s] = repo.Keys[ts] }, s, "valid signatures did not meet threshold for snapshot", false},
		{"snapshot: type wrong", set(s, "_type", "Timestamp"), s, "snapshot type metadata invalid: expected type Snapshot, not Timestamp", false},
		{"snapshot: version 0", set(s, "version", 0), s, "snapshot type metadata invalid: version cannot be less than one", false},
		{"snapshot: expired", set(s, "expires", "2020-01-02T03:04:05Z"), s, "snapshot expired at Thu Jan 2 03:04:05 UTC 2020", false},
		{"snapshot: signed null", raw(s, func([]byte) []byte { return []byte(`{"signed":null,"signatures":[{}]}`) }), s, "file contained an empty payload", true},
		{"snapshot: no meta", set(s, "meta", nil), s, "snapshot type metadata invalid: missing root sha256 checksum information", false},
		{"snapshot: meta null", replace(s, `"meta":{`, `"meta":null,"x":{`), s, "snapshot type metadata invalid: missing root sha256 checksum information", false},
		{"snapshot: meta an array", set(s, "meta", []any{}), s, "meta: expected an object, not an array", true},
		{"snapshot: no root", without(s, "root"), s, "snapshot type metadata invalid: missing root sha256 checksum information", false},
		{"snapshot: root null", edit(s, func(signed map[string]any) { object(signed, "meta")["root"] = nil }), s, "snapshot type metadata invalid: missing root sha256 checksum information", false},
		{"snapshot: no targets", without(s, "targets"), s, "snapshot type metadata invalid: missing targets sha256 checksum information", false},
		{"snapshot: no delegation", without(s, "targets/a"), s, "no checksums for supported algorithms were provided for targets/a", false},
		{"snapshot: delegation with an unknown hash only", hashes(s, "targets/a", h("md5", "AAAA")), s, "no checksums for supported algorithms were provided for targets/a", false},
		{"snapshot: no SHA-256 of targets", meta(s, "targets", func(m map[string]any) { delete(object(m, "hashes"), "sha256") }), s, "snapshot type metadata invalid: missing targets sha256 checksum information", false},
		{"snapshot: no SHA-256 of a delegation", meta(s, "targets/a", func(m map[string]any) { delete(object(m, "hashes"), "sha256") }), "", "", false},
		{"snapshot: no SHA-512", meta(s, "targets", func(m map[string]any) { delete(object(m, "hashes"), "sha512") }), "", "", false},
		{"snapshot: SHA-256 too short", hashes(s, "root", h("sha256", "AAAA")), s, "snapshot type metadata invalid: invalid root checksum information, sha256 checksum invalid", false},
		{"snapshot: SHA-512 too short", meta(s, "root", func(m map[string]any) { object(m, "hashes")["sha512"] = "AAAA" }), s, "snapshot type metadata invalid: invalid root checksum information, sha512 checksum invalid", false},
		{"snapshot: SHA-256 null", hashes(s, "root", map[string]any{"sha256": nil}), s, "snapshot type metadata invalid: invalid root checksum information, sha256 checksum invalid", false},
		{"snapshot: SHA-256 of another root", hashes(s, "root", h("sha256", other)), s, "sha256 checksum for root " + mismatch, false},
		{"snapshot: SHA-256 of other targets", hashes(s, "targets", h("sha256", other)), s, "sha256 checksum for targets " + mismatch, false},
		{"snapshot: SHA-256 of another delegation", hashes(s, "targets/a/b", h("sha256", other)), s, "sha256 checksum for targets/a/b " + mismatch, false},
		{"snapshot: SHA-512 alone is wrong", meta(s, "targets", func(m map[string]any) {
			object(m, "hashes")["sha512"] = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
		}), s, "sha512 checksum for targets did not match: expected cf83e1357eef", false},
		{"snapshot: of a file that is not there", edit(s, func(signed map[string]any) {
			object(signed, "meta")["targets/z"] = map[string]any{"hashes": h("sha256", other)}
		}), "", "", false},
		{"snapshot: custom", meta(s, "root", func(m map[string]any) { m["custom"] = map[string]any{"a": 1} }), "", "", false},
		{"snapshot: length a string", meta(s, "root", func(m map[string]any) { m["length"] = "1" }), s, "meta: expected a number, not a string", true},

		{"timestamp: signed by another key", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[ts] = repo.Keys[s] }, ts, "valid signatures did not meet threshold for timestamp", false},
		{"timestamp: type wrong", set(ts, "_type", "Snapshot"), ts, "timestamp type metadata invalid: expected type Timestamp, not Snapshot", false},
		{"timestamp: version 0", set(ts, "version", 0), ts, "timestamp type metadata invalid: version cannot be less than one", false},
		{"timestamp: expired", set(ts, "expires", "2020-01-02T03:04:05Z"), ts, "timestamp expired at Thu Jan 2 03:04:05 UTC 2020", false},
		{"timestamp: no snapshot", without(ts, "snapshot"), ts, "timestamp type metadata invalid: missing snapshot sha256 checksum information", false},
		{"timestamp: SHA-256 too short", hashes(ts, "snapshot", h("sha256", "AAAA")), ts, "timestamp type metadata invalid: invalid snapshot checksum information, sha256 checksum invalid", false},
		{"timestamp: of another snapshot", hashes(ts, "snapshot", h("sha256", other)), ts, "sha256 checksum for snapshot " + mismatch, false},
		{"timestamp: of other files as well", edit(ts, func(signed map[string]any) { object(signed, "meta")["x"] = nil }), "", "", false},
	}
}
