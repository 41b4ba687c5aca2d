// Package pgtest gives tests real PostgreSQL: a throw-away cluster in a
// temporary folder, which they may stop, kill and start again, and a proxy in
// front of it whose connections they may cut or stall. Nothing is skipped: a
// test that needs PostgreSQL fails where its programs are missing. Those of
// another version are taken from the folder that COUNTERSIGN_PGBIN names.
package pgtest

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver of the set-up connections

	"countersign/internal/proctest"
)

// Password is that of all roles, with the characters that a URL must encode.
const Password = "p@ss:w/rd?%# 1"

const (
	admin = "postgres" // superuser
	role  = "trust"    // owner of the databases that tests get
	// startTimeout bounds the waits for PostgreSQL to come up or go down.
	startTimeout = 60 * time.Second
)

// A Cluster is one PostgreSQL server with its data. It ends with the test
// process, however that ends.
type Cluster struct {
	dir  string
	bin  string
	cred *syscall.Credential // nil: run as ourselves
	port int
	// reaper ends the server and removes dir when this pipe closes, which the
	// kernel does even for a process that was killed.
	reaper io.Closer
	next   atomic.Int64

	// mu guards server: nobody asks for the process while another stops it.
	mu     sync.Mutex
	server *exec.Cmd
	exited chan struct{}
}

var shared struct {
	// once guards cluster and err; the first test that needs it waits for initdb.
	once    sync.Once
	cluster *Cluster
	err     error
}

// URL returns the URL of a fresh, empty database in a cluster that all tests of
// the process share. The database is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.err = start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster.URL(t)
}

// New starts a cluster for this test alone, which may stop and kill it.
func New(t testing.TB) *Cluster {
	t.Helper()
	c, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() })
	return c
}

// Addr is the host and port on which the cluster listens, before and after a
// restart.
func (c *Cluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

// URL returns the URL of a fresh, empty database of this cluster.
func (c *Cluster) URL(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", c.next.Add(1))
	if err := c.admin(fmt.Sprintf("create database %s owner %s", name, role)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A cluster that the test has stopped takes the database with it.
		if c.running() {
			if err := c.drop(name); err != nil {
				t.Errorf("dropping database: %v", err)
			}
		}
	})
	return c.url(role, name)
}

func (c *Cluster) url(user, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, Password), Host: c.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// admin runs one statement as superuser.
func (c *Cluster) admin(statement string) error {
	db, err := sql.Open("postgres", c.url(admin, "postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// drop removes a database and ends the connections to it. That is "with (force)"
// for all versions: PostgreSQL 12 does not know it.
func (c *Cluster) drop(name string) error {
	return errors.Join(
		c.admin(fmt.Sprintf("update pg_database set datallowconn = false where datname = '%s'", name)),
		c.admin(fmt.Sprintf("select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'", name)),
		c.admin(fmt.Sprintf("drop database if exists %s", name)),
	)
}

// Kill ends the server and all its processes with SIGKILL, as a crash does.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		t.Fatal("PostgreSQL is not running")
	}
	// The postmaster first, or it would tidy up after its children.
	pids := append([]int{c.server.Process.Pid}, children(c.server.Process.Pid)...)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("killing PostgreSQL: %v", err)
		}
	}
	<-c.exited
	c.server = nil
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		if !anyAlive(pids) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL's processes outlive SIGKILL")
		}
	}
}

// Stop ends the server in order: open connections are closed, nothing is lost.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	if err := c.stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// Start brings the server up again, on the same address, and waits until it
// answers.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.up(); err != nil {
		t.Fatal(err)
	}
}

// Pause stops all processes of the server without ending them: it accepts
// connections, and never answers. Resume lets them go on.
func (c *Cluster) Pause(t testing.TB) { t.Helper(); c.signal(t, syscall.SIGSTOP) }

// Resume undoes Pause.
func (c *Cluster) Resume(t testing.TB) { t.Helper(); c.signal(t, syscall.SIGCONT) }

func (c *Cluster) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		t.Fatal("PostgreSQL is not running")
	}
	pid := c.server.Process.Pid
	for _, p := range append([]int{pid}, children(pid)...) {
		if err := syscall.Kill(p, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("sending %v to PostgreSQL: %v", sig, err)
		}
	}
}

func (c *Cluster) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server != nil
}

func (c *Cluster) stop(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return nil
	}
	if err := c.server.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-c.exited:
		c.server = nil
		return nil
	case <-time.After(startTimeout):
		return errors.New("PostgreSQL does not stop")
	}
}

func (c *Cluster) close() {
	c.stop(syscall.SIGQUIT)
	c.reaper.Close()
}

