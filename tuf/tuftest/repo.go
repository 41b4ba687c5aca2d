// Package tuftest builds trust repositories as docker's and Notary's clients
// make them, for tests that break one thing in them.
//
//	repo := tuftest.New(t, "example.org/team/app", tuftest.Options{})
//	repo.Targets["targets"].Version = 7
//	upload := repo.Upload()
//
// What a Repo holds are plain values: change them, and [Repo.File] signs anew.
// What plain values cannot say, such as a null or a number in place of a string,
// goes into Edit, Signed or Raw.
package tuftest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"countersign/tuf"
)

// Options say what a new repository is like. The zero value is a repository
// with one key per role, all of them in the Repo.
type Options struct {
	// Now is the time at which it is made; the default is the time of day, in
	// whole seconds. All else about time follows from it.
	Now time.Time
	// RootKeys and TargetsKeys are how many keys sign the role, at least 1;
	// the thresholds are how many must.
	RootKeys, RootThreshold       int
	TargetsKeys, TargetsThreshold int
	// RootKeyType is tuf.KeyECDSAX509 (the default) or tuf.KeyRSAX509.
	RootKeyType string
	// KeyType is that of all other keys: tuf.KeyECDSA (the default),
	// tuf.KeyED25519 or tuf.KeyRSA.
	KeyType string
	// Snapshot and Timestamp are keys of the server. Where one is given, the
	// Repo holds no file of that role: the server makes it.
	Snapshot, Timestamp *tuf.Key
	// Delegations are made, parents first. Each has one key and all paths.
	Delegations []tuf.RoleName
}

// Lifetimes of files, as those of the clients.
const (
	day           = 24 * time.Hour
	rootLife      = 3650 * day
	targetsLife   = 1095 * day
	snapshotLife  = 1095 * day
	timestampLife = 14 * day
)

// Targets is the content of a targets file or a delegation.
type Targets struct {
	Name        tuf.RoleName
	Version     tuf.Version
	Expires     time.Time
	Targets     map[string]tuf.FileMeta
	Delegations tuf.Delegations
}

// A Repo is a repository in the hands of a client. It is not safe for use by
// several goroutines.
type Repo struct {
	GUN tuf.GUN
	Now time.Time

	Root      *tuf.Root
	Targets   map[tuf.RoleName]*Targets // targets and delegations
	Snapshot  *tuf.Snapshot             // nil if the server makes it; its Meta is filled in when it is signed
	Timestamp *tuf.Timestamp            // like Snapshot

	// Keys are those that sign a role. Those that may are in Root and Targets.
	Keys map[tuf.RoleName][]*Key

	// Edit changes the signed part of a role, as decoded JSON, before it is
	// signed. Signed replaces it, and is embedded as it stands. Raw replaces the
	// whole file.
	Edit   map[tuf.RoleName]func(signed map[string]any)
	Signed map[tuf.RoleName][]byte
	Raw    map[tuf.RoleName][]byte

	tb     testing.TB
	opts   Options
	signed map[tuf.RoleName]signedFile
}

// A signedFile is what File made last for a role. ECDSA signs the same bytes
// differently each time, and snapshots hash the result.
type signedFile struct {
	content []byte
	keys    []*Key
	file    []byte
}

// New makes a repository for gun, of versions 1. It fails tb if it can not.
func New(tb testing.TB, gun tuf.GUN, opts Options) *Repo {
	tb.Helper()
	if opts.Now.IsZero() {
		opts.Now = time.Now().UTC().Truncate(time.Second)
	}
	opts.KeyType = cmp.Or(opts.KeyType, tuf.KeyECDSA)
	opts.RootKeyType = cmp.Or(opts.RootKeyType, tuf.KeyECDSAX509)
	r := &Repo{
		GUN: gun, Now: opts.Now, tb: tb, opts: opts,
		Root: &tuf.Root{
			Version: 1, Expires: opts.Now.Add(rootLife),
			Keys: map[tuf.KeyID]tuf.Key{}, Roles: map[tuf.RoleName]tuf.Role{},
		},
		Targets: map[tuf.RoleName]*Targets{},
		Keys:    map[tuf.RoleName][]*Key{},
		Edit:    map[tuf.RoleName]func(map[string]any){},
		Signed:  map[tuf.RoleName][]byte{},
		Raw:     map[tuf.RoleName][]byte{},
		signed:  map[tuf.RoleName]signedFile{},
	}
	r.addTargets(tuf.RoleTargets)
	r.SetKeys(tuf.RoleRoot, max(opts.RootThreshold, 1), r.newKeys(tuf.RoleRoot, opts.RootKeys)...)
	r.SetKeys(tuf.RoleTargets, max(opts.TargetsThreshold, 1), r.newKeys(tuf.RoleTargets, opts.TargetsKeys)...)
	r.manage(tuf.RoleSnapshot, opts.Snapshot)
	r.manage(tuf.RoleTimestamp, opts.Timestamp)
	for _, name := range opts.Delegations {
		r.AddDelegation(name)
	}
	return r
}

