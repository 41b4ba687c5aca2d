package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"countersign/admin/archive"
	"countersign/internal/config"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// ErrUnmatched: the server's database and the signer's do not seem to belong to
// one installation. Purging a repository of the one would take keys from the other.
var ErrUnmatched = errors.New("the two databases do not fit together")

// match makes sure that the keys of gun are those of the repository. What does
// not fit is looked at again: somebody may be publishing, or purging.
func (s *Site) match(ctx context.Context, gun tuf.GUN) error {
	var last []string
	for range purgeTries {
		keys, err := s.Keys.Rows(ctx, keydb.Query{GUN: gun, Deleted: true})
		if err != nil {
			return err
		}
		files, err := s.Metadata.Files(ctx, gun)
		if err != nil {
			return err
		}
		faults, err := s.unmatched(ctx, gun, files, keys)
		if err != nil || len(faults) == 0 {
			return err
		}
		if slices.Equal(faults, last) {
			break
		}
		last = faults
	}
	return Unmatched(gun, last)
}

// Unmatched is the error that a purge of gun is refused with; it wraps ErrUnmatched.
func Unmatched(gun tuf.GUN, faults []string) error {
	return fmt.Errorf("%w, as to %s: %s. Are these two configurations of one installation? If so, and these keys are really gone or left over, --keys-elsewhere purges all the same",
		ErrUnmatched, gun, strings.Join(faults, "; "))
}

// maxUnmatched bounds the keys that a fault names.
const maxUnmatched = 3

