package tuf_test

import (
	"io"
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/notary/trustpinning"
	upstream "github.com/theupdateframework/notary/tuf"
	"github.com/theupdateframework/notary/tuf/data"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // upstream logs each bad signature
	os.Exit(m.Run())
}

func TestValidRepository(t *testing.T) {
	repo := tuftest.New(t, "example.org/team/app", tuftest.Options{Delegations: []tuf.RoleName{"targets/releases", "targets/a", "targets/a/b"}})
	b := upstream.NewRepoBuilder(data.GUN(repo.GUN), nil, trustpinning.TrustPinConfig{})
	files := repo.Files()
	var root *tuf.Root
	for _, role := range repo.Roles() {
		if err := b.Load(data.RoleName(role), files[role], 1, false); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		e, err := tuf.ParseEnvelope(files[role])
		if err != nil {
			t.Fatal(err)
		}
		if role == "root" {
			root, err = e.Root()
			if err != nil {
				t.Fatal(err)
			}
			if err := tuf.VerifyRoot(e, root, nil, repo.GUN, repo.Now); err != nil {
				t.Fatal(err)
			}
		} else if role.IsBase() {
			if err := e.Verify(role, root.Authority(role)); err != nil {
				t.Fatal(err)
			}
		}
	}
	up := repo.Next("root", "targets")
	repo.Rotate("root")
	_ = up
}

func oracleKeys(a tuf.Authority) map[string]data.PublicKey {
	keys := make(map[string]data.PublicKey)
	for _, id := range a.KeyIDs {
		if k, ok := a.Keys[id]; ok {
			keys[string(id)] = data.NewPublicKey(k.Type, k.Public)
		}
	}
	return keys
}
