package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// A Stumble is what a client that walks a repository would stumble over. It is
// an error whose text begins with the name of the role.
type Stumble struct {
	Role tuf.RoleName
	// Version is that of an older root, or 0 for the current file of the role.
	Version tuf.Version
	// Sum is the SHA-256 by which the file above names this one, if it does.
	Sum  tuf.Checksum
	Kind StumbleKind
	Err  error
}

// A StumbleKind is the kind of a Stumble.
type StumbleKind string

// The kinds.
const (
	StumbleMissing   StumbleKind = "missing"   // named, but not stored
	StumbleMismatch  StumbleKind = "mismatch"  // stored, but not as named
	StumbleMalformed StumbleKind = "malformed" // cannot be read
	StumbleVersion   StumbleKind = "version"   // stored under another version than its own
	StumbleSignature StumbleKind = "signature" // not signed by who must sign it
	StumbleChain     StumbleKind = "chain"     // an older root does not lead to the next
	StumbleExpired   StumbleKind = "expired"   // or a root without a certificate that is good today
	StumbleName      StumbleKind = "name"      // the snapshot names what is no role
)

// Error implements error.
func (s Stumble) Error() string { return fmt.Sprintf("%s: %v", s.Role, s.Err) }

// Unwrap returns Err.
func (s Stumble) Unwrap() error { return s.Err }

// Fsck is Walk for those who want one error: all that a client would stumble
// over, joined.
func Fsck(ctx context.Context, store storage.MetadataStore, gun tuf.GUN, now time.Time) error {
	stumbles, err := Walk(ctx, store, gun, now)
	if err != nil {
		return err
	}
	var faults []error
	for _, s := range stumbles {
		faults = append(faults, s)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("checking %s: %w", gun, err)
	}
	return nil
}

// Walk walks gun as a client does that knows nothing of it: from the timestamp
// to the snapshot, root, targets and every delegation that the snapshot names,
// each by the hash in the file above. Everything must be there, of the length
// and the hashes named, signed by who must sign it, and not expired at now; each
// root must be signed by the one before it. All that is not so is returned.
//
// The error is about the walk itself: the store could not be asked, or, wrapping
// storage.ErrNotFound or storage.ErrDamaged, there is no timestamp to begin at.
func Walk(ctx context.Context, store storage.MetadataStore, gun tuf.GUN, now time.Time) ([]Stumble, error) {
	gen, err := store.Generation(ctx, gun)
	if err != nil {
		return nil, fmt.Errorf("checking %s: loading the timestamp: %w", gun, err)
	}
	w := &walk{ctx: ctx, store: store, gun: gun, now: now, targets: map[tuf.RoleName]*tuf.Targets{}}
	w.all(gen.Timestamp)
	if w.broken != nil {
		return nil, fmt.Errorf("checking %s: %w", gun, w.broken)
	}
	return w.stumbles, nil
}

type walk struct {
	ctx   context.Context
	store storage.MetadataStore
	gun   tuf.GUN
	now   time.Time

	meta     map[tuf.RoleName]tuf.FileMeta
	targets  map[tuf.RoleName]*tuf.Targets // verified
	stumbles []Stumble
	broken   error // the store's own fault
}

// fault notes err, if it is one, and reports whether it is.
func (w *walk) fault(role tuf.RoleName, kind StumbleKind, err error) bool {
	return w.faultOf(Stumble{Role: role, Kind: kind, Err: err})
}

func (w *walk) faultOf(s Stumble) bool {
	if s.Err == nil {
		return false
	}
	if hash := w.meta[s.Role].Hashes["sha256"]; s.Version == 0 && len(hash) == len(s.Sum) {
		copy(s.Sum[:], hash)
	}
	w.stumbles = append(w.stumbles, s)
	return true
}

// stored notes what the store says of a file that should be there.
func (w *walk) stored(role tuf.RoleName, version tuf.Version, err error) bool {
	kind := StumbleMissing
	switch {
	case err == nil, errors.Is(err, storage.ErrNotFound):
	case errors.Is(err, storage.ErrDamaged):
		kind = StumbleMismatch
	case w.broken == nil:
		w.broken = fmt.Errorf("%s: %w", role, err)
	}
	return w.faultOf(Stumble{Role: role, Version: version, Kind: kind, Err: err})
}

func (w *walk) all(timestamp storage.Metadata) {
	tsEnv, ok := w.parse(timestamp)
	if !ok {
		return
	}
	ts, err := tsEnv.Timestamp()
	if w.fault(tuf.RoleTimestamp, StumbleMalformed, err) {
		return
	}
	w.meta = map[tuf.RoleName]tuf.FileMeta{tuf.RoleSnapshot: ts.Snapshot}
	snapEnv, ok := w.load(tuf.RoleSnapshot)
	if !ok {
		return
	}
	snapshot, err := snapEnv.Snapshot()
	if w.fault(tuf.RoleSnapshot, StumbleMalformed, err) {
		return
	}
	w.meta = snapshot.Meta
	root := w.root()
	if root == nil {
		return
	}
	w.fault(tuf.RoleTimestamp, StumbleSignature, tsEnv.Verify(tuf.RoleTimestamp, root.Authority(tuf.RoleTimestamp)))
	w.fault(tuf.RoleTimestamp, StumbleExpired, tuf.CheckExpiry(tuf.RoleTimestamp, ts.Expires, w.now))
	w.fault(tuf.RoleSnapshot, StumbleSignature, snapEnv.Verify(tuf.RoleSnapshot, root.Authority(tuf.RoleSnapshot)))
	w.fault(tuf.RoleSnapshot, StumbleExpired, tuf.CheckExpiry(tuf.RoleSnapshot, snapshot.Expires, w.now))
	// Shallow first, so that a parent is known before what it delegates to.
	for _, role := range slices.SortedFunc(maps.Keys(snapshot.Meta), shallowFirst) {
		switch {
		case role == tuf.RoleTargets:
			w.target(role, root.Authority(role))
		case role.IsDelegation():
			w.delegation(role)
		case role != tuf.RoleRoot:
			w.fault(role, StumbleName, errors.New("the snapshot names it, but it is no role"))
		}
	}
}

