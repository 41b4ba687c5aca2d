package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// errMoved: while the check read more of a generation, a newer one took its
// place. The check must begin anew.
var errMoved = fmt.Errorf("reading more of a generation: %w", storage.ErrStale)

// A checked is an upload that has passed every rule. Only check makes one, and
// complete takes nothing else, so that what is not checked cannot be stored.
type checked struct {
	gun  tuf.GUN
	now  time.Time
	base *storage.Generation // nil for a new GUN
	root *tuf.Root           // in force after the publish
	// files are the uploaded root, targets and delegations, in the order of a Set.
	files   []storage.Metadata
	revived []tuf.RoleName
	// fresh are the keys that an uploaded root lists for roles of the server,
	// and the stored root did not.
	fresh []listedKey
	// snapshot is the client's; nil if the server makes it, over meta.
	snapshot *storage.Metadata
	meta     map[tuf.RoleName]tuf.FileMeta
}

// A check is one look at an upload beside the generation it would replace.
type check struct {
	gun tuf.GUN
	now time.Time
	up  *upload

	base         *storage.Generation // nil for a new GUN
	prev         *tuf.Root           // the stored root; nil for a new GUN
	prevOutdated bool                // its certificates have expired: no client takes it

	root *tuf.Root // in force afterwards
	// after holds the targets files of the repository as it will be, so far as
	// they are known: uploaded, or stored ancestors of what is uploaded. Each
	// has been verified against its parent.
	after map[tuf.RoleName]*parent
	// before holds stored files that are replaced by uploaded ones, or whose
	// delegations are in question, so far as they were read. They serve to see
	// what changes; nothing trusts them.
	before map[tuf.RoleName]*parent
}

