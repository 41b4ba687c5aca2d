package tuf_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// TestGenerations lets a repository live: keys of all types, rotations,
// delegations that come and go. Each generation is valid for both sides, and
// with one byte of it changed both say the same again.
func TestGenerations(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		types := rapid.SampledFrom([]string{tuf.KeyECDSA, tuf.KeyECDSA, tuf.KeyED25519, tuf.KeyRSA})
		repo := tuftest.New(t, gun, tuftest.Options{
			RootKeys: rapid.IntRange(1, 3).Draw(r, "root keys"), TargetsKeys: 2, TargetsThreshold: rapid.IntRange(1, 2).Draw(r, "threshold"),
			KeyType: types.Draw(r, "key type"),
		})
		var prev []byte
		for i := range rapid.IntRange(1, 4).Draw(r, "generations") {
			p := of(repo)
			p.prev = prev
			if got, want := ours(p, time.Now()), theirs(p); got.err != nil || want.err != nil {
				r.Fatalf("generation %d: ours %s, upstream's %s", i, got, want)
			}
			spoil(r, p)
			prev = repo.File("root")
			live(r, repo, i)
		}
	})
}

// live does a few things that an owner does, and makes the next generation.
func live(r *rapid.T, repo *tuftest.Repo, i int) {
	roles := []tuf.RoleName{"root"}
	for name := range repo.Targets {
		roles = append(roles, name)
	}
	slices.Sort(roles)
	repo.Next(roles...)
	for range rapid.IntRange(0, 4).Draw(r, "things") {
		slices.Sort(roles)
		role := rapid.SampledFrom(roles[1:]).Draw(r, "role") // targets, or a delegation
		if repo.Targets[role] == nil {
			continue
		}
		switch rapid.IntRange(0, 5).Draw(r, "thing") {
		case 0:
			repo.Rotate(role)
		case 1:
			repo.Rotate(rapid.SampledFrom(tuf.BaseRoles[:]).Draw(r, "base role"))
		case 2:
			child := role + tuf.RoleName(fmt.Sprintf("/d%d", len(roles)))
			repo.AddDelegation(child)
			roles = append(roles, child)
		case 3:
			if role.IsDelegation() && len(repo.Targets[role].Delegations.Roles) == 0 {
				repo.RemoveDelegation(role)
			}
		case 4:
			repo.SetKeys(role, 2, repo.NewKey(role), repo.NewKey(role), repo.NewKey(role))
		case 5:
			repo.AddTarget(role, rapid.String().Draw(r, "target"), fmt.Append(nil, i))
		}
	}
}

// spoil changes one byte of one file and compares the verdicts.
func spoil(r *rapid.T, p publish) {
	role := rapid.SampledFrom(p.roles).Draw(r, "spoiled")
	file := slices.Clone(p.files[role])
	at := rapid.IntRange(0, len(file)-1).Draw(r, "at")
	file[at] = rapid.Byte().Draw(r, "byte")
	good := p.files[role]
	p.files[role] = file
	defer func() { p.files[role] = good }()
	got, want := ours(p, time.Now()), theirs(p)
	if (got.err == nil) != (want.err == nil) && (got.err == nil || deliberate(file) == "") {
		r.Fatalf("%s with byte %d changed: ours %s, upstream's %s", role, at, got, want)
	}
}
