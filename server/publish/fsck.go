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

// Fsck walks gun as a client does that knows nothing of it: from the timestamp
// to the snapshot, root, targets and every delegation that the snapshot names,
// each by the hash in the file above. Everything must be there, of the length
// and the hashes named, signed by who must sign it, and not expired at now; each
// root must be signed by the one before it. All faults are reported, joined,
// each with the name of its role. The error wraps storage.ErrNotFound if gun has
// no timestamp.
func Fsck(ctx context.Context, store storage.MetadataStore, gun tuf.GUN, now time.Time) error {
	gen, err := store.Generation(ctx, gun)
	if err != nil {
		return fmt.Errorf("checking %s: loading the timestamp: %w", gun, err)
	}
	w := &walk{ctx: ctx, store: store, gun: gun, now: now, targets: map[tuf.RoleName]*tuf.Targets{}}
	w.all(gen.Timestamp)
	if err := errors.Join(w.faults...); err != nil {
		return fmt.Errorf("checking %s: %w", gun, err)
	}
	return nil
}

type walk struct {
	ctx   context.Context
	store storage.MetadataStore
	gun   tuf.GUN
	now   time.Time

	meta    map[tuf.RoleName]tuf.FileMeta
	targets map[tuf.RoleName]*tuf.Targets // verified
	faults  []error
}

func (w *walk) fault(role tuf.RoleName, err error) bool {
	if err != nil {
		w.faults = append(w.faults, fmt.Errorf("%s: %w", role, err))
	}
	return err != nil
}

func (w *walk) all(timestamp storage.Metadata) {
	tsEnv, ok := w.parse(timestamp)
	if !ok {
		return
	}
	ts, err := tsEnv.Timestamp()
	if w.fault(tuf.RoleTimestamp, err) {
		return
	}
	w.meta = map[tuf.RoleName]tuf.FileMeta{tuf.RoleSnapshot: ts.Snapshot}
	snapEnv, ok := w.load(tuf.RoleSnapshot)
	if !ok {
		return
	}
	snapshot, err := snapEnv.Snapshot()
	if w.fault(tuf.RoleSnapshot, err) {
		return
	}
	w.meta = snapshot.Meta
	root := w.root()
	if root == nil {
		return
	}
	w.fault(tuf.RoleTimestamp, tsEnv.Verify(tuf.RoleTimestamp, root.Authority(tuf.RoleTimestamp)))
	w.fault(tuf.RoleTimestamp, tuf.CheckExpiry(tuf.RoleTimestamp, ts.Expires, w.now))
	w.fault(tuf.RoleSnapshot, snapEnv.Verify(tuf.RoleSnapshot, root.Authority(tuf.RoleSnapshot)))
	w.fault(tuf.RoleSnapshot, tuf.CheckExpiry(tuf.RoleSnapshot, snapshot.Expires, w.now))
	// Shallow first, so that a parent is known before what it delegates to.
	for _, role := range slices.SortedFunc(maps.Keys(snapshot.Meta), shallowFirst) {
		switch {
		case role == tuf.RoleTargets:
			w.target(role, root.Authority(role))
		case role.IsDelegation():
			w.delegation(role)
		case role != tuf.RoleRoot:
			w.fault(role, errors.New("the snapshot names it, but it is no role"))
		}
	}
}

// load fetches role by the hash that the file above names.
func (w *walk) load(role tuf.RoleName) (*tuf.Envelope, bool) {
	m := w.meta[role]
	var sum tuf.Checksum
	if len(m.Hashes["sha256"]) != len(sum) {
		w.fault(role, errors.New("no SHA-256 of it is named"))
		return nil, false
	}
	copy(sum[:], m.Hashes["sha256"])
	f, err := w.store.ByChecksum(w.ctx, w.gun, role, sum)
	if w.fault(role, err) || w.fault(role, m.Check(role, f.Data)) {
		return nil, false
	}
	return w.parse(f)
}

func (w *walk) parse(f storage.Metadata) (*tuf.Envelope, bool) {
	if f.Checksum != tuf.Sum(f.Data) {
		w.fault(f.Role, errors.New("the stored checksum is not that of the bytes"))
	}
	env, err := tuf.ParseEnvelope(f.Data)
	if w.fault(f.Role, err) {
		return nil, false
	}
	if env.Version != int64(f.Version) {
		w.fault(f.Role, fmt.Errorf("stored as version %d, but is version %d", f.Version, env.Version))
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
	if w.fault(tuf.RoleRoot, err) {
		return nil
	}
	own, err := root.LeafAuthority(w.gun, w.now, true)
	if !w.fault(tuf.RoleRoot, err) {
		w.fault(tuf.RoleRoot, env.Verify(tuf.RoleRoot, own))
	}
	w.fault(tuf.RoleRoot, tuf.CheckExpiry(tuf.RoleRoot, root.Expires, w.now))
	for v := root.Version - 1; v >= 1; v-- {
		f, err := w.store.ByVersion(w.ctx, w.gun, tuf.RoleRoot, v)
		if errors.Is(err, storage.ErrNotFound) && v == 1 {
			break // a first root may have version 2
		}
		if w.fault(tuf.RoleRoot, err) {
			break
		}
		older, ok := w.parse(f)
		if !ok {
			break
		}
		prev, err := older.Root()
		if w.fault(tuf.RoleRoot, err) {
			break
		}
		trusted, err := prev.LeafAuthority(w.gun, w.now, false)
		if err == nil {
			err = env.Verify(tuf.RoleRoot, trusted)
		}
		if err != nil {
			w.fault(tuf.RoleRoot, fmt.Errorf("version %d does not lead to version %d: %w", v, v+1, err))
		}
		env = older
	}
	return root
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
	if w.fault(role, err) || w.fault(role, env.Verify(role, a)) {
		return
	}
	w.fault(role, tuf.CheckExpiry(role, t.Expires, w.now))
	w.targets[role] = t
}
