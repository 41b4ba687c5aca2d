package publish_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/notary/tuf/data"

	"countersign/admin"
)

// The real client library gets from what it had in its cache before a prune to
// the current generation, however much lies between, new root keys too.
func TestClientGetsAcrossPrune(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for name, serverSnapshot := range map[string]bool{"server's snapshot": true, "client's snapshot": false} {
			t.Run(name, func(t *testing.T) {
				s := stackOn(t, backend)
				owner := s.person(testGUN, newKeyStore())
				owner.init(serverSnapshot)
				owner.target("v0")
				owner.send("the first publish")
				owner.delegate("targets/a", owner.keys)
				owner.send("a delegation")

				var caches []*person // each knows another of the old generations
				for i := 1; i <= 6; i++ {
					owner.target(fmt.Sprintf("v%d", i), "targets", "targets/a")
					owner.send("a target")
					if i == 2 || i == 4 {
						owner.do("rotating root", owner.RotateKey(data.CanonicalRootRole, false, nil))
						owner.do("rotating targets", owner.RotateKey(data.CanonicalTargetsRole, false, nil))
					}
					c := s.person(testGUN, newKeyStore())
					_, err := c.ListTargets()
					c.do("reading before the prune", err)
					caches = append(caches, c)
				}
				want := s.sees(testGUN)
				if p := s.pruneAll(t.TempDir()); p.RowsAfter > p.RowsBefore/2 {
					t.Fatalf("of %d rows %d are left: little was pruned", p.RowsBefore, p.RowsAfter)
				}
				s.fsck(testGUN)
				for i, c := range caches {
					list, err := c.ListTargets("targets")
					if err != nil || len(list) != 7 {
						t.Errorf("the client that knew generation %d reads %d targets, %v", i+1, len(list), err)
					}
				}
				if got := s.sees(testGUN); !slices.Equal(got, want) {
					t.Errorf("a new client sees %q, before %q", got, want)
				}
				owner.target("after", "targets", "targets/a")
				owner.send("a publish after the prune")
			})
		}
	})
}

// pruneAll removes as much as the command can be told to, long after.
func (s *stack) pruneAll(dir string) (done admin.Pruned) {
	s.Helper()
	raw, err := json.Marshal(map[string]any{"storage": map[string]any{"backend": s.backend, "db_url": s.url}})
	config := filepath.Join(dir, "server.json")
	if err == nil {
		err = os.WriteFile(config, raw, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
	site, err := admin.OpenSite(s.Context(), admin.SiteConfig{ServerConfig: config, Actor: "operator test",
		Now: func() time.Time { return s.clock.Now().AddDate(1, 0, 0) }})
	if err != nil {
		s.Fatal(err)
	}
	defer site.Close()
	c := admin.PruneConfig{Selection: admin.Selection{All: true}, KeepVersions: 1, Act: true}
	if err := site.Prune(s.Context(), c, func(p admin.Pruned) error {
		if p.Skipped != "" {
			s.Errorf("%s was skipped: %s", p.GUN, p.Skipped)
		}
		done = p
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	return done
}
