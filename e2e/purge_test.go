package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// admin runs trust-admin on the stack's databases, as an operator does.
func (s *stack) admin(args ...string) (out string, code int) {
	s.t.Helper()
	args = append(args, "--server-config", s.file(serverConfigName(0)), "--signer-config", s.file("signer.json"))
	cmd := exec.CommandContext(s.t.Context(), program(s.t, "trust-admin"), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "NOTARY_SIGNER_"+strings.ToUpper(signerAlias)+"="+signerPassphrase)
	raw, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

func (s *stack) mustAdmin(args ...string) string {
	s.t.Helper()
	out, code := s.admin(args...)
	if code != 0 {
		s.t.Fatalf("trust-admin %s: exit %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// addSigner starts one more signer on the stack's database, and speaks to it.
func (s *stack) addSigner() *wire {
	s.t.Helper()
	first := s.signerPort
	defer func() { s.signerPort = first; s.writeSignerConfig() }()
	s.signerPort = port(s.t)
	s.writeSignerConfig()
	p := s.run(ours, "signer", "signer2-ours", "signer.json")
	s.t.Cleanup(func() {
		if err := p.kill9(); err != nil {
			s.t.Error(err)
		}
	})
	if err := waitForPort(p, s.signerAddr(), 20*time.Second); err != nil {
		s.t.Fatal(err)
	}
	return s.newWire(s.t)
}

// kill9 ends the process and waits for it.
func (p *process) kill9() error {
	p.kill()
	return waitFor(10*time.Second, "the end of "+p.name, func() error {
		if p.running() {
			return errors.New("it runs")
		}
		return nil
	})
}

// answers are the bodies of all files of a GUN, by every name under which clients
// can ask for them.
func (s *stack) answers(gun string, names []string) map[string]string {
	s.t.Helper()
	c, found := s.client(), map[string]string{}
	for _, name := range names {
		status, body := get(s.t, c, s.gunURL(0, gun)+name)
		if status != 200 {
			s.t.Fatalf("%s: %d", name, status)
		}
		found[name] = string(body)
	}
	return found
}

// allNames are those names.
func (s *stack) allNames(gun string) (names []string) {
	s.t.Helper()
	for line := range strings.Lines(sql(s.t, s.serverDB, "select role || ' ' || version || ' ' || sha256 from tuf_files where gun = '%s'", gun)) {
		f := strings.Fields(line)
		names = append(names, fmt.Sprintf("%s.%s.json", f[1], f[0]), fmt.Sprintf("%s.%s.json", f[0], f[2]), f[0]+".json")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// cardPart is what a card wants done in one of its parts, as a script.
func cardPart(t testing.TB, card, from, to string) string {
	t.Helper()
	_, rest, ok := strings.Cut(card, "\n"+from)
	part, _, ok2 := strings.Cut(rest, "\n"+to)
	if !ok || !ok2 {
		t.Fatalf("the card has no part %q before %q:\n%s", from, to, card)
	}
	var script strings.Builder
	for line := range strings.Lines(part) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command)
		}
	}
	return script.String()
}

// follow does what the card says on the machine of this client.
func (d *docker) follow(script string) {
	d.t.Helper()
	path := "PATH=" + filepath.Dir(d.path) + string(filepath.ListSeparator) + os.Getenv("PATH")
	if out, err := d.try("", "env", path, "sh", "-e", "-x", "-c", script); err != nil {
		d.t.Fatalf("following the card: %v\n%s", err, out)
	}
}

// TestPurgeStory is that of a user who has lost his root key, from the push that
// fails to the one that works again; and of the operator who takes it back.
func TestPurgeStory(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours})
	e := newEngine(t)
	clients := dockerClients(t)
	var path string
	for _, p := range clients {
		path = p
	}
	gun := e.registry + "/team/app"
	owner, reader := newDocker(t, path, e, s.url(0), s.ca.file("ca.crt")), newDocker(t, path, e, s.url(0), s.ca.file("ca.crt"))
	images := []string{}
	for _, tag := range []string{"1", "2"} {
		images = append(images, owner.image(gun+":"+tag, "content of "+tag))
		owner.run([]string{"push", gun + ":" + tag}, "Successfully signed "+gun+":"+tag)
	}
	reader.run([]string{"pull", gun + ":1"}, gun+":1@"+e.digest(t, "team/app", "1"))
	names := s.allNames(gun)
	before := s.answers(gun, names)
	g := s.walk(t, 0, gun)
	signers := []*wire{s.newWire(t), s.addSigner()}
	keys := append(g.rootKeys("timestamp"), g.rootKeys("snapshot")...)
	sign := func(when string, want codes.Code) {
		t.Helper()
		for i, w := range signers {
			for _, key := range keys { // the timestamp's and the snapshot's
				if st := w.sign(t, key, when); st.Code() != want {
					t.Errorf("%s, signer %d: %v, want %v", when, i, st, want)
				}
			}
		}
	}
	sign("before the purge", codes.OK)

	if err := os.RemoveAll(filepath.Join(owner.home, ".docker", "trust", "private")); err != nil {
		t.Fatal(err)
	}
	owner.image(gun+":3", "content of 3")
	owner.fails([]string{"push", gun + ":3"})

	out, code := s.admin("purge", gun)
	if code != 3 || !strings.Contains(out, "add --yes") || !strings.Contains(out, "2 tags: 1, 2") {
		t.Errorf("shown: exit %d:\n%s", code, out)
	}
	s.walk(t, 0, gun)
	archives, card := t.TempDir(), filepath.Join(t.TempDir(), "card.txt")
	out = s.mustAdmin("purge", gun, "--yes", "--reason", "laptop lost", "--archive-dir", archives, "--card", card, "--server-url", s.url(0))
	sign("after the purge", codes.NotFound)
	raw, err := os.ReadFile(card)
	if err != nil || !strings.Contains(out, string(raw)) {
		t.Fatalf("the card is not what is printed: %v\n%s", err, out)
	}
	if status, _ := get(t, s.client(), s.gunURL(0, gun)+"root.json"); status != 404 {
		t.Errorf("the root is answered with %d", status)
	}

	owner.run(append([]string{"image", "rm", "--force"}, images...))
	owner.follow(cardPart(t, string(raw), "1. DOCKER", "2. DOCKER"))
	sign("after the new beginning", codes.NotFound)
	reader.fails([]string{"pull", gun + ":1"}, "could not rotate trust to a new trusted root")
	reader.follow(cardPart(t, string(raw), "2. DOCKER", "3. THE NOTARY"))
	for _, tag := range []string{"1", "2"} {
		reader.run([]string{"pull", gun + ":" + tag}, gun+":"+tag+"@"+e.digest(t, "team/app", tag))
	}
	s.mustVerify(t, 0, gun, "targets")
	s.restoredElsewhere(t, gun, archives, names, before)
}

// restoredElsewhere: on a copy of both databases, where the name has been taken
// anew, the archive answers as the repository did.
func (s *stack) restoredElsewhere(t *testing.T, gun, archives string, names []string, before map[string]string) {
	t.Helper()
	copied := newStack(t, stackConfig{server: ours, signer: ours, databases: func() (server, signer string) {
		return copyDatabase(t, s.serverDB), copyDatabase(t, s.signerDB)
	}})
	found, err := filepath.Glob(filepath.Join(archives, "*.purge.tar"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	if out, code := copied.admin("restore", found[0]); code != 1 || !strings.Contains(out, "--replace") {
		t.Errorf("over a living one: exit %d:\n%s", code, out)
	}
	copied.mustAdmin("restore", found[0], "--replace", "--archive-dir", archives)
	for name, got := range copied.answers(gun, names) {
		if got != before[name] {
			t.Errorf("%s is answered otherwise than before the purge", name)
		}
	}
	version := copied.walk(t, 0, gun).version("timestamp")
	copied.mustAdmin("restore", found[0], "--as-new-timestamp", "--timestamp-version", "500")
	if got := copied.walk(t, 0, gun).version("timestamp"); got != 500 || version >= 500 {
		t.Errorf("timestamp %d, and %d after it was signed anew", version, got)
	}
	// Cut off behind any of its steps, the same command comes to the same end.
	copied.mustAdmin("restore", found[0], "--as-new-timestamp", "--timestamp-version", "500")
	if again := copied.walk(t, 0, gun).version("timestamp"); again != 500 {
		t.Errorf("restored again, the timestamp has version %d", again)
	}
	copied.mustVerify(t, 0, gun, "targets")
}

// copyDatabase is what pg_dump and psql make of a database.
func copyDatabase(t testing.TB, url string) string {
	t.Helper()
	to := newDatabase(t, nil)
	var dump bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "pg_dump", "--no-owner", "--no-privileges", "-d", url)
	cmd.Stdout = &dump
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dump.sql")
	if err := os.WriteFile(file, dump.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	psql(t, to, "-f", file)
	return to
}

// TestPurgeCardNotary follows the card with the notary command: what was signed is
// signed again by its digest, without an image at hand.
func TestPurgeCardNotary(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours, backend: onSQLite})
	const gun = "e2e.example/it's/app"
	n := newNotary(t, s, 0)
	n.flags = nil
	config := fmt.Sprintf(`{"trust_dir": "~/.notary", "remote_server": {"url": %q, "root_ca": %q}}`, s.url(0), s.ca.file("ca.crt"))
	if err := os.MkdirAll(filepath.Join(n.home, ".notary"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.file(".notary/config.json", config)
	n.run("init", "-p", gun)
	n.run("key", "rotate", gun, "snapshot", "-r")
	for _, name := range []string{"v1", "it's 2"} {
		n.run("add", "-p", gun, name, n.file("content", "content of "+name))
	}
	want := n.run("list", gun)
	if err := os.RemoveAll(filepath.Join(n.home, ".notary", "private")); err != nil {
		t.Fatal(err)
	}
	card := filepath.Join(s.dir, "card.txt")
	s.mustAdmin("purge", gun, "--yes", "--card", card, "--server-url", s.url(0))
	raw, err := os.ReadFile(card)
	if err != nil {
		t.Fatal(err)
	}
	script := cardPart(t, string(raw), "3. THE NOTARY", "4. HARBOR")
	if out, err := n.try("", "sh", "-e", "-x", "-c", script); err != nil {
		t.Fatalf("following the card: %v\n%s", err, out)
	}
	if got := n.run("list", gun); got != want {
		t.Errorf("it lists\n%s\nand did before\n%s", got, want)
	}
	pin := cardPart(t, string(raw), "6. CONNAISSEUR", "TO UNDO IT")
	pin, _, _ = strings.Cut(pin, "\n")
	out, err := n.try("", "env", "CURL_CA_BUNDLE="+s.ca.file("ca.crt"), "sh", "-c", pin)
	if err != nil || !strings.HasPrefix(out, "-----BEGIN PUBLIC KEY-----\n") {
		t.Errorf("the public root key: %v\n%s", err, out)
	}
}
