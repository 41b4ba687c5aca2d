package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

const (
	// gunPage is how many GUNs are listed together.
	gunPage = 500
	// archiveTries is how often a repository is read anew because rows of it went
	// while it was read. New rows are no reason: they are left out.
	archiveTries = 5
)

// A Selection says which GUNs: those named, or all that begin with Prefix, or All.
type Selection struct {
	GUNs   []tuf.GUN
	Prefix string
	All    bool
}

// check makes sure that the selection is one, and only one.
func (sel Selection) check() error {
	n := 0
	for _, set := range []bool{len(sel.GUNs) > 0, sel.Prefix != "", sel.All} {
		if set {
			n++
		}
	}
	switch {
	case n == 0:
		return errors.New("say which repositories: name them, or give --prefix, or --all")
	case n > 1:
		return errors.New("name repositories, or give --prefix, or --all, and not two of these")
	}
	for _, gun := range sel.GUNs {
		if gun == "" {
			return errors.New("the name of a repository is empty")
		}
	}
	return nil
}

// each calls f for each GUN that is selected and has rows in the server's
// database; those that are named are not looked for.
func (s *Site) each(ctx context.Context, sel Selection, f func(tuf.GUN) error) error {
	for _, gun := range sel.GUNs {
		if err := f(gun); err != nil {
			return err
		}
	}
	if len(sel.GUNs) > 0 {
		return nil
	}
	for after := tuf.GUN(""); ; {
		page, err := s.Metadata.GUNs(ctx, after, sel.Prefix, gunPage)
		if err != nil {
			return err
		}
		for _, gun := range page {
			if err := f(gun); err != nil {
				return err
			}
		}
		if len(page) < gunPage {
			return nil
		}
		after = page[len(page)-1]
	}
}

// ExportConfig says what to export.
type ExportConfig struct {
	Selection
	// Path of the archive, where no file may be.
	Path string
	// Keys takes the sealed keys along: whoever has the archive and the passphrase
	// can sign snapshots and timestamps. Needs the signer's database.
	Keys   bool
	Reason string
	// Progress, if set, is called after each repository.
	Progress func(done int, gun tuf.GUN)
}

// An Export says what was written.
type Export struct {
	Path         string `json:"archive"`
	Digest       string `json:"digest"`
	Repositories int    `json:"repositories"`
	Files        int    `json:"files"`
	Bytes        int64  `json:"bytes"`
	Keys         int    `json:"keys"`
}

// Export writes repositories to an archive, each as it was at one moment, all
// versions of it. The programs may go on. Nothing is at Path unless the error is
// nil. It wraps fs.ErrExist if there is something already, and
// storage.ErrNotFound if a GUN that was named has no rows.
func (s *Site) Export(ctx context.Context, c ExportConfig) (Export, error) {
	out := Export{Path: c.Path}
	if err := c.check(); err != nil {
		return out, err
	}
	w, err := archive.Create(c.Path, archive.Header{Kind: "export", Created: s.Now().UTC(), Tool: s.Tool, By: s.Actor, Reason: c.Reason})
	if err != nil {
		return out, err
	}
	defer w.Abort()
	err = s.each(ctx, c.Selection, func(gun tuf.GUN) error {
		r, err := s.archive(ctx, w, gun, c.Keys)
		if errors.Is(err, storage.ErrNotFound) && len(c.GUNs) == 0 {
			return nil // it was deleted since it was listed
		}
		if err != nil {
			return fmt.Errorf("exporting %s: %w", gun, err)
		}
		out.Repositories++
		out.Files += len(r.Files)
		out.Keys += len(r.Keys)
		for _, f := range r.Files {
			out.Bytes += f.Size
		}
		if c.Progress != nil {
			c.Progress(out.Repositories, gun)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	if out.Repositories == 0 {
		return out, fmt.Errorf("%w: no repository begins with %q", storage.ErrNotFound, c.Prefix)
	}
	if err := w.Close(); err != nil {
		return out, err
	}
	written, err := archive.Open(c.Path)
	if err != nil {
		return out, err
	}
	out.Digest = written.Digest
	return out, written.Close()
}

// archive adds all of gun to w, as it was at one moment.
func (s *Site) archive(ctx context.Context, w *archive.Writer, gun tuf.GUN, keys bool) (*archive.Repository, error) {
	for try := 1; ; try++ {
		r := &archive.Repository{GUN: gun}
		var err error
		if keys {
			if r.Keys, err = s.Keys.Rows(ctx, keydb.Query{GUN: gun, Deleted: true}); err != nil {
				return nil, err
			}
		}
		if r.Files, r.Changes, err = s.Metadata.Contents(ctx, gun); err != nil {
			return nil, err
		}
		if len(r.Files) == 0 && len(r.Keys) == 0 {
			return nil, fmt.Errorf("%w: there is no repository of that name", storage.ErrNotFound)
		}
		err = s.write(ctx, w, r)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, archive.ErrChanged) || try == archiveTries {
			return nil, err
		}
		if err := w.Rollback(); err != nil {
			return nil, err
		}
	}
}

func (s *Site) write(ctx context.Context, w *archive.Writer, r *archive.Repository) error {
	if err := w.Begin(r); err != nil {
		return err
	}
	n := 0
	err := s.Metadata.FilesOf(ctx, r.GUN, r.Files, func(f storage.FileRow) error { n++; return w.Add(f) })
	if err == nil && n < len(r.Files) {
		err = archive.ErrChanged
	}
	return err
}

// ParseGUNs checks names that an operator has typed. A name that no client can
// use is let through: such rows exist, and must be reachable.
func ParseGUNs(args []string) (guns []tuf.GUN, err error) {
	for _, a := range args {
		if strings.TrimSpace(a) == "" {
			return nil, errors.New("the name of a repository is empty")
		}
		guns = append(guns, tuf.GUN(a))
	}
	return guns, nil
}
