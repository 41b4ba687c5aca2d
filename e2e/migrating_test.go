package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A step is a command block of docs/migrating-from-notary.md: "```sh KIND NAME".
type step struct {
	kind, name string
	script     string
	prints     []string // the lines of the "```text" block behind it
}

// guide reads the command blocks of the document, in its order.
func guide(t testing.TB) []step {
	t.Helper()
	raw, err := os.ReadFile("../docs/migrating-from-notary.md")
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	var fence string // the open block
	var body []string
	behind := false // only blank lines since a command block
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		opens, isFence := strings.CutPrefix(line, "```")
		switch {
		case fence == "" && isFence:
			fence, body = opens, nil
		case fence != "" && isFence:
			f := strings.Fields(fence)
			if f[0] == "sh" && len(f) == 3 {
				steps = append(steps, step{kind: f[1], name: f[2], script: strings.Join(body, "\n") + "\n"})
			} else if f[0] == "sh" {
				t.Fatalf("a command block without kind and name: %s", fence)
			} else if f[0] == "text" && behind {
				steps[len(steps)-1].prints = body
			} else if f[0] == "text" {
				t.Fatalf("a text block with no commands before it:\n%s", strings.Join(body, "\n"))
			}
			behind, fence = f[0] == "sh", ""
		case fence != "":
			body = append(body, line)
		default:
			behind = behind && line == ""
		}
	}
	return steps
}

// holds reports whether the lines come in that order in what was printed. A "…"
// stands for anything.
func holds(printed string, lines []string) error {
	rest := strings.Split(printed, "\n")
	for _, line := range lines {
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$")
		i := slices.IndexFunc(rest, func(s string) bool { return pattern.MatchString(strings.TrimRight(s, " \r")) })
		if i < 0 {
			return fmt.Errorf("the document promises the line %q", line)
		}
		rest = rest[i+1:]
	}
	return nil
}

// A walkthrough follows one of its ways on a machine.
type walkthrough struct {
	t *testing.T
	*machine
	kind     string
	settings string
	tags     []string
}

// follow runs the document's commands of one kind, literally and in order. after
// is called after each, by its name.
func (r *walkthrough) follow(names []string, after map[string]func()) {
	r.t.Helper()
	steps := slices.DeleteFunc(guide(r.t), func(s step) bool { return s.kind != r.kind })
	var found []string
	for _, s := range steps {
		found = append(found, s.name)
	}
	if !slices.Equal(found, names) {
		r.t.Fatalf("the document's blocks for %s are %v, want %v", r.kind, found, names)
	}
	for _, s := range steps[1:] {
		printed := r.run(r.settings + s.script)
		if err := holds(printed, s.prints); err != nil {
			r.t.Fatalf("%s: %v, but this was printed:\n%s", s.name, err, printed)
		}
		if f := after[s.name]; f != nil {
			f()
		}
		if r.t.Failed() {
			return
		}
	}
}

// publisherClient is the client of those who publish.
const publisherClient = "notary -s $TRUST --tlscacert $CA -d /root/publisher "

// notary runs it.
func (r *walkthrough) notary(args string) string {
	r.t.Helper()
	return r.run(r.settings + publisherClient + args)
}

// seed publishes what was there before: a repository with a snapshot that the
// server makes, and a delegation.
func (r *walkthrough) seed() {
	r.t.Helper()
	r.write("/root/content", "content\n")
	ca := newAuthority(r.t, r.t.TempDir())
	ca.issue(r.t, "alice")
	for _, name := range []string{"alice.crt", "alice.key"} {
		r.write("/root/"+name, readText(r.t, ca.file(name)))
	}
	r.notary("init $GUN -p")
	r.notary("key rotate $GUN snapshot -r")
	r.notary("key import /root/alice.key --role alice")
	r.notary("delegation add $GUN targets/releases /root/alice.crt --all-paths -p")
	r.publish("before")
}

// publish adds a tag to the targets and another to the delegation.
func (r *walkthrough) publish(tag string) {
	r.t.Helper()
	r.notary("add $GUN " + tag + " /root/content")
	r.notary("add $GUN " + tag + "-d /root/content --roles targets/releases -p")
	r.tags = append(r.tags, tag, tag+"-d")
}

// works holds that all that was ever published is read and verified by a client
// that comes for the first time, and that publishing goes on.
func (r *walkthrough) works(when string) {
	r.t.Helper()
	r.publish(when)
	for _, dir := range []string{"/root/follower", "$(mktemp -d)"} {
		out := r.run(r.settings + "notary -s $TRUST --tlscacert $CA -d " + dir + " list $GUN")
		for _, tag := range r.tags {
			if !regexp.MustCompile(`(?m)^` + tag + ` `).MatchString(out) {
				r.t.Errorf("after %s, %s is not listed:\n%s", when, tag, out)
			}
		}
	}
}

// runs holds that the programs that run are those, or will be in a moment.
func (r *walkthrough) runs(programs ...string) {
	r.t.Helper()
	if err := waitFor(10*time.Second, fmt.Sprint(programs), func() error {
		out := r.run(`for p in /proc/[0-9]*; do readlink "$p/exe" || true; done | sed 's,.*/,,' | grep -Ex '(notary|trust)-(server|signer)' | sort`)
		if got := strings.Fields(out); !slices.Equal(got, programs) {
			return fmt.Errorf("%v are running", got)
		}
		return nil
	}); err != nil {
		r.t.Error(err)
	}
}

