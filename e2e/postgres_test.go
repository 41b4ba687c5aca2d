package e2e_test

import (
	"errors"
	"fmt"
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
)

// A cluster is a throw-away PostgreSQL server on a loopback port, with a
// password, as real ones have.
type cluster struct {
	dir      string
	bin      string
	port     int
	password string
	cred     *syscall.Credential // user postgres when the tests run as root, which PostgreSQL refuses
	p        *process
	nextName atomic.Int32
}

// newCluster makes and starts a cluster. durable keeps its log synchronous, as
// crash tests need it.
func newCluster(durable bool) (_ *cluster, err error) {
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(bins) == 0 {
		return nil, fmt.Errorf("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb (make deps)")
	}
	c := &cluster{bin: filepath.Dir(bins[len(bins)-1]), password: "pg secret/" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	if c.dir, err = os.MkdirTemp("", "countersign-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(c.dir)
		}
	}()
	pwfile := filepath.Join(c.dir, "password")
	if err := os.WriteFile(pwfile, []byte(c.password+"\n"), 0o600); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := c.disown(c.dir, pwfile); err != nil {
			return nil, err
		}
	}
	initdb := exec.Command(filepath.Join(c.bin, "initdb"), "--no-sync", "--auth=scram-sha-256", "--username=postgres",
		"--pwfile="+pwfile, "--encoding=UTF8", "--locale=C", "--pgdata="+filepath.Join(c.dir, "data"))
	initdb.Dir = c.dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a PostgreSQL cluster in %s: %w\n%s", c.dir, err, out)
	}
	if c.port, err = freePort(); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = ''\nmax_connections = 200\nfsync = %t\n", c.port, durable)
	f, err := os.OpenFile(filepath.Join(c.dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(conf)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return c, c.start()
}

// disown hands the files to the user postgres.
func (c *cluster) disown(paths ...string) error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("PostgreSQL does not run as root: %w (make deps)", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, p := range paths {
		if err := os.Chown(p, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

// start runs the cluster and waits until it answers. After a kill the dead
// server's children may hold its memory for a moment: then it is started again.
func (c *cluster) start() error {
	return waitFor(30*time.Second, "PostgreSQL", func() error {
		cmd := exec.Command(filepath.Join(c.bin, "postgres"), "-D", filepath.Join(c.dir, "data"))
		cmd.Dir = c.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
		p, err := start("postgres", filepath.Join(c.dir, "log"), cmd)
		if err != nil {
			return err
		}
		c.p = p
		if err := waitForPort(p, c.addr(), 20*time.Second); err != nil {
			return err
		}
		return waitFor(20*time.Second, "PostgreSQL to answer", func() error {
			_, err := c.query("postgres", "select 1")
			return err
		})
	})
}

func (c *cluster) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

// stop ends the cluster and removes its files.
func (c *cluster) stop() error {
	// SIGQUIT is PostgreSQL's immediate shutdown: nobody needs the data.
	return errors.Join(c.p.end(syscall.SIGQUIT, 20*time.Second), os.RemoveAll(c.dir))
}

// url is the connection string of a database.
func (c *cluster) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", c.password), Host: c.addr(), Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// query runs SQL by psql, as an operator would, and returns its bare output.
func (c *cluster) query(database, sql string) (string, error) {
	return c.psql(database, "-c", sql)
}

func (c *cluster) psql(database string, args ...string) (string, error) {
	args = append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", strconv.Itoa(c.port), "-U", "postgres", "-d", database}, args...)
	cmd := exec.Command(filepath.Join(c.bin, "psql"), args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// database makes an empty database and returns its name.
func (c *cluster) database(t testing.TB, prefix string) string {
	t.Helper()
	name := fmt.Sprintf("%s_%d", prefix, c.nextName.Add(1))
	if _, err := c.query("postgres", "create database "+name); err != nil {
		t.Fatal(err)
	}
	return name
}

// migrateUpstream brings a database to the shape that upstream's programs need,
// with upstream's own migrations. which is "server" or "signer".
func (c *cluster) migrateUpstream(t testing.TB, database, which string) {
	t.Helper()
	dir, err := upstreamModule()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "migrations", which, "postgresql", "*.up.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations of upstream's %s in %s: %v", which, dir, err)
	}
	for _, f := range files {
		if _, err := c.psql(database, "-f", f); err != nil {
			t.Fatal(err)
		}
	}
}

// shared is the cluster of all tests that do not break it, made at first use.
var shared = struct {
	sync.Mutex // guards c and err; held while the cluster starts, so that one is started
	c          *cluster
	err        error
}{}

func sharedCluster(t testing.TB) *cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.c == nil && shared.err == nil {
		shared.c, shared.err = newCluster(false)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.c
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.c == nil {
		return nil
	}
	return shared.c.stop()
}
