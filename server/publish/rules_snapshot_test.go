package publish_test

import (
	"strings"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// meta changes what the client's first snapshot says of role.
func meta(role tuf.RoleName, f func(meta map[string]any)) func(*stack, *tuftest.Repo) files {
	return edit(snapshot, func(m map[string]any) { f(in(m, "meta", string(role))) })
}

const (
	wrong256 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	wrong512 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
)

func hashes(role tuf.RoleName, value map[string]any) func(*stack, *tuftest.Repo) files {
	return meta(role, func(m map[string]any) { m["hashes"] = value })
}

var snapshotRules = []rule{
	{name: "no signatures", client: true, files: resign(snapshot, nobody), kind: publish.KindBadSnapshot, text: "tuf: data has no signatures"},
	{name: "signed by a stranger", client: true, files: resign(snapshot, stranger), kind: publish.KindBadSnapshot, text: "valid signatures did not meet threshold for snapshot"},
	{name: "of the client although the server has the key", files: repo(func(s *stack, r *tuftest.Repo) {
		r.Snapshot = &tuf.Snapshot{Version: 1, Expires: r.Now.Add(time.Hour)}
		r.Keys[snapshot] = stranger(s, r)
	}), kind: publish.KindBadSnapshot, text: "valid signatures did not meet threshold for snapshot"},
	{name: "type", client: true, files: edit(snapshot, put("_type", "Targets")), kind: publish.KindBadSnapshot, text: "snapshot type metadata invalid: expected type Snapshot, not Targets"},
	{name: "version 0", client: true, files: edit(snapshot, put("version", 0)), kind: publish.KindBadSnapshot, text: "snapshot type metadata invalid: version cannot be less than one"},
	{name: "version beyond 32 bits", client: true, files: edit(snapshot, put("version", 1<<31)), err: storage.ErrVersionConflict},
	{name: "expired", client: true, files: repo(func(s *stack, r *tuftest.Repo) { r.Snapshot.Expires = r.Now.Add(-time.Second) }), kind: publish.KindBadSnapshot, text: "snapshot expired at "},
	{name: "no root", client: true, files: edit(snapshot, func(m map[string]any) { delete(in(m, "meta"), "root") }), kind: publish.KindBadSnapshot, text: "snapshot type metadata invalid: missing root sha256 checksum information"},
	{name: "no targets", client: true, files: edit(snapshot, func(m map[string]any) { delete(in(m, "meta"), "targets") }), kind: publish.KindBadSnapshot, text: "missing targets sha256 checksum information"},
	{name: "no meta", client: true, files: edit(snapshot, func(m map[string]any) { delete(m, "meta") }), kind: publish.KindBadSnapshot, text: "missing root sha256 checksum information"},
	{name: "short hash", client: true, files: hashes(targets, map[string]any{"sha256": "AAAA"}), kind: publish.KindBadSnapshot, text: "invalid targets checksum information, sha256 checksum invalid"},
	{name: "wrong hash of root", client: true, files: hashes(root, map[string]any{"sha256": wrong256}), kind: publish.KindBadSnapshot, text: "sha256 checksum for root did not match: expected 0000"},
	{name: "wrong hash of targets", client: true, files: hashes(targets, map[string]any{"sha256": wrong256}), kind: publish.KindBadSnapshot, text: "sha256 checksum for targets did not match: expected 0000"},
	{name: "wrong sha512", client: true, files: meta(a, func(m map[string]any) { in(m, "hashes")["sha512"] = wrong512 }), kind: publish.KindBadSnapshot, text: "sha512 checksum for targets/a did not match: expected 0000"},
	{name: "wrong length", client: true, files: meta(ab, func(m map[string]any) { m["length"] = 1 }), kind: publish.KindBadSnapshot, text: "length of targets/a/b did not match"},
	{name: "no sha512", client: true, files: meta(a, func(m map[string]any) { delete(in(m, "hashes"), "sha512") })},
	{name: "only sha512", client: true, files: meta(a, func(m map[string]any) { delete(in(m, "hashes"), "sha256") }), kind: publish.KindBadSnapshot, text: "missing targets/a sha256 checksum information"},
	{name: "does not name what is uploaded", client: true, files: edit(snapshot, func(m map[string]any) { delete(in(m, "meta"), "targets/a/b") }), kind: publish.KindBadSnapshot, text: "no checksums for supported algorithms were provided for targets/a/b"},
	{name: "names what nobody has", client: true, files: edit(snapshot, func(m map[string]any) {
		in(m, "meta")["targets/d"] = in(m, "meta")["targets/a"]
	}), kind: publish.KindBadSnapshot, text: "it names targets/d, which is neither uploaded nor stored"},
	{name: "names what is no role", client: true, files: edit(snapshot, func(m map[string]any) {
		in(m, "meta")["mirrors"] = in(m, "meta")["targets/a"]
	}), kind: publish.KindBadSnapshot, text: "it names mirrors, which is neither uploaded nor stored"},
	{name: "names itself", client: true, files: edit(snapshot, func(m map[string]any) {
		in(m, "meta")["snapshot"] = in(m, "meta")["targets/a"]
	}), kind: publish.KindBadSnapshot, text: "it names snapshot, which is neither"},
	{name: "targets not uploaded", client: true, files: func(s *stack, r *tuftest.Repo) files {
		return r.Upload(root, snapshot)
	}, kind: publish.KindBadSnapshot, text: "it names targets, which is neither uploaded nor stored"},
	{name: "root not uploaded", client: true, files: without(root), kind: publish.KindValidation, text: "no pre-existing root"},

	{name: "next", client: true, stored: true, files: next(func(*stack, *tuftest.Repo) {}, a)},
	{name: "alone", client: true, stored: true, files: next(func(*stack, *tuftest.Repo) {})},
	{name: "same version", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		up := r.Next(a)
		r.Snapshot.Version--
		up[snapshot] = r.File(snapshot)
		return up
	}, err: storage.ErrVersionConflict},
	{name: "comes after another delegation", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		stored := r.File(c)
		late := r.Next(c)
		r.Targets[c].Version--
		r.Snapshot.Version--
		r.Raw[c] = stored
		s.must(r, r.Next(a))
		return late
	}, err: storage.ErrVersionConflict},
	{name: "names older targets", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		old := tuf.MetaOf(r.File(targets))
		s.must(r, r.Next(targets))
		return withMeta(r, targets, old)
	}, kind: publish.KindBadSnapshot, text: "it names another version of targets than the current one"},
	{name: "names an older delegation", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		old := tuf.MetaOf(r.File(a))
		s.must(r, r.Next(a))
		return withMeta(r, a, old)
	}, kind: publish.KindBadSnapshot, text: "it names another version of targets/a than the current one"},
	{name: "names a stored delegation by its sha512 alone", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		m := tuf.MetaOf(r.File(a))
		delete(m.Hashes, "sha256")
		return withMeta(r, a, m)
	}, kind: publish.KindBadSnapshot, text: "missing targets/a sha256 checksum information"},
	{name: "names what nobody has, beside what is stored", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		return withMeta(r, "targets/d", tuf.MetaOf(r.File(a)))
	}, kind: publish.KindBadSnapshot, text: "it names targets/d, which is neither uploaded nor stored"},
	{name: "names the current file by a wrong length", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		m := tuf.MetaOf(r.File(a))
		m.Length++
		return withMeta(r, a, m)
	}, kind: publish.KindBadSnapshot, text: "length of targets/a did not match"},
	{name: "names the current file by a wrong sha512", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		m := tuf.MetaOf(r.File(a))
		m.Hashes["sha512"] = make([]byte, 64)
		return withMeta(r, a, m)
	}, kind: publish.KindBadSnapshot, text: "sha512 checksum for targets/a did not match"},
	{name: "names the current file without sha512", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		m := tuf.MetaOf(r.File(a))
		delete(m.Hashes, "sha512")
		return withMeta(r, a, m)
	}},
	{name: "names a delegation that was removed", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		old := tuf.MetaOf(r.File(c))
		r.RemoveDelegation(c)
		r.Targets[targets].Version++
		up := withMeta(r, c, old)
		up[targets] = r.File(targets)
		return up
	}, kind: publish.KindBadSnapshot, text: "it names targets/c, to which targets no longer delegates"},
	{name: "leaves out a delegation", client: true, stored: true, files: omit([]tuf.RoleName{c}), kind: publish.KindBadSnapshot, text: "it does not name targets/c, "},
	{name: "leaves out a delegation of a delegation", client: true, stored: true, files: omit([]tuf.RoleName{ab}), kind: publish.KindBadSnapshot, text: "it does not name targets/a/b, "},
	{name: "leaves out a delegation with all below", client: true, stored: true, files: omit([]tuf.RoleName{a, ab}), kind: publish.KindBadSnapshot, text: "it does not name targets/a, "},
	{name: "leaves out a delegation that new targets list", client: true, stored: true, files: omit([]tuf.RoleName{c}, targets), kind: publish.KindBadSnapshot, text: "it does not name targets/c, "},
	{name: "leaves out a delegation to which other keys are given", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.SetKeys(c, 1, r.Keys[c][0], r.NewKey(c))
		return omit([]tuf.RoleName{c}, targets)(s, r)
	}, kind: publish.KindBadSnapshot, text: "it does not name targets/c, "},
	{name: "leaves out what stands below an uploaded delegation", client: true, stored: true, files: omit([]tuf.RoleName{ab}, a), kind: publish.KindBadSnapshot, text: "it does not name targets/a/b, "},
	{name: "leaves out what stands below, beside new targets", client: true, stored: true, files: omit([]tuf.RoleName{ab}, targets), kind: publish.KindBadSnapshot, text: "it does not name targets/a/b, "},
	{name: "leaves out a delegation that new targets drop", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.RemoveDelegation(c)
		return r.Next(targets)
	}},
	{name: "leaves out a delegation that new targets drop, with all below", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.RemoveDelegation(ab)
		r.RemoveDelegation(a)
		return r.Next(targets)
	}},
	{name: "leaves out all delegations, which new targets drop", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.RemoveDelegation(ab)
		r.RemoveDelegation(a)
		r.RemoveDelegation(c)
		return r.Next(targets)
	}},
}