// start makes a cluster and brings it up.
func start() (*Cluster, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, bin: bin, cred: cred}
	if err := c.reap(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := c.create(); err != nil {
		c.reaper.Close()
		return nil, err
	}
	return c, nil
}

// create makes the data folder and the role, and brings the server up.
func (c *Cluster) create() error {
	if c.cred != nil {
		if err := os.Chown(c.dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return err
		}
	}
	pw := filepath.Join(c.dir, "password")
	if err := os.WriteFile(pw, []byte(Password+"\n"), 0o644); err != nil {
		return err
	}
	initdb := c.command("initdb", "--no-sync", "--pgdata", c.data(), "--username", admin, "--pwfile", pw,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	var err error
	for range 3 { // another process may take the free port before us
		if c.port, err = proctest.FreePort(); err != nil {
			return err
		}
		if err = c.up(); err == nil {
			return c.admin(fmt.Sprintf("create role %s login password '%s'", role, Password))
		}
	}
	return err
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, program), args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC"}
	// A group of its own: Ctrl-C must reach the test first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Setpgid: true}
	return cmd
}

// up runs the server and waits until it answers. Without fsync a power cut
// would lose data, but a kill of the processes does not.
func (c *Cluster) up() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		return errors.New("PostgreSQL is already running")
	}
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.command("postgres", "-D", c.data(), "-p", strconv.Itoa(c.port), "-k", c.dir, "-h", "127.0.0.1",
		"-c", "fsync="+fsync(), "-c", "max_connections=120", "-c", "shared_buffers=64MB", "-c", "log_min_messages=warning",
		"-c", "timezone=Asia/Tokyo") // not UTC, so that nobody relies on it
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	c.server, c.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(c.exited)
	for deadline := time.Now().Add(startTimeout); ; {
		err := c.admin("select 1")
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			c.server = nil
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("PostgreSQL ended at once:\n%s", text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		}
	}
}

// fsync is off in tests, which then run several times as fast, unless the
// environment asks for it: benchmarks of durable writes do.
func fsync() string {
	if os.Getenv("PGTEST_FSYNC") == "on" {
		return "on"
	}
	return "off"
}

// reap starts a shell that waits for our end of a pipe to close, then ends the
// server by the pid that it wrote down and removes the folder.
func (c *Cluster) reap() error {
	const script = `cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1/data"; then
	kill -CONT "$pid"; kill -QUIT "$pid"
	i=0; while kill -0 "$pid" 2>/dev/null && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done
	kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1"`
	cmd := exec.Command("/bin/sh", "-c", script, "pgtest-reaper", c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the reaper: %w", err)
	}
	c.reaper = &reaper{in: in, cmd: cmd}
	return nil
}

type reaper struct {
	in  io.Closer
	cmd *exec.Cmd
}

// Close lets the reaper work and waits for it.
func (r *reaper) Close() error {
	r.in.Close()
	return r.cmd.Wait()
}

// programs is the folder that COUNTERSIGN_PGBIN names, or that of the newest
// installed PostgreSQL; Debian keeps it off the PATH.
func programs() (string, error) {
	if dir := os.Getenv("COUNTERSIGN_PGBIN"); dir != "" {
		if !filepath.IsAbs(dir) { // each test runs in its own package's folder
			return "", fmt.Errorf("COUNTERSIGN_PGBIN is %q: it must be an absolute path", dir)
		}
		for _, program := range []string{"initdb", "postgres"} {
			if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
				return "", fmt.Errorf("COUNTERSIGN_PGBIN must name the folder of PostgreSQL's programs: %w", err)
			}
		}
		return dir, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	best, newest := "", -1
	for _, f := range found {
		v, err := strconv.Atoi(strings.Split(f, "/")[4])
		if err == nil && v > newest {
			best, newest = filepath.Dir(f), v
		}
	}
	if best != "" {
		return best, nil
	}
	if f, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(f), nil
	}
	return "", errors.New("this test needs PostgreSQL's programs: apt-get install --no-install-recommends postgresql-15")
}

// unprivileged is who runs PostgreSQL, which refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var list []int
	for _, d := range dirs {
		child, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		if _, parent := stat(child); parent == pid {
			list = append(list, child)
		}
	}
	return list
}

// stat returns a process's state and its parent, or "" and 0 if it has ended.
func stat(pid int) (state string, parent int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// "pid (name) state ppid …", and the name may hold blanks and brackets.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// anyAlive does not count those that only wait for their parent to collect them.
func anyAlive(pids []int) bool {
	for _, pid := range pids {
		if state, _ := stat(pid); state != "" && state != "Z" {
			return true
		}
	}
	return false
}
