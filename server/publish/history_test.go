package publish_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A history is what happens to a GUN: its owner works on it, and somebody who
// has all of its keys but the server's, and every file that ever was, sends
// what fits him. Whatever is accepted must leave a repository that verifies, in
// which nothing went back.
type history struct {
	*stack
	r    *tuftest.Repo
	rand *rand.Rand
	past map[tuf.RoleName][][]byte // every file that was ever made
	// high is the highest version of each role since delegations lead to it
	// without a break.
	high map[tuf.RoleName]tuf.Version

	accepted, refused int
}

func TestRandomHistories(t *testing.T) {
	t.Parallel()
	var accepted, refused atomic.Int64
	seeds := rounds(25)
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				h := &history{stack: newStack(t), rand: rand.New(rand.NewPCG(seed, 7)), past: map[tuf.RoleName][][]byte{}, high: map[tuf.RoleName]tuf.Version{}}
				h.r = h.repo(seed%2 == 0, "targets/a", "targets/a/b", "targets/c")
				h.must(h.r, h.remember(h.r.Upload()))
				for range 30 {
					h.step()
				}
				accepted.Add(int64(h.accepted))
				refused.Add(int64(h.refused))
			})
		}
	})
	if least := int64(4 * seeds); accepted.Load() < least || refused.Load() < least {
		t.Errorf("%d accepted, %d refused: the histories say little", accepted.Load(), refused.Load())
	}
}

func (h *history) step() {
	h.Helper()
	switch h.rand.IntN(9) {
	case 0, 1:
		h.try(h.next(h.some()...))
	case 2:
		h.addDelegation()
	case 3:
		h.removeDelegation()
	case 4:
		if role := h.one(); role.IsDelegation() && h.r.Targets[role.Parent()] != nil {
			h.r.Rotate(role) // refused, unless the file is signed anew
			h.try(h.next(slices.Compact([]tuf.RoleName{role.Parent(), h.one()})...))
		}
	case 5:
		if h.r.Snapshot == nil {
			h.r.SetKeys(tuf.RoleSnapshot, 1, h.r.NewKey(tuf.RoleSnapshot))
			h.r.Snapshot.Version = h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot.Version
		} else {
			h.r.Manage(tuf.RoleSnapshot, *h.rotated(h.r.GUN, tuf.RoleSnapshot))
		}
		h.try(h.next(tuf.RoleRoot))
	case 6, 7:
		h.replay()
	case 8:
		h.smuggle()
	}
}

// roles are the targets files that the owner has, in a fixed order.
func (h *history) roles() []tuf.RoleName {
	return slices.Sorted(maps.Keys(h.r.Targets))
}

func (h *history) one() tuf.RoleName {
	roles := h.roles()
	return roles[h.rand.IntN(len(roles))]
}

func (h *history) some() (list []tuf.RoleName) {
	for _, role := range h.roles() {
		if h.rand.IntN(3) == 0 {
			list = append(list, role)
		}
	}
	return list
}

func (h *history) next(roles ...tuf.RoleName) files {
	slices.Sort(roles)
	return h.remember(h.r.Next(slices.Compact(roles)...))
}

func (h *history) remember(up files) files {
	for role, file := range up {
		h.past[role] = append(h.past[role], file)
	}
	return up
}

func (h *history) addDelegation() {
	parent := h.one()
	child := tuf.RoleName(fmt.Sprintf("%s/%c", parent, 'a'+rune(h.rand.IntN(3))))
	if parent.Depth() > 2 || h.r.Targets[child] != nil {
		return
	}
	h.r.AddDelegation(child)
	if h.try(h.next(parent)) {
		h.try(h.next(child))
	}
}

func (h *history) removeDelegation() {
	role := h.one()
	if !role.IsDelegation() || h.r.Targets[role.Parent()] == nil {
		return
	}
	h.r.RemoveDelegation(role)
	for _, other := range h.roles() {
		// The library forgets what stood below, or does not.
		if h.rand.IntN(2) == 0 && h.r.Targets[other.Parent()] == nil && other.IsDelegation() {
			delete(h.r.Targets, other)
		}
	}
	h.try(h.next(role.Parent()))
}

// replay sends files of the past, chosen at random, in a snapshot that names
// them and is signed by the right key.
func (h *history) replay() {
	up := files{}
	snapshot := *h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot
	for _, role := range slices.Sorted(maps.Keys(h.past)) {
		if role == tuf.RoleRoot || role == tuf.RoleSnapshot || h.rand.IntN(2) == 0 {
			continue
		}
		file := h.past[role][h.rand.IntN(len(h.past[role]))]
		snapshot.Meta[role] = tuf.MetaOf(file)
		if h.rand.IntN(2) == 0 {
			up[role] = file
		}
	}
	for _, role := range slices.Sorted(maps.Keys(snapshot.Meta)) {
		if role.IsDelegation() && h.rand.IntN(4) == 0 {
			delete(snapshot.Meta, role)
		}
	}
	if h.r.Snapshot != nil && h.rand.IntN(4) > 0 {
		snapshot.Version += tuf.Version(1 + h.rand.IntN(2))
		up[tuf.RoleSnapshot] = h.sign(&snapshot)
	}
	h.try(up)
}