// omit uploads roles and a snapshot that does not name left.
func omit(left []tuf.RoleName, roles ...tuf.RoleName) func(*stack, *tuftest.Repo) files {
	return func(_ *stack, r *tuftest.Repo) files {
		r.Edit[snapshot] = func(m map[string]any) {
			for _, role := range left {
				delete(in(m, "meta"), string(role))
			}
		}
		return r.Next(roles...)
	}
}

// withMeta is the next snapshot, which says m of role.
func withMeta(r *tuftest.Repo, role tuf.RoleName, m tuf.FileMeta) files {
	r.Snapshot.Version++
	r.Edit[snapshot] = func(signed map[string]any) {
		hashes := map[string]any{}
		for name, h := range m.Hashes {
			hashes[name] = h
		}
		in(signed, "meta")[string(role)] = map[string]any{"length": m.Length, "hashes": hashes}
	}
	return r.Upload(snapshot)
}

// serverKeys lets root list keys for a role that the server signs.
func serverKeys(role tuf.RoleName, threshold int, keys func(s *stack, r *tuftest.Repo) []*tuftest.Key) func(*stack, *tuftest.Repo) files {
	return repo(func(s *stack, r *tuftest.Repo) {
		var public []*tuftest.Key
		for _, k := range keys(s, r) {
			public = append(public, tuftest.Public(k.Key))
		}
		r.SetKeys(role, threshold, public...)
	})
}

