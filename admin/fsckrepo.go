package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// An inspection is one reading of a repository. What it keeps of each row is
// small; of the bytes it holds a few megabytes at once.
type inspection struct {
	ctx   context.Context
	store *metadb.Store
	gun   tuf.GUN
	now   time.Time

	rows    []inspectedRow     // live
	deleted []storage.FileInfo // marked as deleted
	keys    keyring
	later   []storage.FileInfo // delegations that were read before what lists their keys
	named   names
	feed    []storage.Change

	faulty    map[tuf.RoleName]bool // roles with a faulty row
	undecided int64
	list      []Finding
}

// An inspectedRow is a live row, and the first thing that is wrong with it.
type inspectedRow struct {
	storage.FileInfo
	sum    tuf.Checksum // of the bytes
	typ    string       // that the bytes say
	proven verdict
	class  Class // "" if nothing is wrong
	text   string
	// What it is if class is about signatures and cannot be proven.
	other     Class
	otherText string
}

// A verdict on signatures.
type verdict int

const (
	unproven verdict = iota // nobody can say
	genuine
	refuted
)

// inspect reads all of gun and says what is wrong with it.
func inspect(ctx context.Context, store *metadb.Store, gun tuf.GUN, now time.Time) (Inspected, error) {
	in := &inspection{ctx: ctx, store: store, gun: gun, now: now, keys: newKeyring(gun), named: newNames(), faulty: map[tuf.RoleName]bool{}}
	if err := in.read(); err != nil {
		return Inspected{}, err
	}
	in.named.settle()
	in.judgeRows()
	if err := in.walk(); err != nil {
		return Inspected{}, err
	}
	in.judgeOld()
	in.judgeDeleted()
	in.judgeFeed()
	sortFindings(in.list)
	o := Inspected{GUN: gun, Findings: in.list}
	o.totals.Rows, o.totals.Undecided = int64(len(in.rows)+len(in.deleted)), in.undecided
	for _, r := range in.rows {
		o.totals.Bytes += r.Size
	}
	return o, nil
}

func (in *inspection) add(c Class, f Finding) { in.list = append(in.list, finding(in.gun, c, f)) }

