// Package storagetest is the contract of package storage as tests: RunMetadata
// and RunKeys hold a store to every promise, whichever database or cache it is.
// Faulty and FaultyKeys are stores whose writes fail on demand.
package storagetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/storage"
	"countersign/tuf"
)

// A MetadataDB is an empty database with two stores on it.
type MetadataDB struct {
	// Store is tested; Replica is another store on the same database, with
	// connections of its own, as another process has.
	Store, Replica storage.MetadataStore
	// SQL runs a statement as a person would type it, with upstream's names of
	// tables and columns, and placeholders $1….
	SQL func(t testing.TB, statement string, args ...any)
}

const (
	gun   tuf.GUN      = "registry.example.org:5000/team/app"
	other tuf.GUN      = "registry.example.org:5000/team/app2"
	relA  tuf.RoleName = "targets/a"
	relB  tuf.RoleName = "targets/b"
)

// RunMetadata holds the stores that open makes to every promise of
// storage.MetadataStore. open is called once for each test.
func RunMetadata(t *testing.T, open func(*testing.T) MetadataDB) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, MetadataDB)
	}{
		{"empty", testEmpty},
		{"publish and read", testPublish},
		{"times", testTimes},
		{"all or nothing", testAllOrNothing},
		{"same bytes, other GUN", testOtherGUN},
		{"names", testNames},
		{"invalid sets", testInvalid},
		{"version conflict", testVersionConflict},
		{"stale base", testStale},
		{"generation by role", testGenerationRoles},
		{"older files current", testOlderCurrent},
		{"damaged", testDamaged},
		{"removed and revived roles", testRevived},
		{"debris", testDebris},
		{"timestamp lost", testNoTimestamp},
		{"marked as deleted", testSoftDeleted},
		{"delete", testDelete},
		{"changefeed", testChanges},
		{"many files", testManyFiles},
		{"large file", testLargeFile},
		{"ended context", testContext},
		{"concurrent publishers", testConcurrent},
		{"concurrent first publishers", testConcurrentFirst},
		{"never torn", testNeverTorn},
		{"changefeed in commit order", testChangefeedOrder},
		{"purge and publish", testPurgeRace},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// rounds is how often something is tried: few times under the race detector.
func rounds(often, few int) int {
	if raceDetector {
		return few
	}
	return often
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func testEmpty(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	_, err := db.Store.Generation(ctx, gun)
	wantErr(t, err, storage.ErrNotFound)
	_, err = db.Store.Generation(ctx, gun, tuf.RoleRoot)
	wantErr(t, err, storage.ErrNotFound)
	_, err = db.Store.ByChecksum(ctx, gun, tuf.RoleRoot, tuf.Sum(nil))
	wantErr(t, err, storage.ErrNotFound)
	_, err = db.Store.ByVersion(ctx, gun, tuf.RoleRoot, 1)
	wantErr(t, err, storage.ErrNotFound)
	deleted, err := db.Store.Delete(ctx, gun)
	must(t, err)
	if deleted {
		t.Error("deleted what was not there")
	}
	changes, err := db.Store.Changes(ctx, storage.ChangeQuery{Limit: 10})
	must(t, err)
	if len(changes) != 0 {
		t.Errorf("changes %v", changes)
	}
}

func testPublish(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "one")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	r.Holds(t, db.Store)
	first := r.Current
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets, relA)))
	must(t, db.Store.Publish(ctx, r.Next()))
	r.Holds(t, db.Store)
	r.Holds(t, db.Replica)
	for role, want := range first {
		m, err := db.Store.ByVersion(ctx, gun, role, want.Version)
		must(t, err)
		if m.Checksum != want.Checksum || string(m.Data) != string(want.Data) || m.Role != role || m.Version != want.Version {
			t.Errorf("%s by version: got %v", role, m.Checksum)
		}
		m, err = db.Store.ByChecksum(ctx, gun, role, want.Checksum)
		must(t, err)
		if string(m.Data) != string(want.Data) || m.Version != want.Version || m.Role != role || m.Checksum != want.Checksum {
			t.Errorf("%s by checksum: got version %d", role, m.Version)
		}
	}
	for _, v := range []tuf.Version{0, -1, 99, tuf.MaxVersion} {
		_, err := db.Store.ByVersion(ctx, gun, tuf.RoleTargets, v)
		wantErr(t, err, storage.ErrNotFound)
	}
}

