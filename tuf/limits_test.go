package tuf_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A list of delegations that are none costs nothing: it ends at the first. So
// does one of whose first every delegation is sound, beyond its limit.
func TestDelegationsBeforeAnySignature(t *testing.T) {
	for entry, most := range map[string]uint64{
		`{}`:                                   1 << 16,
		`{"name":"targets/b/c","threshold":1}`: 1 << 16,
		`{"name":"targets/b"}`:                 1 << 16,
		`{"name":"targets/b","threshold":1}`:   16 << 20,
	} {
		list := entry + strings.Repeat(","+entry, 200_000)
		e, err := tuf.ParseEnvelope([]byte(`{"signed":{"_type":"Targets","version":1,"delegations":{"keys":{},"roles":[` + list + `]}}}`))
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = e.Targets("targets")
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: accepted", entry)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > most {
			t.Errorf("%s: %d bytes for %v", entry, got, err)
		}
	}
}

func TestDelegates(t *testing.T) {
	for delegations, want := range map[string]bool{
		``:                   false,
		`"delegations":null`: false,
		`"delegations":{}`:   false,
		`"delegations":{"keys":{"a":{}},"roles":[]}`: false,
		`"delegations":{"keys":{},"roles":null}`:     false,
		`"delegations":{"roles":{"a":1}}`:            false,
		`"delegations":[{"roles":[1]}]`:              false,
		`"delegations":{"keys":{},"roles":[1]}`:      true,
		`"delegations":{"roles":[{}],"keys":{}}`:     true,
	} {
		e, err := tuf.ParseEnvelope([]byte(`{"signed":{` + delegations + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Delegates(); got != want {
			t.Errorf("%s: %v", delegations, got)
		}
	}
}

// A certificate that many delegations list is parsed once. Every file is
// refused as soon as its certificates have been looked at.
func TestCertificatesAreParsedOnce(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{})
	var keys []*tuftest.Key
	k := tuftest.NewKey(t, tuf.KeyECDSA)
	for i := range 20 {
		keys = append(keys, k.Certify(t, tuftest.Cert{CN: fmt.Sprint(i), NotBefore: repo.Now, NotAfter: repo.Now.Add(time.Hour)}))
	}
	for i := range 50 {
		repo.AddDelegation(tuf.RoleName(fmt.Sprintf("targets/d%d", i)), keys...)
	}
	e, err := tuf.ParseEnvelope(repo.File("targets"))
	if err != nil {
		t.Fatal(err)
	}
	empty := new(tuf.Envelope)
	verify := func(targets *tuf.Targets) {
		for i, d := range targets.Delegations.Roles {
			a, ok := targets.Delegation(d.Name)
			if !ok || len(a.Keys) != 20 || len(targets.DelegationAt(i).Keys) != 20 {
				t.Fatalf("%s: %d keys", d.Name, len(a.Keys))
			}
			if err := empty.Verify(d.Name, a); err == nil {
				t.Fatal("verified")
			}
		}
	}
	// One certificate takes about 40 allocations: 20 of them a thousand,
	// 20 for each of the delegations 40,000.
	allocs := testing.AllocsPerRun(3, func() {
		targets, err := e.Targets("targets")
		if err != nil {
			t.Fatal(err)
		}
		verify(targets)
	})
	if allocs > 20_000 {
		t.Errorf("%.0f allocations", allocs)
	}
}

// What makes a certificate unfit is told for each delegation that lists it.
func TestUnfitCertificateTwice(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{})
	k := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "x", NotBefore: repo.Now.Add(time.Hour), NotAfter: repo.Now})
	repo.AddDelegation("targets/a", k)
	repo.AddDelegation("targets/b", k)
	e, err := tuf.ParseEnvelope(repo.File("targets"))
	if err != nil {
		t.Fatal(err)
	}
	targets, err := e.Targets("targets")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []tuf.RoleName{"targets/a", "targets/b", "targets/a"} {
		f, err := tuf.ParseEnvelope(repo.File(role))
		if err != nil {
			t.Fatal(err)
		}
		a, _ := targets.Delegation(role)
		if err := f.Verify(role, a); err == nil || !strings.Contains(err.Error(), "validity window is invalid") {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// Roles that no client knows do not fill the memory either.
func TestRootRoles(t *testing.T) {
	roles := map[string]any{}
	for i := range tuf.MaxRoles + 1 {
		roles[fmt.Sprint(i)] = map[string]any{"keyids": []string{}, "threshold": 1}
	}
	list, err := json.Marshal(roles)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tuf.ParseEnvelope([]byte(`{"signed":{"_type":"Root","version":1,"roles":` + string(list) + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Root(); err == nil || !strings.Contains(err.Error(), "more than 10000 roles") {
		t.Error(err)
	}
}
