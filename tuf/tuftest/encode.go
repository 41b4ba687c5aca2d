package tuftest

import (
	"encoding/json"
	"testing"
	"time"

	"countersign/tuf"
)

// The types of this file spell out what the files of the clients look like.

type keyJSON struct {
	Type  string     `json:"keytype"`
	Value keyvalJSON `json:"keyval"`
}

type keyvalJSON struct {
	Private []byte `json:"private"`
	Public  []byte `json:"public"`
}

type delegationJSON struct {
	KeyIDs    []tuf.KeyID  `json:"keyids"`
	Name      tuf.RoleName `json:"name"`
	Paths     []string     `json:"paths,omitempty"`
	Threshold int          `json:"threshold"`
}

type delegationsJSON struct {
	Keys  map[tuf.KeyID]keyJSON `json:"keys"`
	Roles []delegationJSON      `json:"roles"`
}

func encodeKeys(keys map[tuf.KeyID]tuf.Key) map[tuf.KeyID]keyJSON {
	out := make(map[tuf.KeyID]keyJSON, len(keys))
	for id, k := range keys {
		out[id] = keyJSON{k.Type, keyvalJSON{Public: k.Public}}
	}
	return out
}

func encodeRoot(r *tuf.Root) any {
	return struct {
		Type       string                    `json:"_type"`
		Consistent bool                      `json:"consistent_snapshot"`
		Expires    time.Time                 `json:"expires"`
		Keys       map[tuf.KeyID]keyJSON     `json:"keys"`
		Roles      map[tuf.RoleName]tuf.Role `json:"roles"`
		Version    tuf.Version               `json:"version"`
	}{"Root", false, r.Expires, encodeKeys(r.Keys), r.Roles, r.Version}
}

func encodeTargets(t *Targets) any {
	d := delegationsJSON{Keys: encodeKeys(t.Delegations.Keys)}
	if t.Delegations.Roles != nil {
		d.Roles = make([]delegationJSON, 0, len(t.Delegations.Roles))
	}
	for _, r := range t.Delegations.Roles {
		d.Roles = append(d.Roles, delegationJSON{r.KeyIDs, r.Name, r.Paths, r.Threshold})
	}
	return struct {
		Type        string                  `json:"_type"`
		Delegations delegationsJSON         `json:"delegations"`
		Expires     time.Time               `json:"expires"`
		Targets     map[string]tuf.FileMeta `json:"targets"`
		Version     tuf.Version             `json:"version"`
	}{"Targets", d, t.Expires, t.Targets, t.Version}
}

func encodeMeta(typ string, expires time.Time, meta map[tuf.RoleName]tuf.FileMeta, version tuf.Version) any {
	return struct {
		Type    string                        `json:"_type"`
		Expires time.Time                     `json:"expires"`
		Meta    map[tuf.RoleName]tuf.FileMeta `json:"meta"`
		Version tuf.Version                   `json:"version"`
	}{typ, expires, meta, version}
}

// Sign makes a file of a signed part, which it embeds as it stands, and of the
// keys' signatures over its canonical form. If it has none, the signatures are
// over the bytes themselves, and wrong.
func Sign(tb testing.TB, signed []byte, keys ...*Key) []byte {
	tb.Helper()
	message := signed
	if e, err := tuf.ParseEnvelope(Join(tb, signed)); err == nil {
		if canonical, err := e.Canonical(); err == nil {
			message = canonical
		}
	}
	sigs := make([]tuf.Signature, 0, len(keys))
	for _, k := range keys {
		sigs = append(sigs, k.Sign(tb, message))
	}
	return Join(tb, signed, sigs...)
}

// Join makes a file of a signed part and signatures.
func Join(tb testing.TB, signed []byte, sigs ...tuf.Signature) []byte {
	tb.Helper()
	if sigs == nil {
		sigs = []tuf.Signature{}
	}
	list, err := json.Marshal(sigs)
	must(tb, err)
	out := append([]byte(`{"signed":`), signed...)
	out = append(out, `,"signatures":`...)
	return append(append(out, list...), '}')
}