// testTimes: the times are UTC whatever the time zones of this process and of
// the database are.
func testTimes(t *testing.T, db MetadataDB) {
	before := time.Now().Add(-time.Second)
	r := NewRepo(gun, "times")
	must(t, db.Store.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	g, err := db.Store.Generation(t.Context(), gun, tuf.RoleRoot)
	must(t, err)
	changes, err := db.Store.Changes(t.Context(), storage.ChangeQuery{Limit: 1})
	must(t, err)
	after := time.Now().Add(time.Second)
	for _, got := range []time.Time{g.Timestamp.CreatedAt, g.Files[tuf.RoleRoot].CreatedAt, changes[0].CreatedAt} {
		if got.Before(before) || got.After(after) || got.Location() != time.UTC || got.Nanosecond()%1000 != 0 {
			t.Errorf("time %v is not now, in UTC and whole microseconds", got)
		}
	}
	if !g.Timestamp.CreatedAt.Equal(changes[0].CreatedAt) {
		t.Errorf("timestamp of %v, change of %v", g.Timestamp.CreatedAt, changes[0].CreatedAt)
	}
}

// testAllOrNothing: of a set whose middle can not be stored nothing is.
func testAllOrNothing(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "whole")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
	whole := *r
	set := r.Next(tuf.RoleRoot, tuf.RoleTargets, relA, relB)
	for i, f := range set.Files {
		if f.Role == relA {
			set.Files[i].Version = 1 // taken
		}
	}
	wantErr(t, db.Store.Publish(ctx, set), storage.ErrVersionConflict)
	whole.Holds(t, db.Store)
	for _, f := range set.Files {
		if f.Role == relA {
			continue
		}
		_, err := db.Store.ByVersion(ctx, gun, f.Role, f.Version)
		wantErr(t, err, storage.ErrNotFound)
		_, err = db.Store.ByChecksum(ctx, gun, f.Role, f.Checksum)
		wantErr(t, err, storage.ErrNotFound)
	}
	changes, err := db.Store.Changes(ctx, storage.ChangeQuery{Limit: 10})
	must(t, err)
	if len(changes) != 1 {
		t.Errorf("%d changes, want 1", len(changes))
	}
}

func testOtherGUN(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	a, b := NewRepo(gun, "same"), NewRepo(other, "same")
	must(t, db.Store.Publish(ctx, a.Next(tuf.RoleRoot, tuf.RoleTargets)))
	targets := a.Current[tuf.RoleTargets]
	_, err := db.Store.ByChecksum(ctx, other, tuf.RoleTargets, targets.Checksum)
	wantErr(t, err, storage.ErrNotFound)
	_, err = db.Store.ByChecksum(ctx, gun, tuf.RoleRoot, targets.Checksum)
	wantErr(t, err, storage.ErrNotFound)
	// A GUN that is the beginning of another is another.
	_, err = db.Store.Generation(ctx, gun[:len(gun)-1])
	wantErr(t, err, storage.ErrNotFound)

	must(t, db.Store.Publish(ctx, b.Next(tuf.RoleRoot, tuf.RoleTargets)))
	if b.Current[tuf.RoleTargets].Checksum != targets.Checksum {
		t.Fatal("the test needs the same bytes in both")
	}
	_, err = db.Store.ByChecksum(ctx, other, tuf.RoleTargets, targets.Checksum)
	must(t, err)
	deleted, err := db.Store.Delete(ctx, gun)
	must(t, err)
	if !deleted {
		t.Error("nothing deleted")
	}
	b.Holds(t, db.Store)
	_, err = db.Store.ByChecksum(ctx, gun, tuf.RoleTargets, targets.Checksum)
	wantErr(t, err, storage.ErrNotFound)
}

// testNames: what ParseGUN and ParseRoleName allow can be stored, and what is
// longer is refused as such.
func testNames(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	longRole := tuf.RoleName("targets/" + strings.Repeat("a", tuf.MaxName-len("targets/")))
	for _, g := range []tuf.GUN{
		tuf.GUN(strings.Repeat("g", tuf.MaxName)), tuf.GUN(strings.Repeat("é", tuf.MaxName)), "a", "a/b/../c d", `q"'\%_;--`, "日本/x:y@sha256",
	} {
		r := NewRepo(g, "names")
		must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, longRole)))
		r.Holds(t, db.Store)
	}
	r := NewRepo(tuf.GUN(strings.Repeat("g", tuf.MaxName+1)), "names")
	wantErr(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)), storage.ErrTooLarge)
	_, err := db.Store.Generation(ctx, r.GUN)
	wantErr(t, err, storage.ErrNotFound)
	r = NewRepo(gun, "names")
	wantErr(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, longRole+"a")), storage.ErrTooLarge)
	_, err = db.Store.Generation(ctx, gun)
	wantErr(t, err, storage.ErrNotFound)
}

