package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

// MinUnusedDays is the least that OrphansConfig takes: a client that was handed a
// key may be about to publish.
const MinUnusedDays = 1

// OrphansConfig says what an orphan is, and what to do with them.
type OrphansConfig struct {
	// UnusedDays is how old a key must be that was never used, of a GUN that has
	// no rows, at least MinUnusedDays.
	UnusedDays int
	// Delete removes them. Archive is where they are written to first, where no
	// file may be.
	Delete  bool
	Archive string
	Reason  string
	// Progress, if set, is called after each page of rows.
	Progress func(done int64)
}

// An Orphan is a key that nobody can want.
type Orphan struct {
	KeyInfo
	Why KeyClass `json:"why"` // KeyNoGUN, KeyUnlisted or KeyDeleted
	// What became of it: "" without Delete, else "deleted", "kept: …".
	Outcome string `json:"outcome,omitempty"`
}

// An Orphans says what was found and done.
type Orphans struct {
	Rows    int64  `json:"rows"`
	Found   int64  `json:"orphans"`
	Deleted int64  `json:"deleted"`
	Kept    int64  `json:"kept"`
	Archive string `json:"archive,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

// OrphanKeys finds keys that no stored root of their GUN lists, in whatever
// version, and that were used, but not in the last two days; or that were never
// used and whose GUN has had no rows for so many days as the key is old; and rows
// marked as deleted that no root lists. It calls show for each, with what became
// of it. A key of unknown GUN, whose row does not say which key it is, of a GUN with a root that cannot be read, or that
// the newest root of another GUN lists, is none.
//
// Deleting, the order is this, so that no key goes that a root lists:
//
//  1. All are written to the archive, which is on disk before the first row goes.
//  2. The event is recorded.
//  3. A key is marked as deleted, if it has not been used since it was looked
//     at. From then on no signer of ours signs with it. A publish that lists it
//     needs its signature. One that was made before 3 was recorded as a use, since
//     the last is two days old and each day's first is recorded before the
//     signature leaves: then 3 finds the row changed. One that is asked for after
//     3 is refused, and so is the publish: its client asks for a key anew.
//  4. The roots are read again. A signer of upstream's signs on from memory; a
//     root that was published so is seen here, and the mark is taken back.
//  5. The row is removed, if it is still marked.
//
// A crash leaves rows that are whole, or marked; the next run takes the marked
// ones. A restore or import writes keys before files: this must not run beside one.
func (s *Site) OrphanKeys(ctx context.Context, c OrphansConfig, show func(Orphan) error) (*Orphans, error) {
	if c.UnusedDays < MinUnusedDays {
		return nil, fmt.Errorf("%w: unused keys of %d days, want at least %d", storage.ErrInvalid, c.UnusedDays, MinUnusedDays)
	}
	if s.Metadata == nil {
		return nil, errors.New("whether a key is an orphan is known from the server's database: give --server-config")
	}
	out := &Orphans{}
	list, err := s.findOrphans(ctx, c, out)
	if err != nil {
		return nil, err
	}
	out.Found = int64(len(list))
	if !c.Delete || len(list) == 0 {
		for _, o := range list {
			if err := show(Orphan{KeyInfo: keyInfo(o.row), Why: o.why}); err != nil {
				return out, err
			}
		}
		return out, nil
	}
	if err := s.archiveOrphans(list, c, out); err != nil {
		return out, err
	}
	s.step("archived")
	err = s.Metadata.Record(ctx, storage.Event{
		Action: storage.ActionOrphans, Origin: storage.Origin{Actor: s.Actor},
		Reason: fmt.Sprintf("%d keys without a repository, archive %s: %s", len(list), c.Archive, c.Reason),
	})
	if err != nil {
		return out, err
	}
	s.step("recorded")
	for i, o := range list {
		outcome, err := s.deleteOrphan(ctx, o.row, i+1)
		if err != nil {
			return out, err
		}
		if outcome == orphanDeleted {
			out.Deleted++
		} else {
			out.Kept++
		}
		if err := show(Orphan{keyInfo(o.row), o.why, outcome}); err != nil {
			return out, err
		}
	}
	return out, nil
}

type orphan struct {
	row storage.KeyRow
	why KeyClass
}

// findOrphans reads keys first and roots then, see page. Only orphans are held.
func (s *Site) findOrphans(ctx context.Context, c OrphansConfig, out *Orphans) ([]orphan, error) {
	var list []orphan
	unused := time.Duration(c.UnusedDays) * 24 * time.Hour
	err := s.eachKeyPage(ctx, keydb.Query{Deleted: true, Limit: keyPage}, func(page []storage.KeyRow) error {
		roots, err := s.rootsOf(ctx, page)
		if err != nil {
			return err
		}
		for _, k := range page {
			out.Rows++
			rk := roots[k.GUN]
			switch why := keyOrphaned(k, rk, s.Now(), unused); {
			case !k.Deleted.IsZero() && k.GUN != "" && !rk.unsure && !rk.listed[k.ID] && ownID(k):
				list = append(list, orphan{k, KeyDeleted})
			case k.Deleted.IsZero() && (why == KeyNoGUN || why == KeyUnlisted):
				list = append(list, orphan{k, why})
			}
		}
		if c.Progress != nil {
			c.Progress(out.Rows)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return s.withoutListed(ctx, list)
}

// withoutListed drops what the newest root of any other GUN lists: somebody has
// changed the row's GUN, which is a fault, and no reason to lose the key.
func (s *Site) withoutListed(ctx context.Context, list []orphan) ([]orphan, error) {
	elsewhere := map[tuf.KeyID]bool{}
	for _, o := range list {
		elsewhere[o.row.ID] = false
	}
	err := s.eachGUNPage(ctx, func(guns []tuf.GUN) error {
		roots, err := s.Metadata.NewestRoots(ctx, guns)
		for gun, m := range roots {
			for _, w := range wantedKeys(gun, m.Data) {
				for _, id := range w.ids {
					if _, ok := elsewhere[id]; ok {
						elsewhere[id] = true
					}
				}
			}
		}
		return err
	})
	return slices.DeleteFunc(list, func(o orphan) bool { return elsewhere[o.row.ID] }), err
}

// archiveOrphans writes the keys to the archive: a repository without files for each GUN.
func (s *Site) archiveOrphans(list []orphan, c OrphansConfig, out *Orphans) error {
	slices.SortStableFunc(list, func(a, b orphan) int { return cmp.Compare(a.row.GUN, b.row.GUN) })
	w, err := archive.Create(c.Archive, archive.Header{Kind: "orphans", Created: s.Now().UTC(), Tool: s.Tool, By: s.Actor, Reason: c.Reason})
	if err != nil {
		return err
	}
	defer w.Abort()
	for i := 0; i < len(list); {
		r := &archive.Repository{GUN: list[i].row.GUN}
		for ; i < len(list) && list[i].row.GUN == r.GUN; i++ {
			r.Keys = append(r.Keys, list[i].row)
		}
		if err := w.Begin(r); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	// What is on disk is what counts: it is read, and every sum checked.
	written, err := archive.Open(c.Archive)
	if err != nil {
		return err
	}
	out.Archive, out.Digest = c.Archive, written.Digest
	return written.Close()
}

const orphanDeleted = "deleted"

// deleteOrphan is steps 3 to 5 of OrphanKeys.
func (s *Site) deleteOrphan(ctx context.Context, k storage.KeyRow, n int) (string, error) {
	if k.Deleted.IsZero() {
		err := s.Keys.Retire(ctx, k)
		if errors.Is(err, storage.ErrVersionConflict) || errors.Is(err, storage.ErrNotFound) {
			return "kept: it has changed meanwhile", nil
		}
		if err != nil {
			return "", err
		}
		s.step(fmt.Sprintf("key %d marked", n))
	}
	rk, err := s.listing(ctx, k.GUN)
	if err != nil {
		return "", err
	}
	if rk.unsure || rk.listed[k.ID] {
		if k.Deleted.IsZero() {
			err = s.Keys.Revive(ctx, k.ID)
		}
		return "kept: a root lists it by now", err
	}
	s.step(fmt.Sprintf("key %d looked at again", n))
	removed, err := s.Keys.RemoveRetired(ctx, k.ID)
	if err != nil {
		return "", err
	}
	s.step(fmt.Sprintf("key %d removed", n))
	if !removed {
		return "kept: somebody has put it back", nil
	}
	return orphanDeleted, nil
}
