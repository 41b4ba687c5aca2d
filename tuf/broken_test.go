package tuf_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A change is one thing done to a valid repository.
type change struct {
	name string
	do   func(*testing.T, *tuftest.Repo)
	// role and text say at which file and with which words it is refused. Both
	// are empty if it is accepted.
	role tuf.RoleName
	text string
	// own marks texts that are not upstream's: it says something about Go
	// types, or loses the request.
	own bool
}

// newRepo has everything in it that a change can break.
func newRepo(tb testing.TB) *tuftest.Repo {
	repo := tuftest.New(tb, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/a", "targets/a/b", "targets/c"}})
	repo.AddTarget("targets", "v1", []byte("manifest"))
	repo.AddTarget("targets/a", "<&>\u2028 \"\\", []byte("odd name"))
	return repo
}

// TestChanges changes one thing in a valid repository at a time, and has it
// judged by upstream as well: the same verdict, in the same words.
func TestChanges(t *testing.T) {
	for name, changes := range map[string][]change{
		"signatures": signatureChanges(), "form": formChanges(), "header": headerChanges(), "root": rootChanges(), "certificates": certificateChanges(),
		"targets": targetsChanges(), "delegations": delegationChanges(), "meta": metaChanges(),
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range changes {
				t.Run(c.name, func(t *testing.T) {
					repo := newRepo(t)
					c.do(t, repo)
					p := of(repo)
					got, want := ours(p, time.Now()), theirs(p)
					if (got.err == nil) != (c.role == "") || got.role != c.role || !strings.Contains(got.String(), c.text) {
						t.Errorf("got %s; want %s: %s", got, c.role, c.text)
					}
					if c.own && (want.err == nil || want.role != c.role) || !c.own && !sameText(got, want) {
						t.Errorf("ours:\n\t%s\nupstream's:\n\t%s", got, want)
					}
				})
			}
		})
	}
}

func TestUnchanged(t *testing.T) {
	for _, typ := range []string{tuf.KeyECDSA, tuf.KeyED25519, tuf.KeyRSA} {
		repo := tuftest.New(t, gun, tuftest.Options{KeyType: typ, Delegations: []tuf.RoleName{"targets/a"}})
		if typ == tuf.KeyRSA {
			repo = tuftest.New(t, gun, tuftest.Options{KeyType: typ, RootKeyType: tuf.KeyRSAX509, RootKeys: 3, RootThreshold: 2})
		}
		p := of(repo)
		if got, want := ours(p, repo.Now), theirs(p); got.err != nil || want.err != nil {
			t.Errorf("%s: ours %s, upstream's %s", typ, got, want)
		}
	}
}

// resign replaces the signatures of role by what f makes of them.
func resign(t *testing.T, repo *tuftest.Repo, role tuf.RoleName, f func(message []byte, sigs []tuf.Signature) []tuf.Signature) {
	t.Helper()
	e, err := tuf.ParseEnvelope(repo.File(role))
	if err != nil {
		t.Fatal(err)
	}
	message, err := e.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	file, err := tuf.Seal(message, f(message, e.Signatures))
	if err != nil {
		t.Fatal(err)
	}
	repo.Raw[role] = file
}

// set changes one member of the signed part; nil takes it out.
func set(role tuf.RoleName, member string, value any) func(*testing.T, *tuftest.Repo) {
	return edit(role, func(signed map[string]any) {
		signed[member] = value
		if value == nil {
			delete(signed, member)
		}
	})
}

func edit(role tuf.RoleName, f func(map[string]any)) func(*testing.T, *tuftest.Repo) {
	return func(_ *testing.T, repo *tuftest.Repo) { repo.Edit[role] = f }
}

// raw changes the bytes of the whole file.
func raw(role tuf.RoleName, f func([]byte) []byte) func(*testing.T, *tuftest.Repo) {
	return func(_ *testing.T, repo *tuftest.Repo) { repo.Raw[role] = f(repo.File(role)) }
}

// replace changes the text of the signed part before it is signed.
func replace(role tuf.RoleName, old, with string) func(*testing.T, *tuftest.Repo) {
	return func(t *testing.T, repo *tuftest.Repo) {
		t.Helper()
		file := repo.File(role)
		end := bytes.LastIndex(file, []byte(`,"signatures":`))
		before := string(file[len(`{"signed":`):end])
		after := strings.Replace(before, old, with, 1)
		if before == after {
			t.Fatalf("no %s in %s", old, before)
		}
		repo.Signed[role] = []byte(after)
	}
}