// testInvalid: sets that no caller makes on purpose.
func testInvalid(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	for name, spoil := range map[string]func(*storage.Set){
		"no timestamp":    func(s *storage.Set) { s.Files = s.Files[:len(s.Files)-1] },
		"a role twice":    func(s *storage.Set) { s.Files = append(s.Files, s.Files[0]) },
		"version 0":       func(s *storage.Set) { s.Files[0].Version = 0 },
		"empty role":      func(s *storage.Set) { s.Files[0].Role = "" },
		"version skipped": func(s *storage.Set) { s.Files[len(s.Files)-1].Version++ },
	} {
		for _, first := range []bool{true, false} {
			r := NewRepo(tuf.GUN(fmt.Sprintf("%s %v", name, first)), name)
			if !first {
				must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
			}
			set := r.Next(tuf.RoleRoot, tuf.RoleTargets)
			spoil(&set)
			if err := db.Store.Publish(ctx, set); !errors.Is(err, storage.ErrInvalid) {
				t.Errorf("%s, first %v: got %v, want ErrInvalid", name, first, err)
			}
		}
	}
}

func testVersionConflict(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "conflict")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets, relA)))
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleTargets)))
	for _, role := range []tuf.RoleName{tuf.RoleTargets, relA} {
		for v := tuf.Version(1); v <= r.Current[role].Version; v++ {
			late := From(&storage.Generation{GUN: gun, Timestamp: r.Current[tuf.RoleTimestamp], Files: r.Current}, "late")
			set := late.Next(role)
			set.Files[0].Version = v
			wantErr(t, db.Store.Publish(ctx, set), storage.ErrVersionConflict)
			// A conflict is one whatever the set was built on.
			set.Base = nil
			set.Files[len(set.Files)-1].Version = 1
			wantErr(t, db.Store.Publish(ctx, set), storage.ErrVersionConflict)
		}
	}
	r.Holds(t, db.Store)
	// Versions may jump.
	set := r.Next(tuf.RoleTargets)
	set.Files[0].Version = tuf.MaxVersion
	must(t, db.Store.Publish(ctx, set))
	m, err := db.Store.ByVersion(ctx, gun, tuf.RoleTargets, tuf.MaxVersion)
	must(t, err)
	if m.Checksum != set.Files[0].Checksum {
		t.Error("other bytes at the highest version")
	}
}

func testStale(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "winner")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets)))
	base := &storage.Generation{GUN: gun, Timestamp: r.Current[tuf.RoleTimestamp], Files: r.Current}
	must(t, db.Store.Publish(ctx, r.Next(relA)))

	loser := From(base, "loser")
	wantErr(t, db.Store.Publish(ctx, loser.Next(relB)), storage.ErrStale)
	renewal := From(base, "renewal")
	wantErr(t, db.Store.Publish(ctx, renewal.Next()), storage.ErrStale)
	both := From(base, "both")
	wantErr(t, db.Store.Publish(ctx, both.Next(relA)), storage.ErrStale) // revived, so versions do not count
	unknown := NewRepo(gun, "unknown")
	unknown.Next(tuf.RoleRoot, tuf.RoleTargets)
	wantErr(t, db.Store.Publish(ctx, unknown.Next(relB)), storage.ErrStale)
	empty := NewRepo(gun, "empty")
	wantErr(t, db.Store.Publish(ctx, empty.Next(relB)), storage.ErrStale)
	r.Holds(t, db.Store)

	// Built anew on what is current, the same upload passes.
	g, err := Verify(ctx, db.Store, gun)
	must(t, err)
	again := From(g, "loser")
	must(t, db.Store.Publish(ctx, again.Next(relB)))
	again.Holds(t, db.Store)

	// The GUN of the base is gone.
	_, err = db.Store.Delete(ctx, gun)
	must(t, err)
	wantErr(t, db.Store.Publish(ctx, again.Next(relB)), storage.ErrStale)
	_, err = db.Store.Generation(ctx, gun)
	wantErr(t, err, storage.ErrNotFound)

	// A base of the same version, but of an earlier life of the GUN.
	fresh := NewRepo(gun, "second life")
	must(t, db.Store.Publish(ctx, fresh.Next(tuf.RoleRoot, tuf.RoleTargets)))
	earlier := From(base, "first life")
	wantErr(t, db.Store.Publish(ctx, earlier.Next(relB)), storage.ErrStale)
	fresh.Holds(t, db.Store)
}

