package admin

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// FsckConfig says what to check. The zero value is everything.
type FsckConfig struct {
	GUNs   []tuf.GUN
	Prefix string
	// Jobs is how many repositories are checked at once. Default: as many as there
	// are CPUs.
	Jobs int
}

// A Finding is one thing that the check has found.
type Finding struct {
	GUN     tuf.GUN      `json:"gun"`
	Role    tuf.RoleName `json:"role,omitempty"`
	Version tuf.Version  `json:"version,omitempty"` // 0: of no one version
	Row     int64        `json:"row,omitempty"`     // of tuf_files, or of changefeed where the class is about it
	Class   Class        `json:"class"`
	// Fault: something was damaged, lost or forged. Otherwise it is a note: an
	// operator may want to know it, and nothing is wrong with the data.
	Fault bool   `json:"fault"`
	Text  string `json:"text"`
	Do    string `json:"do"` // what to do about it
}

// FsckTotals sums up a check.
type FsckTotals struct {
	Repositories int64 `json:"repositories"`
	Rows         int64 `json:"rows"`
	Bytes        int64 `json:"bytes"`
	Faults       int64 `json:"faults"`
	Notes        int64 `json:"notes"`
	// Undecided counts old files whose signatures prove nothing any more: what
	// listed their keys has been pruned, or is damaged itself.
	Undecided int64 `json:"undecided"`
	// Rechecked counts repositories that were read again, because they changed
	// while they were read and did not look right.
	Rechecked int64 `json:"rechecked"`
}

// Inspected is what was found of one repository. GUN "" is what is about none.
type Inspected struct {
	GUN      tuf.GUN
	Findings []Finding
	totals   FsckTotals
}

// fsckTries is how often a repository that keeps changing is read.
const fsckTries = 4

// Fsck checks repositories, and calls report for each one, in the order of the
// database, findings or not. The programs, and upstream's, may be running: what
// changes while it is read is read again before it is called faulty. Memory is
// bounded by the number of rows of the largest repository, not by their bytes.
// The error is a fault of the check itself, or wraps storage.ErrNotFound if a GUN
// that is named has no rows.
func (s *Site) Fsck(ctx context.Context, c FsckConfig, report func(Inspected) error) (FsckTotals, error) {
	var total FsckTotals
	jobs := c.Jobs
	if jobs < 1 {
		jobs = runtime.GOMAXPROCS(0)
	}
	add := func(o Inspected) error {
		total.add(o)
		return report(o)
	}
	if err := s.fsckEach(ctx, c, jobs, add); err != nil {
		return total, err
	}
	if err := s.fsckGone(ctx, c, add); err != nil {
		return total, err
	}
	findings, err := s.fsckPending(ctx, c)
	if err == nil && len(findings) > 0 {
		err = add(Inspected{Findings: findings})
	}
	return total, err
}

func (t *FsckTotals) add(o Inspected) {
	if o.GUN != "" && o.totals.Rows > 0 {
		t.Repositories++
	}
	t.Rows += o.totals.Rows
	t.Bytes += o.totals.Bytes
	t.Undecided += o.totals.Undecided
	t.Rechecked += o.totals.Rechecked
	for _, f := range o.Findings {
		if f.Fault {
			t.Faults++
		} else {
			t.Notes++
		}
	}
}

// fsckEach checks several repositories at once, and reports them in order.
func (s *Site) fsckEach(ctx context.Context, c FsckConfig, jobs int, report func(Inspected) error) error {
	all, ctx := errgroup.WithContext(ctx)
	queue := make(chan chan Inspected, jobs)
	all.Go(func() error {
		defer close(queue)
		workers, ctx := errgroup.WithContext(ctx)
		workers.SetLimit(jobs)
		sel := Selection{GUNs: c.GUNs, Prefix: c.Prefix, All: len(c.GUNs) == 0 && c.Prefix == ""}
		err := s.each(ctx, sel, func(gun tuf.GUN) error {
			done := make(chan Inspected, 1)
			select {
			case queue <- done:
			case <-ctx.Done():
				return ctx.Err()
			}
			workers.Go(func() error {
				defer close(done)
				o, err := s.fsckGUN(ctx, gun)
				if err == nil && len(c.GUNs) > 0 && o.totals.Rows == 0 && len(o.Findings) == 0 {
					err = fmt.Errorf("%w: %q has no rows; trust-admin ls lists the repositories", storage.ErrNotFound, gun)
				}
				if err == nil {
					done <- o
				}
				return err
			})
			return nil
		})
		if failed := workers.Wait(); failed != nil {
			return failed // and err says only that it was told to stop
		}
		return err
	})
	all.Go(func() error {
		for done := range queue {
			o, ok := <-done
			if !ok {
				return nil // the worker's error ends it all
			}
			if err := report(o); err != nil {
				return err
			}
		}
		return nil
	})
	return all.Wait()
}