// read reads the roots, then every row, then the changefeed.
func (in *inspection) read() error {
	roots, err := in.store.RootRows(in.ctx, in.gun)
	if err != nil {
		return err
	}
	for _, r := range roots {
		if r.Deleted.IsZero() {
			in.keys.addRoot(r)
		}
	}
	if err := in.store.EachFile(in.ctx, in.gun, in.row); err != nil {
		return err
	}
	if err := in.again(); err != nil {
		return err
	}
	for after := int64(0); ; {
		page, err := in.store.Changes(in.ctx, storage.ChangeQuery{GUN: in.gun, After: after, Limit: gunPage})
		if err != nil {
			return err
		}
		in.feed = append(in.feed, page...)
		if len(page) < gunPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// again judges delegations that were read before what lists their keys, or of
// which the file that did is damaged and a later one lists the same. What is
// found genuine may list the keys of others.
func (in *inspection) again() error {
	byID := make(map[int64]int, len(in.rows))
	for i, r := range in.rows {
		byID[r.ID] = i
	}
	for len(in.later) > 0 {
		var left []storage.FileInfo
		if err := in.store.EachOf(in.ctx, in.gun, in.later, func(f storage.FileRow) error {
			env, err := tuf.ParseEnvelope(f.Data)
			if err != nil {
				return nil // rewritten since
			}
			if proven, _, _ := in.keys.judge(f.Role, env); proven != genuine {
				left = append(left, f.FileInfo)
				return nil
			}
			r := &in.rows[byID[f.ID]]
			r.proven = genuine
			if r.class == ClassForeign || r.class == ClassSignature {
				r.class, r.text = r.other, r.otherText
			}
			_ = in.learn(f, env) // unreadable as it is, it lists nothing
			return nil
		}); err != nil {
			return err
		}
		if len(left) == len(in.later) {
			return nil
		}
		in.later = left
	}
	return nil
}

// row looks at one row by itself.
func (in *inspection) row(f storage.FileRow) error {
	if !f.Deleted.IsZero() {
		in.deleted = append(in.deleted, f.FileInfo)
		return nil
	}
	r := inspectedRow{FileInfo: f.FileInfo, sum: tuf.Sum(f.Data)}
	in.content(&r, f)
	if r.SHA256 != r.sum.String() && r.class != ClassEmpty {
		// What follows from it is no finding of its own. Which of the two is
		// wrong will be known when all names have been read.
		r.class = ClassChecksum
	}
	in.rows = append(in.rows, r)
	return nil
}

// content parses the bytes, and learns from them if they are genuine.
func (in *inspection) content(r *inspectedRow, f storage.FileRow) {
	wrong := func(c Class, format string, args ...any) {
		if r.class == "" {
			r.class, r.text = c, fmt.Sprintf(format, args...)
		}
	}
	if len(f.Data) == 0 {
		wrong(ClassEmpty, "the file is empty")
		return
	}
	env, err := tuf.ParseEnvelope(f.Data)
	if err != nil {
		in.unreadable(wrong, f.Data, err)
		return
	}
	r.typ = env.Type
	if want := typeOf(f.Role); want == "" {
		wrong(ClassRole, "%q is no role", f.Role)
	} else if env.Type != want && (env.Type == "Root" || env.Type == "Targets" || env.Type == "Snapshot" || env.Type == "Timestamp") {
		wrong(ClassRole, "the file is of type %s, which is not what a %s is", env.Type, f.Role)
	}
	if r.class != "" {
		return
	}
	in.named.claim(f.Role, r.sum, env)
	if env.Version != int64(f.Version) {
		r.other, r.otherText = ClassVersion, fmt.Sprintf("the row says version %d; the file says %d", f.Version, env.Version)
	}
	proven, class, text := in.keys.judge(f.Role, env)
	if r.proven = proven; proven == refuted {
		if f.Role.IsDelegation() && class != ClassUnsigned {
			in.later = append(in.later, f.FileInfo)
		}
		wrong(class, "%s", text)
		return
	}
	r.class, r.text = r.other, r.otherText
	if err := in.learn(f, env); err != nil {
		in.unreadable(wrong, f.Data, err)
	}
}

// unreadable says that a file cannot be read. Upstream's parser was laxer than
// ours in small things, and what it took and nobody reads any more is no fault.
func (in *inspection) unreadable(wrong func(Class, string, ...any), data []byte, err error) {
	if json.Valid(data) {
		wrong(ClassUnread, "%v", err)
	} else {
		wrong(ClassMalformed, "%v", err)
	}
}

func typeOf(role tuf.RoleName) string {
	switch {
	case role == tuf.RoleRoot:
		return "Root"
	case role == tuf.RoleSnapshot:
		return "Snapshot"
	case role == tuf.RoleTimestamp:
		return "Timestamp"
	case role == tuf.RoleTargets, role.IsDelegation():
		return "Targets"
	}
	return ""
}

// learn remembers what a file says of other files, and whose keys it lists.
func (in *inspection) learn(f storage.FileRow, env *tuf.Envelope) error {
	switch f.Role {
	case tuf.RoleRoot:
		_, err := env.Root()
		return err
	case tuf.RoleTimestamp:
		ts, err := env.Timestamp()
		if err == nil {
			in.named.add(f.FileInfo, map[tuf.RoleName]tuf.FileMeta{tuf.RoleSnapshot: ts.Snapshot})
		}
		return err
	case tuf.RoleSnapshot:
		s, err := env.Snapshot()
		if err == nil {
			in.named.add(f.FileInfo, s.Meta)
		}
		return err
	}
	t, err := env.Targets(f.Role)
	if err == nil {
		in.keys.addTargets(t)
	}
	return err
}

// walk goes through the current generation as a client does, and reports what
// the rows have not explained already.
func (in *inspection) walk() error {
	stumbles, err := publish.Walk(in.ctx, in.store, in.gun, in.now)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		if len(in.rows) > 0 {
			in.add(ClassDebris, Finding{Text: fmt.Sprintf("%d rows, but neither root, targets, snapshot nor timestamp: nobody reads them", len(in.rows))})
		}
		return nil
	case errors.Is(err, storage.ErrDamaged):
		in.noTimestamp()
		return nil
	case err != nil:
		return err
	}
	newest := in.newest()
	for _, s := range stumbles {
		if s.Kind == publish.StumbleExpired {
			in.add(ClassExpired, Finding{Role: s.Role, Version: in.versionOf(s), Row: in.rowOf(s), Text: s.Err.Error()})
			continue
		}
		// One cause, one finding: what is said of the rows themselves says more.
		if in.faulty[s.Role] || newest != nil && faultClass(newest.class) {
			continue
		}
		in.stumble(s)
	}
	return nil
}

func (in *inspection) noTimestamp() {
	for _, r := range in.rows {
		if r.typ == "Timestamp" {
			return // it is there, in another role: that is the finding
		}
	}
	for _, d := range in.deleted {
		if d.Role == tuf.RoleTimestamp {
			return // judgeDeleted tells
		}
	}
	in.add(ClassNoTimestamp, Finding{Role: tuf.RoleTimestamp, Text: "there are files, but no timestamp: clients are told of a damaged repository, and nobody can publish"})
}

var stumbleClass = map[publish.StumbleKind]Class{
	publish.StumbleMissing:   ClassMissing,
	publish.StumbleMismatch:  ClassMismatch,
	publish.StumbleMalformed: ClassMalformed,
	publish.StumbleVersion:   ClassVersion,
	publish.StumbleSignature: ClassSignature,
	publish.StumbleChain:     ClassRootChain,
	publish.StumbleName:      ClassStrayName,
}

func (in *inspection) stumble(s publish.Stumble) {
	f := Finding{Role: s.Role, Version: in.versionOf(s), Row: in.rowOf(s), Text: s.Err.Error()}
	c := stumbleClass[s.Kind]
	if c == ClassMissing && s.Version > 0 {
		c, f.Text = ClassRootHole, fmt.Sprintf("version %d is not stored", s.Version)
	} else if c == ClassMissing {
		if in.elsewhere(s.Role, s.Sum) {
			return
		}
		if d := in.hidden(s.Role, s.Sum.String()); d != nil {
			c, f.Version = ClassHidden, d.Version
			f.Text = "the current file is marked as deleted, at " + d.Deleted.Format(time.RFC3339)
			f.Row = d.ID
		} else {
			f.Text = fmt.Sprintf("the current generation names a file with SHA-256 %s, which is not stored", s.Sum)
		}
	}
	in.add(c, f)
}

// rowOf is the row that a stumble is about, or 0.
func (in *inspection) rowOf(s publish.Stumble) int64 {
	for _, r := range in.rows {
		if r.Role == s.Role && (s.Version == 0 && r.sum == s.Sum || s.Version > 0 && r.Version == s.Version) {
			return r.ID
		}
	}
	if n := in.newest(); s.Role == tuf.RoleTimestamp && n != nil {
		return n.ID
	}
	return 0
}

// versionOf is the version of the file that a stumble is about, if it is stored.
func (in *inspection) versionOf(s publish.Stumble) tuf.Version {
	for _, r := range in.rows {
		if s.Version == 0 && r.Role == s.Role && r.sum == s.Sum {
			return r.Version
		}
	}
	if n := in.newest(); s.Role == tuf.RoleTimestamp && n != nil {
		return n.Version
	}
	return s.Version
}

// newest is the live timestamp with the highest version.
func (in *inspection) newest() (newest *inspectedRow) {
	for i, r := range in.rows {
		if r.Role == tuf.RoleTimestamp && (newest == nil || r.Version > newest.Version) {
			newest = &in.rows[i]
		}
	}
	return newest
}

// elsewhere reports whether the file is stored as one of another role.
func (in *inspection) elsewhere(role tuf.RoleName, sum tuf.Checksum) bool {
	for _, r := range in.rows {
		if r.sum == sum && r.Role != role && r.class == ClassRole {
			return true
		}
	}
	return false
}

// hidden finds the row of a file that is marked as deleted.
func (in *inspection) hidden(role tuf.RoleName, column string) *storage.FileInfo {
	for i, d := range in.deleted {
		if d.Role == role && d.SHA256 == column {
			return &in.deleted[i]
		}
	}
	return nil
}

// judgeDeleted notes the rows that are marked as deleted; a timestamp that would
// otherwise be the newest is more than a note.
func (in *inspection) judgeDeleted() {
	told := map[int64]bool{}
	for _, f := range in.list {
		if f.Class == ClassHidden {
			told[f.Row] = true
		}
	}
	newest := tuf.Version(0)
	if n := in.newest(); n != nil {
		newest = n.Version
	}
	count, first := map[tuf.RoleName]int{}, map[tuf.RoleName]storage.FileInfo{}
	for _, d := range in.deleted {
		switch {
		case told[d.ID]:
		case d.Role == tuf.RoleTimestamp && d.Version > newest && len(in.rows) > 0:
			in.faulty[d.Role] = true
			in.add(ClassHidden, Finding{Role: d.Role, Version: d.Version, Row: d.ID, Text: "the newest timestamp is marked as deleted, at " + d.Deleted.Format(time.RFC3339)})
		default:
			if count[d.Role]++; count[d.Role] == 1 {
				first[d.Role] = d
			}
		}
	}
	for role, n := range count {
		text := "the row is marked as deleted"
		if n > 1 {
			text = fmt.Sprintf("%d rows are marked as deleted; this is the first", n)
		}
		in.add(ClassSoftDeleted, Finding{Role: role, Version: first[role].Version, Row: first[role].ID, Text: text})
	}
}

func faultClass(c Class) bool { return c != "" && classes[c].fault }
