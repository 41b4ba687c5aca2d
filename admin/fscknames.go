package admin

import (
	"fmt"
	"maps"
	"slices"

	"countersign/storage"
	"countersign/tuf"
)

// A name is what a snapshot or timestamp says of a file.
type name struct {
	role   tuf.RoleName
	sum    tuf.Checksum
	length int64
}

// names are all that genuine snapshots and timestamps of a repository name. A
// name is kept once, however many files say it.
type names struct {
	index map[name]int32
	list  []name
	last  []tuf.Version // of the newest file that says it, by index
	by    []naming      // the files, in the order in which they were read

	roles   map[tuf.Checksum][]tuf.RoleName
	current map[tuf.Checksum]bool // filled in by settle

	// What timestamps and snapshots say, genuine or not, by the sums of both.
	snapshotOf map[tuf.Checksum]stamped
	rootOf     map[tuf.Checksum]tuf.Checksum
}

// A stamped is a snapshot that a timestamp of that version names.
type stamped struct {
	version  tuf.Version
	snapshot tuf.Checksum
}

// A naming is a file and what it names.
type naming struct {
	row     int64
	role    tuf.RoleName
	version tuf.Version
	column  string
	names   []int32
}

func newNames() names {
	return names{index: map[name]int32{}, roles: map[tuf.Checksum][]tuf.RoleName{}, current: map[tuf.Checksum]bool{}, snapshotOf: map[tuf.Checksum]stamped{}, rootOf: map[tuf.Checksum]tuf.Checksum{}}
}

func (n *names) add(f storage.FileInfo, meta map[tuf.RoleName]tuf.FileMeta) {
	file := naming{row: f.ID, role: f.Role, version: f.Version, column: f.SHA256}
	for _, role := range slices.Sorted(maps.Keys(meta)) {
		m := meta[role]
		x := name{role: role, length: m.Length}
		hash := m.Hashes["sha256"]
		if len(hash) != len(x.sum) {
			continue // the walk tells, if it matters
		}
		copy(x.sum[:], hash)
		i, ok := n.index[x]
		if !ok {
			i = int32(len(n.list))
			n.index[x] = i
			n.list, n.last = append(n.list, x), append(n.last, 0)
			if !slices.Contains(n.roles[x.sum], role) {
				n.roles[x.sum] = append(n.roles[x.sum], role)
			}
		}
		n.last[i] = max(n.last[i], f.Version)
		file.names = append(file.names, i)
	}
	n.by = append(n.by, file)
}

// claim remembers which snapshot a timestamp names, and which root a snapshot,
// whoever has signed it.
func (n *names) claim(role tuf.RoleName, sum tuf.Checksum, env *tuf.Envelope) {
	var named tuf.Checksum
	if role == tuf.RoleTimestamp {
		if ts, err := env.Timestamp(); err == nil {
			copy(named[:], ts.Snapshot.Hashes["sha256"])
			n.snapshotOf[sum] = stamped{ts.Version, named}
		}
	} else if s, err := env.Snapshot(); err == nil && role == tuf.RoleSnapshot {
		copy(named[:], s.Meta[tuf.RoleRoot].Hashes["sha256"])
		n.rootOf[sum] = named
	}
}

// roots lists the roots, with the oldest timestamp that leads to each, that
// belong to timestamps which the changefeed has on record.
func (n *names) roots(feed []storage.Change) map[tuf.Checksum]tuf.Version {
	roots := map[tuf.Checksum]tuf.Version{}
	for _, c := range feed {
		sum, err := tuf.ParseChecksum(c.SHA256)
		if err != nil {
			continue
		}
		ts, ok := n.snapshotOf[sum]
		root, ok2 := n.rootOf[ts.snapshot]
		if v, seen := roots[root]; ok && ok2 && (!seen || ts.version < v) {
			roots[root] = ts.version
		}
	}
	return roots
}