func (h *history) sign(s *tuf.Snapshot) []byte {
	h.Helper()
	canonical, err := s.Canonical()
	if err != nil {
		h.Fatal(err)
	}
	return tuftest.Sign(h, canonical, h.r.Keys[tuf.RoleSnapshot]...)
}

// smuggle leaves a delegation out of a snapshot, and brings it back with
// another of its files in the next.
func (h *history) smuggle() {
	role := h.one()
	if h.r.Snapshot == nil || !role.IsDelegation() {
		return
	}
	snapshot := *h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot
	for _, name := range slices.Sorted(maps.Keys(snapshot.Meta)) {
		if name == role || name.Parent() == role && h.rand.IntN(2) == 0 {
			delete(snapshot.Meta, name)
		}
	}
	snapshot.Version++
	h.try(files{tuf.RoleSnapshot: h.sign(&snapshot)})

	snapshot = *h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot
	file := h.past[role][h.rand.IntN(len(h.past[role]))]
	snapshot.Meta[role] = tuf.MetaOf(file)
	snapshot.Version++
	h.try(files{role: file, tuf.RoleSnapshot: h.sign(&snapshot)})
}

// try sends up, and looks at what came of it. Who is refused catches up.
func (h *history) try(up files) bool {
	h.Helper()
	err := h.publish(h.r.GUN, up)
	h.watch(up)
	if err == nil {
		h.accepted++
		return true
	}
	h.refused++
	h.mend()
	return false
}

// watch fails the test if a role has gone back. A role may begin anew only
// after a generation in which no delegation led to it: that its file was
// missing for a while is not enough.
func (h *history) watch(up files) {
	h.Helper()
	now := h.versions()
	for role := range h.high {
		if _, ok := now[role]; !ok {
			delete(h.high, role)
		}
	}
	for role, v := range now {
		if v != 0 && v < h.high[role] {
			h.Errorf("%s went back from version %d to %d by %v", role, h.high[role], v, roles(up))
		}
		h.high[role] = max(h.high[role], v)
	}
}

// versions returns the versions of all roles to which delegations lead: 0 for
// one without a file.
func (h *history) versions() map[tuf.RoleName]tuf.Version {
	h.Helper()
	names := slices.Collect(maps.Keys(h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot.Meta))
	gen := h.generation(h.r.GUN, names...)
	found := map[tuf.RoleName]tuf.Version{tuf.RoleTimestamp: gen.Timestamp.Version, tuf.RoleSnapshot: gen.Snapshot.Version}
	found[tuf.RoleRoot] = gen.Files[tuf.RoleRoot].Version
	queue := []tuf.RoleName{tuf.RoleTargets}
	for len(queue) > 0 {
		role := queue[0]
		queue = queue[1:]
		f, ok := gen.Files[role]
		found[role] = f.Version
		if !ok {
			continue
		}
		env, err := tuf.ParseEnvelope(f.Data)
		if err != nil {
			h.Fatal(err)
		}
		t, err := env.Targets(role)
		if err != nil {
			h.Fatal(err)
		}
		for _, d := range t.Delegations.Roles {
			queue = append(queue, d.Name)
		}
	}
	return found
}

// mend publishes all that the owner has, above all versions that there are.
func (h *history) mend() {
	h.Helper()
	for role, files := range h.past {
		for _, f := range files {
			env, err := tuf.ParseEnvelope(f)
			if err != nil {
				h.Fatal(err)
			}
			if t := h.r.Targets[role]; t != nil {
				t.Version = max(t.Version, tuf.Version(env.Version))
			}
		}
	}
	for _, role := range h.roles() {
		if p := h.r.Targets[role.Parent()]; role.IsDelegation() && p == nil {
			delete(h.r.Targets, role)
		}
	}
	if h.r.Snapshot != nil {
		h.r.Snapshot.Version = h.generation(h.r.GUN, tuf.RoleSnapshot).Snapshot.Version
	}
	h.r.Root.Version = h.generation(h.r.GUN, tuf.RoleRoot).Files[tuf.RoleRoot].Version
	up := h.next(append(h.roles(), tuf.RoleRoot)...)
	if err := h.publish(h.r.GUN, up); err != nil {
		h.Fatalf("the owner can not mend the repository: %v", err)
	}
	h.watch(up)
}
