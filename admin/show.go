package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"countersign/storage"
	"countersign/tuf"
)

// Show looks at one repository, every role and key of it. The error wraps
// storage.ErrNotFound if there is none of that name, and is then an
// *UnknownGUNError.
func (s *Site) Show(ctx context.Context, gun tuf.GUN) (*Repository, error) {
	r, err := s.survey(ctx, gun, false)
	if err != nil {
		return nil, err
	}
	if r.Versions == 0 {
		return nil, s.unknown(ctx, gun)
	}
	return r, nil
}

// An UnknownGUNError says that there is no repository of that name, and which
// names are like it. It is storage.ErrNotFound.
type UnknownGUNError struct {
	GUN     tuf.GUN
	Nearest []tuf.GUN // at most three, the likeliest first
	Total   int       // repositories in the database
}

func (e *UnknownGUNError) Error() string {
	text := fmt.Sprintf("there is no repository %.300q", e.GUN)
	if len(e.Nearest) == 0 {
		return fmt.Sprintf("%s among the %d of this server; trust-admin ls lists them", text, e.Total)
	}
	var names []string
	for _, n := range e.Nearest {
		names = append(names, fmt.Sprintf("%.300q", n))
	}
	return text + "; did you mean " + strings.Join(names, " or ") + "?"
}

func (e *UnknownGUNError) Unwrap() error { return storage.ErrNotFound }

// nearest is how many names an UnknownGUNError offers.
const nearest = 3

// unknown looks through all names for some that are like gun. It holds a page
// of them at a time.
func (s *Site) unknown(ctx context.Context, gun tuf.GUN) error {
	type candidate struct {
		gun   tuf.GUN
		score int
	}
	e := &UnknownGUNError{GUN: gun}
	var best []candidate
	err := s.each(ctx, Selection{All: true}, func(other tuf.GUN) error {
		e.Total++
		score, like := unlike(string(gun), string(other))
		if !like {
			return nil
		}
		best = append(best, candidate{other, score})
		slices.SortStableFunc(best, func(a, b candidate) int { return cmp.Compare(a.score, b.score) })
		best = best[:min(len(best), nearest)]
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range best {
		e.Nearest = append(e.Nearest, c.gun)
	}
	return e
}

// unlike says how unlike two names are, and whether they are like at all: one
// is the end of the other (a registry's host was left out, or is another one), they
// differ in case, or in a third of their letters or less.
func unlike(a, b string) (score int, like bool) {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == "" {
		return 0, false
	}
	if strings.HasSuffix(b, "/"+a) || strings.HasSuffix(a, "/"+b) {
		return 1, true
	}
	limit := max(len(a)/3, 2)
	if d := len(a) - len(b); d > limit || -d > limit {
		return 0, false
	}
	if d := edits(a, b); d <= limit {
		return d, true
	}
	if _, pathA, ok := strings.Cut(a, "/"); ok {
		if _, pathB, ok := strings.Cut(b, "/"); ok && pathA == pathB {
			return limit, true
		}
	}
	return 0, false
}

// edits is the number of bytes to insert, remove or change to get from a to b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
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
