package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"countersign/storage"
	"countersign/tuf"
)

// TagsConfig says which tags.
type TagsConfig struct {
	GUN  tuf.GUN
	Role tuf.RoleName // only what it signs; "" for all roles
	// All lists what does not verify, too.
	All bool
}

// A Tag is a name and what it stands for, signed by one role or several that
// agree.
type Tag struct {
	Tag      string         `json:"tag"`
	SHA256   string         `json:"sha256"` // "" if none is named
	Size     int64          `json:"size"`   // of the manifest, in bytes
	SignedBy []tuf.RoleName `json:"signed_by"`
	// Verifies: a client that asks one of these roles accepts it.
	Verifies bool   `json:"verifies"`
	Why      string `json:"why,omitempty"` // it does not
}

// A signedTag is a Tag of one role.
type signedTag struct {
	name   string
	hash   []byte
	size   int64
	role   tuf.RoleName
	faulty string // why it does not verify
}

// Tags calls f for each tag of a repository, sorted by name and checksum. A
// name that two roles sign with different checksums is two tags. It reports how
// many it left out because they do not verify. It holds the tags of the one
// repository. The error wraps storage.ErrNotFound if there is no such repository
// or role.
func (s *Site) Tags(ctx context.Context, c TagsConfig, f func(Tag) error) (left int, err error) {
	r, err := s.Show(ctx, c.GUN)
	if err != nil {
		return 0, err
	}
	if c.Role != "" {
		role := r.role(c.Role)
		if role == nil || c.Role != tuf.RoleTargets && !c.Role.IsDelegation() {
			return 0, fmt.Errorf("%w: %.300q has no role %.300q that signs tags", storage.ErrNotFound, c.GUN, c.Role)
		}
	}
	var list []signedTag
	for _, role := range r.Roles {
		if c.Role == "" || role.Role == c.Role {
			list = role.appendTags(list)
		}
	}
	slices.SortStableFunc(list, func(a, b signedTag) int {
		return cmp.Or(cmp.Compare(a.name, b.name), bytes.Compare(a.hash, b.hash), cmp.Compare(a.size, b.size), cmp.Compare(a.faulty, b.faulty))
	})
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].name == list[0].name && bytes.Equal(list[n].hash, list[0].hash) &&
			list[n].size == list[0].size && list[n].faulty == list[0].faulty {
			n++
		}
		tag := Tag{Tag: list[0].name, SHA256: hex.EncodeToString(list[0].hash), Size: list[0].size, Verifies: list[0].faulty == "", Why: list[0].faulty}
		for _, one := range list[:n] {
			tag.SignedBy = append(tag.SignedBy, one.role)
		}
		list = list[n:]
		if !tag.Verifies && !c.All {
			left++
			continue
		}
		if err := f(tag); err != nil {
			return left, err
		}
	}
	return left, nil
}

// appendTags adds the tags that the file of r names. Of a file whose signatures
// are not good they are what it says, and no more.
func (r *RoleState) appendTags(list []signedTag) []signedTag {
	if r.content == nil {
		return list
	}
	files := r.content.Files()
	list = slices.Grow(list, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t := signedTag{name: name, hash: files[name].Hashes["sha256"], size: files[name].Length, role: r.Role}
		switch {
		case !r.Verifies:
			t.faulty = fmt.Sprintf("%s does not verify", r.Role)
		case !allows(r.allowed, name):
			t.faulty = fmt.Sprintf("%s may not sign this name: it is in none of its paths", r.Role)
		}
		list = append(list, t)
	}
	return list
}
