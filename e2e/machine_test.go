package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine is a computer for a document to be tried on, command by command, as
// root: a copy of this one's files that forgets all changes, with its own
// loopback network and its own processes. Paths and ports in it are literally
// those of the document, and nothing that runs there can touch this machine.
type machine struct {
	t   testing.TB
	pid int // of its first process
}

// newMachine starts a machine that ends with the test, with all that runs there.
// Our programs are in its folder /opt/countersign, and those of the tests, this
// one as e2e.test and the token service, in /opt/e2e.
func newMachine(t testing.TB) *machine {
	t.Helper()
	boot, err := filepath.Abs("testdata/machine/boot")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	scratch, tests := filepath.Join(dir, "machine"), filepath.Join(dir, "tests")
	if err := errors.Join(os.Mkdir(scratch, 0o700), os.Mkdir(tests, 0o700), copyTests(tests)); err != nil {
		t.Fatal(err)
	}
	p, err := start("machine", filepath.Join(dir, "machine.log"), exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
		boot, scratch, filepath.Dir(program(t, "trust-server")), tests))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t}
	t.Cleanup(func() {
		if t.Failed() && m.pid != 0 {
			out, _ := m.try("cd /var/log; tail -n 8 notary-*.log front.log core.log 2>/dev/null | cut -c1-300")
			t.Logf("the end of the machine's logs:\n%s", out)
		}
		p.kill() // and with it everything there
	})
	if err := waitFor(20*time.Second, "the machine", func() error {
		if !p.running() {
			return fmt.Errorf("it has ended:\n%s", p.tail(20))
		}
		if last := p.tail(1); last != "up" {
			return fmt.Errorf("it says %q", last)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	m.pid = m.first(p.cmd.Process.Pid)
	// What runs by nsenter sees what the first process sees: never these files.
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", m.pid)); err != nil || !strings.HasSuffix(root, "/machine/root") {
		t.Fatalf("the root folder of the machine is %q: %v", root, err)
	}
	return m
}

// copyTests puts the programs of the tests into a folder.
func copyTests(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "e2e.test"), os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	printed, err := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "./tokenservice").CombinedOutput()
	if err != nil {
		return fmt.Errorf("building the token service: %w\n%s", err, printed)
	}
	return nil
}

// first is the first process of the machine: the only child of unshare.
func (m *machine) first(parent int) int {
	m.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		m.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		m.t.Fatalf("the machine's first process: %v", err)
	}
	return pid
}

// try runs a script in the machine, as its root, and returns what it prints.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.pid), "--mount", "--net", "--pid", "--root", "--wd",
		"env", "-i", "HOME=/root",
		"NOTARY_ROOT_PASSPHRASE=root passphrase", "NOTARY_TARGETS_PASSPHRASE=targets passphrase",
		"NOTARY_SNAPSHOT_PASSPHRASE=snapshot passphrase", "NOTARY_DELEGATION_PASSPHRASE=delegation passphrase",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-eu", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	return out.String(), err
}

// run runs a script that must succeed.
func (m *machine) run(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%v\n%s\n--- it printed:\n%s", err, script, out)
	}
	return out
}

// listens waits until something accepts connections at HOST/PORT.
func (m *machine) listens(address string) {
	m.t.Helper()
	if err := waitFor(30*time.Second, address, func() error {
		_, err := m.try("bash -c '</dev/tcp/" + address + "'")
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
}

// write makes a file in the machine, and its folder.
func (m *machine) write(name, content string) {
	m.t.Helper()
	const end = "--end-of-the-file--"
	m.run("mkdir -p '" + filepath.Dir(name) + "'; cat >'" + name + "' <<'" + end + "'\n" + content + end + "\n")
}

// postgres starts a PostgreSQL server in the machine, on its usual port and
// socket, where passwords are asked for on TCP; and makes the databases
// notaryserver and notarysigner, with the tables that upstream's migrations make.
func (m *machine) postgres() {
	m.t.Helper()
	m.run(`
		chown postgres /run/postgresql
		cd /
		bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
		data=/var/lib/postgresql/machine
		install -d -o postgres -m 700 "$data"
		runuser -u postgres -- "$bin/initdb" --no-sync -U postgres -E UTF8 -A scram-sha-256 --auth-local=trust -D "$data" >/dev/null
		runuser -u postgres -- "$bin/pg_ctl" -w -s -D "$data" -l "$data/log" -o "-h 127.0.0.1 -k /run/postgresql -c fsync=off" start
		psql -qX -U postgres -c "create role server login password 'password'" -c "create role signer login password 'password'" \
			-c "create database notaryserver owner server" -c "create database notarysigner owner signer"`)
	for which, version := range map[string]int{"server": 2, "signer": 1} {
		for _, text := range upstreamMigrations(m.t, which) {
			m.sql("notary"+which, which, text)
		}
		m.sql("notary"+which, which, fmt.Sprintf(`create table schema_migrations (version bigint primary key, dirty boolean not null);
			insert into schema_migrations values (%d, false);`, version))
	}
}

// sql runs statements and returns their bare output.
func (m *machine) sql(database, user, statements string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("psql -qXAt -v ON_ERROR_STOP=1 -U " + user + " " + database + " <<'--end--'\n" + statements + "\n--end--\n"))
}

// upstreamMigrations are the statements of upstream's migrations, in order.
func upstreamMigrations(t testing.TB, which string) []string {
	t.Helper()
	dir, err := upstreamModule()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "migrations", which, "postgresql", "*.up.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations of upstream's %s in %s: %v", which, dir, err)
	}
	var texts []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(raw))
	}
	return texts
}
