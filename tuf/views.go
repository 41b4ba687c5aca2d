package tuf

import (
	"errors"
	"fmt"
	"slices"

	"countersign/tuf/cjson"
)

// Names of the hashes that every file is checked with.
const (
	sha256Name = "sha256"
	sha512Name = "sha512"
)

// Root decodes the signed part as that of root.json and checks its structure:
// type, version, the four base roles, and that each key a base role lists is
// there. It checks neither signatures nor certificates ([VerifyRoot]) nor
// expiry.
func (e *Envelope) Root() (*Root, error) {
	version, err := e.header(RoleRoot, "Root", "1")
	if err != nil {
		return nil, err
	}
	root := &Root{Version: version, Expires: e.Expires}
	if err := e.readRoot(root); err != nil {
		return nil, invalid(RoleRoot, "%w", err)
	}
	for _, name := range BaseRoles {
		role, ok := root.Roles[name]
		if !ok {
			return nil, invalid(RoleRoot, "missing %s role specification", name)
		}
		if err := checkRole(RoleRoot, name, role, root.Keys); err != nil {
			return nil, err
		}
	}
	return root, nil
}

func (e *Envelope) readRoot(root *Root) (err error) {
	if r := e.member("consistent_snapshot"); r != nil {
		if err := readBool(r); err != nil {
			return fmt.Errorf("consistent_snapshot: %w", err)
		}
	}
	if r := e.member("keys"); r != nil {
		if root.Keys, err = readKeys(r); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	root.Roles = make(map[RoleName]Role)
	if r := e.member("roles"); r != nil {
		if err := readObject(r, func(name []byte) error {
			if err := room(len(root.Roles), MaxRoles, "roles"); err != nil {
				return err
			}
			role, ok, err := readRole(r)
			if ok {
				root.Roles[RoleName(name)] = role
			}
			return err
		}); err != nil {
			return fmt.Errorf("roles: %w", err)
		}
	}
	return nil
}

// checkRole checks a role that file describes.
func checkRole(file, name RoleName, role Role, keys map[KeyID]Key) error {
	if err := checkThreshold(file, name, role); err != nil {
		return err
	}
	for _, id := range role.KeyIDs {
		if _, ok := keys[id]; !ok {
			return invalid(file, "key ID %.80s specified in %s without corresponding key", id, name)
		}
	}
	return nil
}

func checkThreshold(file, name RoleName, role Role) error {
	if role.Threshold < 1 {
		return invalid(file, "invalid threshold specified for %s: %d ", name, role.Threshold)
	}
	return nil
}

// Authority returns who must sign the file of a base role, with the keys as
// root lists them. For the root role itself see [Root.LeafAuthority].
func (r *Root) Authority(role RoleName) Authority { return authority(r.Roles[role], r.Keys) }

func authority(role Role, keys map[KeyID]Key) Authority {
	a := Authority{Role: role, Keys: make(map[KeyID]Key, len(role.KeyIDs))}
	for _, id := range role.KeyIDs {
		if k, ok := keys[id]; ok {
			a.Keys[id] = k
		}
	}
	return a
}

// Targets decodes the signed part as that of targets.json, or of the
// delegation with that name, and checks its structure: type, version, and that
// each role it delegates to is a direct child whose keys are there.
func (e *Envelope) Targets(name RoleName) (*Targets, error) {
	if name != RoleTargets && !name.IsDelegation() {
		//lint:ignore ST1005 upstream's text
		return nil, fmt.Errorf("tuf: invalid role %s.", name)
	}
	version, err := e.header(name, "Targets", "one")
	if err != nil {
		return nil, err
	}
	t := &Targets{Name: name, Version: version, Expires: e.Expires, certs: new(certificates)}
	if r := e.member("targets"); r != nil {
		t.files = e.members["targets"]
		if err := checkFiles(r); err != nil {
			return nil, invalid(name, "targets: %w", err)
		}
	}
	if r := e.member("delegations"); r != nil {
		var unfit error
		t.Delegations, err = readDelegations(r, func(d Delegation) error {
			unfit = checkDelegation(name, d)
			return unfit
		})
		if unfit != nil {
			return nil, unfit
		}
		if err != nil {
			return nil, invalid(name, "delegations: %w", err)
		}
	}
	for _, d := range t.Delegations.Roles { // the keys may have come behind the roles
		if err := checkRole(name, d.Name, d.Role, t.Delegations.Keys); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// checkDelegation checks what a delegation of file says by itself.
func checkDelegation(file RoleName, d Delegation) error {
	if !d.Name.IsDelegation() || d.Name.Parent() != file {
		return invalid(file, "delegation role %.255s invalid", d.Name)
	}
	return checkThreshold(file, d.Name, d.Role)
}

// Delegates reports whether the signed part, as that of a targets file, lists
// any delegation, of whatever form. It costs no memory, unlike [Envelope.Targets].
func (e *Envelope) Delegates() bool {
	r := e.member("delegations")
	if r == nil {
		return false
	}
	found := errors.New("found")
	err := readObject(r, func(name []byte) error {
		if string(name) == "roles" && r.Kind() == cjson.Array {
			return r.Array(func() error { return found })
		}
		_, err := r.Skip()
		return err
	})
	return err == found
}

// Files decodes the files that t lists, by name.
func (t *Targets) Files() map[string]FileMeta {
	if t.files == nil {
		return map[string]FileMeta{}
	}
	// It has been read once, so there is no error.
	files, _ := readFiles[string](cjson.NewReader(t.files), MaxMembers)
	return files
}

// Delegation returns who must sign the file of a direct child. It reports false
// if t does not delegate to name. Of several entries for the same name the
// first counts.
func (t *Targets) Delegation(name RoleName) (Authority, bool) {
	i := slices.IndexFunc(t.Delegations.Roles, func(d Delegation) bool { return d.Name == name })
	if i < 0 {
		return Authority{}, false
	}
	return t.DelegationAt(i), true
}

// DelegationAt returns who must sign the file of t.Delegations.Roles[i].
func (t *Targets) DelegationAt(i int) Authority {
	a := authority(t.Delegations.Roles[i].Role, t.Delegations.Keys)
	a.certs = t.certs
	return a
}

// Snapshot decodes the signed part as that of snapshot.json and checks its
// structure: type, version, and that root and targets have well-formed hashes.
func (e *Envelope) Snapshot() (*Snapshot, error) {
	version, err := e.header(RoleSnapshot, "Snapshot", "one")
	if err != nil {
		return nil, err
	}
	meta, err := e.readMeta(RoleSnapshot, RoleRoot, RoleTargets)
	if err != nil {
		return nil, err
	}
	return &Snapshot{Version: version, Expires: e.Expires, Meta: meta}, nil
}

// Timestamp decodes the signed part as that of timestamp.json and checks its
// structure: type, version, and that the snapshot has well-formed hashes.
func (e *Envelope) Timestamp() (*Timestamp, error) {
	version, err := e.header(RoleTimestamp, "Timestamp", "one")
	if err != nil {
		return nil, err
	}
	meta, err := e.readMeta(RoleTimestamp, RoleSnapshot)
	if err != nil {
		return nil, err
	}
	return &Timestamp{Version: version, Expires: e.Expires, Snapshot: meta[RoleSnapshot]}, nil
}

// readMeta reads "meta", in which the required roles must have a SHA-256.
func (e *Envelope) readMeta(file RoleName, required ...RoleName) (meta map[RoleName]FileMeta, err error) {
	if r := e.member("meta"); r != nil {
		if meta, err = readFiles[RoleName](r, MaxMeta); err != nil {
			return nil, invalid(file, "meta: %w", err)
		}
	}
	for _, role := range required {
		hashes := meta[role].Hashes
		if _, ok := hashes[sha256Name]; !ok {
			return nil, invalid(file, "missing %s sha256 checksum information", role)
		}
		for _, h := range supportedHashes {
			if sum, ok := hashes[h.name]; ok && len(sum) != h.size {
				return nil, invalid(file, "invalid %s checksum information, %s checksum invalid", role, h.name)
			}
		}
	}
	return meta, nil
}
