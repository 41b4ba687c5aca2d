package publish_test

import (
	"testing"

	"countersign/server/publish"
	"countersign/tuf"
)

// Who has the snapshot key alone leaves a delegation out, and brings an old
// version of it back in his next publish, as if it began anew.
func TestDelegationIsNotRolledBack(t *testing.T) {
	s := newStack(t)
	r := s.repo(true, a, ab)
	s.must(r, r.Upload())
	first := r.File(a)
	s.must(r, r.Next(a))
	s.must(r, r.Next(a))

	without := omit([]tuf.RoleName{a, ab})(s, r)
	wantRejection(t, s.publish(r.GUN, without), publish.KindBadSnapshot, "it does not name targets/a, which is stored on the server")
	r.Edit[snapshot] = nil
	r.Raw[a] = first
	r.Snapshot.Version++
	if err := s.publish(r.GUN, r.Upload(a, snapshot)); err == nil {
		t.Error("targets/a went back to version 1")
	}
	if v := s.generation(r.GUN, a).Files[a].Version; v != 3 {
		t.Errorf("targets/a has version %d, want 3", v)
	}
}

// What upstream's server has kept in the snapshot, although no delegation leads
// to it, may be left out: also what stands below, whose own parent lists it.
func TestDeadDelegationMayBeLeftOut(t *testing.T) {
	for _, left := range [][]tuf.RoleName{
		{"targets/dead", "targets/dead/child"},
		{"targets/dead/child"},
		{"targets/dead"},
	} {
		s := newStack(t)
		r := s.repo(true, "targets/dead", "targets/dead/child", "targets/live")
		s.storeDead(r)
		s.must(r, omit(left)(s, r))
		// What is alive may not.
		wantRejection(t, s.publish(r.GUN, omit(append(left, "targets/live"))(s, r)), publish.KindBadSnapshot, "it does not name targets/live")
	}
}
