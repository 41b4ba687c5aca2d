package publish_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A rule is one thing broken in an upload that is otherwise sound, and what is
// said about it.
type rule struct {
	name   string
	client bool // the client signs the snapshot
	stored bool // the repository is published before it is broken
	files  func(s *stack, r *tuftest.Repo) map[tuf.RoleName][]byte

	kind publish.Kind // with text; or
	text string
	err  error // one of these, or nil: accepted
}

type files = map[tuf.RoleName][]byte

const (
	root     = tuf.RoleRoot
	targets  = tuf.RoleTargets
	snapshot = tuf.RoleSnapshot
	a        = tuf.RoleName("targets/a")
	ab       = tuf.RoleName("targets/a/b")
	c        = tuf.RoleName("targets/c")
)

// edit changes the signed part of role in the first upload of a new GUN.
func edit(role tuf.RoleName, f func(signed map[string]any)) func(*stack, *tuftest.Repo) files {
	return func(_ *stack, r *tuftest.Repo) files {
		r.Edit[role] = f
		return r.Upload()
	}
}

func put(member string, value any) func(map[string]any) {
	return func(signed map[string]any) { signed[member] = value }
}

// in returns an object within signed.
func in(signed map[string]any, path ...string) map[string]any {
	for _, p := range path {
		signed = signed[p].(map[string]any)
	}
	return signed
}

// repo changes the repository before its first upload.
func repo(f func(s *stack, r *tuftest.Repo)) func(*stack, *tuftest.Repo) files {
	return func(s *stack, r *tuftest.Repo) files {
		f(s, r)
		return r.Upload()
	}
}

// next changes the stored repository and uploads roles.
func next(f func(s *stack, r *tuftest.Repo), roles ...tuf.RoleName) func(*stack, *tuftest.Repo) files {
	return func(s *stack, r *tuftest.Repo) files {
		f(s, r)
		return r.Next(roles...)
	}
}

// without leaves role out of the first upload.
func without(roles ...tuf.RoleName) func(*stack, *tuftest.Repo) files {
	return func(_ *stack, r *tuftest.Repo) files {
		up := r.Upload()
		for _, role := range roles {
			delete(up, role)
		}
		return up
	}
}

// cert gives the root role one certificate.
func cert(c func(r *tuftest.Repo) tuftest.Cert) func(*stack, *tuftest.Repo) files {
	return repo(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(root, 1, tuftest.NewKey(s, tuf.KeyECDSA).Certify(s, c(r)))
	})
}

// good is the certificate that docker makes.
func good(r *tuftest.Repo) tuftest.Cert {
	return tuftest.Cert{CN: string(r.GUN), NotBefore: r.Now.Add(-time.Hour), NotAfter: r.Now.Add(time.Hour)}
}

func resign(role tuf.RoleName, keys func(s *stack, r *tuftest.Repo) []*tuftest.Key) func(*stack, *tuftest.Repo) files {
	return repo(func(s *stack, r *tuftest.Repo) { r.Keys[role] = keys(s, r) })
}

func nobody(*stack, *tuftest.Repo) []*tuftest.Key { return nil }

func stranger(s *stack, r *tuftest.Repo) []*tuftest.Key {
	return []*tuftest.Key{r.NewKey(targets)}
}

// tamper changes the file of role after it was signed.
func tamper(role tuf.RoleName, old, new string) func(*stack, *tuftest.Repo) files {
	return repo(func(s *stack, r *tuftest.Repo) {
		data := strings.Replace(string(r.File(role)), old, new, 1)
		if data == string(r.File(role)) {
			s.Fatalf("%s does not contain %s", role, old)
		}
		r.Raw[role] = []byte(data)
	})
}

func TestRules(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string][]rule{
		"file": fileRules, "root": rootRules, "targets": targetsRules, "snapshot": snapshotRules, "server": serverRules, "repository": repositoryRules,
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range rules {
				t.Run(r.name, r.run)
			}
		})
	}
}

func (c rule) run(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.repo(c.client, a, ab, "targets/c")
	if c.stored {
		s.must(r, r.Upload())
	}
	err := s.publish(r.GUN, c.files(s, r))
	switch {
	case c.kind != "":
		wantRejection(t, err, c.kind, c.text)
		var rejection *publish.Rejection
		if errors.As(err, &rejection) && (rejection.Missing != "") != (c.kind == publish.KindBadHierarchy) {
			t.Errorf("Missing is %q", rejection.Missing)
		}
	case !errors.Is(err, c.err) || (c.err == nil && err != nil):
		t.Errorf("got %v, want %v", err, c.err)
	}
}

