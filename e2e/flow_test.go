package e2e_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNotaryCLI runs the whole life of a repository by the real command line
// client with our pair on SQLite. TestSwapMatrix does on PostgreSQL, for all pairs.
func TestNotaryCLI(t *testing.T) {
	t.Parallel()
	newFlow(t, newStack(t, stackConfig{server: ours, signer: ours, backend: onSQLite}), "e2e.example:5000/team/app").wholeLife()
}

// A flow is a repository on its way through its life.
type flow struct {
	t      *testing.T
	s      *stack
	gun    string
	owner  *notary
	reader *notary           // has seen early versions, and must follow
	hello  string            // a file
	sum    string            // and its SHA-256
	want   map[string]string // once it has settled: what a list of it shows
}

func newFlow(t *testing.T, s *stack, gun string) *flow {
	f := &flow{t: t, s: s, gun: gun, owner: newNotary(t, s, 0), reader: newNotary(t, s, 0)}
	const content = "hello, world\n"
	f.hello = f.owner.file("hello.txt", content)
	f.sum = fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	return f
}

// wholeLife goes from the first publish over the deletion to a new beginning.
func (f *flow) wholeLife() {
	f.t.Helper()
	f.firstPublish()
	f.secondReader()
	f.delegation()
	f.rotations()
	f.removedDelegation()
	f.deleteAndInitAgain()
}

// lists holds what a client lists to be exactly this: name to role.
func (f *flow) lists(n *notary, want map[string]string) {
	f.t.Helper()
	if diff := cmp.Diff(want, n.targets(f.gun)); diff != "" {
		f.t.Fatalf("notary list (-want +got):\n%s", diff)
	}
}

func (f *flow) walk() generation { f.t.Helper(); return f.s.walk(f.t, 0, f.gun) }

func (f *flow) firstPublish() {
	f.t.Helper()
	n := f.owner
	n.run("init", f.gun)
	n.says([]string{"add", f.gun, "v1", f.hello}, `Addition of target "v1"`)
	n.says([]string{"status", f.gun}, "create", "targets", "v1")
	if out := n.fails("list", f.gun); !strings.Contains(out, "does not have trust data for") {
		f.t.Fatalf("list before the first publish says:\n%s", out)
	}
	n.says([]string{"publish", f.gun}, "Successfully published changes")
	n.says([]string{"addhash", f.gun, "v2", "13", "--sha256", f.sum, "-p"}, "Successfully published changes")
	f.lists(n, map[string]string{"v1": "targets", "v2": "targets"})
	n.says([]string{"lookup", f.gun, "v1"}, "v1 sha256:"+f.sum+" 13")
	if out := n.fails("lookup", f.gun, "v7"); !strings.Contains(out, "No valid trust data for v7") {
		f.t.Fatalf("lookup of what is not there says:\n%s", out)
	}
	n.says([]string{"verify", f.gun, "v1", "-i", f.hello}, "hello, world")
	forged := n.file("forged.txt", "hello, w0rld\n")
	if out := n.fails("verify", f.gun, "v1", "-i", forged); !strings.Contains(out, "data not present in the trusted collection") {
		f.t.Fatalf("verify of a forged file says:\n%s", out)
	}
	if g := f.walk(); g.version("timestamp") != 2 || g.version("targets") != 3 {
		f.t.Fatalf("after two publishes: timestamp %d, targets %d, want 2 and 3", g.version("timestamp"), g.version("targets"))
	}
}

func (f *flow) secondReader() {
	f.t.Helper()
	f.lists(f.reader, map[string]string{"v1": "targets", "v2": "targets"})
	f.owner.says([]string{"remove", "-p", f.gun, "v1"}, "Successfully published changes")
	for _, n := range []*notary{f.owner, f.reader, newNotary(f.t, f.s, 0)} {
		f.lists(n, map[string]string{"v2": "targets"})
	}
	f.owner.fails("lookup", f.gun, "v1")
}

// alice makes a key and certificate for a delegation, in the owner's key store.
func (f *flow) alice(name string) (cert, keyID string) {
	f.t.Helper()
	ca := newAuthority(f.t, f.t.TempDir())
	ca.issue(f.t, name)
	f.owner.run("key", "import", ca.file(name+".key"), "--role", name)
	ids := f.owner.keys(name)
	if len(ids) != 1 {
		f.t.Fatalf("key list shows %d keys of %s, want 1", len(ids), name)
	}
	return ca.file(name + ".crt"), ids[0]
}

func (f *flow) delegation() {
	f.t.Helper()
	n := f.owner
	cert, id := f.alice("alice")
	n.says([]string{"delegation", "add", f.gun, "targets/releases", cert, "--all-paths", "-p"}, "Successfully published changes")
	n.says([]string{"delegation", "list", f.gun}, "targets/releases", id, "<all paths>")
	n.says([]string{"add", f.gun, "v3", f.hello, "--roles", "targets/releases", "-p"}, "Successfully published changes")
	for _, n := range []*notary{n, f.reader, newNotary(f.t, f.s, 0)} {
		f.lists(n, map[string]string{"v2": "targets", "v3": "targets/releases"})
	}
	before := f.walk()
	n.says([]string{"witness", f.gun, "targets/releases", "-p"}, "targets/releases", "Successfully published changes")
	after := f.walk()
	if got, want := after.version("targets/releases"), before.version("targets/releases")+1; got != want {
		f.t.Fatalf("after witness the delegation has version %d, want %d", got, want)
	}
}