// schema is all that the databases are, but for rows.
func (r *walkthrough) schema() string {
	r.t.Helper()
	return r.run(`for d in notaryserver notarysigner; do pg_dump -U postgres --schema-only $d; psql -qXAt -U postgres -c 'select * from schema_migrations' $d; done | grep -v restrict`)
}

// way is the way there and back, with what must hold on it.
func (r *walkthrough) way() map[string]func() {
	before := r.schema()
	stage := func(name string, programs ...string) func() {
		return func() {
			r.t.Helper()
			r.runs(programs...)
			r.listens("notarysigner/7899") // whoever types is slower
			r.works(name)
		}
	}
	looked := func() {
		r.t.Helper()
		if r.schema() != before {
			r.t.Error("looking has changed a database")
		}
		r.runs("notary-server", "notary-signer")
	}
	return map[string]func(){
		"look":             looked,
		"look-db":          looked,
		"look-certificate": looked,
		"certificate": func() {
			// Upstream's server does not wait for a signer that starts.
			r.notary("add $GUN renewed /root/content")
			if err := waitFor(30*time.Second, "upstream's pair", func() error {
				out, err := r.try(r.settings + publisherClient + "publish $GUN")
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}); err != nil {
				r.t.Fatal(err)
			}
			r.tags = append(r.tags, "renewed")
			stage("certificate", "notary-server", "notary-signer")()
		},
		"take-server": stage("take-server", "notary-signer", "trust-server"),
		"take-signer": stage("take-signer", "trust-server", "trust-signer"),
		"check": func() {
			// Keys that ours makes are opened by upstream's signer later.
			r.notary("key rotate $GUN snapshot -r")
			r.notary("key rotate $GUN timestamp -r")
		},
		"back-signer": stage("back-signer", "notary-signer", "trust-server"),
		"back-server": stage("back-server", "notary-server", "notary-signer"),
		"drop": func() {
			if after := r.schema(); after != before {
				r.t.Errorf("the databases differ from what they were:\n--- before\n%s\n--- after\n%s", before, after)
			}
			r.works("drop")
		},
	}
}

func readText(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// settingsOf is the block that the reader fills in. The machines are made as it
// stands there.
func settingsOf(t testing.TB, kind string) string {
	t.Helper()
	for _, s := range guide(t) {
		if s.kind == kind && s.name == "settings" {
			return s.script
		}
	}
	t.Fatalf("the document has no settings for %s", kind)
	return ""
}

// TestMigratingPlain is the document for plain Notary: upstream's PostgreSQL
// samples as they are, but for the database's URL and certificates that have not
// expired, under systemd.
func TestMigratingPlain(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.postgres()
	m.run("echo 127.0.0.1 notary.example.com notarysigner db.example.com >>/etc/hosts")
	ca := newAuthority(t, t.TempDir())
	ca.issue(t, "notary-server", "notary.example.com")
	ca.issue(t, "notary-signer", "notarysigner")
	root := readText(t, ca.file("ca.crt"))
	m.write("/etc/notary/root-ca.crt", root)
	for _, which := range []string{"server", "signer"} {
		name := "notary-" + which
		// As upstream's: a chain, which the signer takes for the CA of its clients.
		m.write("/etc/notary/"+name+".crt", readText(t, ca.file(name+".crt"))+root)
		m.write("/etc/notary/"+name+".key", readText(t, ca.file(name+".key")))
		m.write("/etc/notary/"+which+"-config.json", upstreamSample(t, which))
		m.write("/etc/systemd/system/"+name+".service", fmt.Sprintf(
			"[Service]\nEnvironmentFile=/etc/notary/%s.env\nExecStart=/usr/bin/%s -config=/etc/notary/%s-config.json -logf=logfmt\n", which, name, which))
	}
	m.write("/etc/notary/server.env", "")
	m.write("/etc/notary/signer.env", "NOTARY_SIGNER_DEFAULT_ALIAS=timestamp_1\nNOTARY_SIGNER_TIMESTAMP_1=testpassword\n")
	m.run("systemctl start notary-signer")
	m.listens("notarysigner/7899") // upstream's server does not wait for it
	m.run("systemctl start notary-server")

	r := &walkthrough{t: t, machine: m, kind: "plain", settings: settingsOf(t, "plain")}
	r.listens("notary.example.com/4443")
	r.seed()
	r.follow([]string{"settings", "backup", "look", "look-db", "take-server", "take-signer", "check", "back-signer", "back-server", "drop"}, r.way())
}

// upstreamSample is upstream's configuration file for PostgreSQL, with a database
// on db.example.com.
func upstreamSample(t testing.TB, which string) string {
	t.Helper()
	dir, err := upstreamModule()
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`"postgres://[^"]*"`)
	sample := readText(t, filepath.Join(dir, "fixtures", which+"-config.postgres.json"))
	if !url.MatchString(sample) {
		t.Fatalf("upstream's sample has no URL of a database:\n%s", sample)
	}
	return url.ReplaceAllString(sample, fmt.Sprintf(`"postgres://%s:password@db.example.com:5432/notary%s?sslmode=disable"`, which, which))
}