func deep(r *tuftest.Repo, levels int) {
	for role := targets; role.Depth() < levels; {
		role += "/x"
		r.AddDelegation(role)
	}
}

// What holds for every file, shown with targets and a delegation.
var fileRules = []rule{
	{name: "valid", files: repo(func(*stack, *tuftest.Repo) {})},
	{name: "no signatures", files: resign(targets, nobody), kind: publish.KindBadTargets, text: "tuf: data has no signatures"},
	{name: "signed by a stranger", files: resign(targets, stranger), kind: publish.KindBadTargets, text: "valid signatures did not meet threshold for targets"},
	{name: "signatures of strangers do not hurt", files: repo(func(s *stack, r *tuftest.Repo) {
		r.Keys[targets] = append(stranger(s, r), r.Keys[targets]...)
	})},
	{name: "tampered", files: tamper(targets, `"targets":{}`, `"targets":{"x":{"length":1,"hashes":{}}}`), kind: publish.KindBadTargets, text: "did not meet threshold for targets"},
	{name: "unknown method", files: tamper(targets, `"method":"ecdsa"`, `"method":"none"`), kind: publish.KindBadTargets, text: "did not meet threshold for targets"},
	{name: "one signature of two", files: repo(func(s *stack, r *tuftest.Repo) {
		k := r.Keys[targets][0]
		r.SetKeys(targets, 2, k, r.NewKey(targets))
		r.Keys[targets] = []*tuftest.Key{k}
	}), kind: publish.KindBadTargets, text: "did not meet threshold for targets"},
	{name: "one signature twice", files: repo(func(s *stack, r *tuftest.Repo) {
		k := r.Keys[targets][0]
		r.SetKeys(targets, 2, k, r.NewKey(targets))
		r.Keys[targets] = []*tuftest.Key{k, k}
	}), kind: publish.KindBadTargets, text: "did not meet threshold for targets"},
	{name: "key under another ID", files: repo(func(s *stack, r *tuftest.Repo) {
		r.Root.Keys[r.Keys[targets][0].ID()] = r.NewKey(targets).Key
	}), kind: publish.KindBadTargets, text: "key ID is not valid for key content"},
	{name: "fraction", files: edit(targets, put("x", 1.5)), kind: publish.KindBadTargets, text: "1.5"},
	{name: "type", files: edit(targets, put("_type", "targets")), kind: publish.KindBadTargets, text: "targets type metadata invalid: expected type Targets, not targets"},
	{name: "no type", files: edit(targets, func(m map[string]any) { delete(m, "_type") }), kind: publish.KindBadTargets, text: "expected type Targets, not "},
	{name: "version 0", files: edit(targets, put("version", 0)), kind: publish.KindBadTargets, text: "targets type metadata invalid: version cannot be less than one"},
	{name: "negative version", files: edit(a, put("version", -1)), kind: publish.KindBadTargets, text: "targets/a type metadata invalid: version cannot be less than one"},
	{name: "version beyond 32 bits", files: edit(targets, put("version", 1<<31)), err: storage.ErrVersionConflict},
	{name: "delegation version beyond 32 bits", files: edit(a, put("version", 1<<40)), err: storage.ErrVersionConflict},
	{name: "last version", files: edit(targets, put("version", 1<<31-1))},
	{name: "expired", files: repo(func(s *stack, r *tuftest.Repo) { r.Targets[targets].Expires = r.Now.Add(-time.Second) }),
		kind: publish.KindBadTargets, text: "targets expired at "},
	{name: "expires now", files: repo(func(s *stack, r *tuftest.Repo) { r.Targets[targets].Expires = r.Now })},
	{name: "no expires", files: edit(targets, func(m map[string]any) { delete(m, "expires") }), kind: publish.KindBadTargets, text: "targets expired at Mon Jan 1 00:00:00 UTC 0001"},
	{name: "delegation expired", files: repo(func(s *stack, r *tuftest.Repo) { r.Targets[ab].Expires = r.Now.Add(-time.Second) }),
		kind: publish.KindBadTargets, text: "targets/a/b expired at "},
	{name: "signed is null", files: repo(func(s *stack, r *tuftest.Repo) {
		r.Raw[targets] = tuftest.Join(s, []byte("null"), r.Keys[targets][0].Sign(s, []byte("null")))
	}), kind: publish.KindBadTargets, text: "empty payload"},
	{name: "empty object", files: repo(func(s *stack, r *tuftest.Repo) { r.Raw[targets] = []byte("{}") }), kind: publish.KindBadTargets, text: "no signatures"},
	{name: "not JSON", files: repo(func(s *stack, r *tuftest.Repo) { r.Raw[targets] = []byte("{") }), err: tuf.ErrMalformed},
	{name: "timestamp not JSON", files: func(s *stack, r *tuftest.Repo) files {
		up := r.Upload()
		up[tuf.RoleTimestamp] = []byte(`{"signed":{"version":"1"}}`)
		return up
	}, err: tuf.ErrMalformed},
	{name: "nested deeper than 16 levels", files: repo(func(s *stack, r *tuftest.Repo) { deep(r, 17) }), kind: publish.KindBadTargets, text: "is nested deeper than 16 levels"},
	{name: "nested 16 levels deep", files: repo(func(s *stack, r *tuftest.Repo) { deep(r, 16) })},
	{name: "no such role", files: func(s *stack, r *tuftest.Repo) files {
		up := r.Upload()
		up["targets/A"] = up[a]
		return up
	}, err: tuf.ErrBadName},
}