func (r *Repo) newKeys(role tuf.RoleName, n int) []*Key {
	r.tb.Helper()
	var keys []*Key
	for range max(n, 1) {
		keys = append(keys, r.NewKey(role))
	}
	return keys
}

// NewKey makes a key fit for role, and does nothing with it: for root a
// certificate with the GUN as its common name, valid for ten years.
func (r *Repo) NewKey(role tuf.RoleName) *Key {
	r.tb.Helper()
	if role != tuf.RoleRoot {
		return NewKey(r.tb, r.opts.KeyType)
	}
	typ := tuf.KeyECDSA
	if r.opts.RootKeyType == tuf.KeyRSAX509 {
		typ = tuf.KeyRSA
	}
	return NewKey(r.tb, typ).Certify(r.tb, Cert{
		CN: string(r.GUN), NotBefore: r.Now.Add(-time.Minute), NotAfter: r.Now.Add(rootLife),
	})
}

func (r *Repo) manage(role tuf.RoleName, server *tuf.Key) {
	r.tb.Helper()
	if server != nil {
		r.Manage(role, *server)
	} else {
		r.SetKeys(role, 1, r.NewKey(role))
	}
}

// SetKeys lets root (or, for a delegation, its parent) list keys for role, and
// makes those sign it whose private half is there. The next file of root or of
// the parent says so; its version is the caller's affair.
func (r *Repo) SetKeys(role tuf.RoleName, threshold int, keys ...*Key) {
	r.tb.Helper()
	entry := tuf.Role{Threshold: threshold}
	listed := r.Root.Keys
	if role.IsDelegation() {
		listed = r.parent(role).Delegations.Keys
	}
	r.Keys[role] = nil
	for _, k := range keys {
		id := k.ID()
		listed[id] = k.Key
		entry.KeyIDs = append(entry.KeyIDs, id)
		if k.Private != nil {
			r.Keys[role] = append(r.Keys[role], k)
		}
	}
	if role.IsDelegation() {
		r.Delegation(role).Role = entry
		return
	}
	r.Root.Roles[role] = entry
	switch {
	case role == tuf.RoleSnapshot && r.Keys[role] != nil && r.Snapshot == nil:
		r.Snapshot = &tuf.Snapshot{Version: 1, Expires: r.Now.Add(snapshotLife)}
	case role == tuf.RoleTimestamp && r.Keys[role] != nil && r.Timestamp == nil:
		r.Timestamp = &tuf.Timestamp{Version: 1, Expires: r.Now.Add(timestampLife)}
	}
}

// Manage hands snapshot or timestamp to the server that holds key.
func (r *Repo) Manage(role tuf.RoleName, key tuf.Key) {
	r.tb.Helper()
	if role == tuf.RoleSnapshot {
		r.Snapshot = nil
	} else {
		r.Timestamp = nil
	}
	r.SetKeys(role, 1, Public(key))
}

// Rotate gives role one new key. A root is from then on signed by the old keys
// and the new one, and goes on listing the old certificates among its keys.
func (r *Repo) Rotate(role tuf.RoleName) *Key {
	r.tb.Helper()
	old := r.Keys[role]
	k := r.NewKey(role)
	r.SetKeys(role, 1, k)
	if role == tuf.RoleRoot {
		r.Keys[role] = append(slices.Clone(old), k)
	}
	return k
}

func (r *Repo) addTargets(name tuf.RoleName) {
	r.Targets[name] = &Targets{
		Name: name, Version: 1, Expires: r.Now.Add(targetsLife),
		Targets:     map[string]tuf.FileMeta{},
		Delegations: tuf.Delegations{Keys: map[tuf.KeyID]tuf.Key{}, Roles: []tuf.Delegation{}},
	}
}

func (r *Repo) parent(role tuf.RoleName) *Targets {
	r.tb.Helper()
	t := r.Targets[role.Parent()]
	if t == nil {
		r.tb.Fatalf("tuftest: no %s, the parent of %s", role.Parent(), role)
	}
	return t
}

// Delegation returns the entry for role in its parent, to be changed there.
func (r *Repo) Delegation(role tuf.RoleName) *tuf.Delegation {
	r.tb.Helper()
	d := &r.parent(role).Delegations
	i := slices.IndexFunc(d.Roles, func(d tuf.Delegation) bool { return d.Name == role })
	if i < 0 {
		r.tb.Fatalf("tuftest: no delegation to %s", role)
	}
	return &d.Roles[i]
}

// AddDelegation delegates all paths to role and adds an empty file of version 1
// for it. Without keys it makes one.
func (r *Repo) AddDelegation(role tuf.RoleName, keys ...*Key) {
	r.tb.Helper()
	p := r.parent(role)
	p.Delegations.Roles = append(p.Delegations.Roles, tuf.Delegation{Name: role, Paths: []string{""}})
	r.addTargets(role)
	if len(keys) == 0 {
		keys = r.newKeys(role, 1)
	}
	r.SetKeys(role, 1, keys...)
}

// RemoveDelegation takes role out of its parent and out of the repository.
func (r *Repo) RemoveDelegation(role tuf.RoleName) {
	r.tb.Helper()
	p := r.parent(role)
	p.Delegations.Roles = slices.DeleteFunc(p.Delegations.Roles, func(d tuf.Delegation) bool { return d.Name == role })
	delete(r.Targets, role)
	delete(r.Keys, role)
}

