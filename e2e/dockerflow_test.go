package e2e_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocker is content trust as docker's users know it, with every docker
// client of the machine.
func TestDocker(t *testing.T) {
	clients := dockerClients(t)
	for version, path := range clients {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, stackConfig{})
			e := newEngine(t)
			f := &dockerFlow{t: t, e: e, path: path, url: s.url(0), ca: s.ca.file("ca.crt"), repo: e.registry + "/team/app"}
			f.docker = newDocker(t, path, e, f.url, f.ca)
			f.pushAndPull()
			f.unsigned()
			f.swapped()
			f.revoke("2")
			f.signers()
			f.revoke("4")
			_, g := s.mustVerify(t, 0, f.repo, "targets")
			for _, role := range []string{"targets/releases", "targets/alice", "targets/bob"} {
				if g.version(role) < 2 {
					t.Errorf("%s has version %d after a signature and its revocation", role, g.version(role))
				}
			}
		})
	}
}

// A dockerFlow is a repository on its way through TestDocker.
type dockerFlow struct {
	*docker
	t        *testing.T
	e        *engine
	path     string
	url, ca  string
	repo     string
	one, two string // image IDs behind the tags
}

// other is the docker client of somebody else.
func (f *dockerFlow) other() *docker {
	f.t.Helper()
	return newDocker(f.t, f.path, f.e, f.url, f.ca)
}

// forget removes the local images, so that a pull must download.
func (f *dockerFlow) forget(refs ...string) {
	f.t.Helper()
	f.run(append([]string{"image", "rm", "--force"}, refs...))
}

func (f *dockerFlow) pushAndPull() {
	f.t.Helper()
	f.one = f.image(f.repo+":1", "first")
	f.run([]string{"push", f.repo + ":1"}, "Signing and pushing trust metadata", "Successfully signed "+f.repo+":1")
	f.two = f.image(f.repo+":2", "second")
	f.run([]string{"push", f.repo + ":2"}, "Successfully signed "+f.repo+":2")
	f.forget(f.one, f.two)
	for _, d := range []*docker{f.docker, f.other()} {
		d.run([]string{"pull", f.repo + ":1"}, f.repo+":1@"+f.e.digest(f.t, "team/app", "1"))
		d.run([]string{"pull", f.repo + ":2"}, f.repo+":2@"+f.e.digest(f.t, "team/app", "2"))
		if got := []string{d.imageID(f.repo + ":1"), d.imageID(f.repo + ":2")}; got[0] != f.one || got[1] != f.two {
			f.t.Fatalf("pulled %v, pushed %v and %v", got, f.one, f.two)
		}
	}
}

// unsigned is refused, because the registry has it and the trust server has not.
func (f *dockerFlow) unsigned() {
	f.t.Helper()
	id := f.image(f.repo+":3", "unsigned")
	f.run([]string{"push", "--disable-content-trust", f.repo + ":3"})
	f.forget(id)
	f.fails([]string{"pull", f.repo + ":3"}, "No valid trust data for 3")
	f.other().fails([]string{"pull", f.repo + ":3"}, "No valid trust data for 3")
	f.run([]string{"pull", "--disable-content-trust", f.repo + ":3"})
}

// swapped puts other content under a signed tag behind the trust server's back:
// the client still gets what was signed.
func (f *dockerFlow) swapped() {
	f.t.Helper()
	signed := f.e.digest(f.t, "team/app", "1")
	evil := f.image(f.repo+":1", "evil")
	f.run([]string{"push", "--disable-content-trust", f.repo + ":1"})
	if f.e.digest(f.t, "team/app", "1") == signed {
		f.t.Fatal("the registry still has the signed content: nothing is shown")
	}
	f.forget(evil, f.one)
	for _, d := range []*docker{f.docker, f.other()} {
		d.run([]string{"pull", f.repo + ":1"}, f.repo+":1@"+signed)
		if got := d.imageID(f.repo + ":1"); got != f.one {
			f.t.Fatalf("pulled %s, signed is %s, swapped in was %s", got, f.one, evil)
		}
	}
	if got := f.inspect(f.repo + ":1").digests(); got["1"] != signed+" Repo Admin" {
		f.t.Fatalf("docker trust inspect says %v of tag 1, want %s", got, signed)
	}
}

// signers adds one signer whose key docker makes and one whose key it loads.
func (f *dockerFlow) signers() {
	f.t.Helper()
	f.run([]string{"trust", "key", "generate", "alice", "--dir", f.home}, "Successfully generated")
	f.run([]string{"trust", "signer", "add", "--key", filepath.Join(f.home, "alice.pub"), "alice", f.repo}, "Successfully added signer: alice")
	authority := newAuthority(f.t, f.t.TempDir())
	authority.issue(f.t, "bob")
	f.run([]string{"trust", "key", "load", "--name", "bob", authority.file("bob.key")}, "Successfully imported key")
	f.run([]string{"trust", "signer", "add", "--key", authority.file("bob.crt"), "bob", f.repo}, "Successfully added signer: bob")
	four := f.image(f.repo+":4", "fourth")
	f.run([]string{"trust", "sign", f.repo + ":4"}, "Successfully signed "+f.repo+":4")
	signed := f.e.digest(f.t, "team/app", "4")
	if got := f.inspect(f.repo + ":4").digests(); got["4"] != signed+" alice,bob" {
		f.t.Fatalf("docker trust inspect says %v of tag 4, want %s by alice,bob", got, signed)
	}
	var names []string
	for _, s := range f.inspect(f.repo).Signers {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"alice", "bob"}, names); diff != "" {
		f.t.Fatalf("signers of docker trust inspect (-want +got):\n%s", diff)
	}
	f.forget(four)
	d := f.other()
	d.run([]string{"pull", f.repo + ":4"}, f.repo+":4@"+signed)
	if got := d.imageID(f.repo + ":4"); got != four {
		f.t.Fatalf("pulled %s, signed is %s", got, four)
	}
}

// revoke takes back the signature of a tag. Docker looks for it only where it
// would sign now: with the owner as long as there are no signers.
func (f *dockerFlow) revoke(tag string) {
	f.t.Helper()
	ref := f.repo + ":" + tag
	f.run([]string{"trust", "revoke", ref}, "Successfully deleted signature for "+ref)
	for _, d := range []*docker{f.docker, f.other()} {
		d.fails([]string{"pull", ref}, "No valid trust data for "+tag)
	}
	if got := f.inspect(f.repo).digests(); len(got) != 1 || got["1"] == "" {
		f.t.Fatalf("after the revocation docker trust inspect shows %v, want tag 1 alone", got)
	}
}