func kept(gun tuf.GUN, role tuf.RoleName, n int) func(s *stack, r *tuftest.Repo) []*tuftest.Key {
	return func(s *stack, r *tuftest.Repo) (keys []*tuftest.Key) {
		for range n {
			k := tuftest.NewKey(s, tuf.KeyECDSA)
			s.signer.add(k, gun, role)
			keys = append(keys, k)
		}
		return keys
	}
}

// twice is one key of the server, bare and in a certificate.
func twice(role tuf.RoleName) func(s *stack, r *tuftest.Repo) []*tuftest.Key {
	return func(s *stack, r *tuftest.Repo) []*tuftest.Key {
		k := kept(r.GUN, role, 1)(s, r)[0]
		return []*tuftest.Key{k, k.Certify(s, good(r))}
	}
}

const noSnapshotKey = "no snapshot was included in update and server does not hold current snapshot key for repository"

var serverRules = []rule{
	{name: "no targets yet", files: func(s *stack, r *tuftest.Repo) files { return r.Upload(root) }, kind: publish.KindValidation, text: "targets must be loaded first"},
	{name: "unknown snapshot key", files: serverKeys(snapshot, 1, stranger), kind: publish.KindBadHierarchy, text: noSnapshotKey},
	{name: "unknown timestamp key", files: serverKeys(tuf.RoleTimestamp, 1, stranger), kind: publish.KindBadRoot, text: "no timestamp keys exist on the server"},
	{name: "snapshot missing from a repository whose client signs it", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.Targets[a].Version++
		return r.Upload(a)
	}, kind: publish.KindBadHierarchy, text: noSnapshotKey},
	{name: "timestamp key of another GUN", files: serverKeys(tuf.RoleTimestamp, 1, kept("example.org/other", tuf.RoleTimestamp, 1)), kind: publish.KindBadRoot, text: "was made for another repository or role"},
	{name: "snapshot key of another GUN", files: serverKeys(snapshot, 1, kept("example.org/other", snapshot, 1)), kind: publish.KindBadRoot, text: "was made for another repository or role"},
	{name: "snapshot key as timestamp key", files: serverKeys(tuf.RoleTimestamp, 1, kept(testGUN, snapshot, 1)), kind: publish.KindBadRoot, text: "was made for another repository or role"},
	{name: "no snapshot keys", files: serverKeys(snapshot, 1, nobody), kind: publish.KindBadHierarchy, text: noSnapshotKey},
	{name: "no timestamp keys", files: serverKeys(tuf.RoleTimestamp, 1, nobody), kind: publish.KindBadRoot, text: "no timestamp keys exist on the server"},
	{name: "fewer snapshot keys than the threshold", files: serverKeys(snapshot, 2, kept(testGUN, snapshot, 1)), kind: publish.KindBadHierarchy, text: noSnapshotKey},
	{name: "fewer timestamp keys than the threshold", files: serverKeys(tuf.RoleTimestamp, 2, kept(testGUN, tuf.RoleTimestamp, 1)), kind: publish.KindBadRoot, text: "no timestamp keys exist on the server"},
	{name: "one timestamp key of two unknown", files: serverKeys(tuf.RoleTimestamp, 1, func(s *stack, r *tuftest.Repo) []*tuftest.Key {
		return append(kept(testGUN, tuf.RoleTimestamp, 1)(s, r), stranger(s, r)...)
	}), kind: publish.KindBadRoot, text: "no timestamp keys exist on the server"},
	{name: "one snapshot key, bare and as a certificate", files: serverKeys(snapshot, 2, twice(snapshot)), kind: publish.KindBadHierarchy, text: "does not verify: valid signatures did not meet threshold for snapshot"},
	{name: "one timestamp key, bare and as a certificate", files: serverKeys(tuf.RoleTimestamp, 2, twice(tuf.RoleTimestamp)), kind: publish.KindBadRoot, text: "does not verify: valid signatures did not meet threshold for timestamp"},
	{name: "one timestamp key twice, threshold 1", files: serverKeys(tuf.RoleTimestamp, 1, twice(tuf.RoleTimestamp))},
	{name: "timestamp key under another ID", files: func(s *stack, r *tuftest.Repo) files {
		id := tuf.KeyID(strings.Repeat("ab", 32))
		r.Root.Keys[id] = r.Root.Keys[r.Root.Roles[tuf.RoleTimestamp].KeyIDs[0]]
		r.Root.Roles[tuf.RoleTimestamp] = tuf.Role{Threshold: 1, KeyIDs: []tuf.KeyID{id}}
		return r.Upload()
	}, kind: publish.KindBadRoot, text: "does not verify: key ID is not valid for key content"},
	{name: "three keys, all needed", files: serverKeys(tuf.RoleTimestamp, 3, kept(testGUN, tuf.RoleTimestamp, 3))},
	{name: "too many keys", files: serverKeys(tuf.RoleTimestamp, 1, kept(testGUN, tuf.RoleTimestamp, 17)), kind: publish.KindBadRoot, text: "lists 17 keys for timestamp; the server signs with at most 16"},
	{name: "key of an unknown type", files: func(s *stack, r *tuftest.Repo) files {
		k := tuf.Key{Type: "dilithium", Public: []byte("x")}
		r.SetKeys(tuf.RoleTimestamp, 1, tuftest.Public(k))
		return r.Upload()
	}, kind: publish.KindBadRoot, text: "no timestamp keys exist on the server"},
	{name: "Ed25519 keys", files: func(s *stack, r *tuftest.Repo) files {
		for _, role := range []tuf.RoleName{snapshot, tuf.RoleTimestamp} {
			k := tuftest.NewKey(s, tuf.KeyED25519)
			s.signer.add(k, r.GUN, role)
			r.Manage(role, k.Key)
		}
		return r.Upload()
	}},
}

