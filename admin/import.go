package admin

import (
	"context"
	"errors"
	"fmt"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// ImportConfig says what to import.
type ImportConfig struct {
	Path   string // of an archive that Export has written
	Reason string
}

// An Imported is a repository that came in, or was there already.
type Imported struct {
	GUN     tuf.GUN `json:"gun"`
	Files   int     `json:"files"`
	Keys    int     `json:"keys"`
	Already bool    `json:"already_there,omitempty"`
	// KeysLeft: the archive has keys, which stayed in it since the signer's database
	// was not named.
	KeysLeft int `json:"keys_left,omitempty"`
}

// Import writes the repositories of an archive into the databases, and calls done
// for each. The archive is read to its end before anything is written. None may
// exist already, but for those that an import which was cut off has left: the same
// call goes on where that one ended. Each repository comes in whole, its keys
// first, so that there is no moment at which it can be read and not renewed.
//
// Into a database whose changefeed is empty the entries come with their IDs, so
// that every answer is what it was; elsewhere they are added at the end.
func (s *Site) Import(ctx context.Context, c ImportConfig, done func(Imported) error) error {
	if s.Metadata == nil {
		return errors.New("to import needs the configuration of the server")
	}
	a, err := archive.Open(c.Path)
	if err != nil {
		return err
	}
	defer a.Close()
	if a.Header.Kind != "export" {
		return fmt.Errorf("%s is an archive of kind %q, not one of export: try trust-admin restore", c.Path, a.Header.Kind)
	}
	keep, err := s.reserve(ctx, a)
	if err != nil {
		return err
	}
	s.step("feed looked at")
	return a.Each(func(r *archive.Repository, _ archive.Files) error {
		out, err := s.importOne(ctx, c, a, r, keep)
		if err == nil {
			err = done(out)
		}
		if err != nil {
			return fmt.Errorf("importing %s: %w", r.GUN, err)
		}
		return nil
	})
}

// reserve decides whether the entries of the changefeed can keep their IDs.
func (s *Site) reserve(ctx context.Context, a *archive.Archive) (keep bool, err error) {
	entries := map[int64]storage.Change{}
	guns := map[tuf.GUN]bool{}
	highest := int64(0)
	if err := a.Each(func(r *archive.Repository, _ archive.Files) error {
		guns[r.GUN] = true
		for _, c := range r.Changes {
			entries[c.ID] = c
			highest = max(highest, c.ID)
		}
		return nil
	}); err != nil {
		return false, err
	}
	return s.Metadata.ReserveChanges(ctx, highest, func(c storage.Change) bool {
		// A server that runs may have renewed what has come in already.
		e, ok := entries[c.ID]
		return c.ID > highest && guns[c.GUN] || ok && e.GUN == c.GUN && e.Version == c.Version && e.SHA256 == c.SHA256
	})
}

func (s *Site) importOne(ctx context.Context, c ImportConfig, a *archive.Archive, r *archive.Repository, keep bool) (Imported, error) {
	out := Imported{GUN: r.GUN, Files: len(r.Files)}
	have, err := s.Metadata.Files(ctx, r.GUN)
	if err != nil {
		return out, err
	}
	if len(have) > 0 && !metadb.Holds(have, r.Files) {
		return out, fmt.Errorf("%w, with %d files: purge it first, if this one is to take its place", ErrAlive, len(have))
	}
	switch {
	case s.Keys == nil:
		out.KeysLeft = len(r.Keys)
	default:
		if _, err := s.restoreKeys(ctx, r); err != nil {
			return out, err
		}
		out.Keys = len(r.Keys)
	}
	s.step("keys of " + string(r.GUN))
	write := s.Metadata.Restore
	if keep {
		write = s.Metadata.Import
	}
	fresh, err := write(ctx, metadb.Restoration{
		GUN: r.GUN, Files: r.Files, Changes: r.Changes, Each: a.FilesOf(r.GUN),
		Event: storage.Event{
			Action: storage.ActionImport, GUN: r.GUN, Origin: storage.Origin{Actor: s.Actor},
			Roles: newestOf(r.Files), Reason: withArchive(c.Reason, c.Path, a.Digest),
		},
	})
	if errors.Is(err, storage.ErrVersionConflict) {
		err = fmt.Errorf("%w, published just now: %w", ErrAlive, err)
	}
	if err != nil {
		return out, err
	}
	out.Already = !fresh
	s.step("files of " + string(r.GUN))
	return out, nil
}