// check holds u to every rule. base is the current generation with the roles
// that u.needs, or nil. First each file is checked for itself, then whether it
// comes too late, then the repository as it would be afterwards: the loser of a
// race shall hear that he lost, not that his files do not fit the winner's.
func (p *Publisher) check(ctx context.Context, gun tuf.GUN, u *upload, base *storage.Generation, now time.Time) (*checked, error) {
	c := &check{
		gun: gun, now: now, up: u, base: base,
		after:  map[tuf.RoleName]*parent{},
		before: map[tuf.RoleName]*parent{},
	}
	if base != nil {
		if err := c.loadBase(); err != nil {
			return nil, p.damaged(ctx, gun, err)
		}
	}
	for _, step := range []func(context.Context) error{c.checkRoot, c.checkTargets, c.checkSnapshot, c.checkVersions, c.checkStoredTargets} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	done := &checked{gun: gun, now: now, base: base, root: c.root}
	meta, look, err := c.namesAfter(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.checkStored(ctx, c, look); err != nil {
		return nil, err
	}
	c.collect(done, meta)
	return done, nil
}

// collect puts the uploaded files into done.
func (c *check) collect(done *checked, meta map[tuf.RoleName]tuf.FileMeta) {
	add := func(role tuf.RoleName) storage.Metadata {
		f := c.up.files[role]
		return storage.NewMetadata(role, tuf.Version(f.env.Version), f.data)
	}
	if c.up.files[tuf.RoleRoot] != nil {
		done.files = append(done.files, add(tuf.RoleRoot))
		done.fresh = freshKeys(c.prev, c.root)
	}
	for _, role := range c.up.targets {
		done.files = append(done.files, add(role))
		if c.base != nil && role.IsDelegation() && !c.alive(role) {
			done.revived = append(done.revived, role)
		}
	}
	if c.up.snapshot != nil {
		s := add(tuf.RoleSnapshot)
		done.snapshot = &s
	} else {
		done.meta = meta
	}
}

// loadBase parses and verifies what everything else leans on: the stored root
// and the stored snapshot. Whoever can write to the database could otherwise
// have the server sign a snapshot of his own choice. The error means that what
// is stored is not what was published.
func (c *check) loadBase() error {
	b, err := loadBase(c.gun, c.base, c.now)
	if err != nil {
		return err
	}
	c.prev, c.prevOutdated = b.root, b.outdated
	for _, role := range c.up.targets {
		c.remember(c.base, role)
	}
	return nil
}

// remember keeps what a stored file delegates to. If it cannot be read, its
// children are looked at as if nothing were known of it.
func (c *check) remember(gen *storage.Generation, role tuf.RoleName) {
	f, ok := gen.Files[role]
	if !ok {
		return
	}
	if env, err := tuf.ParseEnvelope(f.Data); err == nil {
		if t, err := env.Targets(role); err == nil {
			c.before[role] = newParent(t)
		}
	}
}

// A loaded is a stored generation whose root and snapshot have been verified.
type loaded struct {
	root *tuf.Root
	// outdated: no certificate of root is good any more at the time of loading.
	outdated bool
}

func loadBase(gun tuf.GUN, base *storage.Generation, now time.Time) (*loaded, error) {
	if base.Snapshot == nil {
		return nil, errors.New("the snapshot was not read")
	}
	env, err := storedFile(base, tuf.RoleRoot)
	if err != nil {
		return nil, err
	}
	b := new(loaded)
	if b.root, err = env.Root(); err != nil {
		return nil, fmt.Errorf("stored root: %w", err)
	}
	if b.outdated, err = verifyStoredRoot(env, b.root, gun, now); err != nil {
		return nil, fmt.Errorf("stored root: %w", err)
	}
	snapshot, ok := base.Files[tuf.RoleSnapshot]
	if !ok {
		return nil, errors.New("the stored snapshot is missing")
	}
	if env, err = tuf.ParseEnvelope(snapshot.Data); err == nil {
		err = env.Verify(tuf.RoleSnapshot, b.root.Authority(tuf.RoleSnapshot))
	}
	if err != nil {
		return nil, fmt.Errorf("stored snapshot: %w", err)
	}
	return b, nil
}

// verifyStoredRoot verifies that root is what its own certificates signed. It
// reports whether that holds only if one does not ask for their dates.
func verifyStoredRoot(env *tuf.Envelope, root *tuf.Root, gun tuf.GUN, now time.Time) (outdated bool, err error) {
	if a, err := root.LeafAuthority(gun, now, true); err == nil && env.Verify(tuf.RoleRoot, a) == nil {
		return false, nil
	}
	a, err := root.LeafAuthority(gun, now, false)
	if err != nil {
		return false, err
	}
	return true, env.Verify(tuf.RoleRoot, a)
}

// storedFile parses a file of base that the snapshot of base vouches for.
func storedFile(base *storage.Generation, role tuf.RoleName) (*tuf.Envelope, error) {
	f, ok := base.Files[role]
	if !ok {
		return nil, fmt.Errorf("the stored %s is missing", role)
	}
	if err := base.Snapshot.Meta[role].Check(role, f.Data); err != nil {
		return nil, fmt.Errorf("stored %s: %w", role, err)
	}
	env, err := tuf.ParseEnvelope(f.Data)
	if err != nil {
		return nil, fmt.Errorf("stored %s: %w", role, err)
	}
	return env, nil
}

func (c *check) checkRoot(context.Context) error {
	f := c.up.files[tuf.RoleRoot]
	if f == nil {
		if c.prev == nil {
			return reject(KindValidation, "no pre-existing root and no root provided in update.")
		}
		// That its TUF expiry is past does not matter: its owner can still mend it.
		if c.prevOutdated {
			return reject(KindBadRoot, "the certificate of the root stored on the server has expired, so that no client trusts it: "+
				"publish a root with a new certificate first (notary key rotate %.255s root)", c.gun)
		}
		c.root = c.prev
		return nil
	}
	// Two first publishes at once bring roots that have nothing in common. Who
	// comes second has lost a race; he did not try to take the GUN over.
	if c.up.raced && c.prev != nil && f.env.Version <= int64(c.prev.Version) {
		return c.conflict(tuf.RoleRoot)
	}
	// VerifyRoot asks the same, but of a root whose structure is sound already.
	current := int64(1)
	if c.prev != nil {
		current = int64(c.prev.Version)
	}
	if f.env.Version != current && f.env.Version != current+1 {
		return reject(KindBadRoot, "Root modifications must increment the version. Current %d, new %d", current, f.env.Version)
	}
	root, err := f.env.Root()
	if err == nil {
		err = tuf.VerifyRoot(f.env, root, c.prev, c.gun, c.now)
	}
	if err != nil {
		return reject(KindBadRoot, "%v", err)
	}
	c.root = root
	return nil
}

func (c *check) checkTargets(ctx context.Context) error {
	for _, role := range c.up.targets {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("checking %s of %s: %w", role, c.gun, err)
		}
		if err := c.checkTarget(role, c.up.files[role]); err != nil {
			return err
		}
		c.after[role] = newParent(c.up.files[role].targets)
	}
	return nil
}

