package tuf_test

import (
	"strings"
	"testing"
	"time"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// TestNextRoot publishes a root over a stored one.
func TestNextRoot(t *testing.T) {
	const (
		old = "could not rotate trust to a new trusted root: failed to validate data with current trusted certificates"
		own = "could not validate the path to a trusted root: failed to validate integrity of roots"
		cn  = "could not validate the path to a trusted root: unable to retrieve valid leaf certificates"
	)
	tests := []struct {
		name string
		opts tuftest.Options
		do   func(*testing.T, *tuftest.Repo) // with version 2 of it
		text string
	}{
		{"nothing new but the version", tuftest.Options{}, func(*testing.T, *tuftest.Repo) {}, ""},
		{"the same version", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) { r.Root.Version = 1 }, ""},
		{"two versions on", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) { r.Root.Version = 3 }, "Root modifications must increment the version. Current 1, new 3"},
		{"new targets key", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) { r.Rotate("targets") }, ""},
		{"new root key, signed by both", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) { r.Rotate("root") }, ""},
		{"new root key, signed by the old one alone", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) {
			keys := r.Keys["root"]
			r.Rotate("root")
			r.Keys["root"] = keys
		}, own},
		{"new root key, signed by the new one alone", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) {
			r.Keys["root"] = []*tuftest.Key{r.Rotate("root")}
		}, old},
		{"new root key, the old one no longer listed", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) {
			id := r.Keys["root"][0].ID()
			r.Rotate("root")
			delete(r.Root.Keys, id)
		}, ""},
		{"new certificate for the same key", tuftest.Options{}, func(t *testing.T, r *tuftest.Repo) {
			k := r.Keys["root"][0]
			again := k.Certify(t, tuftest.Cert{CN: string(gun), NotBefore: r.Now, NotAfter: r.Now.Add(time.Hour)})
			r.SetKeys("root", 1, again)
			r.Keys["root"] = []*tuftest.Key{k, again}
		}, ""},
		{"new certificate, signed under its ID alone", tuftest.Options{}, func(t *testing.T, r *tuftest.Repo) {
			r.SetKeys("root", 1, r.Keys["root"][0].Certify(t, tuftest.Cert{CN: string(gun), NotBefore: r.Now, NotAfter: r.Now.Add(time.Hour)}))
		}, old},
		{"two of three sign, one of them leaves", tuftest.Options{RootKeys: 3, RootThreshold: 2}, func(_ *testing.T, r *tuftest.Repo) {
			keys := r.Keys["root"]
			r.SetKeys("root", 2, keys[1:]...)
			r.Keys["root"] = keys[1:]
		}, ""},
		{"one of three signs", tuftest.Options{RootKeys: 3, RootThreshold: 2}, func(_ *testing.T, r *tuftest.Repo) { r.Keys["root"] = r.Keys["root"][:1] }, old},
		{"threshold lowered to 1, and one signs", tuftest.Options{RootKeys: 3, RootThreshold: 2}, func(_ *testing.T, r *tuftest.Repo) {
			r.SetKeys("root", 1, r.Keys["root"]...)
			r.Keys["root"] = r.Keys["root"][:1]
		}, old},
		{"threshold raised to 2, and one signs", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) {
			key := r.Keys["root"][0]
			r.SetKeys("root", 2, key, r.NewKey("root"))
			r.Keys["root"] = r.Keys["root"][:1]
		}, own},
		{"new certificate for another repository", tuftest.Options{}, func(t *testing.T, r *tuftest.Repo) {
			k := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "other", NotBefore: r.Now, NotAfter: r.Now.Add(time.Hour)})
			keys := append(r.Keys["root"], k)
			r.SetKeys("root", 1, k)
			r.Keys["root"] = keys
		}, cn},
		{"expired", tuftest.Options{}, func(_ *testing.T, r *tuftest.Repo) {
			r.Root.Expires = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
		}, "root expired at Thu Jan 2 03:04:05 UTC 2020"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repo := tuftest.New(t, gun, tt.opts)
			p := publish{gun: gun, prev: repo.File("root"), roles: []tuf.RoleName{"root"}}
			repo.Root.Version++
			tt.do(t, repo)
			p.files = repo.Upload("root")
			got, want := ours(p, time.Now()), theirs(p)
			if (got.err == nil) != (tt.text == "") || got.err != nil && got.err.Error() != tt.text {
				t.Errorf("got %s; want %q", got, tt.text)
			}
			if !sameText(got, want) {
				t.Errorf("ours:\n\t%s\nupstream's:\n\t%s", got, want)
			}
		})
	}
}

