package admin

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// A keyring knows all keys that were ever listed for a role, by any stored root
// or targets file that is genuine itself. An old file is genuine if it meets any
// of these lists: which one was in force when it was stored is not on record.
type keyring struct {
	gun   tuf.GUN
	lists map[tuf.RoleName][]tuf.Authority // different ones, newest first
	seen  map[[sha256.Size]byte]bool
	whole bool // no root is missing or damaged, see rootsWhole
}

func newKeyring(gun tuf.GUN) keyring {
	return keyring{gun: gun, lists: map[tuf.RoleName][]tuf.Authority{}, seen: map[[sha256.Size]byte]bool{}}
}

// addRoot learns from a root, if it is one of this repository.
func (k *keyring) addRoot(f storage.FileRow) {
	env, err := tuf.ParseEnvelope(f.Data)
	if err != nil {
		return
	}
	if verdict, _, _ := k.judgeRoot(env); verdict != genuine {
		return
	}
	root, err := env.Root()
	if err != nil {
		return
	}
	for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		k.add(role, root.Authority(role))
	}
}

// addTargets learns whom a targets file delegates to.
func (k *keyring) addTargets(t *tuf.Targets) {
	for i, d := range t.Delegations.Roles {
		k.add(d.Name, t.DelegationAt(i))
	}
}

func (k *keyring) add(role tuf.RoleName, a tuf.Authority) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d", role, a.Threshold)
	for _, id := range a.KeyIDs {
		fmt.Fprintf(h, " %q %q %x", id, a.Keys[id].Type, a.Keys[id].Public)
	}
	if sum := [sha256.Size]byte(h.Sum(nil)); !k.seen[sum] {
		k.seen[sum] = true
		k.lists[role] = slices.Insert(k.lists[role], 0, a)
	}
}

// judge says whether env is genuine as a file of role; if it is refuted, with
// what class and words. Whether the keyring is whole is not asked here.
func (k *keyring) judge(role tuf.RoleName, env *tuf.Envelope) (verdict, Class, string) {
	if len(env.Signatures) == 0 {
		return refuted, ClassUnsigned, "nobody has signed it"
	}
	if role == tuf.RoleRoot {
		return k.judgeRoot(env)
	}
	listed := false
	var why error
	for _, a := range k.lists[role] {
		if !slices.ContainsFunc(env.Signatures, func(s tuf.Signature) bool { return slices.Contains(a.KeyIDs, s.KeyID) }) {
			continue
		}
		err := env.Verify(role, a)
		if err == nil {
			return genuine, "", ""
		}
		listed, why = true, err
	}
	if listed {
		return refuted, ClassSignature, why.Error()
	}
	return refuted, ClassForeign, fmt.Sprintf("it is signed by keys that were never listed for %s here (%s): it may be another repository's", role, signers(env))
}

// judgeRoot checks the root's own signature. Its certificates may have expired.
func (k *keyring) judgeRoot(env *tuf.Envelope) (verdict, Class, string) {
	if len(env.Signatures) == 0 {
		return refuted, ClassUnsigned, "nobody has signed it"
	}
	root, err := env.Root()
	if err != nil {
		return unproven, "", ""
	}
	own, err := root.LeafAuthority(k.gun, time.Time{}, false)
	if err != nil {
		if name := otherName(root); name != "" {
			return refuted, ClassGUN, fmt.Sprintf("it is the root of %q", name)
		}
		return unproven, "", ""
	}
	if err := env.Verify(tuf.RoleRoot, own); err == nil {
		return genuine, "", ""
	}
	if slices.ContainsFunc(env.Signatures, func(s tuf.Signature) bool { return slices.Contains(own.KeyIDs, s.KeyID) }) {
		return refuted, ClassSignature, "it is not signed by the keys that it lists"
	}
	// Clients drop CA certificates that have expired before they make the ID of a
	// bundle, so an ID that is not ours proves nothing.
	return unproven, "", ""
}

// otherName is the common name of a root's certificate.
func otherName(root *tuf.Root) string {
	for _, id := range root.Roles[tuf.RoleRoot].KeyIDs {
		block, _ := pem.Decode(root.Keys[id].Public)
		if block == nil {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return c.Subject.CommonName
		}
	}
	return ""
}

func signers(env *tuf.Envelope) string {
	var ids []string
	for _, s := range env.Signatures {
		ids = append(ids, fmt.Sprintf("%.12s", s.KeyID))
	}
	if len(ids) > 3 {
		ids = append(ids[:3], "…")
	}
	return strings.Join(ids, ", ")
}