func object(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m = m[p].(map[string]any)
	}
	return m
}

// signatureChanges and the next two are about what all files have in common,
// shown at targets.
func signatureChanges() []change {
	const r = tuf.RoleTargets
	sigs := func(f func(m []byte, s []tuf.Signature) []tuf.Signature) func(*testing.T, *tuftest.Repo) {
		return func(t *testing.T, repo *tuftest.Repo) { t.Helper(); resign(t, repo, r, f) }
	}
	const threshold = "valid signatures did not meet threshold for targets"
	return []change{
		{"no signatures", sigs(func([]byte, []tuf.Signature) []tuf.Signature { return nil }), r, "tuf: data has no signatures", false},
		{"signatures missing", raw(r, cut(`,"signatures":`, "}")), r, "tuf: data has no signatures", false},
		{"signatures null", raw(r, cut(`,"signatures":`, `,"signatures":null}`)), r, "tuf: data has no signatures", false},
		{"signature null", raw(r, cut(`,"signatures":`, `,"signatures":[null]}`)), r, threshold, false},
		{"null beside a signature", raw(r, swap(`"signatures":[`, `"signatures":[null,`)), "", "", false},
		{"signatures an object", raw(r, cut(`,"signatures":`, `,"signatures":{}}`)), r, "expected an array, not an object", true},
		{"signature a string", raw(r, cut(`,"signatures":`, `,"signatures":["x"]}`)), r, "expected an object, not a string", true},
		{"signature not base64", raw(r, swap(`"sig":"`, `"sig":"*`)), r, "illegal base64", true},
		{"signature a number", raw(r, cut(`"sig":`, `"sig":1}]}`)), r, "expected a string, not a number", true},
		{"signature cut short", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Sig = s[0].Sig[:63]; return s }), r, threshold, false},
		{"signature one bit off", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Sig[40] ^= 1; return s }), r, threshold, false},
		{"signature empty", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Sig = nil; return s }), r, threshold, false},
		{"key ID unknown", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].KeyID = "x"; return s }), r, threshold, false},
		{"method unknown", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Method = "dsa"; return s }), r, threshold, false},
		{"method of another key type", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Method = "rsapss"; return s }), r, threshold, false},
		{"method missing", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Method = ""; return s }), r, threshold, false},
		{"method in upper case", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].Method = "ECDSA"; return s }), "", "", false},
		{"bad signatures before the good one", sigs(func(_ []byte, s []tuf.Signature) []tuf.Signature {
			return []tuf.Signature{{KeyID: "x"}, {KeyID: s[0].KeyID, Method: "ecdsa", Sig: []byte("x")}, s[0]}
		}), "", "", false},
		{"signed by someone else", func(t *testing.T, repo *tuftest.Repo) { repo.Keys[r] = []*tuftest.Key{tuftest.NewKey(t, "ecdsa")} }, r, threshold, false},
		{"one of two signatures", func(t *testing.T, repo *tuftest.Repo) {
			repo.SetKeys(r, 2, repo.NewKey(r), repo.NewKey(r))
			repo.Keys[r] = repo.Keys[r][:1]
		}, r, threshold, false},
		{"the same signature twice", func(t *testing.T, repo *tuftest.Repo) {
			repo.SetKeys(r, 2, repo.NewKey(r), repo.NewKey(r))
			repo.Keys[r] = []*tuftest.Key{repo.Keys[r][0], repo.Keys[r][0]}
		}, r, threshold, false},
		{"two of three", func(t *testing.T, repo *tuftest.Repo) {
			repo.SetKeys(r, 2, repo.NewKey(r), repo.NewKey(r), repo.NewKey(r))
			repo.Keys[r] = repo.Keys[r][1:]
		}, "", "", false},
		{"no keys", func(t *testing.T, repo *tuftest.Repo) {
			keys := repo.Keys[r]
			repo.SetKeys(r, 1)
			repo.Keys[r] = keys
		}, r, threshold, false},
		{"key under a wrong ID", func(t *testing.T, repo *tuftest.Repo) {
			repo.Root.Keys["abc"] = repo.Keys[r][0].Key
			repo.Root.Roles[r] = tuf.Role{KeyIDs: []tuf.KeyID{"abc"}, Threshold: 1}
			resign(t, repo, r, func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].KeyID = "abc"; return s })
		}, r, "key ID is not valid for key content", false},
		{"key under a wrong ID, although enough have signed", func(t *testing.T, repo *tuftest.Repo) {
			good := repo.Keys[r][0]
			repo.Root.Keys["abc"] = tuftest.NewKey(t, "ecdsa").Key
			repo.Root.Roles[r] = tuf.Role{KeyIDs: []tuf.KeyID{good.ID(), "abc"}, Threshold: 1}
			resign(t, repo, r, func(_ []byte, s []tuf.Signature) []tuf.Signature { return append(s, tuf.Signature{KeyID: "abc"}) })
		}, r, "key ID is not valid for key content", false},
		{"key under a wrong ID, that has not signed", func(t *testing.T, repo *tuftest.Repo) {
			good := repo.Keys[r][0]
			repo.Root.Keys["abc"] = good.Key
			repo.Root.Roles[r] = tuf.Role{KeyIDs: []tuf.KeyID{good.ID(), "abc"}, Threshold: 1}
		}, "", "", false},
		{"key of an unknown type", func(t *testing.T, repo *tuftest.Repo) {
			k := *repo.Keys[r][0]
			k.Type, k.SignMethod = "dsa", "ecdsa"
			repo.SetKeys(r, 1, &k)
		}, r, threshold, false},
		{"key without content", func(t *testing.T, repo *tuftest.Repo) {
			k := *repo.Keys[r][0]
			k.Public = nil
			repo.SetKeys(r, 1, &k)
		}, r, threshold, false},
	}
}