// checkTarget checks uploaded targets or an uploaded delegation. The order of
// the checks, which decides about the text, is upstream's.
func (c *check) checkTarget(role tuf.RoleName, f *file) error {
	authority, err := c.authority(role)
	if err != nil {
		return err
	}
	if f.env.Version > int64(tuf.MaxVersion) {
		return c.conflict(role)
	}
	err = f.env.Verify(role, authority)
	if err == nil || role.IsDelegation() {
		f.view(role)
	}
	if role.IsDelegation() && f.viewErr != nil {
		return reject(KindBadTargets, "%v", f.viewErr)
	}
	if err != nil {
		return reject(KindBadTargets, "%v", err)
	}
	if f.viewErr != nil {
		return reject(KindBadTargets, "%v", f.viewErr)
	}
	if err := tuf.CheckExpiry(role, f.targets.Expires, c.now); err != nil {
		return reject(KindBadTargets, "%v", err)
	}
	return nil
}

// authority returns who must sign role, after this publish. Ancestors that are
// not uploaded are loaded from the base and verified.
func (c *check) authority(role tuf.RoleName) (tuf.Authority, error) {
	if role == tuf.RoleTargets {
		return c.root.Authority(role), nil
	}
	parent, err := c.ancestor(role.Parent())
	if err != nil {
		return tuf.Authority{}, err
	}
	if parent != nil {
		if a, ok := parent.Delegation(role); ok {
			return a, nil
		}
	}
	return tuf.Authority{}, reject(KindBadTargets, "tuf: invalid role %s. delegation does not exist", role)
}

// ancestor returns targets or a delegation as it will be after the publish, or
// nil if there is none. Of a stored one the expiry does not matter, for else
// nobody below it could publish until its owner has signed it anew.
func (c *check) ancestor(role tuf.RoleName) (*parent, error) {
	if t := c.after[role]; t != nil {
		return t, nil
	}
	if c.base == nil || !named(c.base.Snapshot, role) {
		if role == tuf.RoleTargets {
			return nil, reject(KindBadTargets, "targets must be loaded first")
		}
		return nil, nil
	}
	authority, err := c.authority(role)
	if err != nil {
		return nil, err
	}
	env, err := storedFile(c.base, role)
	if err != nil {
		return nil, reject(KindBadTargets, "%v", err)
	}
	t, err := env.Targets(role)
	if err == nil {
		err = env.Verify(role, authority)
	}
	if err != nil {
		return nil, unvouched(role, err)
	}
	c.after[role] = newParent(t)
	return c.after[role], nil
}

// unvouched rejects a publish after which a stored file would be signed by keys
// that no longer count.
func unvouched(role tuf.RoleName, cause error) *Rejection {
	if role == tuf.RoleTargets {
		return reject(KindBadTargets, "the targets stored on the server are not signed by the keys that root lists: %v. "+
			"Publish targets, signed by these, together with root", cause)
	}
	return reject(KindBadTargets, "%s as stored on the server would no longer be signed by the keys that its parent lists: %v. "+
		"Have it signed again, before or in the same publish (notary witness), or remove the delegation first", role, cause)
}

