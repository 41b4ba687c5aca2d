package tuf_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"countersign/tuf"
)

// The files in testdata/example were made by Notary 0.7.0: its client, server
// and signer, for a repository with one delegation.

func example(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "example", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func exampleKey(t *testing.T) tuf.Key {
	t.Helper()
	var k struct {
		Type  string `json:"keytype"`
		Value struct {
			Public []byte `json:"public"`
		} `json:"keyval"`
	}
	if err := json.Unmarshal(example(t, "timestamp.key.json"), &k); err != nil {
		t.Fatal(err)
	}
	return tuf.Key{Type: k.Type, Public: k.Value.Public}
}

const exampleKeyID tuf.KeyID = "2229e99b717760f94ab87f4095f86fd7209907b03d496249376e51dceab07b6b"

func TestKeyIDVector(t *testing.T) {
	k := exampleKey(t)
	if id := k.ID(); id != exampleKeyID {
		t.Errorf("ID is %s", id)
	}
	if id, err := k.CanonicalID(); id != exampleKeyID || err != nil {
		t.Errorf("canonical ID is %s, %v", id, err)
	}
}

func TestExample(t *testing.T) {
	parse := func(name string) (*tuf.Envelope, []byte) {
		t.Helper()
		b := example(t, name)
		e, err := tuf.ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		return e, b
	}
	e, _ := parse("timestamp.json")
	a := tuf.Authority{
		Role: tuf.Role{KeyIDs: []tuf.KeyID{exampleKeyID}, Threshold: 1},
		Keys: map[tuf.KeyID]tuf.Key{exampleKeyID: exampleKey(t)},
	}
	if err := e.Verify("timestamp", a); err != nil {
		t.Error(err)
	}
	timestamp, err := e.Timestamp()
	if err != nil {
		t.Fatal(err)
	}
	if timestamp.Version != 4 || !timestamp.Expires.Equal(time.Date(2026, 12, 5, 10, 34, 17, 336743865, time.UTC)) {
		t.Errorf("timestamp: version %d, expires %s", timestamp.Version, timestamp.Expires)
	}

	e, b := parse("snapshot.json")
	if err := timestamp.Snapshot.Check("snapshot", b); err != nil {
		t.Error(err)
	}
	snapshot, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if snapshot.Version != 5 || len(snapshot.Meta) != 3 || snapshot.Meta["root"].Length != 2364 {
		t.Errorf("snapshot: %+v", snapshot)
	}
	// What is said of a file is what MetaOf says of its bytes.
	made, err := (&tuf.Timestamp{Version: 4, Expires: timestamp.Expires, Snapshot: tuf.MetaOf(b)}).Canonical()
	if err != nil {
		t.Fatal(err)
	}
	te, tb := parse("timestamp.json")
	if sealed, err := tuf.Seal(made, te.Signatures); err != nil || string(sealed) != string(tb) {
		t.Errorf("timestamp made anew:\n%s\n%s\n%v", sealed, tb, err)
	}

	e, b = parse("targets.releases.json")
	if err := snapshot.Meta["targets/releases"].Check("targets/releases", b); err != nil {
		t.Error(err)
	}
	releases, err := e.Targets("targets/releases")
	if err != nil {
		t.Fatal(err)
	}
	v1 := releases.Files()["v1"]
	if got := base64.StdEncoding.EncodeToString(v1.Hashes["sha256"]); v1.Length != 6 || got != "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=" {
		t.Errorf("v1: %d bytes, %s", v1.Length, got)
	}
}
