package metadb

import (
	"context"
	"fmt"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// PutBack writes rows beside those of a repository that lives on: versions that a
// prune has taken, with their times, and the event; all or nothing. The changefeed
// does not change: a prune leaves it whole. r.Changes are not looked at.
//
// The error wraps storage.ErrNotFound if the repository has no timestamp: old
// versions alone are none. It wraps storage.ErrVersionConflict if a version is
// there already; or is not below the newest one of its role, so that what is
// current would be another; or is older than the repository, which is a later one
// of the same name then.
func (s *Store) PutBack(ctx context.Context, r Restoration) error {
	err := s.db.Tx(ctx, func(tx *sqldb.Tx) error {
		if err := s.claim(ctx, tx, r.GUN); err != nil {
			return err
		}
		have, err := files(ctx, tx, r.GUN)
		if err != nil {
			return err
		}
		if err := besides(have, r.Files); err != nil {
			return err
		}
		if err := s.insertFiles(ctx, tx, r); err != nil {
			return err
		}
		return s.record(ctx, tx, r.Event)
	})
	if err != nil {
		return fmt.Errorf("putting back: %w", err)
	}
	return nil
}

// besides makes sure that old versions belong to what is there.
func besides(have, old []storage.FileInfo) error {
	newest := map[tuf.RoleName]tuf.Version{}
	var began time.Time
	for _, f := range have {
		if !f.Deleted.IsZero() {
			continue
		}
		newest[f.Role] = max(newest[f.Role], f.Version)
		if f.Role == tuf.RoleRoot && !f.Created.IsZero() && (began.IsZero() || f.Created.Before(began)) {
			began = f.Created
		}
	}
	if newest[tuf.RoleTimestamp] == 0 {
		return fmt.Errorf("%w: the repository is not there any more, and old versions alone are none", storage.ErrNotFound)
	}
	for _, f := range old {
		switch {
		case f.Version >= newest[f.Role]:
			return fmt.Errorf("%w: %s version %d is not below the newest, which is %d", storage.ErrVersionConflict, f.Role, f.Version, newest[f.Role])
		case !f.Created.IsZero() && f.Created.Before(began):
			return fmt.Errorf("%w: %s version %d is of an earlier repository of that name: the root of this one was published later", storage.ErrVersionConflict, f.Role, f.Version)
		}
	}
	return nil
}
