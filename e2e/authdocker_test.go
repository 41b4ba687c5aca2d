package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testDocker is docker as it is used with a trust server that asks who one is:
// that gets the name and password, or the token, of docker's login at the
// registry. All clients use one daemon.
func (a *authStack) testDocker(t *testing.T) {
	t.Parallel()
	// The daemon asks the token service too, and must trust its certificate.
	e := newEngineAt(t, a.registryPort, "SSL_CERT_FILE="+a.ca.file("ca.crt"))
	clients := dockerClients(t)
	newest := slices.Max(slices.Collect(maps.Keys(clients)))
	for version, path := range clients {
		for _, words := range []string{"password", "refresh"} {
			t.Run(version+" "+words, func(t *testing.T) {
				t.Parallel()
				a.dockerLogin(t, e, path, words)
			})
		}
	}
	for _, asks := range []string{byHarbor, byHarborOld, byHarborMid, byPassword} {
		t.Run(asks, func(t *testing.T) {
			t.Parallel()
			a.dockerRights(t, e, clients[newest], asks)
		})
	}
}

// newDocker is docker of p, logged in at a registry, with a trust server.
func (a *authStack) newDocker(t *testing.T, e *engine, path, asks, registry string, p person) *docker {
	t.Helper()
	d := newDocker(t, path, e, a.url(a.on[asks]), a.ca.file("ca.crt"))
	if p != anonymous {
		if out, err := d.try(p.password(), path, "login", "-u", string(p), "--password-stdin", registry); err != nil {
			t.Fatalf("%v: docker login: %v\n%s", p, err, out)
		}
	}
	return d
}

// dockerRights goes through what everybody can do with one repository whose keys
// they all have, at a registry that is open to all: nothing but the trust server
// stands in the way.
func (a *authStack) dockerRights(t *testing.T, e *engine, path, asks string) {
	t.Helper()
	repo := strings.Join([]string{e.registry, privateProject, asks}, "/")
	owner := a.newDocker(t, e, path, asks, e.registry, admin)
	id := owner.image(repo+":1", "signed for "+t.Name())
	owner.run([]string{"push", repo + ":1"}, "Successfully signed "+repo+":1")
	keys := os.DirFS(filepath.Join(owner.home, ".docker", "trust", "private"))
	for _, p := range everyone {
		d := a.newDocker(t, e, path, asks, e.registry, p)
		if err := os.CopyFS(filepath.Join(d.home, ".docker", "trust", "private"), keys); err != nil {
			t.Fatal(err)
		}
		c := dockerCase{docker: d, person: p, refusal: notAuthorized}
		if p == anonymous && asks == byPassword {
			c.refusal = noPassword
		}
		c.run(rightsOn(asks, p), repo, id)
	}
	if got := owner.inspect(repo).digests(); len(got) != 1 || got["1"] == "" {
		t.Errorf("in the end docker trust inspect shows %v, want tag 1 alone", got)
	}
}

// A dockerCase is one person with docker.
type dockerCase struct {
	*docker
	person
	refusal string
}

func (c dockerCase) run(r rights, repo, image string) {
	c.t.Helper()
	c.docker.run([]string{"tag", image, repo + ":" + c.String()})
	c.expect(r.read, c.refusal, "pull", repo+":1")
	c.expect(r.read, "signatures or cannot access "+repo, "trust", "inspect", repo+":1")
	c.expect(r.publish, c.refusal, "push", repo+":"+c.String())
	if r.publish {
		c.expect(true, "", "trust", "revoke", repo+":"+c.String())
	} else {
		c.expect(false, c.refusal, "trust", "revoke", repo+":1")
	}
}

func (c dockerCase) expect(allowed bool, refusal string, args ...string) {
	c.t.Helper()
	out, err := c.try("", append([]string{c.path}, args...)...)
	if (err == nil) != allowed || !allowed && !strings.Contains(out, refusal) {
		c.t.Errorf("%v: docker %s: %v, want success: %t, otherwise %q\n%s", c.person, strings.Join(args, " "), err, allowed, refusal, out)
	}
}

// dockerLogin publishes at a registry that trusts the same token service: with
// the name and password at each request for a token, or, if that is what a login
// is answered with, with a refresh token in their place.
func (a *authStack) dockerLogin(t *testing.T, e *engine, path, with string) {
	t.Helper()
	words, method := []string(nil), "GET"
	if with == "refresh" {
		words, method = []string{with}, "POST"
	}
	registry := e.launchRegistry(t, port(t), strings.ReplaceAll(t.Name(), "/", "-"), fmt.Sprintf(
		"auth:\n  token:\n    realm: %s\n    service: %s\n    issuer: %s\n    rootcertbundle: %s\n",
		a.ts.realm(words...), registryService, tokenIssuer, a.bundle))
	repo := strings.Join([]string{registry, privateProject, "app"}, "/")

	stranger := newDocker(t, path, e, a.url(a.on[byHarbor]), a.ca.file("ca.crt"))
	if out, err := stranger.try("wrong", path, "login", "-u", string(pusher), "--password-stdin", registry); err == nil || !strings.Contains(out, "unauthorized") {
		t.Errorf("docker login with a wrong password: %v\n%s", err, out)
	}
	d := a.newDocker(t, e, path, byHarbor, registry, pusher)
	raw, err := os.ReadFile(filepath.Join(d.home, ".docker", "config.json"))
	if err != nil || strings.Contains(string(raw), "identitytoken") != (with == "refresh") {
		t.Errorf("%v: after the login docker's configuration is %s", err, raw)
	}
	d.image(repo+":1", t.Name())
	d.run([]string{"push", repo + ":1"}, "Successfully signed "+repo+":1")
	if a.ts.asked(t, method, `user="pusher"`, "service="+notaryService, "repository:"+repo) == 0 {
		t.Errorf("docker has asked for no token for %s by %s", repo, method)
	}
	pulling := a.newDocker(t, e, path, byHarbor, registry, reader)
	pulling.run([]string{"pull", repo + ":1"}, repo+":1@sha256:")
	pulling.image(repo+":2", t.Name())
	pulling.fails([]string{"push", repo + ":2"}, "denied")
}