// AddTarget lists content as name in role.
func (r *Repo) AddTarget(role tuf.RoleName, name string, content []byte) {
	r.Targets[role].Targets[name] = tuf.MetaOf(content)
}

// Roles returns the roles that have a file here, in the order in which the
// server stores them: root, targets, delegations (shallow first), snapshot,
// timestamp.
func (r *Repo) Roles() []tuf.RoleName {
	targets := slices.SortedFunc(maps.Keys(r.Targets), func(a, b tuf.RoleName) int {
		return cmp.Or(a.Depth()-b.Depth(), cmp.Compare(a, b))
	})
	roles := append([]tuf.RoleName{tuf.RoleRoot}, targets...)
	if r.Snapshot != nil {
		roles = append(roles, tuf.RoleSnapshot)
	}
	if r.Timestamp != nil {
		roles = append(roles, tuf.RoleTimestamp)
	}
	return roles
}

// Files returns all files, the timestamp included.
func (r *Repo) Files() map[tuf.RoleName][]byte {
	r.tb.Helper()
	return r.files(r.Roles())
}

// Upload returns the files of those roles, or, without roles, of all that a
// client sends: not the timestamp, and the snapshot only if it signs it.
func (r *Repo) Upload(roles ...tuf.RoleName) map[tuf.RoleName][]byte {
	r.tb.Helper()
	if len(roles) == 0 {
		roles = slices.DeleteFunc(r.Roles(), func(n tuf.RoleName) bool { return n == tuf.RoleTimestamp })
	}
	return r.files(roles)
}

func (r *Repo) files(roles []tuf.RoleName) map[tuf.RoleName][]byte {
	r.tb.Helper()
	files := make(map[tuf.RoleName][]byte, len(roles))
	for _, role := range roles {
		files[role] = r.File(role)
	}
	return files
}

// Next raises the versions of roles, and of snapshot and timestamp where they
// are here, and returns what a client then sends: roles, and the snapshot.
func (r *Repo) Next(roles ...tuf.RoleName) map[tuf.RoleName][]byte {
	r.tb.Helper()
	for _, role := range roles {
		if role == tuf.RoleRoot {
			r.Root.Version++
		} else {
			r.Targets[role].Version++
		}
	}
	if r.Timestamp != nil {
		r.Timestamp.Version++
	}
	if r.Snapshot != nil {
		r.Snapshot.Version++
		roles = append(slices.Clone(roles), tuf.RoleSnapshot)
	}
	return r.files(roles)
}

// File returns the file of role: the same bytes until something about it has
// changed, signed anew after that.
func (r *Repo) File(role tuf.RoleName) []byte {
	r.tb.Helper()
	if raw, ok := r.Raw[role]; ok {
		return raw
	}
	content := r.Signed[role]
	if content == nil {
		content = r.content(role)
	}
	last := r.signed[role]
	if last.file != nil && bytes.Equal(last.content, content) && slices.Equal(last.keys, r.Keys[role]) {
		return last.file
	}
	file := Sign(r.tb, content, r.Keys[role]...)
	r.signed[role] = signedFile{content, slices.Clone(r.Keys[role]), file}
	return file
}

// content returns the signed part as the clients write it.
func (r *Repo) content(role tuf.RoleName) []byte {
	r.tb.Helper()
	var v any
	switch role {
	case tuf.RoleRoot:
		v = encodeRoot(r.Root)
	case tuf.RoleSnapshot:
		r.Snapshot.Meta = r.meta()
		v = encodeMeta("Snapshot", r.Snapshot.Expires, r.Snapshot.Meta, r.Snapshot.Version)
	case tuf.RoleTimestamp:
		r.Timestamp.Snapshot = tuf.MetaOf(r.File(tuf.RoleSnapshot))
		meta := map[tuf.RoleName]tuf.FileMeta{tuf.RoleSnapshot: r.Timestamp.Snapshot}
		v = encodeMeta("Timestamp", r.Timestamp.Expires, meta, r.Timestamp.Version)
	default:
		if r.Targets[role] == nil {
			r.tb.Fatalf("tuftest: no %s in the repository", role)
		}
		v = encodeTargets(r.Targets[role])
	}
	raw, err := json.Marshal(v)
	must(r.tb, err)
	// Once through a map: that sorts the members, as the clients do.
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	signed := map[string]any{}
	must(r.tb, d.Decode(&signed))
	if edit := r.Edit[role]; edit != nil {
		edit(signed)
	}
	raw, err = json.Marshal(signed)
	must(r.tb, err)
	return raw
}

func (r *Repo) meta() map[tuf.RoleName]tuf.FileMeta {
	r.tb.Helper()
	meta := map[tuf.RoleName]tuf.FileMeta{tuf.RoleRoot: tuf.MetaOf(r.File(tuf.RoleRoot))}
	for role := range r.Targets {
		meta[role] = tuf.MetaOf(r.File(role))
	}
	return meta
}