const untrusted = "could not validate the path to a trusted root: "

var rootRules = []rule{
	{name: "first of version 2", files: edit(root, put("version", 2))},
	{name: "first of version 3", files: edit(root, put("version", 3)), kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 1, new 3"},
	{name: "version 0", files: edit(root, put("version", 0)), kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 1, new 0"},
	{name: "version beyond 32 bits", files: edit(root, put("version", 1<<32)), kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 1, new 4294967296"},
	{name: "type", files: edit(root, put("_type", "root")), kind: publish.KindBadRoot, text: "root type metadata invalid: expected type Root, not root"},
	{name: "no root role", files: edit(root, func(m map[string]any) { delete(in(m, "roles"), "root") }), kind: publish.KindBadRoot, text: "missing root role specification"},
	{name: "no targets role", files: edit(root, func(m map[string]any) { delete(in(m, "roles"), "targets") }), kind: publish.KindBadRoot, text: "missing targets role specification"},
	{name: "no snapshot role", files: edit(root, func(m map[string]any) { delete(in(m, "roles"), "snapshot") }), kind: publish.KindBadRoot, text: "missing snapshot role specification"},
	{name: "timestamp role null", files: edit(root, func(m map[string]any) { in(m, "roles")["timestamp"] = nil }), kind: publish.KindBadRoot, text: "missing timestamp role specification"},
	{name: "threshold 0", files: edit(root, func(m map[string]any) { in(m, "roles", "targets")["threshold"] = 0 }), kind: publish.KindBadRoot, text: "root type metadata invalid: invalid threshold specified for targets: 0 "},
	{name: "root threshold -1", files: edit(root, func(m map[string]any) { in(m, "roles", "root")["threshold"] = -1 }), kind: publish.KindBadRoot, text: "invalid threshold specified for root: -1 "},
	{name: "key not listed", files: edit(root, func(m map[string]any) { in(m, "roles", "snapshot")["keyids"] = []string{"abc"} }), kind: publish.KindBadRoot, text: "key ID abc specified in snapshot without corresponding key"},
	{name: "no signed part", files: repo(func(s *stack, r *tuftest.Repo) { r.Raw[root] = []byte(`{"signatures":[]}`) }), kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 1, new 0"},
	{name: "other CN", files: cert(func(r *tuftest.Repo) tuftest.Cert { c := good(r); c.CN += "x"; return c }), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve valid leaf certificates"},
	{name: "CN of a prefix", files: cert(func(r *tuftest.Repo) tuftest.Cert { c := good(r); c.CN = "example.org/*"; return c })},
	{name: "CN of everything", files: cert(func(r *tuftest.Repo) tuftest.Cert { c := good(r); c.CN = "*"; return c })},
	{name: "CN of another prefix", files: cert(func(r *tuftest.Repo) tuftest.Cert { c := good(r); c.CN = "example.com/*"; return c }), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "certificate expired", files: cert(func(r *tuftest.Repo) tuftest.Cert {
		c := good(r)
		c.NotAfter = r.Now.Add(-time.Second)
		return c
	}), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "certificate of tomorrow", files: cert(func(r *tuftest.Repo) tuftest.Cert {
		c := good(r)
		c.NotBefore, c.NotAfter = r.Now.Add(23*time.Hour), r.Now.Add(30*time.Hour)
		return c
	})},
	{name: "certificate of the day after", files: cert(func(r *tuftest.Repo) tuftest.Cert {
		c := good(r)
		c.NotBefore, c.NotAfter = r.Now.Add(25*time.Hour), r.Now.Add(30*time.Hour)
		return c
	}), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "a CA", files: cert(func(r *tuftest.Repo) tuftest.Cert { c := good(r); c.CA = true; return c }), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "a bare key", files: repo(func(s *stack, r *tuftest.Repo) { r.SetKeys(root, 1, tuftest.NewKey(s, tuf.KeyECDSA)) }), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "RSA 1024", files: repo(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(root, 1, tuftest.NewRSAKey(s, 1024).Certify(s, good(r)))
	}), kind: publish.KindBadRoot, text: untrusted + "unable to retrieve"},
	{name: "RSA 2048", files: repo(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(root, 1, tuftest.NewKey(s, tuf.KeyRSA).Certify(s, good(r)))
	})},
	{name: "no signatures", files: resign(root, nobody), kind: publish.KindBadRoot, text: untrusted + "failed to validate integrity of roots"},
	{name: "signed by a stranger", files: resign(root, stranger), kind: publish.KindBadRoot, text: untrusted + "failed to validate integrity of roots"},
	{name: "tampered", files: tamper(root, `"consistent_snapshot":false`, `"consistent_snapshot":true`), kind: publish.KindBadRoot, text: untrusted + "failed to validate integrity of roots"},
	{name: "one signature of two", files: repo(func(s *stack, r *tuftest.Repo) {
		k := r.Keys[root][0]
		r.SetKeys(root, 2, k, r.NewKey(root))
		r.Keys[root] = []*tuftest.Key{k}
	}), kind: publish.KindBadRoot, text: untrusted + "failed to validate integrity of roots"},
	{name: "expired", files: repo(func(s *stack, r *tuftest.Repo) { r.Root.Expires = r.Now.Add(-time.Second) }), kind: publish.KindBadRoot, text: "root expired at "},
	{name: "none", files: without(root), kind: publish.KindValidation, text: "no pre-existing root and no root provided in update."},
	{name: "nothing at all", files: without(root, targets, a, ab, c), kind: publish.KindValidation, text: "no pre-existing root"},

	{name: "next", stored: true, files: next(func(*stack, *tuftest.Repo) {}, root)},
	{name: "two versions on", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Root.Version++ }, root), kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 1, new 3"},
	{name: "same again", stored: true, files: func(s *stack, r *tuftest.Repo) files { return r.Upload(root) }, err: storage.ErrVersionConflict},
	{name: "an older one", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		first := r.File(root)
		s.must(r, r.Next(root))
		return files{root: first}
	}, kind: publish.KindBadRoot, text: "Root modifications must increment the version. Current 2, new 1"},
	{name: "rotated without the old key", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.Keys[root] = []*tuftest.Key{r.Rotate(root)}
	}, root), kind: publish.KindBadRoot, text: "could not rotate trust to a new trusted root: failed to validate data with current trusted certificates"},
	{name: "rotated without the new key", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.Rotate(root)
		r.Keys[root] = r.Keys[root][:1]
	}, root), kind: publish.KindBadRoot, text: untrusted + "failed to validate integrity of roots"},
	{name: "of another owner", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		other := s.repo(false)
		other.Root.Version = 2
		return other.Upload()
	}, kind: publish.KindBadRoot, text: "could not rotate trust"},
}