// rotations replaces the key of every role, where the client allows it both by a
// local key and by one of the server.
func (f *flow) rotations() {
	f.t.Helper()
	for _, step := range []struct {
		role   string
		remote bool
		stdin  string
	}{
		{"targets", false, ""},
		{"root", false, "yes\n"},
		{"snapshot", true, ""},
		{"timestamp", true, ""},
		{"snapshot", true, ""},
		{"targets", false, ""},
		{"root", false, "yes\n"},
		{"snapshot", false, ""},
		{"snapshot", false, ""},
		{"timestamp", true, ""},
	} {
		f.rotate(step.role, step.remote, step.stdin)
	}
	for _, refused := range [][]string{{"timestamp"}, {"targets", "-r"}} {
		f.owner.fails(append([]string{"key", "rotate", f.gun}, refused...)...)
	}
	if out, err := f.owner.try("yes\n", f.owner.command([]string{"key", "rotate", f.gun, "root", "-r"})...); err == nil {
		f.t.Fatalf("the root key went to the server:\n%s", out)
	}
}

func (f *flow) rotate(role string, remote bool, stdin string) {
	f.t.Helper()
	args := []string{"key", "rotate", f.gun, role}
	if remote {
		args = append(args, "-r")
	}
	before := f.walk()
	out, err := f.owner.try(stdin, f.owner.command(args)...)
	if err != nil || !strings.Contains(out, "Successfully rotated "+role+" key") {
		f.t.Fatalf("notary %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	after := f.walk()
	if after.version("root") != before.version("root")+1 {
		f.t.Fatalf("after rotating %s, root has version %d, want %d", role, after.version("root"), before.version("root")+1)
	}
	if slices.Equal(before.rootKeys(role), after.rootKeys(role)) {
		f.t.Fatalf("root still lists the old key of %s after its rotation", role)
	}
	if role == "snapshot" {
		if local := len(f.owner.keys("snapshot")) > 0; local == remote {
			f.t.Fatalf("after rotating the snapshot key (-r: %t) the client has one of its own: %t", remote, local)
		}
	}
	// A publish on the new key, and readers that follow: one at once, one that
	// is several roots behind by the end.
	name := fmt.Sprintf("r%d", after.version("root"))
	f.owner.run("addhash", f.gun, name, "13", "--sha256", f.sum, "-p")
	f.owner.says([]string{"lookup", f.gun, name}, f.sum)
	newNotary(f.t, f.s, 0).says([]string{"lookup", f.gun, name}, f.sum)
}

func (f *flow) removedDelegation() {
	f.t.Helper()
	want := f.reader.targets(f.gun)
	if want["v3"] != "targets/releases" || len(want) != 12 {
		f.t.Fatalf("after ten rotations a client that missed them lists %v", want)
	}
	f.owner.says([]string{"delegation", "remove", f.gun, "targets/releases", "-y", "-p"}, "Successfully published changes")
	delete(want, "v3")
	f.lists(f.owner, want)
	f.lists(f.reader, want)
	if out := f.owner.run("delegation", "list", f.gun); !strings.Contains(out, "No delegations present") {
		f.t.Fatalf("delegation list after the removal says:\n%s", out)
	}
	if f.s.cfg.server == upstream {
		return // upstream refuses the role for ever when its key is another one
	}
	f.owner.run("key", "rotate", f.gun, "snapshot", "-r")
	f.owner.run("witness", f.gun, "targets", "-p")
	if _, ok := f.walk()["targets/releases"]; ok {
		f.t.Fatal("the removed delegation is still in the snapshot")
	}
	cert, _ := f.alice("bob")
	f.owner.run("delegation", "add", f.gun, "targets/releases", cert, "--all-paths", "-p")
	f.owner.run("addhash", f.gun, "v4", "13", "--sha256", f.sum, "--roles", "targets/releases", "-p")
	want["v4"] = "targets/releases"
	f.lists(newNotary(f.t, f.s, 0), want)
}

func (f *flow) deleteAndInitAgain() {
	f.t.Helper()
	old := f.walk()
	f.owner.says([]string{"delete", "--remote", f.gun}, "Successfully deleted local and remote trust data")
	c := f.s.client()
	for role := range maps.Keys(old) {
		for _, name := range []string{role, fmt.Sprintf("%d.%s", old.version(role), role)} {
			if status, body := get(f.t, c, f.s.gunURL(0, f.gun)+name+".json"); status != 404 {
				f.t.Errorf("%s.json after the delete: %d %s, want 404", name, status, body)
			}
		}
	}
	if out := newNotary(f.t, f.s, 0).fails("list", f.gun); !strings.Contains(out, "does not have trust data for") {
		f.t.Fatalf("list after the delete says:\n%s", out)
	}
	f.owner.says([]string{"init", f.gun, "-p"}, "Successfully published changes")
	f.owner.says([]string{"add", f.gun, "v9", f.hello, "-p"}, "Successfully published changes")
	f.lists(newNotary(f.t, f.s, 0), map[string]string{"v9": "targets"})
	if g := f.walk(); g.version("root") != 1 || g.version("timestamp") != 2 {
		f.t.Fatalf("the new repository has root %d and timestamp %d, want 1 and 2", g.version("root"), g.version("timestamp"))
	}
}
