package admin

import (
	"context"
	"maps"
	"slices"

	"countersign/tuf"
)

// Show looks at one repository, every role and key of it. The error wraps
// storage.ErrNotFound if there is none of that name, and names those that are
// like it.
func (s *Site) Show(ctx context.Context, gun tuf.GUN) (*Repository, error) {
	r, err := s.survey(ctx, gun, false)
	if err != nil {
		return nil, err
	}
	if r.Versions == 0 {
		return nil, s.noSuch(ctx, gun)
	}
	return r, nil
}

// TagNames returns the first of the tags that verify, by name: at most limit, or
// all if limit is 0.
func (r *Repository) TagNames(limit int) []string {
	seen := map[string]struct{}{}
	for _, role := range r.Roles {
		if !role.Verifies || role.content == nil {
			continue
		}
		for name := range role.content.Files() {
			if allows(role.allowed, name) {
				seen[name] = struct{}{}
			}
		}
	}
	names := slices.Sorted(maps.Keys(seen))
	if limit > 0 && len(names) > limit {
		// A copy, so that the long list is not kept.
		names = slices.Clone(names[:limit])
	}
	return names
}