func formChanges() []change {
	const r = tuf.RoleTargets
	return []change{
		{"signed missing", raw(r, func(b []byte) []byte { return []byte(`{"signatures":[{}]}`) }), r, "file contained an empty payload", true},
		{"signed null", raw(r, func(b []byte) []byte { return []byte(`{"signed":null,"signatures":[{}]}`) }), r, "file contained an empty payload", true},
		{"signed an array", raw(r, func(b []byte) []byte { return []byte(`{"signed":[],"signatures":[{}]}`) }), r, "expected an object, not an array", true},
		{"empty object", raw(r, func(b []byte) []byte { return []byte(`{}`) }), r, "tuf: data has no signatures", false},
		{"null", raw(r, func(b []byte) []byte { return []byte(`null`) }), r, "tuf: data has no signatures", false},
		{"array", raw(r, func(b []byte) []byte { return []byte(`[]`) }), r, "malformed", true},
		{"nothing", raw(r, func(b []byte) []byte { return nil }), r, "malformed", true},
		{"cut in half", raw(r, func(b []byte) []byte { return b[:len(b)/2] }), r, "unexpected end", true},
		{"garbage behind", raw(r, func(b []byte) []byte { return append(b[:len(b):len(b)], "x"...) }), r, "data behind", true},
		{"byte order mark", raw(r, func(b []byte) []byte { return append([]byte("\ufeff"), b...) }), r, "malformed", true},
		{"new line behind", raw(r, func(b []byte) []byte { return append(b[:len(b):len(b)], " \r\n\t"...) }), "", "", false},
		{"indented", raw(r, func(b []byte) []byte {
			var out bytes.Buffer
			if err := json.Indent(&out, b, "", "    "); err != nil {
				panic(err)
			}
			return out.Bytes()
		}), "", "", false},
		{"signatures first", raw(r, func(b []byte) []byte {
			signed, sigs, _ := bytes.Cut(b[1:len(b)-1], []byte(`,"signatures":`))
			return []byte(`{"signatures":` + string(sigs) + "," + string(signed) + "}")
		}), "", "", false},
		{"version in front", func(t *testing.T, repo *tuftest.Repo) {
			replace(r, `,"version":1`, ``)(t, repo)
			repo.Signed[r] = append([]byte(`{"version":1,`), repo.Signed[r][1:]...)
		}, "", "", false},
		{"escapes that need not be", replace(r, `"_type":"Targets"`, `"\u005ftype":"T\u0061rgets"`), "", "", false},
		{"unknown members", edit(r, func(s map[string]any) { s["x"] = []any{1, map[string]any{"y": nil}} }), "", "", false},
		{"unknown member in the envelope, with a fraction", raw(r, swap(`{"signed"`, `{"x":1.5,"signed"`)), "", "", false},
		{"fraction in the signed part", set(r, "x", 1.5), r, "json: unsupported value: 1.5", false},
		{"number too large for a float", replace(r, `"version":1`, `"version":1,"x":1e400`), r, "json: cannot unmarshal number 1e400 into Go value of type float64", false},
		{"number beyond 2^53", replace(r, `"version":1`, `"version":1,"x":9007199254740993`), "", "", false},
	}
}

