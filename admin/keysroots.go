package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// This file holds rows of the signer's table and the roots of the server's
// against each other.

// serverRoles are those that a server may sign.
var serverRoles = []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot}

// A wantedKey is listed by the newest root of a GUN for a server's role.
type wantedKey struct {
	gun  tuf.GUN
	role tuf.RoleName
	ids  []tuf.KeyID // canonical
	need int         // how many of them must sign
}

func wantedKeys(gun tuf.GUN, data []byte) (list []wantedKey) {
	root, err := rootFile(data)
	if err != nil {
		return nil // fsck tells of it
	}
	for _, role := range serverRoles {
		authority := root.Authority(role)
		w := wantedKey{gun: gun, role: role, need: authority.Threshold}
		for _, id := range authority.KeyIDs {
			if canonical, err := authority.Keys[id].CanonicalID(); err == nil && canonical != "" {
				w.ids = append(w.ids, canonical)
			}
		}
		list = append(list, w)
	}
	return list
}

// walkRoots finds the keys that newest roots list and that have no row, or one of
// another GUN or role. It tells of none yet: a row that is corrupt may explain it.
func (d *doctor) walkRoots(ctx context.Context) error {
	d.missing, d.foreign = map[tuf.KeyID]KeyFinding{}, map[tuf.KeyID]KeyFinding{}
	return d.eachGUNPage(ctx, func(guns []tuf.GUN) error {
		lists, rows, err := d.wantedRows(ctx, guns)
		if err != nil {
			return err
		}
		for _, w := range lists {
			if err := d.compare(ctx, w, rows); err != nil {
				return err
			}
		}
		return nil
	})
}

// wantedRows reads roots first and rows then: a key is made before a root lists it.
func (d *doctor) wantedRows(ctx context.Context, guns []tuf.GUN) ([]wantedKey, map[tuf.KeyID]storage.KeyRow, error) {
	roots, err := d.Metadata.NewestRoots(ctx, guns)
	if err != nil {
		return nil, nil, err
	}
	var lists []wantedKey
	var ids []tuf.KeyID
	for _, gun := range slices.Sorted(maps.Keys(roots)) {
		for _, w := range wantedKeys(gun, roots[gun].Data) {
			lists = append(lists, w)
			ids = append(ids, w.ids...)
		}
	}
	found, err := d.Keys.Find(ctx, ids)
	rows := map[tuf.KeyID]storage.KeyRow{}
	for _, k := range found {
		rows[k.ID] = k
	}
	return lists, rows, err
}

// compare looks at one role of a GUN. That the timestamp's key has no row is
// always a fault: no client has one. The snapshot's may be its owner's. It is
// missed if its row is there, marked as deleted; if others of the role's keys have rows; if the
// owner asked the server for a key between this root and the one before; or if
// the operator says that the server makes all snapshots.
func (d *doctor) compare(ctx context.Context, w wantedKey, rows map[tuf.KeyID]storage.KeyRow) error {
	var gone []KeyFinding
	trace := w.role == tuf.RoleTimestamp || d.cfg.ServerSnapshots
	alive := 0
	for _, id := range w.ids {
		k, ok := rows[id]
		named := storage.Key{ID: id, GUN: w.gun, Role: w.role, Alias: k.Alias}
		nameless := k.GUN == "" && k.Role == ""
		switch {
		case !ok:
			gone = append(gone, keyFinding(KeyMissing, named, 0, "there is no row"))
		case !k.Deleted.IsZero():
			trace = true
			gone = append(gone, keyFinding(KeyMissing, named, 0, "its row is marked as deleted, since "+k.Deleted.UTC().Format(time.RFC3339)))
		case (k.GUN != w.gun || k.Role != w.role) && !nameless:
			alive++ // told once, as what it is
			d.foreign[id] = keyFinding(KeyWrongOwner, named, 0, fmt.Sprintf("its row is of GUN %q, role %q", k.GUN, k.Role))
		default:
			alive++
			trace = true
		}
	}
	if alive >= max(w.need, 1) || len(gone) == 0 {
		return nil
	}
	if !trace {
		var err error
		if trace, err = d.handedOut(ctx, w); err != nil {
			return err
		}
	}
	for _, f := range gone {
		if trace {
			d.missing[f.ID] = f
			continue
		}
		d.client = append(d.client, keyFinding(KeyClientSnapshot, storage.Key{ID: f.ID, GUN: f.GUN, Role: f.Role}, 0, ""))
	}
	return nil
}

