package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"countersign/admin/archive"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// pruneLeeway is how much older a row may look than it is: upstream's server
// wrote its local time, which may lag UTC by half a day.
const pruneLeeway = 14 * time.Hour

// pruneTries is how often a repository is looked at anew because somebody has
// published to it between the choice of rows and their removal.
const pruneTries = 5

// PruneConfig says which old versions may go.
type PruneConfig struct {
	Selection
	// KeepVersions is how many of the newest versions of each role stay, and how
	// many of the newest generations with all that they reach. At least 1.
	KeepVersions int
	// KeepDays is for how many days whatever was current stays, whole, however
	// many versions there are. HTTP caches may ask for longer: then that counts.
	KeepDays int
	// Act removes. Otherwise it is only said what would go.
	Act bool
	// Archive is a file to which all is written before the first row goes; "" for
	// none. If there is one already that this command has written, what it holds
	// is removed: so a prune that was interrupted is ended.
	Archive string
	Reason  string
}

// A Pruned is what a prune does to one repository.
type Pruned struct {
	GUN         tuf.GUN `json:"gun"`
	RowsBefore  int64   `json:"rows_before"`
	RowsAfter   int64   `json:"rows_after"`
	BytesBefore int64   `json:"bytes_before"`
	BytesAfter  int64   `json:"bytes_after"`
	// Removed are the roles and versions, such as "snapshot 1-40, targets 1-38".
	Removed string `json:"removed,omitempty"`
	// Skipped says why nothing is done, if a fault keeps it from being pruned.
	Skipped string `json:"skipped,omitempty"`
}

// ErrArchiveHolds: the archive is of an earlier prune, and there is more to prune
// than it holds.
var ErrArchiveHolds = errors.New("there is more to prune than this archive holds; name another file for it")

// PruneWindow is how long a generation stays after it has been replaced: the
// days that are asked for, or as long as the server lets HTTP caches keep what it
// sends, whichever is more.
func (s *Site) PruneWindow(c PruneConfig) time.Duration {
	age := s.Server.Caching.MaxAge
	return max(time.Duration(c.KeepDays)*24*time.Hour, time.Duration(max(age.CurrentMetadata, age.ConsistentMetadata))*time.Second)
}

// Prune removes old versions of the selected repositories, or says what would go.
// It calls report for each one. A root never goes, nor what the current
// generation reaches, nor what any generation reaches that was current within the
// window, or is one of the newest. A repository that a client could not read to
// its end is skipped. Each is one transaction; whatever interrupts the command, to
// run it again ends it.
func (s *Site) Prune(ctx context.Context, c PruneConfig, report func(Pruned) error) error {
	if err := c.check(); err != nil {
		return err
	}
	switch {
	case c.KeepVersions < 1:
		return fmt.Errorf("%w: at least 1 version must be kept", storage.ErrInvalid)
	case c.KeepDays < 0 || c.KeepDays > 36500:
		return fmt.Errorf("%w: days to keep are 0 to 36500", storage.ErrInvalid)
	}
	p := &pruner{Site: s, PruneConfig: c, cutoff: s.Now().Add(-s.PruneWindow(c) - pruneLeeway)}
	if !c.Act || c.Archive == "" {
		return s.each(ctx, c.Selection, func(gun tuf.GUN) error {
			o, err := p.gun(ctx, gun, nil)
			if p.vanished(err) {
				return nil
			}
			if err != nil {
				return err
			}
			return report(o)
		})
	}
	return p.archived(ctx, report)
}

type pruner struct {
	*Site
	PruneConfig
	cutoff time.Time // generations that were replaced later stay
}

// vanished reports whether err says that a repository which was listed has been
// deleted since; one that was named must be there.
func (p *pruner) vanished(err error) bool {
	return errors.Is(err, storage.ErrNotFound) && len(p.GUNs) == 0
}

// A prunePlan is what may go of a repository, by what is stored now.
type prunePlan struct {
	Pruned
	metadb.Pruning
}