var targetsRules = []rule{
	{name: "delegation but no targets", files: without(targets), kind: publish.KindBadTargets, text: "targets must be loaded first"},
	{name: "delegation without its parent", files: without(a), kind: publish.KindBadTargets, text: "tuf: invalid role targets/a/b. delegation does not exist"},
	{name: "not delegated", files: func(s *stack, r *tuftest.Repo) files {
		up := r.Upload()
		up["targets/d"] = up[a]
		return up
	}, kind: publish.KindBadTargets, text: "tuf: invalid role targets/d. delegation does not exist"},
	{name: "not delegated any more", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.Targets[c].Version++
		file := r.File(c)
		r.RemoveDelegation(c)
		up := r.Next(targets)
		up[c] = file
		return up
	}, kind: publish.KindBadTargets, text: "tuf: invalid role targets/c. delegation does not exist"},
	{name: "delegated by a parent that was removed", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.Targets[ab].Version++
		file := r.File(ab)
		r.RemoveDelegation(a)
		up := r.Next(targets)
		up[ab] = file
		return up
	}, kind: publish.KindBadTargets, text: "tuf: invalid role targets/a. delegation does not exist"},
	{name: "signed by its parent's key", files: repo(func(s *stack, r *tuftest.Repo) { r.Keys[a] = r.Keys[targets] }), kind: publish.KindBadTargets, text: "valid signatures did not meet threshold for targets/a"},
	{name: "delegation of type Root", files: edit(a, put("_type", "Root")), kind: publish.KindBadTargets, text: "targets/a type metadata invalid: expected type Targets, not Root"},
	{name: "delegates to a grandchild", files: edit(targets, func(m map[string]any) { firstRole(m)["name"] = "targets/a/b" }), kind: publish.KindBadTargets, text: "targets type metadata invalid: delegation role targets/a/b invalid"},
	{name: "delegates to no name", files: edit(targets, func(m map[string]any) { firstRole(m)["name"] = "targets/A" }), kind: publish.KindBadTargets, text: "delegation role targets/A invalid"},
	{name: "delegates to root", files: edit(targets, func(m map[string]any) { firstRole(m)["name"] = "root" }), kind: publish.KindBadTargets, text: "delegation role root invalid"},
	{name: "delegation threshold 0", files: edit(targets, func(m map[string]any) { firstRole(m)["threshold"] = 0 }), kind: publish.KindBadTargets, text: "targets type metadata invalid: invalid threshold specified for targets/a: 0 "},
	{name: "delegation key not listed", files: edit(a, func(m map[string]any) { firstRole(m)["keyids"] = []string{"abc"} }), kind: publish.KindBadTargets, text: "key ID abc specified in targets/a/b without corresponding key"},
	{name: "delegation null", files: edit(a, func(m map[string]any) { in(m, "delegations")["roles"] = []any{nil} }), kind: publish.KindBadTargets, text: "targets/a type metadata invalid"},
	{name: "delegations of the wrong type", files: edit(a, put("delegations", 7)), kind: publish.KindBadTargets, text: "targets/a type metadata invalid"},
	{name: "no delegations", files: func(s *stack, r *tuftest.Repo) files {
		r.Edit[targets] = func(m map[string]any) { delete(m, "delegations") }
		return r.Upload(root, targets)
	}},
	{name: "roles null", files: func(s *stack, r *tuftest.Repo) files {
		r.Edit[targets] = func(m map[string]any) { in(m, "delegations")["roles"] = nil }
		return r.Upload(root, targets)
	}},
	{name: "delegation certificate of RSA 1024", files: repo(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(a, 1, tuftest.NewRSAKey(s, 1024).Certify(s, good(r)))
	}), kind: publish.KindBadTargets, text: "RSA bit length is too short"},
	{name: "delegation certificate that has expired", files: repo(func(s *stack, r *tuftest.Repo) {
		k := good(r)
		k.NotAfter = r.Now.Add(-time.Minute)
		r.SetKeys(a, 1, tuftest.NewKey(s, tuf.KeyECDSA).Certify(s, k))
	})},
	{name: "delegation by an Ed25519 key", files: repo(func(s *stack, r *tuftest.Repo) { r.SetKeys(a, 1, tuftest.NewKey(s, tuf.KeyED25519)) })},
	{name: "same version", stored: true, files: func(s *stack, r *tuftest.Repo) files { return r.Upload(targets) }, err: storage.ErrVersionConflict},
	{name: "same version of a leaf", stored: true, files: func(s *stack, r *tuftest.Repo) files { return r.Upload(c) }, err: storage.ErrVersionConflict},
	{name: "older version", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		first := r.Upload(targets, a)
		s.must(r, r.Next(targets, a))
		return first
	}, err: storage.ErrVersionConflict},
	{name: "one of two is not new", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		up := r.Next(targets)
		up[c] = r.File(c)
		return up
	}, err: storage.ErrVersionConflict},
	{name: "leap in versions", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Targets[a].Version = 1000 }, a)},
}