// judgeRows decides what can only be said when all rows are known, and reports.
func (in *inspection) judgeRows() {
	order := make([]int, len(in.rows))
	for i := range order {
		order[i] = i
	}
	// Parents first: whether a child can be judged depends on them.
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := in.rows[a].Role, in.rows[b].Role
		if c := rankRole(x) - rankRole(y); c != 0 {
			return c
		}
		return x.Depth() - y.Depth()
	})
	in.rootsWhole()
	for _, i := range order {
		r := &in.rows[i]
		in.decide(r)
		if r.class != "" {
			in.faulty[r.Role] = in.faulty[r.Role] || faultClass(r.class)
			in.add(r.class, Finding{Role: r.Role, Version: r.Version, Row: r.ID, Text: r.text})
		}
	}
}

// decide settles the class of a row.
func (in *inspection) decide(r *inspectedRow) {
	if roles := in.named.roles[r.sum]; len(roles) > 0 && !slices.Contains(roles, r.Role) {
		r.class, r.text = ClassRole, fmt.Sprintf("it is the file that this repository names as its %s", roles[0])
		return
	}
	switch r.class {
	case ClassChecksum:
		in.decideChecksum(r)
	case ClassUnread:
		if in.named.current[r.sum] {
			r.class = ClassMalformed
		}
	case ClassSignature, ClassForeign:
		if !in.provable(r) {
			r.class, r.text, r.proven = r.other, r.otherText, unproven
		}
	}
	if r.proven == unproven && r.class == "" {
		in.undecided++
	}
}

// decideChecksum says which of the two is wrong, the column or the bytes.
func (in *inspection) decideChecksum(r *inspectedRow) {
	column, err := tuf.ParseChecksum(r.SHA256)
	_, bytesNamed := in.named.roles[r.sum]
	_, columnNamed := in.named.roles[column]
	if r.Role == tuf.RoleTimestamp {
		for _, c := range in.feed {
			bytesNamed = bytesNamed || c.SHA256 == r.sum.String()
			columnNamed = columnNamed || c.SHA256 == r.SHA256
		}
	}
	columnNamed = columnNamed && err == nil
	if bytesNamed || !columnNamed && r.proven == genuine {
		r.text = fmt.Sprintf("the column sha256 is %q; the file is genuine, and has %s", r.SHA256, r.sum)
		return
	}
	r.class, r.text = ClassBytes, fmt.Sprintf("the bytes are not those that were stored: their SHA-256 is %s, the column says %q", r.sum, r.SHA256)
}

// provable reports whether all that ever listed the keys of r's role is stored
// and genuine, so that a file that meets none of the lists is none of ours. Roots
// are never pruned, parents of delegations may be; and rows of an earlier life of
// a delegation, that was removed and revived, go.
func (in *inspection) provable(r *inspectedRow) bool {
	if r.Role == tuf.RoleRoot {
		return true
	}
	if !r.Role.IsDelegation() {
		return in.keys.whole
	}
	return in.keys.whole && in.complete(r.Role.Parent(), r.ID)
}

// complete reports whether all versions of a targets role are stored and
// genuine, from the first on, which was written before row.
func (in *inspection) complete(role tuf.RoleName, row int64) bool {
	versions := map[tuf.Version]bool{}
	highest, begun := tuf.Version(0), false
	for _, r := range in.rows {
		if r.Role != role {
			continue
		}
		if r.class != "" || r.proven != genuine {
			return false
		}
		versions[r.Version] = true
		highest = max(highest, r.Version)
		begun = begun || r.Version == 1 && r.ID < row
	}
	return begun && len(versions) == int(highest)
}

// rootsWhole finds out whether all roots are stored and genuine.
func (in *inspection) rootsWhole() {
	versions, lowest, highest := map[tuf.Version]bool{}, tuf.Version(0), tuf.Version(0)
	stored := map[tuf.Checksum]bool{}
	in.keys.whole = true
	for _, r := range in.rows {
		if r.Role != tuf.RoleRoot {
			continue
		}
		stored[r.sum] = true
		in.keys.whole = in.keys.whole && r.class == "" && r.proven == genuine
		if versions[r.Version] = true; lowest == 0 || r.Version < lowest {
			lowest = r.Version
		}
		highest = max(highest, r.Version)
	}
	if lowest == 0 || lowest > 2 || len(versions) != int(highest-lowest)+1 {
		in.keys.whole = false
	}
	for root := range in.named.roots(in.feed) {
		in.keys.whole = in.keys.whole && stored[root]
	}
}
