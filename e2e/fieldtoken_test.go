package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFieldTokens: under Harbor's own files, tokens as Harbor makes them, signed by
// the key whose certificate its installer mounts, let a user publish and read what
// he may, and no more.
func TestFieldTokens(t *testing.T) {
	t.Parallel()
	s := deployments()["Harbor 2.0"].start(t)
	ts := newTokenService(t, s.stack)
	if err := os.Rename(ts.bundle(t, "bundle.crt", "default"), filepath.Join(s.dir, "etc/notary/root.crt")); err != nil {
		t.Fatal(err)
	}
	const gun = "harbor.example.com/" + privateProject + "/app"
	as := func(p person) http.RoundTripper {
		real := s.transport()
		t.Cleanup(real.CloseIdleConnections)
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			req = req.Clone(req.Context())
			req.Header.Set("Authorization", "Bearer "+ts.token(t, p, []string{"harbor-2.1.3"}, "repository:"+gun+":pull,push"))
			return real.RoundTrip(req)
		})
	}
	status := func(p person, method string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, s.base+"/v2/"+gun+"/_trust/tuf/root.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: as(p)}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if err := waitFor(20*time.Second, "the certificate to be read", func() error {
		if got := status(pusher, http.MethodGet); got != http.StatusNotFound {
			return fmt.Errorf("reading answers %d", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p, err := newPublisher(s.base, gun, as(pusher), newKeys())
	if err != nil {
		t.Fatal(err)
	}
	p.initialize(t, true)
	p.add(t, "targets", "v1")
	p.must(t, "publish", p.Publish())
	if v, err := verify(s.base, gun, as(reader), "targets"); err != nil || !v["targets"]["v1"] {
		t.Errorf("a reader finds %v: %v", v, err)
	}
	stranger, err := newPublisher(s.base, gun, as(reader), newKeys())
	if err != nil {
		t.Fatal(err)
	}
	stranger.add(t, "targets", "v2")
	if err := stranger.Publish(); err == nil {
		t.Error("a reader has published")
	}
	if got := status(nobody, http.MethodGet); got != http.StatusUnauthorized {
		t.Errorf("who has no right to the project is answered %d", got)
	}
}

// TestFieldRefusals: our programs, started on files of the field for a database
// that they do not serve, end at once, say what to do, and make nothing.
func TestFieldRefusals(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"harbor-1.2", "docs-sample", "docker-image"} {
		for _, which := range []string{"server", "signer"} {
			t.Run(dir+" "+which, func(t *testing.T) {
				t.Parallel()
				at := t.TempDir()
				raw, err := os.ReadFile(filepath.Join("../internal/config/testdata/field", dir, which+"-config.json"))
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(at, which+"-config.json")
				if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(raw), "31536000,\n", "31536000\n")), 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), program(t, "trust-"+which), "-config="+file, "-logf=logfmt")
				cmd.Dir, cmd.Env = at, fieldCompose
				out, err := cmd.CombinedOutput()
				if code := cmd.ProcessState.ExitCode(); code != 1 {
					t.Errorf("it ended with %d: %v", code, err)
				}
				for _, w := range []string{"storage.backend", "MySQL is not supported", "move the data to PostgreSQL"} {
					if !strings.Contains(string(out), w) {
						t.Errorf("it does not say %q:\n%s", w, out)
					}
				}
				if made, err := os.ReadDir(at); err != nil || len(made) != 1 {
					t.Errorf("it has made %v: %v", made, err)
				}
			})
		}
	}
}