// gun prunes one repository, or plans to; only rows of allowed, unless it is nil.
func (p *pruner) gun(ctx context.Context, gun tuf.GUN, allowed map[storage.FileInfo]bool) (Pruned, error) {
	for try := 1; ; try++ {
		plan, err := p.plan(ctx, gun)
		if err != nil || !p.Act || len(plan.Rows) == 0 {
			return plan.Pruned, err
		}
		if allowed != nil {
			plan.limit(allowed)
			if len(plan.Rows) == 0 {
				return plan.Pruned, nil
			}
		}
		plan.Event = storage.Event{Action: storage.ActionPrune, GUN: gun, Roles: plan.Removed, Reason: p.Reason, Origin: storage.Origin{Actor: p.Actor}}
		rows, bytes, err := p.Metadata.Prune(ctx, plan.Pruning)
		if errors.Is(err, storage.ErrStale) {
			if try < pruneTries {
				continue
			}
			return Pruned{GUN: gun, RowsBefore: plan.RowsBefore, RowsAfter: plan.RowsBefore, BytesBefore: plan.BytesBefore, BytesAfter: plan.BytesBefore,
				Skipped: "it was published to each time it was looked at: try again later"}, nil
		}
		if err != nil {
			return Pruned{}, err
		}
		p.step("pruned " + string(gun))
		plan.RowsAfter, plan.BytesAfter = plan.RowsBefore-rows, plan.BytesBefore-bytes
		return plan.Pruned, nil
	}
}

// limit leaves out rows that were not archived.
func (plan *prunePlan) limit(allowed map[storage.FileInfo]bool) {
	plan.Rows = slices.DeleteFunc(plan.Rows, func(f storage.FileInfo) bool { return !allowed[f] })
	plan.sum()
}

// sum fills in what the rows come to.
func (plan *prunePlan) sum() {
	plan.RowsAfter, plan.BytesAfter = plan.RowsBefore-int64(len(plan.Rows)), plan.BytesBefore
	for _, f := range plan.Rows {
		plan.BytesAfter -= f.Size
	}
	plan.Removed = versionRanges(plan.Rows)
}

// plan decides what may go of gun.
func (p *pruner) plan(ctx context.Context, gun tuf.GUN) (*prunePlan, error) {
	files, err := p.Metadata.Files(ctx, gun)
	if err != nil {
		return nil, err
	}
	plan := &prunePlan{Pruned: Pruned{GUN: gun}, Pruning: metadb.Pruning{GUN: gun, Keep: p.KeepVersions, Before: p.cutoff}}
	for _, f := range files {
		plan.RowsBefore++
		plan.BytesBefore += f.Size
	}
	defer plan.sum()
	if len(files) == 0 {
		return plan, fmt.Errorf("%w: %q has no rows; trust-admin ls lists the repositories", storage.ErrNotFound, gun)
	}
	kept := p.keptTimestamps(files)
	if plan.Skipped, err = p.unsound(ctx, gun); err != nil || plan.Skipped != "" {
		return plan, err
	}
	plan.Current = kept[0]
	reached, err := p.reached(ctx, gun, files, kept)
	if err != nil {
		plan.Skipped = err.Error()
		if errors.Is(err, storage.ErrUnavailable) {
			return plan, err
		}
		return plan, nil
	}
	for sum := range reached {
		plan.Reached = append(plan.Reached, sum)
	}
	slices.Sort(plan.Reached)
	plan.Rows = p.candidates(files, reached)
	return plan, nil
}

// unsound says why a repository should not be pruned: what a client could not
// read to its end may need an older version to be mended.
func (p *pruner) unsound(ctx context.Context, gun tuf.GUN) (string, error) {
	stumbles, err := publish.Walk(ctx, p.Metadata, gun, p.Now())
	switch {
	case errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrDamaged):
		return "it has no timestamp: see trust-admin fsck", nil
	case err != nil:
		return "", err
	}
	for _, s := range stumbles {
		if s.Kind != publish.StumbleExpired {
			return fmt.Sprintf("a client cannot read it (%v): see trust-admin fsck", s), nil
		}
	}
	return "", nil
}