func firstRole(signed map[string]any) map[string]any {
	return in(signed, "delegations")["roles"].([]any)[0].(map[string]any)
}

func TestRuleCount(t *testing.T) {
	n := 0
	for _, rules := range [][]rule{fileRules, rootRules, targetsRules, snapshotRules, serverRules, repositoryRules} {
		for _, r := range rules {
			if r.kind != "" || r.err != nil {
				n++
			}
		}
	}
	if n < 80 {
		t.Errorf("%d things are broken, want at least 80", n)
	}
}

// A message never makes the error body longer than clients read.
func TestRejectionIsShort(t *testing.T) {
	s := newStack(t)
	r := s.repo(false, a)
	id := tuf.KeyID(strings.Repeat("<&>\u2028\x00", 200))
	r.Root.Keys[id] = r.NewKey(targets).Key
	r.Root.Roles[tuf.RoleTimestamp] = tuf.Role{Threshold: 1, KeyIDs: []tuf.KeyID{id}}
	err := s.publish(r.GUN, r.Upload())
	var rejection *publish.Rejection
	if !errors.As(err, &rejection) {
		t.Fatalf("got %v", err)
	}
	if n := jsonSize(t, rejection); n > 900 {
		t.Errorf("%d bytes of JSON", n)
	}
}
