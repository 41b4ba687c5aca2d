package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"countersign/storage"
	"countersign/tuf"
)

// A look is what must still be found out about stored files that stay.
type look struct {
	signed []tuf.RoleName // are they signed by the keys that their parent lists now?
	hashed []tuf.RoleName // are they what the uploaded snapshot says?
	// omitted are not in the uploaded snapshot: has a parent dropped them?
	omitted []tuf.RoleName
}

// namesAfter goes through the files that the new snapshot names and that are
// not uploaded. It returns what a snapshot made by the server must say, and
// which files must be looked at before that can be said of all of them.
func (c *check) namesAfter(ctx context.Context) (map[tuf.RoleName]tuf.FileMeta, look, error) {
	if c.up.snapshot != nil {
		l, err := c.namesOfClient(ctx)
		return nil, l, err
	}
	if c.base == nil && c.up.files[tuf.RoleTargets] == nil {
		return nil, look{}, reject(KindValidation, "targets must be loaded first")
	}
	meta := map[tuf.RoleName]tuf.FileMeta{}
	if c.base != nil {
		for role, m := range c.base.Snapshot.Meta {
			// Nothing else can be a file; no client looks at it.
			if role == tuf.RoleRoot || role == tuf.RoleTargets || role.IsDelegation() {
				meta[role] = m
			}
		}
	}
	for role, f := range c.up.files {
		meta[role] = tuf.MetaOf(f.data)
	}
	var l look
	for _, role := range slices.SortedFunc(maps.Keys(meta), shallowFirst) {
		if err := ctx.Err(); err != nil {
			return nil, l, fmt.Errorf("checking what stays of %s: %w", c.gun, err)
		}
		if !role.IsDelegation() || c.up.files[role] != nil {
			continue
		}
		switch c.fate(role, named(&tuf.Snapshot{Meta: meta}, role.Parent())) {
		case dropped, orphaned, reborn:
			// Shallow first: what stood below it is dropped in its turn.
			delete(meta, role)
		case rekeyed:
			l.signed = append(l.signed, role)
		}
	}
	return meta, l, nil
}

// A fate is what a publish does to a stored delegation that is not uploaded.
type fate int

const (
	kept     fate = iota // by the same keys, or its parent is not touched
	rekeyed              // its parent lists other keys or another threshold for it
	dropped              // its parent lists it no longer
	reborn               // its parent lists it, but did not before: the file is of an earlier life
	orphaned             // its parent is not there, so that no client gets to it
)

func (c *check) fate(role tuf.RoleName, parentNamed bool) fate {
	parent := role.Parent()
	if !parentNamed {
		return orphaned
	}
	now := c.after[parent]
	if now == nil {
		return kept
	}
	if !now.delegates(role) {
		return dropped
	}
	if c.up.files[parent] == nil {
		return kept
	}
	if !c.alive(role) {
		return reborn
	}
	before := c.before[parent]
	if before != nil && sameEntry(before, now, role) {
		return kept
	}
	return rekeyed
}

// A parent is a targets file, with its delegations indexed: a publish asks for
// each of them, and there may be thousands.
type parent struct {
	*tuf.Targets
	index map[tuf.RoleName]int
}

func newParent(t *tuf.Targets) *parent {
	p := &parent{t, make(map[tuf.RoleName]int, len(t.Delegations.Roles))}
	for i, d := range t.Delegations.Roles {
		if _, ok := p.index[d.Name]; !ok { // of several entries the first counts
			p.index[d.Name] = i
		}
	}
	return p
}

func (p *parent) delegates(role tuf.RoleName) bool {
	_, ok := p.index[role]
	return ok
}

// Delegation is that of tuf.Targets, by the index.
func (p *parent) Delegation(role tuf.RoleName) (tuf.Authority, bool) {
	i, ok := p.index[role]
	if !ok {
		return tuf.Authority{}, false
	}
	return p.DelegationAt(i), true
}