const witness = "would no longer be signed by the keys that its parent lists"

// Files that are sound in themselves, but not in the repository that they would make.
var repositoryRules = []rule{
	{name: "root takes the targets key away", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Rotate(targets) }, root), kind: publish.KindBadTargets, text: "targets stored on the server are not signed by the keys that root lists"},
	{name: "root raises the targets threshold", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(targets, 2, r.Keys[targets][0], r.NewKey(targets))
	}, root), kind: publish.KindBadTargets, text: "are not signed by the keys that root lists"},
	{name: "the same with a snapshot of the client", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		old := r.File(targets)
		r.Rotate(targets)
		r.Raw[targets] = old // its snapshot is right
		return r.Next(root)
	}, kind: publish.KindBadTargets, text: "are not signed by the keys that root lists"},
	{name: "root adds a targets key", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(targets, 1, r.Keys[targets][0], r.NewKey(targets))
	}, root)},
	{name: "root and targets rotate together", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Rotate(targets) }, root, targets)},
	{name: "targets replace a delegation's key", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Rotate(a) }, targets), kind: publish.KindBadTargets, text: "targets/a as stored on the server " + witness},
	{name: "targets raise a delegation's threshold", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(a, 2, r.Keys[a][0], r.NewKey(a))
	}, targets), kind: publish.KindBadTargets, text: "notary witness"},
	{name: "targets raise a delegation's threshold, keys as before", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		k := r.Keys[a][0]
		r.SetKeys(a, 1, k, tuftest.Public(r.NewKey(a).Key))
		s.must(r, r.Next(targets))
		r.Delegation(a).Threshold = 2
		return r.Next(targets)
	}, kind: publish.KindBadTargets, text: "targets/a as stored on the server " + witness},
	{name: "targets list another key under the same ID", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.Targets[targets].Delegations.Keys[r.Keys[a][0].ID()] = r.NewKey(a).Key
	}, targets), kind: publish.KindBadTargets, text: "targets/a as stored on the server " + witness},
	{name: "a delegation replaces its child's key", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Rotate(ab) }, a), kind: publish.KindBadTargets, text: "targets/a/b as stored on the server " + witness},
	{name: "a key is replaced above an upload", stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.Rotate(a)
		return r.Next(targets, ab)
	}, kind: publish.KindBadTargets, text: "targets/a as stored on the server " + witness},
	{name: "the same with a snapshot of the client, which is right", client: true, stored: true, files: func(s *stack, r *tuftest.Repo) files {
		r.Raw[a] = r.File(a)
		r.Rotate(a)
		return r.Next(targets)
	}, kind: publish.KindBadTargets, text: "targets/a as stored on the server " + witness},
	{name: "targets add a key to a delegation", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.SetKeys(a, 1, r.Keys[a][0], r.NewKey(a))
	}, targets)},
	{name: "targets change a delegation's paths", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.Delegation(a).Paths = []string{"x", "y"}
	}, targets)},
	{name: "a key is replaced and the file signed anew", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.Rotate(a) }, targets, a)},
	{name: "a delegation is removed with all below it", stored: true, files: next(func(s *stack, r *tuftest.Repo) { r.RemoveDelegation(a) }, targets)},
	{name: "a delegation without a file", stored: true, files: next(func(s *stack, r *tuftest.Repo) {
		r.AddDelegation("targets/d")
		r.Targets["targets/d"].Version = 1
	}, targets)},
}