// keptTimestamps lists the timestamps whose generations stay, newest first: so
// many of the newest, and those that were replaced after the cutoff. It is when a
// file was replaced that counts, and not when it was made: a client may have read
// the timestamp a moment before, and ask for the rest now.
func (p *pruner) keptTimestamps(files []storage.FileInfo) []storage.FileInfo {
	var stamps []storage.FileInfo
	for _, f := range files {
		if f.Role == tuf.RoleTimestamp && f.Deleted.IsZero() {
			stamps = append(stamps, f)
		}
	}
	slices.SortFunc(stamps, func(a, b storage.FileInfo) int { return int(b.Version) - int(a.Version) })
	n := 0
	for i := range stamps {
		if i < p.KeepVersions || p.young(stamps[i]) || p.young(stamps[i-1]) {
			n = i + 1
		}
	}
	return stamps[:n]
}

// young reports whether a row is too new to go, or may be.
func (p *pruner) young(f storage.FileInfo) bool {
	return !f.Created.Before(p.cutoff) || f.Created.IsZero()
}

// reached lists, by SHA-256 in hex, all files that the generations of these
// timestamps consist of. The error says which of them is not whole.
func (p *pruner) reached(ctx context.Context, gun tuf.GUN, files, kept []storage.FileInfo) (map[string]bool, error) {
	sums, snapshots := map[string]bool{}, map[string]bool{}
	if err := p.Metadata.EachOf(ctx, gun, kept, func(f storage.FileRow) error {
		sums[f.SHA256] = true
		env, err := tuf.ParseEnvelope(f.Data)
		if err != nil {
			return fmt.Errorf("timestamp version %d: %w", f.Version, err)
		}
		ts, err := env.Timestamp()
		if err != nil {
			return fmt.Errorf("timestamp version %d: %w", f.Version, err)
		}
		snapshots[fmt.Sprintf("%x", ts.Snapshot.Hashes["sha256"])] = true
		return nil
	}); err != nil {
		return nil, err
	}
	var rows []storage.FileInfo
	for _, f := range files {
		if f.Role == tuf.RoleSnapshot && f.Deleted.IsZero() && snapshots[f.SHA256] {
			rows = append(rows, f)
		}
	}
	err := p.Metadata.EachOf(ctx, gun, rows, func(f storage.FileRow) error {
		sums[f.SHA256] = true
		env, err := tuf.ParseEnvelope(f.Data)
		if err != nil {
			return fmt.Errorf("snapshot version %d: %w", f.Version, err)
		}
		s, err := env.Snapshot()
		if err != nil {
			return fmt.Errorf("snapshot version %d: %w", f.Version, err)
		}
		for _, m := range s.Meta {
			sums[fmt.Sprintf("%x", m.Hashes["sha256"])] = true
		}
		return nil
	})
	return sums, err
}

// candidates are the rows that are not reached, not young, and not among the
// newest of their role.
func (p *pruner) candidates(files []storage.FileInfo, reached map[string]bool) (rows []storage.FileInfo) {
	byRole := map[tuf.RoleName][]storage.FileInfo{}
	for _, f := range files {
		if f.Deleted.IsZero() && f.Role != tuf.RoleRoot {
			byRole[f.Role] = append(byRole[f.Role], f)
		}
	}
	for _, list := range byRole {
		slices.SortFunc(list, func(a, b storage.FileInfo) int { return int(b.Version) - int(a.Version) })
		for _, f := range list[min(p.KeepVersions, len(list)):] {
			if !reached[f.SHA256] && !p.young(f) {
				rows = append(rows, f)
			}
		}
	}
	slices.SortFunc(rows, func(a, b storage.FileInfo) int { return int(a.ID - b.ID) })
	return rows
}