// handedOut reports whether the server made a key for the role that led to the
// newest root: between it and the one before.
func (d *doctor) handedOut(ctx context.Context, w wantedKey) (bool, error) {
	times, err := d.Metadata.HandedOut(ctx, w.gun, w.role)
	if err != nil || len(times) == 0 {
		return false, err
	}
	roots, _, err := d.Metadata.Roots(ctx, w.gun)
	if err != nil || len(roots) == 0 {
		return false, err
	}
	newest, before := roots[len(roots)-1], time.Time{}
	for _, r := range slices.Backward(roots[:len(roots)-1]) {
		if !listsAny(r.Data, w) {
			before = r.CreatedAt
			break
		}
		newest = r // the key was listed by then
	}
	return slices.ContainsFunc(times, func(at time.Time) bool { return at.After(before) && !at.After(newest.CreatedAt) }), nil
}

func listsAny(data []byte, w wantedKey) bool {
	for _, old := range wantedKeys(w.gun, data) {
		if old.role == w.role && slices.ContainsFunc(old.ids, func(id tuf.KeyID) bool { return slices.Contains(w.ids, id) }) {
			return true
		}
	}
	return false
}

// owed says of the live rows of a page what roots make of them; nil of those that are in order.
func (d *doctor) owed(ctx context.Context, page []storage.KeyRow) (map[tuf.KeyID]*KeyFinding, error) {
	owed := map[tuf.KeyID]*KeyFinding{}
	if d.Metadata == nil {
		return owed, nil
	}
	roots, err := d.rootsOf(ctx, page)
	if err != nil {
		return nil, err
	}
	var doubtful []tuf.KeyID
	for _, k := range page {
		if f := d.judgeByRoots(k, roots[k.GUN]); f != nil {
			owed[k.ID] = f
			if f.Fault {
				doubtful = append(doubtful, k.ID)
			}
		}
	}
	// A purge may have taken a row since it was read.
	still, err := d.Keys.Find(ctx, doubtful)
	if err != nil {
		return nil, err
	}
	alive := map[tuf.KeyID]bool{}
	for _, k := range still {
		alive[k.ID] = k.Deleted.IsZero()
	}
	for _, id := range doubtful {
		if !alive[id] {
			delete(owed, id)
		}
	}
	return owed, nil
}

func (d *doctor) judgeByRoots(k storage.KeyRow, rk rootListing) *KeyFinding {
	of := func(c KeyClass, text string) *KeyFinding { f := keyFinding(c, k.Key, 0, text); return &f }
	if f, ok := d.foreign[k.ID]; ok {
		delete(d.foreign, k.ID)
		return &f
	}
	switch why := keyOrphaned(k, rk, d.Now(), keySettled); {
	case !k.Deleted.IsZero():
		return nil
	case k.GUN == "" && k.Role == "":
		return of(KeyNameless, "")
	case why == KeyNoGUN && k.LastUsed.IsZero():
		return of(why, "never used, made "+k.CreatedAt.UTC().Format(time.RFC3339))
	case why == KeyNoGUN, why == KeyUnlisted:
		return of(why, "last used "+k.LastUsed.UTC().Format(time.RFC3339))
	case why == KeyPending:
		return of(why, "")
	}
	return nil
}

// keyOrphaned says what k is by the roots of its GUN: KeyNoGUN or KeyUnlisted if
// nobody can want it any more; KeyPending if somebody may, since it was touched
// of late or was never used; "" if a root lists it, or may list it, as it may one
// whose row does not say which key it is.
func keyOrphaned(k storage.KeyRow, rk rootListing, now time.Time, unused time.Duration) KeyClass {
	switch {
	case k.GUN == "" || rk.unsure || rk.listed[k.ID] || !ownID(k):
		return ""
	case k.LastUsed.IsZero() && (rk.exists || k.CreatedAt.IsZero() || now.Sub(k.CreatedAt) < unused):
		return KeyPending
	case !k.LastUsed.IsZero() && now.Sub(k.LastUsed) < keySettled:
		return KeyPending
	case rk.exists:
		return KeyUnlisted
	}
	return KeyNoGUN
}

// ownID reports whether the row's ID is that of its public key.
func ownID(k storage.KeyRow) bool { return tuf.Key{Type: k.Algorithm, Public: k.Public}.ID() == k.ID }

// rest tells of roots' keys that no row explains, after another look.
func (d *doctor) rest(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(d.missing)) {
		f := d.missing[id]
		lists, rows, err := d.wantedRows(ctx, []tuf.GUN{f.GUN})
		if err != nil {
			return err
		}
		k, alive := rows[id]
		listed := slices.ContainsFunc(lists, func(w wantedKey) bool { return w.role == f.Role && slices.Contains(w.ids, id) })
		if !listed || alive && k.Deleted.IsZero() {
			continue
		}
		if err := d.tell(f); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.foreign)) {
		if err := d.tell(d.foreign[id]); err != nil {
			return err
		}
	}
	for _, f := range d.client {
		if err := d.tell(f); err != nil {
			return err
		}
	}
	return nil
}