func testGenerationRoles(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "roles")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))

	g, err := db.Store.Generation(ctx, gun)
	must(t, err)
	if g.Snapshot != nil || len(g.Files) != 0 || g.GUN != gun || g.Timestamp.Checksum != r.Current[tuf.RoleTimestamp].Checksum {
		t.Errorf("timestamp alone: got %+v", g)
	}
	g, err = db.Store.Generation(ctx, gun, tuf.RoleTimestamp)
	must(t, err)
	if _, ok := g.Files[tuf.RoleTimestamp]; !ok || len(g.Files) != 1 {
		t.Errorf("timestamp as a file: got %v", g.Files)
	}
	g, err = db.Store.Generation(ctx, gun, relA, relB, relA, tuf.RoleRoot)
	must(t, err)
	got := map[tuf.RoleName]tuf.Checksum{}
	for role, f := range g.Files {
		got[role] = f.Checksum
	}
	want := map[tuf.RoleName]tuf.Checksum{relA: r.Current[relA].Checksum, tuf.RoleRoot: r.Current[tuf.RoleRoot].Checksum}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files asked for (-want +got):\n%s", diff)
	}
	s := g.Snapshot
	if s == nil || s.Version != 1 || len(s.Meta) != 3 || s.Expires.Year() != 2040 || s.Meta[relA].Length != int64(len(r.Current[relA].Data)) {
		t.Errorf("snapshot %+v", s)
	}
	g, err = db.Store.Generation(ctx, gun, tuf.RoleSnapshot)
	must(t, err)
	if len(g.Files) != 1 || g.Files[tuf.RoleSnapshot].Checksum != r.Current[tuf.RoleSnapshot].Checksum {
		t.Errorf("snapshot as a file: got %v", g.Files)
	}
}

// testOlderCurrent: what the timestamp and the snapshot name is current, not
// what has the highest version.
func testOlderCurrent(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	r := NewRepo(gun, "older")
	must(t, db.Store.Publish(ctx, r.Next(tuf.RoleRoot, tuf.RoleTargets, relA)))
	for _, role := range []tuf.RoleName{tuf.RoleTargets, relA, tuf.RoleSnapshot, relB} {
		db.SQL(t, `insert into tuf_files (gun, role, version, data, sha256) values ($1, $2, 77, $3, $4)`,
			string(gun), string(role), []byte("{}"), tuf.Sum([]byte("{}")).String())
	}
	r.Holds(t, db.Store)
}

func testDamaged(t *testing.T, db MetadataDB) {
	ctx := t.Context()
	all := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, relA}
	for _, lost := range append(all, tuf.RoleSnapshot) {
		r := NewRepo(tuf.GUN("damaged/"+lost), "damaged")
		must(t, db.Store.Publish(ctx, r.Next(all...)))
		db.SQL(t, `delete from tuf_files where gun = $1 and role = $2`, string(r.GUN), string(lost))
		_, err := db.Store.Generation(ctx, r.GUN, lost)
		wantErr(t, err, storage.ErrDamaged)
		_, err = db.Store.Generation(ctx, r.GUN)
		must(t, err)
		if lost != tuf.RoleSnapshot && lost != tuf.RoleRoot {
			_, err = db.Store.Generation(ctx, r.GUN, tuf.RoleRoot)
			must(t, err)
		}
	}
	for i, bad := range []string{"", "{", `{"signed":{"meta":{"snapshot":{}}}}`, `{"signed":{"meta":{"snapshot":{"hashes":{"sha256":"AAAA"}}}}}`, "[]", "null"} {
		r := NewRepo(tuf.GUN(fmt.Sprintf("bad%d", i)), "bad")
		must(t, db.Store.Publish(ctx, r.Next(all...)))
		db.SQL(t, `update tuf_files set data = $2 where gun = $1 and role = 'timestamp'`, string(r.GUN), []byte(bad))
		_, err := db.Store.Generation(ctx, r.GUN, tuf.RoleRoot)
		wantErr(t, err, storage.ErrDamaged)
	}
	r := NewRepo("swapped", "swapped")
	must(t, db.Store.Publish(ctx, r.Next(all...)))
	db.SQL(t, `update tuf_files set data = $2 where gun = $1 and role = 'root'`, "swapped", []byte(`{"signed":{}}`))
	_, err := db.Store.Generation(ctx, r.GUN, tuf.RoleRoot)
	wantErr(t, err, storage.ErrDamaged)
	_, err = db.Store.ByChecksum(ctx, r.GUN, tuf.RoleRoot, r.Current[tuf.RoleRoot].Checksum)
	wantErr(t, err, storage.ErrDamaged)
}
