package tuf_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/go/canonical/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/theupdateframework/notary/tuf/data"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// FuzzParse reads any bytes as a file of any role, and compares with what
// upstream's types say.
func FuzzParse(f *testing.F) {
	for role, file := range newRepo(f).Files() {
		f.Add(file, string(role))
	}
	for _, s := range []string{`{}`, `null`, `[]`, `{"signed":null,"signatures":[null]}`, `{"signed":{"_type":"Targets","version":1,"delegations":{"roles":[null]}}}`,
		`{"signed":{"_type":"Snapshot","version":1,"meta":{"root":null}}}`, `{"signed":{"_type":"Root","version":1,"keys":null,"roles":{"root":null}}}`,
		`{"signed":{"_type":"Targets","version":1,"delegations":{"keys":{"a":{"keyval":{"public":""}},"b":{"keyval":{"public":null}},"c":null}}}}`,
		`{"signed":{"expires":"2030-01-02T03:04:05.000000001+14:00","version":-9223372036854775808},"signatures":[{"sig":"AA==","method":"ECDSA"}]}`} {
		f.Add([]byte(s), "targets")
	}
	f.Fuzz(func(t *testing.T, file []byte, role string) {
		var meta data.SignedMeta
		theirErr := json.Unmarshal(file, &meta)
		e, err := tuf.ParseEnvelope(file)
		agree(t, file, "envelope", err, theirErr)
		if err != nil {
			return
		}
		if e.Type != meta.Signed.Type || e.Version != int64(meta.Signed.Version) || !e.Expires.Equal(meta.Signed.Expires) || len(e.Signatures) != len(meta.Signatures) {
			t.Fatalf("ours %+v, upstream's %+v", e, meta)
		}
		for i, s := range e.Signatures {
			if m := meta.Signatures[i]; string(s.KeyID) != m.KeyID || s.Method != string(m.Method) || !bytes.Equal(s.Sig, m.Signature) {
				t.Fatalf("signature %d: ours %+v, upstream's %+v", i, s, m)
			}
		}
		view, err := ourView(e, tuf.RoleName(role))
		theirView, theirErr := theirView(file, data.RoleName(role))
		agree(t, file, "view", err, theirErr)
		if err == nil {
			if diff := cmp.Diff(theirView, view, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("upstream's - ours +:\n%s", diff)
			}
		}
	})
}

// agree fails unless both accept, both refuse, or we refuse on purpose.
func agree(t *testing.T, file []byte, what string, ours, theirs error) {
	t.Helper()
	switch {
	case ours == nil && theirs != nil:
		t.Fatalf("%s accepted, but upstream says: %v", what, theirs)
	case ours != nil && theirs == nil && strings.HasPrefix(ours.Error(), "length of "):
		// "a wrong length in a snapshot" of the table: the file alone does not show it.
	case ours != nil && theirs == nil && deliberate(file) == "":
		t.Fatalf("%s refused for a reason that is not in the table: %v", what, ours)
	}
}

// A view is what both sides say of a signed part.
type view struct {
	Version int64
	Expires string
	Keys    map[string]string // what they say, and their IDs
	Roles   []string
	Files   map[string]string
}

func describe(length int64, hashes map[string][]byte, custom []byte) string {
	return fmt.Sprintf("%d %x %t %s", length, hashes, custom != nil, custom)
}

func ourFiles[N ~string](files map[N]tuf.FileMeta) map[string]string {
	out := map[string]string{}
	for name, m := range files {
		out[string(name)] = describe(m.Length, m.Hashes, m.Custom)
	}
	return out
}

func ourView(e *tuf.Envelope, role tuf.RoleName) (v view, err error) {
	v = view{Version: e.Version, Expires: e.Expires.Format(time.RFC3339Nano), Keys: map[string]string{}}
	switch role {
	case "root":
		r, err := e.Root()
		if err != nil {
			return v, err
		}
		for id, k := range r.Keys {
			v.Keys[string(id)] = fmt.Sprintf("%q %x %s", k.Type, k.Public, k.ID())
		}
		for _, name := range slices.Sorted(maps.Keys(r.Roles)) {
			v.Roles = append(v.Roles, fmt.Sprintf("%q %d %q", name, r.Roles[name].Threshold, r.Roles[name].KeyIDs))
		}
	case "snapshot":
		s, err := e.Snapshot()
		if err != nil {
			return v, err
		}
		v.Files = ourFiles(s.Meta)
	case "timestamp":
		ts, err := e.Timestamp()
		if err != nil {
			return v, err
		}
		v.Files = ourFiles(map[string]tuf.FileMeta{"snapshot": ts.Snapshot})
	default:
		targets, err := e.Targets(role)
		if err != nil {
			return v, err
		}
		v.Files = ourFiles(targets.Files())
		for id, k := range targets.Delegations.Keys {
			v.Keys[string(id)] = fmt.Sprintf("%q %x %s", k.Type, k.Public, k.ID())
		}
		for _, d := range targets.Delegations.Roles {
			v.Roles = append(v.Roles, fmt.Sprintf("%q %d %q %q", d.Name, d.Threshold, d.KeyIDs, d.Paths))
		}
	}
	return v, nil
}

func theirFileView(files data.Files) map[string]string {
	out := map[string]string{}
	for name, m := range files {
		var custom []byte
		if m.Custom != nil {
			custom = *m.Custom
		}
		out[name] = describe(m.Length, m.Hashes, custom)
	}
	return out
}