// TestStoredRoot: what is wrong with the stored root itself.
func TestStoredRoot(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{})
	e, err := tuf.ParseEnvelope(repo.File("root"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := e.Root()
	if err != nil {
		t.Fatal(err)
	}
	bare := *root
	k := tuftest.NewKey(t, tuf.KeyECDSA)
	bare.Keys = map[tuf.KeyID]tuf.Key{k.ID(): k.Key}
	bare.Roles = map[tuf.RoleName]tuf.Role{"root": {KeyIDs: []tuf.KeyID{k.ID()}, Threshold: 1}}
	err = tuf.VerifyRoot(e, root, &bare, gun, repo.Now)
	if err == nil || err.Error() != "could not validate the path to a trusted root: could not retrieve trusted certs from previous root role data" {
		t.Errorf("stored root without certificates: %v", err)
	}
	high := *root
	high.Version = tuf.MaxVersion
	err = tuf.VerifyRoot(e, root, &high, gun, repo.Now)
	if err == nil || !strings.Contains(err.Error(), "Current 2147483647, new 1") {
		t.Errorf("stored root of the last version: %v", err)
	}
}

func TestLeafAuthority(t *testing.T) {
	repo := tuftest.New(t, gun, tuftest.Options{RootKeys: 2, RootThreshold: 2})
	fit := repo.Keys["root"][0]
	short := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: string(gun), NotBefore: repo.Now, NotAfter: repo.Now.Add(time.Hour)})
	repo.SetKeys("root", 2, fit, short, tuftest.NewKey(t, tuf.KeyECDSA))
	later := repo.Now.Add(2 * time.Hour)
	for _, tt := range []struct {
		name  string
		dates bool
		at    time.Time
		want  []tuf.KeyID
	}{
		{"now", true, repo.Now, []tuf.KeyID{fit.ID(), short.ID()}},
		{"later", true, later, []tuf.KeyID{fit.ID()}},
		{"later, whatever the dates", false, later, []tuf.KeyID{fit.ID(), short.ID()}},
	} {
		a, err := repo.Root.LeafAuthority(gun, tt.at, tt.dates)
		if err != nil {
			t.Fatal(err)
		}
		if a.Threshold != 2 || len(a.Keys) != len(tt.want) || len(a.KeyIDs) != len(tt.want) {
			t.Errorf("%s: %+v", tt.name, a)
		}
		for i, id := range tt.want {
			if a.KeyIDs[i] != id || a.Keys[id].ID() != id {
				t.Errorf("%s: key %d is %s", tt.name, i, a.KeyIDs[i])
			}
		}
	}
	if _, err := repo.Root.LeafAuthority("other", later, false); err == nil || err.Error() != "unable to retrieve valid leaf certificates" {
		t.Errorf("for another repository: %v", err)
	}
}

func TestAuthority(t *testing.T) {
	repo := newRepo(t)
	a := repo.Root.Authority("targets")
	if id := repo.Keys["targets"][0].ID(); a.Threshold != 1 || len(a.Keys) != 1 || a.Keys[id].ID() != id {
		t.Errorf("targets: %+v", a)
	}
	if a := repo.Root.Authority("nobody"); a.Threshold != 0 || len(a.Keys) != 0 {
		t.Errorf("a role that is not there: %+v", a)
	}
	e, err := tuf.ParseEnvelope(repo.File("targets"))
	if err != nil {
		t.Fatal(err)
	}
	targets, err := e.Targets("targets")
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := targets.Delegation("targets/a"); !ok || a.Threshold != 1 || len(a.Keys) != 1 {
		t.Errorf("targets/a: %+v, %t", a, ok)
	}
	for _, name := range []tuf.RoleName{"targets/a/b", "targets", ""} {
		if _, ok := targets.Delegation(name); ok {
			t.Errorf("targets delegates to %q", name)
		}
	}
	if _, err := e.Targets("snapshot"); err == nil || err.Error() != "tuf: invalid role snapshot." {
		t.Errorf("snapshot read as targets: %v", err)
	}
}

// TestNobody: what no key is listed for, nobody can sign.
func TestNobody(t *testing.T) {
	repo := newRepo(t)
	e, err := tuf.ParseEnvelope(repo.File("targets"))
	if err != nil {
		t.Fatal(err)
	}
	a := repo.Root.Authority("targets")
	none, negative, unlisted := a, a, a
	none.Threshold, negative.Threshold, unlisted.KeyIDs = 0, -1, nil
	for name, a := range map[string]tuf.Authority{
		"zero": {}, "threshold 0": none, "negative threshold": negative, "keys that the role does not list": unlisted,
		"missing role": repo.Root.Authority("nobody"),
	} {
		if err := e.Verify("targets", a); err == nil || !strings.HasPrefix(err.Error(), "valid signatures did not meet threshold") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