// checkSnapshot checks an uploaded snapshot for itself, and that it is right
// about what is uploaded with it.
func (c *check) checkSnapshot(context.Context) error {
	f := c.up.files[tuf.RoleSnapshot]
	if f == nil {
		return nil
	}
	if f.env.Version > int64(tuf.MaxVersion) {
		return c.conflict(tuf.RoleSnapshot)
	}
	if err := f.env.Verify(tuf.RoleSnapshot, c.root.Authority(tuf.RoleSnapshot)); err != nil {
		return reject(KindBadSnapshot, "%v", err)
	}
	if f.viewErr != nil {
		return reject(KindBadSnapshot, "%v", f.viewErr)
	}
	if err := tuf.CheckExpiry(tuf.RoleSnapshot, c.up.snapshot.Expires, c.now); err != nil {
		return reject(KindBadSnapshot, "%v", err)
	}
	roles := c.up.targets
	if c.up.files[tuf.RoleRoot] != nil {
		roles = append([]tuf.RoleName{tuf.RoleRoot}, roles...)
	}
	for _, role := range roles {
		m := c.up.snapshot.Meta[role]
		if err := m.Check(role, c.up.files[role].data); err != nil {
			return reject(KindBadSnapshot, "%v", err)
		}
		if err := findable(role, m); err != nil {
			return err
		}
	}
	return nil
}

// findable: clients ask for files by their SHA-256.
func findable(role tuf.RoleName, m tuf.FileMeta) error {
	if _, ok := m.Hashes["sha256"]; !ok {
		return reject(KindBadSnapshot, "snapshot type metadata invalid: missing %.255s sha256 checksum information", role)
	}
	return nil
}

// checkVersions tells who comes too late, so far as the files that were read
// show it; for all others the store does. Without it the rules below would
// blame the client for what others published in between.
func (c *check) checkVersions(context.Context) error {
	if c.base == nil {
		return nil
	}
	if s := c.up.snapshot; s != nil && s.Version <= c.base.Snapshot.Version {
		return c.conflict(tuf.RoleSnapshot)
	}
	for role, f := range c.up.files {
		stored, ok := c.base.Files[role]
		if ok && role != tuf.RoleSnapshot && f.env.Version <= int64(stored.Version) && (!role.IsDelegation() || c.alive(role)) {
			return c.conflict(role)
		}
	}
	return nil
}

func (c *check) conflict(role tuf.RoleName) error {
	return fmt.Errorf("checking version %d of %s of %s: %w", c.up.files[role].env.Version, role, c.gun, storage.ErrVersionConflict)
}

// checkStoredTargets: a new root must vouch for the targets that stay.
func (c *check) checkStoredTargets(context.Context) error {
	if c.base == nil || c.up.files[tuf.RoleRoot] == nil || c.up.files[tuf.RoleTargets] != nil {
		return nil
	}
	_, err := c.ancestor(tuf.RoleTargets)
	return err
}

// alive reports whether the base generation names role and delegates to it. A
// file that upstream's server has kept in the snapshot, although its parent
// had dropped the delegation, is not alive. What was not read counts as alive.
func (c *check) alive(role tuf.RoleName) bool {
	if !named(c.base.Snapshot, role) {
		return false
	}
	parent := role.Parent()
	if parent == "" {
		return true
	}
	t := c.before[parent]
	if t == nil && c.up.files[parent] == nil {
		t = c.after[parent]
	}
	if t != nil && !t.delegates(role) {
		return false
	}
	return c.alive(parent)
}

func named(s *tuf.Snapshot, role tuf.RoleName) bool {
	_, ok := s.Meta[role]
	return ok
}