func theirView(file []byte, role data.RoleName) (v view, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	var s data.Signed
	if err := json.Unmarshal(file, &s); err != nil {
		return v, err
	}
	common := func(c data.SignedCommon) {
		v = view{Version: int64(c.Version), Expires: c.Expires.Format(time.RFC3339Nano), Keys: map[string]string{}}
	}
	keys := func(keys data.Keys) {
		for id, k := range keys {
			v.Keys[id] = fmt.Sprintf("%q %x %s", k.Algorithm(), k.Public(), k.ID())
		}
	}
	switch role {
	case "root":
		r, err := data.RootFromSigned(&s)
		if err != nil {
			return v, err
		}
		common(r.Signed.SignedCommon)
		keys(r.Signed.Keys)
		for _, name := range slices.Sorted(maps.Keys(r.Signed.Roles)) {
			if d := r.Signed.Roles[name]; d != nil {
				v.Roles = append(v.Roles, fmt.Sprintf("%q %d %q", name, d.Threshold, d.KeyIDs))
			}
		}
	case "snapshot":
		sn, err := data.SnapshotFromSigned(&s)
		if err != nil {
			return v, err
		}
		common(sn.Signed.SignedCommon)
		v.Files = theirFileView(sn.Signed.Meta)
	case "timestamp":
		ts, err := data.TimestampFromSigned(&s)
		if err != nil {
			return v, err
		}
		common(ts.Signed.SignedCommon)
		v.Files = theirFileView(data.Files{"snapshot": ts.Signed.Meta["snapshot"]})
	default:
		targets, err := data.TargetsFromSigned(&s, role)
		if err != nil {
			return v, err
		}
		common(targets.Signed.SignedCommon)
		v.Files = theirFileView(targets.Signed.Targets)
		keys(targets.Signed.Delegations.Keys)
		for _, d := range targets.Signed.Delegations.Roles {
			v.Roles = append(v.Roles, fmt.Sprintf("%q %d %q %q", d.Name, d.Threshold, d.KeyIDs, d.Paths))
		}
	}
	return v, nil
}

// chains are the files that a role needs before it. A snapshot is looked at
// without the targets, whose hashes it could not keep up with.
var chains = map[tuf.RoleName][]tuf.RoleName{
	"root": {"root"}, "targets": {"root", "targets"}, "targets/a": {"root", "targets", "targets/a"},
	"snapshot": {"root", "snapshot"}, "timestamp": {"root", "timestamp"},
}

// FuzzVerify puts any signed part in place of a valid one, has it signed by the
// right keys as upstream would verify it, and compares the verdicts. Keys differ
// from run to run, so that inputs name them: @0@, @1@, …
func FuzzVerify(f *testing.F) {
	repo := newRepo(f)
	pairs := placeholders(f, repo)
	names, values := strings.NewReplacer(pairs...), strings.NewReplacer(reversed(pairs)...)
	files, keys := repo.Files(), repo.Keys
	for role := range chains {
		file := files[role]
		f.Add(string(role), names.Replace(string(file[len(`{"signed":`):bytes.LastIndex(file, []byte(`,"signatures":`))])))
	}
	for _, c := range []string{`{"_type":"Root","version":2}`, `null`, `[]`, `{"_type":"Targets","version":1,"expires":"2040-01-01T00:00:00Z"}`} {
		f.Add("targets", c)
	}
	f.Fuzz(func(t *testing.T, name, template string) {
		role := tuf.RoleName(name)
		chain, ok := chains[role]
		if !ok {
			return
		}
		signed := []byte(values.Replace(template))
		p := publish{gun: gun, roles: chain, files: map[tuf.RoleName][]byte{}}
		for _, r := range chain {
			p.files[r] = files[r]
		}
		p.files[role] = signTheirs(t, signed, keys[role]...)
		got, want := ours(p, time.Now()), theirs(p)
		agree(t, p.files[role], name, got.err, want.err)
		if (got.err == nil) == (want.err == nil) && got.role != want.role {
			t.Fatalf("ours %s; upstream's %s", got, want)
		}
	})
}

// placeholders returns pairs for a strings.Replacer: what differs from run to
// run, and a name for it.
func placeholders(tb testing.TB, repo *tuftest.Repo) (pairs []string) {
	tb.Helper()
	add := func(s string) {
		if !slices.Contains(pairs, s) {
			pairs = append(pairs, s, fmt.Sprintf("@%d@", len(pairs)/2))
		}
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		return strings.Trim(string(b), `"`)
	}
	for _, role := range []tuf.RoleName{"root", "targets", "snapshot", "timestamp", "targets/a", "targets/c", "targets/a/b"} {
		k := repo.Keys[role][0]
		add(string(k.ID()))
		add(encode(k.Public))
	}
	for _, role := range []tuf.RoleName{"root", "targets", "targets/a", "targets/c", "targets/a/b", "snapshot"} {
		for _, h := range []string{"sha256", "sha512"} {
			add(encode(tuf.MetaOf(repo.File(role)).Hashes[h]))
		}
	}
	// Signatures in certificates, and so root files, differ in length.
	add(fmt.Sprintf(`"length":%d`, len(repo.File("root"))))
	return pairs
}

func reversed(pairs []string) []string {
	out := slices.Clone(pairs)
	slices.Reverse(out)
	return out
}
