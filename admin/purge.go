package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// purgeTries is how often a repository is archived anew because somebody has
// published to it meanwhile.
const purgeTries = 8

// PurgeConfig says what to purge.
type PurgeConfig struct {
	GUN    tuf.GUN
	Dir    string // where the archive is put; "" is the working directory
	Reason string
}

// A PurgeRecord is a purge as it is on record.
type PurgeRecord struct {
	ID      int64       `json:"id"`
	GUN     tuf.GUN     `json:"gun"`
	At      time.Time   `json:"at"`
	Ended   time.Time   `json:"ended,omitzero"`
	Archive string      `json:"archive"`
	Digest  string      `json:"digest"`
	Actor   string      `json:"actor"`
	Reason  string      `json:"reason"`
	Keys    []tuf.KeyID `json:"key_ids"`
	// Again: the repository had been begun anew before the purge ended. What was
	// begun is left alone.
	Again bool `json:"begun_anew,omitempty"`
}

func recordOf(p metadb.Purge) PurgeRecord {
	return PurgeRecord{ID: p.ID, GUN: p.GUN, At: p.At, Ended: p.Ended, Archive: p.Archive, Digest: p.Digest, Actor: p.Actor, Reason: p.Reason, Keys: p.Keys}
}

// Purge removes a repository from both databases, in steps, each of which leaves
// the next one possible after a crash. The same call goes on where it ended.
//
//  1. All rows of both databases are archived, and the archive is read again.
//     A crash leaves an archive too many, and nothing else.
//  2. Keys that no file lists go from the signer's database: they have signed
//     nothing, and would be handed out to who begins the repository anew, just
//     before they go. The archive has them.
//  3. In one transaction the server's rows go, if they are those of the archive,
//     and it is recorded which keys have to follow. Who publishes before it has
//     his files archived in a second try; who publishes after it is refused.
//  4. The signer's rows of those keys go, and that is recorded. A signer looks at
//     the row for each signature: from here on none signs, on any replica.
//
// A purge that an earlier call has not ended is ended, and then nothing else is
// done: what is there by now was begun after it.
func (s *Site) Purge(ctx context.Context, c PurgeConfig) (PurgeRecord, error) {
	if err := s.canPurge(); err != nil {
		return PurgeRecord{}, err
	}
	open, err := s.Metadata.Purges(ctx, metadb.PurgeQuery{GUN: c.GUN, Open: true, Limit: 1})
	if err != nil {
		return PurgeRecord{}, err
	}
	if len(open) > 0 {
		return s.endPurge(ctx, open[0])
	}
	var early []storage.KeyRow // removed by step 2 of an earlier try
	for try := 1; ; try++ {
		r, a, path, err := s.takeArchive(ctx, c, early)
		if err != nil {
			return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed: %w", c.GUN, err)
		}
		s.step("archived")
		early, err = s.removeUnlisted(ctx, a, r)
		if err != nil {
			return PurgeRecord{}, fmt.Errorf("purging %s: %w", c.GUN, err)
		}
		s.step("unlisted keys removed")
		p, err := s.beginPurge(ctx, c, r, a, path)
		if err == nil {
			s.step("rows removed")
			return s.endPurge(ctx, p)
		}
		if !errors.Is(err, storage.ErrStale) || try == purgeTries {
			return PurgeRecord{}, fmt.Errorf("purging %s: no file was removed; the archive %s is whole: %w", c.GUN, path, err)
		}
		// All that it holds is in the next one.
		if err := os.Remove(path); err != nil {
			return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed: %w", c.GUN, err)
		}
	}
}

func (s *Site) canPurge() error {
	switch {
	case s.Metadata == nil || s.Keys == nil:
		return errors.New("a purge needs the configurations of both programs")
	case !s.Recorded:
		return fmt.Errorf("%w: trust-admin db migrate makes them", metadb.ErrUnrecorded)
	}
	return nil
}

// ArchiveName is the name of the archive of a purge.
func ArchiveName(gun tuf.GUN, at time.Time) string {
	plain := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '_'
	}
	name := strings.TrimLeft(strings.Map(plain, string(gun)), ".")
	return fmt.Sprintf("%.150s-%s.purge.tar", name, at.UTC().Format("20060102T150405.000000Z"))
}

