package tuf_test

import (
	stdjson "encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/docker/go/canonical/json"
	"github.com/theupdateframework/notary/tuf/data"
	"pgregory.net/rapid"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

func theirFiles(meta map[tuf.RoleName]tuf.FileMeta) data.Files {
	if meta == nil {
		return nil
	}
	files := data.Files{}
	for role, m := range meta {
		f := data.FileMeta{Length: m.Length}
		if m.Hashes != nil {
			f.Hashes = data.Hashes{}
		}
		for name, h := range m.Hashes {
			f.Hashes[name] = h
		}
		if m.Custom != nil {
			f.Custom = (*json.RawMessage)(&m.Custom)
		}
		files[string(role)] = f
	}
	return files
}

func theirSignatures(sigs []tuf.Signature) []data.Signature {
	var out []data.Signature
	for _, s := range sigs {
		out = append(out, data.Signature{KeyID: string(s.KeyID), Method: data.SigAlgorithm(s.Method), Signature: s.Sig})
	}
	return out
}

// checkSealed compares canonical and file with what upstream makes of the same.
func checkSealed(t rapid.TB, canonical func() ([]byte, error), sigs []tuf.Signature, signed any, whole stdjson.Marshaler) {
	t.Helper()
	got, err := canonical()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := json.MarshalCanonical(signed); err != nil || string(got) != string(want) {
		t.Fatalf("canonical:\n%s\n%s\n%v", got, want, err)
	}
	file, err := tuf.Seal(got, sigs)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := json.Marshal(whole); err != nil || string(file) != string(want) {
		t.Fatalf("file:\n%s\n%s\n%v", file, want, err)
	}
}

// TestSealed makes snapshots and timestamps of any content, byte for byte as
// upstream does.
func TestSealed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		meta := rapid.MapOf(rapid.StringMatching(`targets/[a-z<>&"\\é\x{2028}]{0,8}`), rapid.Custom(genFileMeta)).Draw(t, "meta")
		roles := map[tuf.RoleName]tuf.FileMeta{"root": tuf.MetaOf([]byte("root"))}
		for name, m := range meta {
			roles[tuf.RoleName(name)] = m
		}
		version := tuf.Version(rapid.Int32().Draw(t, "version"))
		zone := time.FixedZone("", 60*rapid.IntRange(-720, 840).Draw(t, "zone"))
		expires := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanoseconds")).In(zone)
		sigs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) tuf.Signature {
			return tuf.Signature{KeyID: tuf.KeyID(rapid.StringMatching(`[0-9a-f<&]{0,8}`).Draw(t, "id")), Method: "ecdsa", Sig: rapid.SliceOf(rapid.Byte()).Draw(t, "sig")}
		}), 0, 3).Draw(t, "signatures")

		s := &tuf.Snapshot{Version: version, Expires: expires, Meta: roles}
		signed := data.Snapshot{SignedCommon: data.SignedCommon{Type: "Snapshot", Expires: expires, Version: int(version)}, Meta: theirFiles(roles)}
		checkSealed(t, s.Canonical, sigs, signed, &data.SignedSnapshot{Signed: signed, Signatures: theirSignatures(sigs)})

		ts := &tuf.Timestamp{Version: version, Expires: expires, Snapshot: roles["root"]}
		tsigned := data.Timestamp{SignedCommon: data.SignedCommon{Type: "Timestamp", Expires: expires, Version: int(version)},
			Meta: theirFiles(map[tuf.RoleName]tuf.FileMeta{"snapshot": ts.Snapshot})}
		checkSealed(t, ts.Canonical, sigs, tsigned, &data.SignedTimestamp{Signed: tsigned, Signatures: theirSignatures(sigs)})
	})
}

func genFileMeta(t *rapid.T) tuf.FileMeta {
	m := tuf.FileMeta{
		Length: rapid.Int64Range(-1<<53, 1<<53).Draw(t, "length"),
		Hashes: rapid.MapOf(rapid.SampledFrom([]string{"sha256", "sha512", "md5", "a<b"}), rapid.SliceOf(rapid.Byte())).Draw(t, "hashes"),
	}
	if rapid.Bool().Draw(t, "custom") {
		m.Custom = stdjson.RawMessage(rapid.SampledFrom([]string{`1`, `{"a":1,"b":["x",true]}`, `"é"`, `[]`}).Draw(t, "value"))
	}
	return m
}

func TestSealNil(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	meta := map[tuf.RoleName]tuf.FileMeta{"root": {}, "targets": {Hashes: tuf.Hashes{"sha256": nil}}}
	for _, m := range []map[tuf.RoleName]tuf.FileMeta{nil, {}, meta} {
		s := &tuf.Snapshot{Version: 1, Expires: at, Meta: m}
		signed := data.Snapshot{SignedCommon: data.SignedCommon{Type: "Snapshot", Expires: at, Version: 1}, Meta: theirFiles(m)}
		checkSealed(t, s.Canonical, nil, signed, &data.SignedSnapshot{Signed: signed})
	}
}