// load fetches role by the hash that the file above names.
func (w *walk) load(role tuf.RoleName) (*tuf.Envelope, bool) {
	m := w.meta[role]
	var sum tuf.Checksum
	if len(m.Hashes["sha256"]) != len(sum) {
		w.fault(role, StumbleMalformed, errors.New("no SHA-256 of it is named"))
		return nil, false
	}
	copy(sum[:], m.Hashes["sha256"])
	f, err := w.store.ByChecksum(w.ctx, w.gun, role, sum)
	if w.stored(role, 0, err) || w.fault(role, StumbleMismatch, m.Check(role, f.Data)) {
		return nil, false
	}
	return w.parse(f)
}

func (w *walk) parse(f storage.Metadata) (*tuf.Envelope, bool) { return w.parseVersion(f, 0) }

// parseVersion is parse for a file that may be an older one.
func (w *walk) parseVersion(f storage.Metadata, older tuf.Version) (*tuf.Envelope, bool) {
	note := func(kind StumbleKind, err error) bool {
		return w.faultOf(Stumble{Role: f.Role, Version: older, Kind: kind, Err: err})
	}
	if f.Checksum != tuf.Sum(f.Data) {
		note(StumbleMismatch, errors.New("the stored checksum is not that of the bytes"))
	}
	env, err := tuf.ParseEnvelope(f.Data)
	if note(StumbleMalformed, err) {
		return nil, false
	}
	if env.Version != int64(f.Version) {
		note(StumbleVersion, fmt.Errorf("stored as version %d, but is version %d", f.Version, env.Version))
	}
	return env, true
}

// root checks the current root, and that clients that know an older one get
// from it to the current one.
func (w *walk) root() *tuf.Root {
	env, ok := w.load(tuf.RoleRoot)
	if !ok {
		return nil
	}
	root, err := env.Root()
	if w.fault(tuf.RoleRoot, StumbleMalformed, err) {
		return nil
	}
	own, err := root.LeafAuthority(w.gun, w.now, true)
	kind := StumbleSignature
	if _, any := root.LeafAuthority(w.gun, w.now, false); any == nil {
		kind = StumbleExpired
	}
	if !w.fault(tuf.RoleRoot, kind, err) {
		w.fault(tuf.RoleRoot, StumbleSignature, env.Verify(tuf.RoleRoot, own))
	}
	w.fault(tuf.RoleRoot, StumbleExpired, tuf.CheckExpiry(tuf.RoleRoot, root.Expires, w.now))
	for v := root.Version - 1; v >= 1 && env != nil; v-- {
		env = w.olderRoot(v, env)
	}
	return root
}

// olderRoot checks that root version v leads to next, and returns it; nil, if
// there is no use in going on.
func (w *walk) olderRoot(v tuf.Version, next *tuf.Envelope) *tuf.Envelope {
	f, err := w.store.ByVersion(w.ctx, w.gun, tuf.RoleRoot, v)
	if errors.Is(err, storage.ErrNotFound) && v == 1 {
		return nil // a first root may have version 2
	}
	if w.stored(tuf.RoleRoot, v, err) {
		return nil
	}
	env, ok := w.parseVersion(f, v)
	if !ok {
		return nil
	}
	root, err := env.Root()
	if w.faultOf(Stumble{Role: tuf.RoleRoot, Version: v, Kind: StumbleMalformed, Err: err}) {
		return nil
	}
	trusted, err := root.LeafAuthority(w.gun, w.now, false)
	if err == nil {
		err = next.Verify(tuf.RoleRoot, trusted)
	}
	if err != nil {
		w.faultOf(Stumble{Role: tuf.RoleRoot, Version: v, Kind: StumbleChain,
			Err: fmt.Errorf("version %d does not lead to version %d: %w", v, v+1, err)})
	}
	return env
}

// delegation checks a delegation that the snapshot names. One to which no chain
// of delegations leads is never read, but it must be there: the client library
// leaves such names in the snapshots that it signs, when a delegation with
// others below it is removed; and upstream's server leaves them in its own.
func (w *walk) delegation(role tuf.RoleName) {
	if t := w.targets[role.Parent()]; t != nil {
		if authority, ok := t.Delegation(role); ok {
			w.target(role, authority)
			return
		}
	}
	w.load(role)
}

func (w *walk) target(role tuf.RoleName, a tuf.Authority) {
	env, ok := w.load(role)
	if !ok {
		return
	}
	t, err := env.Targets(role)
	if w.fault(role, StumbleMalformed, err) || w.fault(role, StumbleSignature, env.Verify(role, a)) {
		return
	}
	w.fault(role, StumbleExpired, tuf.CheckExpiry(role, t.Expires, w.now))
	w.targets[role] = t
}