func headerChanges() []change {
	const r = tuf.RoleTargets
	return []change{
		{"type wrong", set(r, "_type", "Root"), r, "targets type metadata invalid: expected type Targets, not Root", false},
		{"type in lower case", set(r, "_type", "targets"), r, "targets type metadata invalid: expected type Targets, not targets", false},
		{"type missing", set(r, "_type", nil), r, "targets type metadata invalid: expected type Targets, not ", false},
		{"type null", replace(r, `"Targets"`, `null`), r, "targets type metadata invalid: expected type Targets, not ", false},
		{"type a number", set(r, "_type", 1), r, "_type: expected a string, not a number", true},
		{"version 0", set(r, "version", 0), r, "targets type metadata invalid: version cannot be less than one", false},
		{"version negative", set(r, "version", -1), r, "targets type metadata invalid: version cannot be less than one", false},
		{"version missing", set(r, "version", nil), r, "targets type metadata invalid: version cannot be less than one", false},
		{"version null", replace(r, `"version":1`, `"version":null`), r, "targets type metadata invalid: version cannot be less than one", false},
		{"version a string", set(r, "version", "1"), r, "version: expected a number, not a string", true},
		{"version with a fraction", replace(r, `"version":1`, `"version":1.0`), r, "1.0 is no integer", true},
		{"version with an exponent", replace(r, `"version":1`, `"version":1e0`), r, "1e0 is no integer", true},
		{"version of 65 bits", replace(r, `"version":1`, `"version":18446744073709551616`), r, "is no integer", true},
		{"version the highest", set(r, "version", tuf.MaxVersion), "", "", false},
		{"expired", set(r, "expires", "2020-01-02T03:04:05Z"), r, "targets expired at Thu Jan 2 03:04:05 UTC 2020", false},
		{"expired, in another zone", set(r, "expires", "2020-01-02T03:04:05.5+09:00"), r, "targets expired at Thu Jan 2 03:04:05 +0900 2020", false},
		{"expires never", set(r, "expires", "9999-12-31T23:59:59Z"), "", "", false},
		{"expires missing", set(r, "expires", nil), r, "targets expired at Mon Jan 1 00:00:00 UTC 0001", false},
		{"expires null", edit(r, func(s map[string]any) { s["expires"] = json.RawMessage("null") }), r, "targets expired at Mon Jan 1 00:00:00 UTC 0001", false},
		{"expires a date", set(r, "expires", "2030-01-02"), r, "expires: ", true},
		{"expires a number", set(r, "expires", 1), r, "expires: ", true},
		{"expires with an escape", replace(r, `"expires":"2`, `"expires":"\u0032`), r, "expires: ", true},
	}
}

// cut replaces what begins with the last occurrence of from.
func cut(from, with string) func([]byte) []byte {
	return func(b []byte) []byte {
		return append(slices.Clone(b[:bytes.LastIndex(b, []byte(from))]), with...)
	}
}

func swap(old, with string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
}