// fsckGUN checks gun. Faults of a repository that has changed meanwhile are
// believed only if they are found again.
func (s *Site) fsckGUN(ctx context.Context, gun tuf.GUN) (Inspected, error) {
	var last []Finding
	for try := 1; ; try++ {
		before, err := s.Metadata.Mark(ctx, gun)
		if err != nil {
			return Inspected{}, err
		}
		o, err := inspect(ctx, s.Metadata, gun, s.Now())
		if err != nil {
			return Inspected{}, err
		}
		o.totals.Rechecked = int64(min(try-1, 1))
		if !slices.ContainsFunc(o.Findings, func(f Finding) bool { return f.Fault }) {
			return o, nil
		}
		after, err := s.Metadata.Mark(ctx, gun)
		if err != nil || before == after {
			return o, err
		}
		if try == fsckTries {
			o.Findings = slices.DeleteFunc(o.Findings, func(f Finding) bool { return f.Fault && !slices.Contains(last, f) })
			o.Findings = append(o.Findings, finding(gun, ClassUnsettled, Finding{Text: fmt.Sprintf("it has changed during each of %d readings", try)}))
			return o, nil
		}
		last = o.Findings
	}
}

// fsckGone reports repositories whose rows are gone and of which the changefeed
// does not say so.
func (s *Site) fsckGone(ctx context.Context, c FsckConfig, report func(Inspected) error) error {
	if len(c.GUNs) > 0 {
		return nil
	}
	for after := tuf.GUN(""); ; {
		page, err := s.Metadata.Gone(ctx, after, c.Prefix, gunPage)
		if err != nil {
			return err
		}
		for _, gun := range page {
			f := finding(gun, ClassGone, Finding{Text: "the changefeed has entries of it, and no deletion, but there are no rows: somebody has removed them by hand"})
			if err := report(Inspected{GUN: gun, Findings: []Finding{f}}); err != nil {
				return err
			}
		}
		if len(page) < gunPage {
			return nil
		}
		after = page[len(page)-1]
	}
}

// fsckPending lists what was begun in one database and not ended in the other.
func (s *Site) fsckPending(ctx context.Context, c FsckConfig) (list []Finding, err error) {
	wanted := func(gun tuf.GUN) bool {
		if len(c.GUNs) > 0 {
			return slices.Contains(c.GUNs, gun)
		}
		return len(gun) >= len(c.Prefix) && string(gun[:len(c.Prefix)]) == c.Prefix
	}
	for q := (storage.DoomedQuery{Limit: gunPage}); ; {
		page, err := s.Metadata.Doomed(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, k := range page {
			if q.After = k; wanted(k.GUN) {
				list = append(list, finding(k.GUN, ClassKeyDoomed, Finding{Role: k.Role, Text: fmt.Sprintf("the signer may still have key %s of this repository, which was deleted", k.ID)}))
			}
		}
		if len(page) < gunPage {
			break
		}
	}
	for after := int64(0); ; {
		page, err := s.Metadata.Purges(ctx, metadb.PurgeQuery{Open: true, After: after, Limit: gunPage})
		if err != nil {
			return nil, err
		}
		for _, p := range page {
			if after = p.ID; wanted(p.GUN) {
				list = append(list, finding(p.GUN, ClassPurgeOpen, Finding{Text: fmt.Sprintf("a purge was begun at %s and has not ended; its archive is %s", p.At.Format(time.RFC3339), p.Archive)}))
			}
		}
		if len(page) < gunPage {
			return list, nil
		}
	}
}

// finding fills in what the class says.
func finding(gun tuf.GUN, c Class, f Finding) Finding {
	about := classes[c]
	f.GUN, f.Class, f.Fault = gun, c, about.fault
	if f.Do == "" {
		f.Do = about.do
	}
	return f
}

// sortFindings puts what is about one file together, faults first.
func sortFindings(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int {
		if a.Fault != b.Fault {
			if a.Fault {
				return -1
			}
			return 1
		}
		return cmp.Or(rankRole(a.Role)-rankRole(b.Role), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Row, b.Row), cmp.Compare(a.Class, b.Class))
	})
}

// rankRole is the place of a role in lists: as it is written, top down.
func rankRole(r tuf.RoleName) int {
	if i := slices.Index([]tuf.RoleName{"", tuf.RoleRoot, tuf.RoleTargets}, r); i >= 0 {
		return i
	}
	if i := slices.Index([]tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp}, r); i >= 0 {
		return i + 5
	}
	return 4
}