// settle finds out what the current generation names: the newest timestamp's
// snapshot, and what that names.
func (n *names) settle() {
	var top *naming
	for i, f := range n.by {
		if f.role == tuf.RoleTimestamp && (top == nil || f.version > top.version) {
			top = &n.by[i]
		}
	}
	if top == nil || len(top.names) == 0 {
		return
	}
	snapshot := n.list[top.names[0]].sum
	n.current[snapshot] = true
	for _, f := range n.by {
		if f.role == tuf.RoleSnapshot && f.column == snapshot.String() {
			for _, i := range f.names {
				n.current[n.list[i].sum] = true
			}
		}
	}
}

// revived reports whether a delegation was missing from a snapshot later than
// version: then it was removed, and what it had stored before that goes when it
// comes back.
func (n *names) revived(role tuf.RoleName, version tuf.Version) bool {
	return slices.ContainsFunc(n.by, func(f naming) bool {
		return f.role == tuf.RoleSnapshot && f.version > version &&
			!slices.ContainsFunc(f.names, func(i int32) bool { return n.list[i].role == role })
	})
}

// judgeOld notes what older generations name and what is not stored, or not so.
// What the current one names, the walk has judged.
func (in *inspection) judgeOld() {
	type key struct {
		role tuf.RoleName
		sum  string
	}
	stored := map[key]int64{}
	for _, d := range in.deleted {
		stored[key{d.Role, d.SHA256}] = -1
	}
	for _, r := range in.rows {
		// A row whose bytes were damaged is there still by its column.
		stored[key{r.Role, r.SHA256}] = -1
	}
	for _, r := range in.rows {
		stored[key{r.Role, r.sum.String()}] = r.Size
	}
	type gap struct {
		n    int
		last tuf.Version
	}
	missing, other := map[tuf.RoleName]gap{}, map[tuf.RoleName]gap{}
	for i, x := range in.named.list {
		if in.named.current[x.sum] || in.faulty[x.role] {
			continue
		}
		size, ok := stored[key{x.role, x.sum.String()}]
		switch {
		case ok && (size < 0 || size == x.length):
		case ok:
			g := other[x.role]
			other[x.role] = gap{g.n + 1, max(g.last, in.named.last[i])}
		case in.elsewhere(x.role, x.sum), x.role.IsDelegation() && in.named.revived(x.role, in.named.last[i]):
		default:
			g := missing[x.role]
			missing[x.role] = gap{g.n + 1, max(g.last, in.named.last[i])}
		}
	}
	by := func(role tuf.RoleName) tuf.RoleName {
		if role == tuf.RoleSnapshot {
			return tuf.RoleTimestamp
		}
		return tuf.RoleSnapshot
	}
	for role, g := range missing {
		if role != tuf.RoleRoot {
			in.add(ClassOldMissing, Finding{Role: role, Text: fmt.Sprintf("%d of the files that older generations name, up to %s version %d, are not stored", g.n, by(role), g.last)})
		}
	}
	in.firstRoots()
	for role, g := range other {
		in.add(ClassOldMismatch, Finding{Role: role, Text: fmt.Sprintf("%d of the files that older generations name, up to %s version %d, are of another length", g.n, by(role), g.last)})
	}
}

// firstRoots reports that roots which older generations name are not stored. If
// one between two others is missing, the walk has said so; the first ones it
// cannot miss, since a repository may have begun with version 2.
func (in *inspection) firstRoots() {
	lowest, stored := tuf.Version(0), map[string]bool{}
	for _, r := range in.rows {
		if r.Role == tuf.RoleRoot {
			stored[r.SHA256], stored[r.sum.String()] = true, true
			if lowest == 0 || r.Version < lowest {
				lowest = r.Version
			}
		}
	}
	if lowest < 2 || slices.ContainsFunc(in.list, func(f Finding) bool { return f.Role == tuf.RoleRoot && f.Fault }) {
		return
	}
	for sum := range in.named.roots(in.feed) {
		if !stored[sum.String()] && in.hidden(tuf.RoleRoot, sum.String()) == nil && !in.elsewhere(tuf.RoleRoot, sum) {
			in.add(ClassRootHole, Finding{Role: tuf.RoleRoot, Version: lowest - 1,
				Text: fmt.Sprintf("older generations name roots that are not stored, and version %d is the oldest that is", lowest)})
			return
		}
	}
}