// archived writes all that may go to the archive, and then removes what is in it.
// The archive is on the disk before the first row goes.
func (p *pruner) archived(ctx context.Context, report func(Pruned) error) error {
	resumed := false
	if err := p.write(ctx); errors.Is(err, fs.ErrExist) {
		resumed = true
	} else if err != nil {
		return err
	}
	a, err := archive.Open(p.Archive)
	if err != nil {
		return err
	}
	defer a.Close()
	if a.Header.Kind != "prune" {
		return fmt.Errorf("%s is no archive of a prune but of kind %q: name another file", p.Archive, a.Header.Kind)
	}
	p.step("archived")
	p.Reason = withArchive(p.Reason, p.Archive, a.Digest)
	if err := a.Each(func(r *archive.Repository, _ archive.Files) error {
		allowed := make(map[storage.FileInfo]bool, len(r.Files))
		for _, f := range r.Files {
			allowed[f] = true
		}
		o, err := p.gun(ctx, r.GUN, allowed)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // deleted or purged since it was archived
		}
		if err != nil {
			return err
		}
		return report(o)
	}); err != nil || !resumed {
		return err
	}
	return p.nothingLeft(ctx)
}

// write writes the archive. The error wraps fs.ErrExist if there is a file.
func (p *pruner) write(ctx context.Context) error {
	if _, err := os.Lstat(p.Archive); err == nil {
		return fs.ErrExist // Close would say so, when all has been read
	}
	w, err := archive.Create(p.Archive, archive.Header{Kind: "prune", Created: p.Now().UTC(), Tool: p.Tool, By: p.Actor, Reason: p.Reason})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := p.each(ctx, p.Selection, func(gun tuf.GUN) error {
		return p.archiveOne(ctx, w, gun)
	}); err != nil {
		return err
	}
	p.step("archive to be written")
	return w.Close()
}

// archiveOne adds what may go of gun. If rows go while they are read, it is looked
// at anew; if all have gone, nothing is added.
func (p *pruner) archiveOne(ctx context.Context, w *archive.Writer, gun tuf.GUN) error {
	for try := 1; ; try++ {
		plan, err := p.plan(ctx, gun)
		if p.vanished(err) {
			return nil
		}
		if err != nil || len(plan.Rows) == 0 {
			return err
		}
		p.step("to be archived " + string(gun))
		if err := w.Begin(&archive.Repository{GUN: gun, Files: plan.Rows}); err != nil {
			return err
		}
		n := 0
		err = p.Metadata.EachOf(ctx, gun, plan.Rows, func(f storage.FileRow) error { n++; return w.Add(f) })
		if err == nil && n == len(plan.Rows) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("archiving %s: %w", gun, archive.ErrChanged)
		}
		if !errors.Is(err, archive.ErrChanged) || try == archiveTries {
			return err
		}
		if err := w.Rollback(); err != nil {
			return err
		}
	}
}

// nothingLeft makes sure that a prune which was ended by its archive is complete.
func (p *pruner) nothingLeft(ctx context.Context) error {
	return p.each(ctx, p.Selection, func(gun tuf.GUN) error {
		plan, err := p.plan(ctx, gun)
		if p.vanished(err) {
			return nil
		}
		if err == nil && len(plan.Rows) > 0 {
			err = fmt.Errorf("%s: %w", p.Archive, ErrArchiveHolds)
		}
		return err
	})
}

// versionRanges writes "snapshot 1-40, targets 1-38": the versions of each role,
// cut where it gets long.
func versionRanges(rows []storage.FileInfo) string {
	byRole := map[tuf.RoleName][]tuf.Version{}
	var roles []tuf.RoleName
	for _, f := range rows {
		if byRole[f.Role] == nil {
			roles = append(roles, f.Role)
		}
		byRole[f.Role] = append(byRole[f.Role], f.Version)
	}
	slices.Sort(roles)
	var b strings.Builder
	for i, role := range roles {
		if b.Len() > 900 {
			fmt.Fprintf(&b, " and %d more roles", len(roles)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		v := byRole[role]
		slices.Sort(v)
		b.WriteString(string(role) + " ")
		writeRanges(&b, v)
	}
	return b.String()
}

func writeRanges(b *strings.Builder, v []tuf.Version) {
	for i := 0; i < len(v); {
		j := i
		for j+1 < len(v) && v[j+1] == v[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteString("+")
		}
		if b.Len() > 900 {
			b.WriteString("…")
			return
		}
		fmt.Fprintf(b, "%d", v[i])
		if j > i {
			fmt.Fprintf(b, "-%d", v[j])
		}
		i = j + 1
	}
}