// sameEntry reports whether x and y let the same keys sign role. It compares
// their content: an ID is only what the file calls a key.
func sameEntry(x, y *parent, role tuf.RoleName) bool {
	i, ok := x.index[role]
	j, ok2 := y.index[role]
	if !ok || !ok2 {
		return false
	}
	a, b := x.Delegations.Roles[i], y.Delegations.Roles[j]
	if a.Threshold != b.Threshold || !slices.Equal(a.KeyIDs, b.KeyIDs) {
		return false // in another order: then the file is looked at, and found good
	}
	return !slices.ContainsFunc(a.KeyIDs, func(id tuf.KeyID) bool {
		k, l := x.Delegations.Keys[id], y.Delegations.Keys[id]
		return k.Type != l.Type || !bytes.Equal(k.Public, l.Public)
	})
}

// namesOfClient checks an uploaded snapshot: what it names and what is not
// uploaded must be the file of the current generation, and what it leaves out
// must be what no delegation leads to any more.
func (c *check) namesOfClient(ctx context.Context) (look, error) {
	l := look{omitted: c.omissions()}
	after := c.up.snapshot
	for _, role := range slices.SortedFunc(maps.Keys(after.Meta), shallowFirst) {
		if err := ctx.Err(); err != nil {
			return l, fmt.Errorf("checking what stays of %s: %w", c.gun, err)
		}
		if c.up.files[role] != nil && role != tuf.RoleSnapshot {
			continue
		}
		m := after.Meta[role]
		same, err := c.sameFile(role, m)
		if err != nil {
			return l, err
		}
		if !same {
			l.hashed = append(l.hashed, role)
		}
		if !role.IsDelegation() {
			continue
		}
		switch c.fate(role, named(after, role.Parent())) {
		case rekeyed, reborn:
			l.signed = append(l.signed, role)
		case dropped:
			// Where upstream's server once dropped it, the clients' snapshots
			// have carried it along since, and can do no other.
			if c.alive(role) {
				return l, reject(KindBadSnapshot, "it names %s, to which %s no longer delegates", role, role.Parent())
			}
		}
		// An orphan stays: the client that removes a delegation does not
		// remove what stood below it, and no reader gets there.
	}
	return l, nil
}

// omissions lists the delegations that the uploaded snapshot leaves out,
// although their parents, so far as they were read, list them on. Whoever has
// the snapshot key alone could otherwise leave one out, and bring it back in
// his next publish, at any version that it once had, as one that begins anew.
func (c *check) omissions() (list []tuf.RoleName) {
	if c.base == nil {
		return nil
	}
	after := c.up.snapshot
	for role := range c.base.Snapshot.Meta {
		if !role.IsDelegation() || c.up.files[role] != nil || named(after, role) {
			continue
		}
		if f := c.fate(role, named(after, role.Parent())); f == kept || f == rekeyed {
			list = append(list, role)
		}
	}
	slices.SortFunc(list, shallowFirst)
	return list
}

// unread lists the stored files above roles of which it is not known whether
// they delegate.
func (c *check) unread(roles []tuf.RoleName) (list []tuf.RoleName) {
	seen := map[tuf.RoleName]bool{}
	for _, role := range roles {
		for p := role.Parent(); p != "" && !seen[p]; p = p.Parent() {
			seen[p] = true
			if c.before[p] == nil && c.after[p] == nil && named(c.base.Snapshot, p) {
				list = append(list, p)
			}
		}
	}
	return list
}

// checkOmissions refuses to leave out what is alive, now that what stands above
// it has been read.
func (c *check) checkOmissions(gen *storage.Generation, omitted []tuf.RoleName) error {
	for _, p := range c.unread(omitted) {
		c.remember(gen, p)
	}
	for _, role := range omitted {
		if c.alive(role) {
			return reject(KindBadSnapshot, "it does not name %s, which is stored on the server, and to which %s delegates: "+
				"name it, or remove the delegation in the same publish", role, role.Parent())
		}
	}
	return nil
}