func rootChanges() []change {
	const r = tuf.RoleRoot
	const (
		integrity = "could not validate the path to a trusted root: failed to validate integrity of roots"
		invalid   = "root type metadata invalid: "
	)
	role := func(name tuf.RoleName, member string, value any) func(*testing.T, *tuftest.Repo) {
		return edit(r, func(s map[string]any) { object(s, "roles", string(name))[member] = value })
	}
	list := []change{
		{"not signed", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[r] = nil }, r, integrity, false},
		{"signed by another certificate", func(_ *testing.T, repo *tuftest.Repo) { repo.Keys[r] = []*tuftest.Key{repo.NewKey(r)} }, r, integrity, false},
		{"changed after it was signed", raw(r, swap(`"consistent_snapshot":false`, `"consistent_snapshot":true`)), r, integrity, false},
		{"signed under the ID of the bare key", func(t *testing.T, repo *tuftest.Repo) {
			id, err := repo.Keys[r][0].CanonicalID()
			if err != nil {
				t.Fatal(err)
			}
			resign(t, repo, r, func(_ []byte, s []tuf.Signature) []tuf.Signature { s[0].KeyID = id; return s })
		}, r, integrity, false},
		{"threshold 2 of one key", func(_ *testing.T, repo *tuftest.Repo) { repo.SetKeys(r, 2, repo.Keys[r]...) }, r, integrity, false},
		{"threshold 2 of two keys", func(_ *testing.T, repo *tuftest.Repo) { repo.SetKeys(r, 2, repo.NewKey(r), repo.NewKey(r)) }, "", "", false},
		{"certificate under another ID", func(t *testing.T, repo *tuftest.Repo) {
			repo.Root.Keys["abc"] = repo.Keys[r][0].Key
			repo.Root.Roles[r] = tuf.Role{KeyIDs: []tuf.KeyID{"abc"}, Threshold: 1}
		}, "", "", false}, // clients compute the ID, and go by that
		{"signed missing", raw(r, func([]byte) []byte { return []byte(`{"signatures":[{}]}`) }), r, "root file contained an empty payload", true},
		{"keys missing", set(r, "keys", nil), r, invalid + "key ID ", false},
		{"keys null", replace(r, `"keys":{`, `"keys":null,"x":{`), r, invalid + "key ID ", false},
		{"keys an array", set(r, "keys", []any{}), r, "keys: expected an object, not an array", true},
		{"key null", edit(r, func(s map[string]any) { object(s, "keys")["x"] = nil }), "", "", false},
		{"key a string", edit(r, func(s map[string]any) { object(s, "keys")["x"] = "y" }), r, "keys: expected an object, not a string", true},
		{"keyval null", edit(r, func(s map[string]any) { object(s, "keys")["x"] = map[string]any{"keytype": "ecdsa", "keyval": nil} }), "", "", false},
		{"public key not base64", edit(r, func(s map[string]any) {
			object(s, "keys")["x"] = map[string]any{"keyval": map[string]any{"public": "*"}}
		}), r, "keys: illegal base64", true},
		{"private key in it", edit(r, func(s map[string]any) {
			object(s, "keys")["x"] = map[string]any{"keyval": map[string]any{"private": "AAAA"}}
		}), "", "", false},
		{"private key not base64", edit(r, func(s map[string]any) {
			object(s, "keys")["x"] = map[string]any{"keyval": map[string]any{"private": "*"}}
		}), r, "keys: illegal base64", true},
		{"roles missing", set(r, "roles", nil), r, invalid + "missing root role specification", false},
		{"roles an array", set(r, "roles", []any{}), r, "roles: expected an object, not an array", true},
		{"another role", edit(r, func(s map[string]any) { object(s, "roles")["mirrors"] = map[string]any{"threshold": 0} }), "", "", false},
		{"another role, null", edit(r, func(s map[string]any) { object(s, "roles")["mirrors"] = nil }), "", "", false},
		{"key IDs null", role("timestamp", "keyids", nil), "timestamp", "valid signatures did not meet threshold for timestamp", false},
		{"key ID null", role("timestamp", "keyids", []any{nil}), r, invalid + "key ID  specified in timestamp without corresponding key", false},
		{"key ID a number", role("timestamp", "keyids", []any{1}), r, "expected a string, not a number", true},
		{"key ID unknown", role("timestamp", "keyids", []any{"abc"}), r, invalid + "key ID abc specified in timestamp without corresponding key", false},
		{"key ID twice", edit(r, func(s map[string]any) {
			ids := object(s, "roles", "root")
			ids["keyids"] = append(ids["keyids"].([]any), ids["keyids"].([]any)...)
		}), "", "", false},
		{"threshold missing", edit(r, func(s map[string]any) { delete(object(s, "roles", "snapshot"), "threshold") }), r, invalid + "invalid threshold specified for snapshot: 0 ", false},
		{"threshold negative", role("targets", "threshold", -2), r, invalid + "invalid threshold specified for targets: -2 ", false},
		{"threshold a string", role("targets", "threshold", "1"), r, "expected a number, not a string", true},
		{"threshold beyond 64 bits", replace(r, `"threshold":1`, `"threshold":1e30`), r, "is no integer", true},
		{"threshold higher than any", role("snapshot", "threshold", 1<<40), "snapshot", "valid signatures did not meet threshold for snapshot", false},
		{"consistent_snapshot true", set(r, "consistent_snapshot", true), "", "", false},
		{"consistent_snapshot null", replace(r, `"consistent_snapshot":false`, `"consistent_snapshot":null`), "", "", false},
		{"consistent_snapshot missing", set(r, "consistent_snapshot", nil), "", "", false},
		{"consistent_snapshot a string", set(r, "consistent_snapshot", "no"), r, "expected a boolean, not a string", true},
		{"version 2", set(r, "version", 2), "", "", false},
		{"version 3", set(r, "version", 3), r, "Root modifications must increment the version. Current 1, new 3", false},
		{"type wrong", set(r, "_type", "Targets"), r, invalid + "expected type Root, not Targets", false},
		{"expired", set(r, "expires", "2020-01-02T03:04:05Z"), r, "root expired at Thu Jan 2 03:04:05 UTC 2020", false},
		{"fraction", set(r, "x", 0.1), r, integrity, false},
	}
	for _, name := range tuf.BaseRoles {
		list = append(list,
			change{"no " + string(name), edit(r, func(s map[string]any) { delete(object(s, "roles"), string(name)) }), r, invalid + "missing " + string(name) + " role specification", false},
			change{"null for " + string(name), edit(r, func(s map[string]any) { object(s, "roles")[string(name)] = nil }), r, invalid + "missing " + string(name) + " role specification", false},
			change{"threshold 0 for " + string(name), role(name, "threshold", 0), r, invalid + "invalid threshold specified for " + string(name) + ": 0 ", false},
		)
	}
	return list
}

