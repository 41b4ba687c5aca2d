package admin

import (
	"context"
	"crypto/sha256"
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
	// KeysElsewhere purges although the two databases do not fit together: see
	// ErrUnmatched.
	KeysElsewhere bool
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
	keys := append([]tuf.KeyID{}, p.Keys...)
	return PurgeRecord{ID: p.ID, GUN: p.GUN, At: p.At, Ended: p.Ended, Archive: p.Archive, Digest: p.Digest, Actor: p.Actor, Reason: p.Reason, Keys: keys}
}

// Purge removes a repository from both databases, in steps, each of which leaves
// the next one possible after a crash. The same call goes on where it ended.
//
//  1. All rows of both databases are archived, and the archive is read again.
//     A crash leaves an archive too many, and nothing else.
//  2. In one transaction the server's rows go, if they are those of the archive,
//     and it is recorded which keys have to follow. Who publishes before it has
//     his files archived in a second try, and the first archive goes when the
//     second is whole; who publishes after it is refused.
//  3. The signer's rows of those keys go, and that is recorded. A signer looks at
//     the row for each signature: from here on none signs, on any replica. Keys
//     that somebody has begun to use anew since 2 stay; see endPurge.
//
// No key goes before 2: until then its repository lives, and may come to need it.
//
// A purge that an earlier call has not ended is ended, and then nothing else is
// done: what is there by now was begun after it. If the files have gone and the
// keys have not, the record is returned with the error.
func (s *Site) Purge(ctx context.Context, c PurgeConfig) (PurgeRecord, error) {
	if err := s.canPurge(); err != nil {
		return PurgeRecord{}, err
	}
	c.Reason = cleanReason(c.Reason)
	p, err := s.unfinished(ctx, c.GUN)
	if err == nil && p == nil && !c.KeysElsewhere {
		if err = s.match(ctx, c.GUN); errors.Is(err, ErrUnmatched) {
			// It looks so, too, when another purge is under way.
			var err2 error
			if p, err2 = s.unfinished(ctx, c.GUN); err2 != nil || p != nil {
				err = err2
			}
		}
	}
	if err != nil {
		return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed: %w", c.GUN, err)
	}
	if p != nil {
		return s.endPurge(ctx, *p, nil)
	}
	older := ""
	for try := 1; ; try++ {
		r, digest, path, err := s.takeArchive(ctx, c)
		if err != nil {
			if older != "" {
				err = fmt.Errorf("%w (the archive %s is whole, but older than what is stored)", err, older)
			}
			return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed: %w", c.GUN, err)
		}
		if older != "" {
			if err := os.Remove(older); err != nil {
				return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed: %w", c.GUN, err)
			}
		}
		s.step("archived")
		p, err := s.beginPurge(ctx, c, r, digest, path)
		if err == nil {
			s.step("rows removed")
			return s.endPurge(ctx, p, r.Keys)
		}
		if !errors.Is(err, storage.ErrStale) || try == purgeTries {
			return PurgeRecord{}, fmt.Errorf("purging %s: nothing was removed; the archive %s is whole: %w", c.GUN, path, err)
		}
		older = path
	}
}

// unfinished finds the oldest purge of gun that has not ended, or nil.
func (s *Site) unfinished(ctx context.Context, gun tuf.GUN) (*metadb.Purge, error) {
	open, err := s.Metadata.Purges(ctx, metadb.PurgeQuery{GUN: gun, Open: true, Limit: 1})
	if err != nil || len(open) == 0 {
		return nil, err
	}
	return &open[0], nil
}

// maxReason is how many bytes of an operator's reason are kept.
const maxReason = 1000

// cleanReason makes a reason one line that every database takes.
func cleanReason(s string) string {
	s = strings.Join(strings.Fields(oneLine(s)), " ")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
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

// FileName is a part of a file's name that stands for gun, and for no other.
func FileName(gun tuf.GUN) string {
	plain := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '_'
	}
	name := strings.TrimLeft(strings.Map(plain, string(gun)), ".")
	if len(name) <= 150 && name == strings.ReplaceAll(string(gun), "/", "_") && !strings.Contains(string(gun), "_") {
		return name
	}
	return fmt.Sprintf("%.150s_%.8x", name, sha256.Sum256([]byte(gun)))
}

// ArchiveName is the name of the archive of a purge.
func ArchiveName(gun tuf.GUN, at time.Time) string {
	return fmt.Sprintf("%s-%s.purge.tar", FileName(gun), at.UTC().Format("20060102T150405.000000Z"))
}

// takeArchive archives all of a GUN, and reads the archive again. The repository
// is empty if there is nothing.
func (s *Site) takeArchive(ctx context.Context, c PurgeConfig) (r *archive.Repository, digest, path string, err error) {
	for try := 1; ; try++ {
		now := s.Now()
		path, err = filepath.Abs(filepath.Join(c.Dir, ArchiveName(c.GUN, now)))
		if err != nil {
			return nil, "", "", err
		}
		h := archive.Header{Kind: "purge", Created: now.UTC(), Tool: s.Tool, By: s.Actor, Reason: c.Reason}
		r, err = s.writeArchive(ctx, c.GUN, path, h)
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
func (s *Site) writeArchive(ctx context.Context, gun tuf.GUN, path string, h archive.Header) (*archive.Repository, error) {
	r := &archive.Repository{GUN: gun}
	var err error
	if r.Files, r.Changes, err = s.Metadata.Contents(ctx, gun); err != nil {
		return nil, err
	}
	if r.Keys, err = s.Keys.Rows(ctx, keydb.Query{GUN: gun, Deleted: true}); err != nil {
		return nil, err
	}
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
		ended, err := s.endPurge(ctx, metadb.Purge{ID: r.ID, GUN: r.GUN, At: r.At, Archive: r.Archive, Digest: r.Digest, Actor: r.Actor, Reason: r.Reason, Keys: r.Keys}, nil)
		if err != nil {
			return err
		}
		return done(ended)
	})
}

// LastPurge is the newest purge of gun that is on record, or nil.
func (s *Site) LastPurge(ctx context.Context, gun tuf.GUN) (*PurgeRecord, error) {
	for q, last := (metadb.PurgeQuery{GUN: gun, Limit: 500}), (*PurgeRecord)(nil); ; {
		page, err := s.Metadata.Purges(ctx, q)
		if err != nil || len(page) == 0 {
			return last, err
		}
		r := recordOf(page[len(page)-1])
		last, q.After = &r, r.ID
	}
}

// WithPrefix lists the GUNs that begin with prefix and have rows in the server's
// database, or a purge that has not ended.
func (s *Site) WithPrefix(ctx context.Context, prefix string) (guns []tuf.GUN, err error) {
	err = s.each(ctx, Selection{Prefix: prefix}, func(g tuf.GUN) error { guns = append(guns, g); return nil })
	if err == nil && s.Recorded {
		err = s.Purges(ctx, true, func(r PurgeRecord) error {
			if strings.HasPrefix(string(r.GUN), prefix) {
				guns = append(guns, r.GUN)
			}
			return nil
		})
	}
	slices.Sort(guns)
	guns = slices.Compact(guns)
	if err == nil && len(guns) == 0 {
		err = fmt.Errorf("%w: no repository begins with %q", storage.ErrNotFound, prefix)
	}
	return guns, err
}
