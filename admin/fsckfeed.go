package admin

import (
	"fmt"
	"slices"

	"countersign/storage"
	"countersign/tuf"
)

// judgeFeed compares the changefeed with the timestamps that are stored: each
// must have its entry, and the entries of this life must be in their order.
// Entries of versions that are not stored any more are fine: that is what
// deletions and prunes leave, and restored entries come at the end of the feed.
func (in *inspection) judgeFeed() {
	newest := in.newest()
	if newest == nil || in.faulty[tuf.RoleTimestamp] {
		return // there is one finding already, and what it has done to the feed is no other
	}
	f := feed{in: in, bySum: map[string][]int{}, used: make([]bool, len(in.feed)), created: map[string]storage.FileInfo{}, stored: map[tuf.Version]bool{}, lowest: newest.Version}
	for i, c := range in.feed {
		if c.Category == storage.ChangeDeletion {
			f.deletion = i + 1
		} else {
			f.bySum[c.SHA256] = append(f.bySum[c.SHA256], i)
		}
	}
	var stamps []inspectedRow
	for _, r := range in.rows {
		if r.Role == tuf.RoleTimestamp {
			stamps = append(stamps, r)
			f.stored[r.Version] = true
			f.lowest = min(f.lowest, r.Version)
			f.created[r.SHA256] = r.FileInfo
		}
	}
	slices.SortFunc(stamps, func(a, b inspectedRow) int { return int(a.Version) - int(b.Version) })
	// Those that match take their entries first, so that what is left over is
	// what is wrong.
	var unmatched []inspectedRow
	for _, r := range stamps {
		if !f.match(r) {
			unmatched = append(unmatched, r)
		}
	}
	for _, r := range unmatched {
		f.explain(r)
	}
	f.gaps(stamps)
	f.order()
	f.leftovers(newest.Version)
	f.deleted(newest)
}

// A feed is the changefeed of one repository while it is compared.
type feed struct {
	in       *inspection
	bySum    map[string][]int
	used     []bool
	deletion int // index behind the last deletion: where this life begins
	created  map[string]storage.FileInfo
	stored   map[tuf.Version]bool
	lowest   tuf.Version
}

// match finds the entries of a timestamp, and notes it if one is there twice. A
// restoration repeats the entry of the newest timestamp, with the time at which it
// was restored.
func (f *feed) match(r inspectedRow) bool {
	found := false
	seen := map[storage.Change]bool{}
	for _, i := range f.bySum[r.SHA256] {
		c := f.in.feed[i]
		if c.Version != r.Version {
			continue
		}
		id := c.ID
		c.ID = 0
		if seen[c] {
			f.in.add(ClassFeedTwice, Finding{Role: r.Role, Version: r.Version, Row: id, Text: "the entry of this timestamp is there twice"})
		}
		seen[c], f.used[i], found = true, true, true
	}
	return found
}

// explain says what is wrong with the entry of a timestamp that has none.
func (f *feed) explain(r inspectedRow) {
	for _, i := range f.bySum[r.SHA256] {
		if !f.used[i] {
			f.used[i] = true
			f.in.add(ClassFeedVersion, Finding{Role: r.Role, Version: r.Version, Row: f.in.feed[i].ID,
				Text: fmt.Sprintf("its entry in the changefeed says version %d", f.in.feed[i].Version)})
			return
		}
	}
	for i, c := range f.in.feed {
		if !f.used[i] && c.Category != storage.ChangeDeletion && c.Version == r.Version {
			f.used[i] = true
			f.in.add(ClassFeedSum, Finding{Role: r.Role, Version: r.Version, Row: c.ID,
				Text: fmt.Sprintf("its entry in the changefeed has the SHA-256 %q, and not %s", c.SHA256, r.SHA256)})
			return
		}
	}
	f.in.add(ClassFeedMissing, Finding{Role: r.Role, Version: r.Version, Row: r.ID, Text: "the changefeed has no entry of this timestamp"})
}

// gaps notes versions that are missing between two that are stored: a prune takes
// the oldest, and the server numbers them one by one.
func (f *feed) gaps(stamps []inspectedRow) {
	for i := 1; i < len(stamps); i++ {
		a, b := stamps[i-1].Version, stamps[i].Version
		if b-a < 2 || f.hiddenBetween(a, b) {
			continue
		}
		text := fmt.Sprintf("version %d is not stored", a+1)
		if b-a > 2 {
			text = fmt.Sprintf("versions %d to %d are not stored", a+1, b-1)
		}
		f.in.add(ClassTimestampGap, Finding{Role: tuf.RoleTimestamp, Version: a + 1, Text: text})
	}
}

func (f *feed) hiddenBetween(a, b tuf.Version) bool {
	return slices.ContainsFunc(f.in.deleted, func(d storage.FileInfo) bool {
		return d.Role == tuf.RoleTimestamp && d.Version > a && d.Version < b
	})
}

// order checks that versions rise with the entries of this life. Entries that
// upstream's migration made of stored rows are in the order of their times, which
// were local; and restored ones have the times that they had.
func (f *feed) order() {
	last := -1
	for i := f.deletion; i < len(f.in.feed); i++ {
		if !f.used[i] {
			continue
		}
		if last >= 0 {
			a, b := f.in.feed[last], f.in.feed[i]
			x, y := f.created[a.SHA256], f.created[b.SHA256]
			if a.Version > b.Version && !b.CreatedAt.Before(a.CreatedAt) && x.Created.After(y.Created) {
				f.in.add(ClassFeedOrder, Finding{Role: tuf.RoleTimestamp, Version: b.Version, Row: b.ID,
					Text: fmt.Sprintf("the entry of version %d comes before that of version %d", a.Version, b.Version)})
			}
		}
		last = i
	}
}

// leftovers are entries of this life that no stored timestamp has.
func (f *feed) leftovers(newest tuf.Version) {
	var orphans int
	var first, ahead storage.Change
	for i := f.deletion; i < len(f.in.feed); i++ {
		c := f.in.feed[i]
		switch {
		case f.used[i], c.Version < f.lowest:
		case c.Version > newest:
			if c.Version > ahead.Version {
				ahead = c
			}
		case f.stored[c.Version]:
			if orphans++; orphans == 1 {
				first = c
			}
		}
	}
	if ahead.Version > 0 {
		f.in.add(ClassRolledBack, Finding{Role: tuf.RoleTimestamp, Version: ahead.Version, Row: ahead.ID,
			Text: fmt.Sprintf("the changefeed knows timestamp version %d, and the newest that is stored is %d", ahead.Version, newest)})
	}
	if orphans > 0 {
		f.in.add(ClassFeedOrphan, Finding{Role: tuf.RoleTimestamp, Version: first.Version, Row: first.ID,
			Text: fmt.Sprintf("the changefeed has %d entries of timestamps that were never stored; this is the first", orphans)})
	}
}

// deleted checks that the feed's last word is not that all of this is gone.
func (f *feed) deleted(newest *inspectedRow) {
	if f.deletion == 0 {
		return
	}
	last := -1
	for _, i := range f.bySum[newest.SHA256] {
		last = max(last, i)
	}
	if last >= 0 && last < f.deletion {
		f.in.add(ClassFeedDeleted, Finding{Role: tuf.RoleTimestamp, Version: newest.Version, Row: f.in.feed[f.deletion-1].ID,
			Text: "after the entry of the newest timestamp comes a deletion: readers of the feed take the repository for gone"})
	}
}