// certificateChanges are about the one key that signs root.
func certificateChanges() []change {
	const (
		r     = tuf.RoleRoot
		none  = "could not validate the path to a trusted root: unable to retrieve valid leaf certificates"
		wrong = "could not validate the path to a trusted root: failed to validate integrity of roots"
	)
	now := time.Now()
	good := tuftest.Cert{CN: string(gun), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	// with signs root with a certificate made otherwise than the good one.
	with := func(f func(*tuftest.Cert)) func(*testing.T, *tuftest.Repo) {
		return func(t *testing.T, repo *tuftest.Repo) {
			t.Helper()
			c := good
			f(&c)
			repo.SetKeys(r, 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, c))
		}
	}
	key := func(f func(*testing.T) *tuftest.Key) func(*testing.T, *tuftest.Repo) {
		return func(t *testing.T, repo *tuftest.Repo) { t.Helper(); repo.SetKeys(r, 1, f(t)) }
	}
	issued := func(ca tuftest.Cert, f func([]byte) []byte) func(*testing.T, *tuftest.Repo) {
		return key(func(t *testing.T) *tuftest.Key {
			t.Helper()
			ca.CA, ca.CN = true, "CA"
			c := good
			c.Issuer = tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, ca)
			k := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, c)
			k.Public = f(k.Public)
			return k
		})
	}
	same := func(b []byte) []byte { return b }
	return []change{
		{"as it should be", with(func(*tuftest.Cert) {}), "", "", false},
		{"CN of another repository", with(func(c *tuftest.Cert) { c.CN = "example.org/team/other" }), r, none, false},
		{"CN begins with the GUN", with(func(c *tuftest.Cert) { c.CN += "x" }), r, none, false},
		{"CN in upper case", with(func(c *tuftest.Cert) { c.CN = strings.ToUpper(c.CN) }), r, none, false},
		{"CN empty", with(func(c *tuftest.Cert) { c.CN = "" }), r, none, false},
		{"CN with a wildcard", with(func(c *tuftest.Cert) { c.CN = "example.org/team/*" }), "", "", false},
		{"CN with a wildcard inside a word", with(func(c *tuftest.Cert) { c.CN = "example.org/te**" }), "", "", false},
		{"CN with a wildcard elsewhere", with(func(c *tuftest.Cert) { c.CN = "example.org/other/*" }), r, none, false},
		{"CN with a wildcard in front", with(func(c *tuftest.Cert) { c.CN = "*/team/app" }), r, none, false},
		{"CN only a wildcard", with(func(c *tuftest.Cert) { c.CN = "*" }), "", "", false},
		{"expired", with(func(c *tuftest.Cert) { c.NotAfter = now.Add(-time.Minute) }), r, none, false},
		{"valid in 23 hours", with(func(c *tuftest.Cert) { c.NotBefore, c.NotAfter = now.Add(23*time.Hour), now.Add(48*time.Hour) }), "", "", false},
		{"valid in 25 hours", with(func(c *tuftest.Cert) { c.NotBefore, c.NotAfter = now.Add(25*time.Hour), now.Add(48*time.Hour) }), r, none, false},
		{"ends before it begins", with(func(c *tuftest.Cert) { c.NotBefore, c.NotAfter = now.Add(2*time.Hour), now.Add(time.Hour) }), r, none, false},
		{"a CA", with(func(c *tuftest.Cert) { c.CA = true }), r, none, false},
		{"signed with SHA-1", with(func(c *tuftest.Cert) { c.Algorithm = x509.ECDSAWithSHA1 }), r, none, false},
		{"no certificate", key(func(t *testing.T) *tuftest.Key { return tuftest.NewKey(t, tuf.KeyECDSA) }), r, none, false},
		{"RSA", key(func(t *testing.T) *tuftest.Key { return tuftest.NewKey(t, tuf.KeyRSA).Certify(t, good) }), "", "", false},
		{"RSA of 1024 bits", key(func(t *testing.T) *tuftest.Key { return tuftest.NewRSAKey(t, 1024).Certify(t, good) }), r, none, false},
		{"ECDSA on P-384", key(func(t *testing.T) *tuftest.Key { return tuftest.NewECDSAKey(t, elliptic.P384()).Certify(t, good) }), "", "", false},
		{"Ed25519", key(func(t *testing.T) *tuftest.Key { return tuftest.NewKey(t, tuf.KeyED25519).Certify(t, good) }), r, wrong, false},
		{"key type without -x509", key(func(t *testing.T) *tuftest.Key {
			k := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, good)
			k.Type = tuf.KeyECDSA
			return k
		}), r, wrong, false}, // clients compute another ID
		{"issued by a CA", issued(good, same), "", "", false},
		{"issued by a CA that has expired", issued(tuftest.Cert{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}, same), r, wrong, false},
		{"CA first", issued(good, func(b []byte) []byte {
			block, rest := pem.Decode(b)
			return append(slices.Clone(rest), pem.EncodeToMemory(block)...)
		}), r, none, false},
		{"two leaves", key(func(t *testing.T) *tuftest.Key {
			k := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, good)
			k.Public = append(k.Public, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, good).Public...)
			return k
		}), r, none, false},
		{"a key beside the certificate", issued(good, func(b []byte) []byte {
			return append(b, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})...)
		}), r, none, false},
		{"a certificate beside it that is called otherwise", issued(good, func(b []byte) []byte {
			block, rest := pem.Decode(b)
			return append(pem.EncodeToMemory(block), bytes.ReplaceAll(rest, []byte(" CERTIFICATE"), []byte(" X509 CERTIFICATE"))...)
		}), r, none, false},
		{"a broken certificate beside it", issued(good, func(b []byte) []byte {
			return append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...)
		}), r, none, false},
		{"text around it", issued(good, func(b []byte) []byte { return append([]byte("my certificate\n"), b...) }), r, wrong, false},
		{"one unfit beside a fit one", func(t *testing.T, repo *tuftest.Repo) {
			repo.SetKeys(r, 1, tuftest.NewKey(t, tuf.KeyECDSA), repo.Keys[r][0])
		}, "", "", false},
		{"only the unfit one has signed", func(t *testing.T, repo *tuftest.Repo) {
			k := tuftest.NewKey(t, tuf.KeyECDSA)
			repo.SetKeys(r, 1, k, repo.Keys[r][0])
			repo.Keys[r] = []*tuftest.Key{k}
		}, r, wrong, false},
	}
}