// unmatched says what does not fit. The keys were read before the files: a key is
// made before a root lists it.
func (s *Site) unmatched(ctx context.Context, gun tuf.GUN, files []storage.FileInfo, keys []storage.KeyRow) (faults []string, err error) {
	var newest storage.FileInfo
	var roots []storage.FileInfo
	for _, f := range files {
		if f.Role != tuf.RoleRoot {
			continue
		}
		roots = append(roots, f)
		if f.Deleted.IsZero() && f.Version > newest.Version {
			newest = f
		}
	}
	listed := map[tuf.KeyID]bool{}
	var timestamp []tuf.KeyID
	if err := s.Metadata.EachOf(ctx, gun, roots, func(f storage.FileRow) error {
		for _, id := range rootKeys(f.Data) {
			listed[id] = true
		}
		for _, w := range wantedKeys(gun, f.Data) {
			if f.ID == newest.ID && w.role == tuf.RoleTimestamp {
				timestamp = w.ids
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	has := func(id tuf.KeyID) bool {
		return slices.ContainsFunc(keys, func(k storage.KeyRow) bool { return k.ID == id && k.Deleted.IsZero() })
	}
	if len(timestamp) > 0 && !slices.ContainsFunc(timestamp, has) {
		faults = append(faults, fmt.Sprintf("the signer's has no key for the timestamp that root version %d lists (%s)", newest.Version, someKeys(timestamp)))
	}
	var used []tuf.KeyID
	for _, k := range keys {
		if k.Deleted.IsZero() && !k.LastUsed.IsZero() && !listed[k.ID] {
			used = append(used, k.ID)
		}
	}
	if len(used) > 0 {
		faults = append(faults, fmt.Sprintf("the signer has used %d keys of it that no stored root lists (%s)", len(used), someKeys(used)))
	}
	return faults, nil
}

func someKeys(ids []tuf.KeyID) string {
	var names []string
	for _, id := range ids[:min(len(ids), maxUnmatched)] {
		names = append(names, fmt.Sprintf("%.80s", keyName(id)))
	}
	if len(ids) > maxUnmatched {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// rootKeys are the canonical IDs of the keys that a root lists.
func rootKeys(data []byte) (ids []tuf.KeyID) {
	env, err := tuf.ParseEnvelope(data)
	if err != nil {
		return nil
	}
	root, err := env.Root()
	if err != nil {
		return nil
	}
	for _, k := range root.Keys {
		if id, err := k.CanonicalID(); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// endPurge removes the signer's rows. archived are they as the archive has them;
// nil if that is yet to be read.
//
// Somebody may have begun the repository anew, and have been handed a key that has
// to go. He spares it before he signs: then it is no longer doomed, and stays. If
// it goes first, the signer refuses to sign, and he asks for another one. That
// holds for a server of ours. For upstream's a key is marked as deleted, the root
// looked at, and the mark taken back if it lists the key. A key that the archive
// has in another sealed form, or as one that was never used, stays too: it is in
// use, and trust-admin keys orphans finds it if it should not be.
func (s *Site) endPurge(ctx context.Context, p metadb.Purge, archived []storage.KeyRow) (PurgeRecord, error) {
	again := false
	if archived == nil {
		archived = archivedKeys(p)
	}
	_, err := s.Metadata.EndPurge(ctx, p.ID, func(ctx context.Context, tx *sqldb.Tx, p metadb.Purge, doomed map[tuf.KeyID]bool) (err error) {
		keys := s.Keys
		if s.oneFile() {
			keys = keys.Within(tx)
		}
		again, err = s.removeKeys(ctx, keys, p, doomed, archived)
		return err
	})
	if err != nil {
		return recordOf(p), fmt.Errorf("purging %s: its files are gone, its keys not yet: the same command, or trust-admin purge resume, ends it (archive %s): %w", p.GUN, p.Archive, err)
	}
	s.step("ended")
	r := recordOf(p)
	r.Ended, r.Again = s.Now().UTC(), again
	return r, nil
}

// archivedKeys reads the keys from the archive of p; nil if it is not where it was.
func archivedKeys(p metadb.Purge) (keys []storage.KeyRow) {
	a, err := archive.Open(p.Archive)
	if err != nil {
		return nil
	}
	defer a.Close()
	if a.Digest != p.Digest {
		return nil
	}
	_ = a.Each(func(r *archive.Repository, _ archive.Files) error {
		if r.GUN == p.GUN {
			keys = r.Keys
		}
		return nil
	})
	return keys
}

// removeKeys marks the rows that have to go, looks at the root, and removes them.
// It reports whether the repository has been begun anew.
func (s *Site) removeKeys(ctx context.Context, keys *keydb.Store, p metadb.Purge, doomed map[tuf.KeyID]bool, archived []storage.KeyRow) (again bool, err error) {
	rows, err := s.Keys.Find(ctx, p.Keys)
	if err != nil {
		return false, err
	}
	var marked []storage.KeyRow
	for _, k := range rows {
		switch {
		case k.GUN != p.GUN, k.Deleted.IsZero() && (!doomed[k.ID] || inUse(k, archived)):
			continue
		case k.Deleted.IsZero():
			ok, err := retire(ctx, keys, k)
			if err != nil {
				return false, err
			}
			if !ok {
				continue
			}
		}
		marked = append(marked, k)
	}
	s.step("keys marked")
	listed := map[tuf.KeyID]bool{}
	gen, err := s.Metadata.Generation(ctx, p.GUN, tuf.RoleRoot)
	switch {
	case err == nil:
		again = true
		for _, id := range rootKeys(gen.Files[tuf.RoleRoot].Data) {
			listed[id] = true
		}
	case errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrDamaged):
	default:
		return false, err
	}
	for _, k := range marked {
		switch {
		case !listed[k.ID]:
			_, err = keys.RemoveRetired(ctx, k.ID)
		case k.Deleted.IsZero() || !k.Deleted.Before(p.At): // by us, now or before a crash
			err = keys.Revive(ctx, k.ID)
		}
		if err != nil {
			return false, err
		}
	}
	s.step("keys removed")
	return again, nil
}

// inUse reports whether k has been used for the first time, or sealed anew, since
// it was archived.
func inUse(k storage.KeyRow, archived []storage.KeyRow) bool {
	i := slices.IndexFunc(archived, func(a storage.KeyRow) bool { return a.ID == k.ID })
	return i >= 0 && (archived[i].LastUsed.IsZero() && !k.LastUsed.IsZero() || !bytes.Equal(archived[i].Sealed, k.Sealed))
}

// retire marks k, and reports whether it is to be removed. One whose last use was
// recorded meanwhile, by who signs for the repository that was, is tried again.
func retire(ctx context.Context, keys *keydb.Store, k storage.KeyRow) (bool, error) {
	for try := 1; ; try++ {
		err := keys.Retire(ctx, k)
		if errors.Is(err, storage.ErrNotFound) {
			return false, nil
		}
		if !errors.Is(err, storage.ErrVersionConflict) || try == purgeTries {
			return err == nil, err
		}
		now, err := keys.Find(ctx, []tuf.KeyID{k.ID})
		if err != nil || len(now) == 0 || !now[0].Deleted.IsZero() {
			return err == nil && len(now) > 0, err
		}
		if k.LastUsed.IsZero() || !bytes.Equal(now[0].Sealed, k.Sealed) || now[0].GUN != k.GUN {
			return false, nil // in use, see endPurge
		}
		k = now[0]
	}
}

// oneFile reports whether both programs keep their tables in one file of SQLite.
func (s *Site) oneFile() bool {
	var infos []os.FileInfo
	for _, c := range []config.Storage{s.Server.Storage, s.Signer.Storage.Storage} {
		if c.Backend != config.BackendSQLite {
			return false
		}
		path, err := sqldb.Where(sqldb.Config{Backend: c.Backend, URL: c.DBURL})
		if err != nil {
			return false
		}
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		infos = append(infos, info)
	}
	return os.SameFile(infos[0], infos[1])
}