// takeArchive archives all of a GUN, and reads the archive again. The repository
// is empty if there is nothing.
func (s *Site) takeArchive(ctx context.Context, c PurgeConfig, early []storage.KeyRow) (r *archive.Repository, digest, path string, err error) {
	for try := 1; ; try++ {
		now := s.Now()
		path, err = filepath.Abs(filepath.Join(c.Dir, ArchiveName(c.GUN, now)))
		if err != nil {
			return nil, "", "", err
		}
		h := archive.Header{Kind: "purge", Created: now.UTC(), Tool: s.Tool, By: s.Actor, Reason: c.Reason}
		r, err = s.writeArchive(ctx, c.GUN, path, h, early)
		if err == nil {
			break
		}
		if !errors.Is(err, archive.ErrChanged) || try == purgeTries {
			return nil, "", "", err
		}
	}
	a, err := archive.Open(path)
	if err != nil {
		return nil, "", "", err
	}
	return r, a.Digest, path, a.Close()
}

// writeArchive reads the files before the keys: as long as the files stay as they
// are, the keys that they list have been read.
func (s *Site) writeArchive(ctx context.Context, gun tuf.GUN, path string, h archive.Header, early []storage.KeyRow) (*archive.Repository, error) {
	r := &archive.Repository{GUN: gun}
	var err error
	if r.Files, r.Changes, err = s.Metadata.Contents(ctx, gun); err != nil {
		return nil, err
	}
	if r.Keys, err = s.Keys.Rows(ctx, keydb.Query{GUN: gun, Deleted: true}); err != nil {
		return nil, err
	}
	r.Keys = append(r.Keys, early...)
	if len(r.Files)+len(r.Keys) == 0 {
		return nil, s.noSuch(ctx, gun)
	}
	w, err := archive.Create(path, h)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if err := w.Begin(r); err != nil {
		return nil, err
	}
	n := 0
	err = s.Metadata.FilesOf(ctx, gun, r.Files, func(f storage.FileRow) error { n++; return w.Add(f) })
	if err == nil && n < len(r.Files) {
		err = archive.ErrChanged
	}
	if err == nil {
		err = w.Close()
	}
	return r, err
}

// removeUnlisted removes keys that no root of the archive lists, and returns all
// such keys that the archive holds.
func (s *Site) removeUnlisted(ctx context.Context, digest string, r *archive.Repository) ([]storage.KeyRow, error) {
	listed, err := s.listedKeys(ctx, r)
	if err != nil {
		return nil, err
	}
	var rows []storage.KeyRow
	var ids []tuf.KeyID
	for _, k := range r.Keys {
		if k.LastUsed.IsZero() && !listed[k.ID] {
			rows, ids = append(rows, k), append(ids, k.ID)
		}
	}
	if len(ids) == 0 || len(r.Files) == 0 { // without files all keys are such, and go with the rest
		return nil, nil
	}
	reason := fmt.Sprintf("unused keys, before a purge; archive content SHA-256 %s", digest)
	if err := s.Metadata.Record(ctx, storage.Event{Action: storage.ActionOrphans, GUN: r.GUN, Origin: storage.Origin{Actor: s.Actor}, Reason: reason}); err != nil {
		return nil, err
	}
	_, err = s.Keys.Remove(ctx, ids...)
	return rows, err
}