// sameFile compares what the uploaded snapshot says of a file that is not
// uploaded with what the current one says. It returns false if they do not
// contradict each other, but only the bytes can tell.
func (c *check) sameFile(role tuf.RoleName, m tuf.FileMeta) (bool, error) {
	if err := findable(role, m); err != nil {
		return false, err
	}
	if c.base == nil || !named(c.base.Snapshot, role) {
		return false, reject(KindBadSnapshot, "it names %.255s, which is neither uploaded nor stored on the server", role)
	}
	stored := c.base.Snapshot.Meta[role]
	if !bytes.Equal(m.Hashes["sha256"], stored.Hashes["sha256"]) {
		return false, reject(KindBadSnapshot, "it names another version of %.255s than the current one, without its being uploaded: "+
			"sha256 %x instead of %x", role, cutBytes(m.Hashes["sha256"]), cutBytes(stored.Hashes["sha256"]))
	}
	return m.Length == stored.Length && bytes.Equal(m.Hashes["sha512"], stored.Hashes["sha512"]), nil
}

func cutBytes(b []byte) []byte { return b[:min(len(b), 32)] }

// checkStored answers l. It costs a second read, in the rare case that keys of
// a delegation change or a client counts in another way.
func (p *Publisher) checkStored(ctx context.Context, c *check, l look) error {
	if p.cfg.AllowUnvouched {
		l.signed = nil
	}
	roles := slices.Concat(l.signed, l.hashed, c.unread(l.omitted))
	if len(roles) == 0 {
		return c.checkOmissions(c.base, l.omitted)
	}
	slices.Sort(roles)
	gen, err := p.cfg.Store.Generation(ctx, c.gun, slices.Compact(roles)...)
	switch {
	case errors.Is(err, storage.ErrDamaged):
		return p.damaged(ctx, c.gun, err)
	case errors.Is(err, storage.ErrNotFound):
		return errMoved // deleted in between
	case err != nil:
		return fmt.Errorf("loading delegations of %s: %w", c.gun, err)
	case gen.Timestamp.Checksum != c.base.Timestamp.Checksum:
		return errMoved
	}
	if err := c.checkOmissions(gen, l.omitted); err != nil {
		return err
	}
	for _, role := range l.hashed {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("checking %s of %s: %w", role, c.gun, err)
		}
		f, ok := gen.Files[role]
		if !ok {
			return reject(KindBadSnapshot, "it names %.255s, which is not stored on the server", role)
		}
		if err := c.up.snapshot.Meta[role].Check(role, f.Data); err != nil {
			return reject(KindBadSnapshot, "%v", err)
		}
	}
	for _, role := range l.signed {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("checking %s of %s: %w", role, c.gun, err)
		}
		if err := c.stillSigned(gen, role); err != nil {
			return err
		}
	}
	return nil
}

// stillSigned checks that the stored file of a delegation meets the entry that
// its uploaded parent has for it, unless it did not meet the former one either.
// Upstream's server has let that happen, and its owner must be able to give the
// delegation new keys before somebody signs it with them.
func (c *check) stillSigned(gen *storage.Generation, role tuf.RoleName) error {
	env, err := storedFile(gen, role)
	if err != nil {
		return reject(KindBadTargets, "%v", err)
	}
	authority, ok := c.after[role.Parent()].Delegation(role)
	if !ok { // it was listed when its fate was decided
		return reject(KindBadTargets, "tuf: invalid role %s. delegation does not exist", role)
	}
	cause := env.Verify(role, authority)
	if cause == nil {
		return nil
	}
	if before := c.before[role.Parent()]; before != nil {
		if former, ok := before.Delegation(role); ok && env.Verify(role, former) != nil {
			return nil
		}
	}
	return unvouched(role, cause)
}
