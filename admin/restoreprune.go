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

// restorePruned puts back the old versions that an archive of a prune holds, beside
// what has been published since; what is current stays current. Each repository is
// one transaction, and one that cannot take its versions back does not keep the
// others from it.
func (s *Site) restorePruned(ctx context.Context, c RestoreConfig, a *archive.Archive, done func(Restored) error) error {
	if c.Replace || c.NewTimestamp {
		return fmt.Errorf("%s holds old versions of repositories that live on: there is nothing to replace, and no timestamp to sign", c.Path)
	}
	var failed []error
	err := a.Each(func(r *archive.Repository, _ archive.Files) error {
		out, err := s.putBack(ctx, c, a, r)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrVersionConflict) {
			failed = append(failed, fmt.Errorf("restoring %s: %w", r.GUN, err))
			return nil
		}
		if err != nil {
			return fmt.Errorf("restoring %s: %w", r.GUN, err)
		}
		s.step("put back " + string(r.GUN))
		return done(out)
	})
	return errors.Join(append(failed, err)...)
}

func (s *Site) putBack(ctx context.Context, c RestoreConfig, a *archive.Archive, r *archive.Repository) (Restored, error) {
	out := Restored{GUN: r.GUN}
	have, err := s.Metadata.Files(ctx, r.GUN)
	if err != nil {
		return out, err
	}
	missing, err := missingOf(have, r.Files)
	if err != nil || len(missing) == 0 {
		out.Already = err == nil
		return out, err
	}
	wanted := make(map[storage.FileInfo]bool, len(missing))
	for _, f := range missing {
		wanted[f] = true
	}
	each := a.FilesOf(r.GUN)
	out.Files = len(missing)
	return out, s.Metadata.PutBack(ctx, metadb.Restoration{
		GUN: r.GUN, Files: missing,
		Each: func(f func(storage.FileRow) error) error {
			return each(func(row storage.FileRow) error {
				if !wanted[row.FileInfo] {
					return nil
				}
				return f(row)
			})
		},
		Event: storage.Event{
			Action: storage.ActionRestore, GUN: r.GUN, Origin: storage.Origin{Actor: s.Actor},
			Roles: versionRanges(missing), Reason: withArchive(c.Reason, c.Path, a.Digest),
		},
	})
}

// missingOf returns those of want whose version is not in have. One that is there
// must be the same file.
func missingOf(have, want []storage.FileInfo) (missing []storage.FileInfo, err error) {
	type name struct {
		role    tuf.RoleName
		version tuf.Version
	}
	stored := make(map[name]storage.FileInfo, len(have))
	for _, f := range have {
		stored[name{f.Role, f.Version}] = f
	}
	for _, f := range want {
		h, ok := stored[name{f.Role, f.Version}]
		if !ok {
			missing = append(missing, f)
		} else if h.SHA256 != f.SHA256 || h.Size != f.Size {
			return nil, fmt.Errorf("%w: %s version %d is there, and is another file", storage.ErrVersionConflict, f.Role, f.Version)
		}
	}
	return missing, nil
}