// TestSealRoundTrip: a file that was sealed verifies and says the same again.
func TestSealRoundTrip(t *testing.T) {
	k := tuftest.NewKey(t, tuf.KeyECDSA)
	s := &tuf.Snapshot{Version: 3, Expires: time.Now().Round(0), Meta: map[tuf.RoleName]tuf.FileMeta{
		"root": tuf.MetaOf([]byte("root")), "targets": tuf.MetaOf([]byte("targets")), "targets/\x00\n<\u2029\"\\": {Custom: stdjson.RawMessage(`{"b":"\u0001","a":1.0}`)},
	}}
	canonical, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	file, err := tuf.Seal(canonical, []tuf.Signature{k.Sign(t, canonical)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := tuf.ParseEnvelope(file)
	if err != nil {
		t.Fatal(err)
	}
	a := tuf.Authority{Role: tuf.Role{KeyIDs: []tuf.KeyID{k.ID()}, Threshold: 1}, Keys: map[tuf.KeyID]tuf.Key{k.ID(): k.Key}}
	if err := e.Verify("snapshot", a); err != nil {
		t.Error(err)
	}
	again, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := again.Canonical(); err != nil || string(twice) != string(canonical) {
		t.Errorf("read back:\n%s\n%s\n%v", twice, canonical, err)
	}
}

func TestSealErrors(t *testing.T) {
	for _, bad := range []string{``, `{`, `{"b":1,"a":2}`, `{"a": 1}`, `{"a":1.0}`, `{"a":1}{}`, "\"\xff\"", `{"a":1,"a":1}`} {
		if file, err := tuf.Seal([]byte(bad), nil); err == nil {
			t.Errorf("sealed %s as %s", bad, file)
		}
	}
	far := &tuf.Timestamp{Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := far.Canonical(); err == nil {
		t.Error("a year of five digits has a form")
	}
	for _, custom := range []string{`0.5`, `{`, `{"a":1,"a":2}`} {
		s := &tuf.Snapshot{Meta: map[tuf.RoleName]tuf.FileMeta{"root": {Custom: stdjson.RawMessage(custom)}}}
		if _, err := s.Canonical(); err == nil || !strings.Contains(err.Error(), "meta of root: custom: ") {
			t.Errorf("custom %s: %v", custom, err)
		}
	}
}

func TestFileMeta(t *testing.T) {
	file := []byte("content")
	m := tuf.MetaOf(file)
	if err := m.Check("targets", file); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tuf.FileMeta){
		"same":              func(*tuf.FileMeta) {},
		"SHA-256 wrong":     func(m *tuf.FileMeta) { m.Hashes["sha256"] = flip(m.Hashes["sha256"]) },
		"SHA-512 wrong":     func(m *tuf.FileMeta) { m.Hashes["sha512"] = flip(m.Hashes["sha512"]) },
		"SHA-256 short":     func(m *tuf.FileMeta) { m.Hashes["sha256"] = m.Hashes["sha256"][:31] },
		"SHA-256 null":      func(m *tuf.FileMeta) { m.Hashes["sha256"] = nil },
		"only SHA-512":      func(m *tuf.FileMeta) { delete(m.Hashes, "sha256") },
		"only SHA-256":      func(m *tuf.FileMeta) { delete(m.Hashes, "sha512") },
		"another":           func(m *tuf.FileMeta) { m.Hashes["md5"] = []byte("x") },
		"only another":      func(m *tuf.FileMeta) { m.Hashes = tuf.Hashes{"md5": []byte("x")} },
		"none":              func(m *tuf.FileMeta) { m.Hashes = nil },
		"SHA-256 of others": func(m *tuf.FileMeta) { m.Hashes = tuf.MetaOf(nil).Hashes; delete(m.Hashes, "sha512") },
	} {
		m := tuf.MetaOf(file)
		change(&m)
		theirs := theirFiles(map[tuf.RoleName]tuf.FileMeta{"x": m})["x"].Hashes
		got, want := m.Check("targets", file), data.CheckHashes(file, "targets", theirs)
		if (got == nil) != (want == nil) || got != nil && got.Error() != want.Error() {
			t.Errorf("%s: %v; upstream: %v", name, got, want)
		}
	}
}

func TestExpiry(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if err := tuf.CheckExpiry("root", at, at); err != nil {
		t.Errorf("at the moment itself: %v", err)
	}
	err := tuf.CheckExpiry("targets/a", at, at.Add(1))
	if !errors.Is(err, tuf.ErrExpired) || err.Error() != "targets/a expired at Sat Nov 21 12:00:00 UTC 2026" {
		t.Errorf("after it: %v", err)
	}
}