// listedKeys are the keys that roots of the repository list. A root that cannot
// be read lists none.
func (s *Site) listedKeys(ctx context.Context, r *archive.Repository) (map[tuf.KeyID]bool, error) {
	listed := map[tuf.KeyID]bool{}
	roots := slices.DeleteFunc(slices.Clone(r.Files), func(f storage.FileInfo) bool { return f.Role != tuf.RoleRoot })
	err := s.Metadata.FilesOf(ctx, r.GUN, roots, func(f storage.FileRow) error {
		for _, id := range rootKeys(f.Data) {
			listed[id] = true
		}
		return nil
	})
	return listed, err
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

func (s *Site) beginPurge(ctx context.Context, c PurgeConfig, r *archive.Repository, digest, path string) (metadb.Purge, error) {
	p := metadb.Purge{GUN: c.GUN, At: s.Now().UTC(), Archive: path, Digest: digest, Actor: s.Actor, Reason: c.Reason}
	var doomed []storage.DoomedKey
	for _, k := range r.Keys {
		p.Keys = append(p.Keys, k.ID)
		doomed = append(doomed, storage.DoomedKey{GUN: c.GUN, Role: k.Role, ID: k.ID})
	}
	e := storage.Event{
		Action: storage.ActionPurge, GUN: c.GUN, Origin: storage.Origin{Actor: s.Actor}, Roles: newestOf(r.Files),
		Reason: withArchive(c.Reason, path, digest),
	}
	var err error
	p.ID, err = s.Metadata.BeginPurge(ctx, p, r.Files, doomed, e)
	return p, err
}

// withArchive is the reason of an event that an archive belongs to.
func withArchive(reason, path, digest string) string {
	note := fmt.Sprintf("archive %s, content SHA-256 %s", filepath.Base(path), digest)
	if reason == "" {
		return note
	}
	return reason + " (" + note + ")"
}

// newestOf names the newest live version of each role.
func newestOf(files []storage.FileInfo) string {
	newest := map[tuf.RoleName]tuf.Version{}
	for _, f := range files {
		if f.Deleted.IsZero() {
			newest[f.Role] = max(newest[f.Role], f.Version)
		}
	}
	var list []storage.Metadata
	for role, v := range newest {
		list = append(list, storage.Metadata{Role: role, Version: v})
	}
	slices.SortFunc(list, func(a, b storage.Metadata) int {
		if d := rank(a.Role) - rank(b.Role); d != 0 {
			return d
		}
		return strings.Compare(string(a.Role), string(b.Role))
	})
	return storage.RolesOf(list)
}

// endPurge removes the signer's rows. A key that the GUN's current root lists
// stays: who still had the root key has published it anew meanwhile.
func (s *Site) endPurge(ctx context.Context, p metadb.Purge) (PurgeRecord, error) {
	again := false
	_, err := s.Metadata.EndPurge(ctx, p.ID, func(ctx context.Context, p metadb.Purge) error {
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
			return err
		}
		ids := slices.DeleteFunc(slices.Clone(p.Keys), func(id tuf.KeyID) bool { return listed[id] })
		if _, err := s.Keys.Remove(ctx, ids...); err != nil {
			return err
		}
		s.step("keys removed")
		return nil
	})
	if err != nil {
		return PurgeRecord{}, fmt.Errorf("purging %s: its files are gone, its keys not yet: the same command, or trust-admin purge resume, ends it (archive %s): %w", p.GUN, p.Archive, err)
	}
	s.step("ended")
	r := recordOf(p)
	r.Ended, r.Again = s.Now().UTC(), again
	return r, nil
}

// Purges calls f for each purge on record, oldest first; with open for those
// alone that have not ended.
func (s *Site) Purges(ctx context.Context, open bool, f func(PurgeRecord) error) error {
	if !s.Recorded {
		return fmt.Errorf("%w: trust-admin db migrate makes them", metadb.ErrUnrecorded)
	}
	for q := (metadb.PurgeQuery{Open: open, Limit: 500}); ; {
		page, err := s.Metadata.Purges(ctx, q)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, p := range page {
			if err := f(recordOf(p)); err != nil {
				return err
			}
		}
		q.After = page[len(page)-1].ID
	}
}

// ResumePurges ends all purges that have not ended, and calls done for each.
func (s *Site) ResumePurges(ctx context.Context, done func(PurgeRecord) error) error {
	if err := s.canPurge(); err != nil {
		return err
	}
	return s.Purges(ctx, true, func(r PurgeRecord) error {
		ended, err := s.endPurge(ctx, metadb.Purge{ID: r.ID, GUN: r.GUN, At: r.At, Archive: r.Archive, Digest: r.Digest, Actor: r.Actor, Reason: r.Reason, Keys: r.Keys})
		if err != nil {
			return err
		}
		return done(ended)
	})
}

// WithPrefix lists the GUNs that begin with prefix and have rows in the server's
// database.
func (s *Site) WithPrefix(ctx context.Context, prefix string) (guns []tuf.GUN, err error) {
	err = s.each(ctx, Selection{Prefix: prefix}, func(g tuf.GUN) error { guns = append(guns, g); return nil })
	if err == nil && len(guns) == 0 {
		err = fmt.Errorf("%w: no repository begins with %q", storage.ErrNotFound, prefix)
	}
	return guns, err
}
