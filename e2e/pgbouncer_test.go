package e2e_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

// poolSize is how many sessions pgbouncer has for each database, fewer than the
// programs have connections: statements of one meet the sessions of another.
const poolSize = 3

// A bouncer is pgbouncer in transaction mode in front of the shared PostgreSQL.
type bouncer struct {
	t    testing.TB
	dir  string
	port int
	p    *process
}

// newBouncer starts pgbouncer, in a directory of its own, as a user who is not root.
func newBouncer(t testing.TB) *bouncer {
	t.Helper()
	direct, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	b := &bouncer{t: t, dir: t.TempDir(), port: port(t)}
	lines := []string{
		"[databases]", "* = host=127.0.0.1 port=" + direct.Port(),
		"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(b.port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + filepath.Join(b.dir, "users.txt"),
		"pool_mode = transaction", "default_pool_size = " + strconv.Itoa(poolSize), "max_client_conn = 200",
	}
	if os.Getuid() == 0 {
		lines = append(lines, "user = postgres") // it refuses to stay root
	}
	b.write("pgbouncer.ini", strings.Join(lines, "\n")+"\n")
	b.write("users.txt", fmt.Sprintf("%q %q\n", direct.User.Username(), pgtest.Password))
	b.start()
	t.Cleanup(b.stop)
	return b
}

// write writes a file that the user whom pgbouncer becomes can read.
func (b *bouncer) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bouncer) start() {
	b.t.Helper()
	var err error
	cmd := exec.Command("/usr/sbin/pgbouncer", filepath.Join(b.dir, "pgbouncer.ini"))
	if b.p, err = start("pgbouncer", filepath.Join(b.dir, "log"), cmd); err != nil {
		b.t.Fatal(err)
	}
	if err := waitForPort(b.p, loopback(b.port), 20*time.Second); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends pgbouncer at once, in the middle of what its clients do.
func (b *bouncer) stop() {
	b.t.Helper()
	if err := b.p.end(syscall.SIGTERM, 20*time.Second); err != nil {
		b.t.Error(err)
	}
	if b.t.Failed() {
		b.t.Logf("end of pgbouncer's log:\n%s", b.p.tail(15))
	}
}

// url is the way through pgbouncer to a database of the shared PostgreSQL.
func (b *bouncer) url(direct string) string {
	u, err := url.Parse(direct)
	if err != nil {
		b.t.Fatal(err)
	}
	u.Host = loopback(b.port)
	return u.String()
}

// TestPgbouncer runs our pair with two servers through pgbouncer in transaction
// mode, where each transaction may meet another session: publishes, races, reads,
// renewals, and a pgbouncer that goes away and comes back.
func TestPgbouncer(t *testing.T) {
	t.Parallel()
	b := newBouncer(t)
	s := newStack(t, stackConfig{server: ours, signer: ours, servers: 2, pooler: b.url})

	keys := newKeys()
	const gun, publishers, times = "e2e.example/pooled/race", 6, 3
	owner := s.newPublisher(t, 0, gun, keys)
	owner.initialize(t, true)
	roles := []string{"targets"}
	owner.add(t, "targets", "base")
	for i := range publishers {
		roles = append(roles, fmt.Sprintf("targets/team%d", i))
		owner.delegate(t, roles[i+1])
	}
	owner.must(t, "publish", owner.Publish())
	for n := range times {
		publishTogether(t, s, gun, roles[1:], n, keys)
	}
	for i := range s.servers {
		if v, _ := s.mustVerify(t, i, gun, roles...); v.count() != 1+publishers*times {
			t.Errorf("server %d shows %d targets, want %d", i, v.count(), 1+publishers*times)
		}
	}
	s.renewsOnce(t, gun, 60)

	for _, db := range []string{s.serverDB, s.signerDB} {
		const sessions = "select count(*) <= %d from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
		if few := sql(t, db, sessions, poolSize); few != "t" {
			t.Errorf("more than pgbouncer's %d sessions are open: the programs went around it", poolSize)
		}
	}
	l := s.newSwapLoad(t, s.url(1), s.transport)
	l.start()
	l.mustGoOn("through pgbouncer", 5)
	if n := l.outages.Load(); n > 0 {
		t.Errorf("%d requests failed with nothing amiss", n)
	}
	b.stop()
	b.start()
	l.mustGoOn("pgbouncer started again", 5)
	l.finish()
	for _, p := range s.started {
		if raw, err := os.ReadFile(p.log); err != nil || strings.Contains(string(raw), "prepared statement") {
			t.Errorf("%s complains of prepared statements: %v", p.name, err)
		}
	}
}

// renewsOnce has many readers meet an expired timestamp at all servers: one new
// version is made.
func (s *stack) renewsOnce(t *testing.T, gun string, readers int) {
	t.Helper()
	sql(t, s.serverDB, `update tuf_files set data = d, sha256 = encode(sha256(d), 'hex')
		from (select id, convert_to(regexp_replace(convert_from(data, 'UTF8'), '"expires":"[^"]*"', '"expires":"2020-01-01T00:00:00Z"'), 'UTF8') d
		      from tuf_files where gun = '%s' and role = 'timestamp' order by version desc limit 1) new where tuf_files.id = new.id`, gun)
	was := sql(t, s.serverDB, "select max(version) from tuf_files where gun = '%s' and role = 'timestamp'", gun)
	sql(t, s.serverDB, `update changefeed c set sha256 = f.sha256 from tuf_files f
		where f.gun = '%s' and f.role = 'timestamp' and f.version = %s and c.gun = f.gun and c.version = f.version`, gun, was)
	bodies := make(chan string, readers)
	c := s.client()
	for i := range readers {
		go func() {
			raw, err := fetch(c, s.gunURL(i%len(s.servers), gun)+"timestamp.json")
			bodies <- fmt.Sprintf("%s %v", raw, err)
		}()
	}
	first := <-bodies
	for range readers - 1 {
		if next := <-bodies; next != first {
			t.Fatalf("one reader of an expired timestamp gets %s, another %s", first, next)
		}
	}
	now := sql(t, s.serverDB, "select max(version) from tuf_files where gun = '%s' and role = 'timestamp'", gun)
	if a, _ := strconv.Atoi(was); now != strconv.Itoa(a+1) {
		t.Errorf("the timestamp went from version %s to %s, want one more", was, now)
	}
	for i := range s.servers {
		s.mustVerify(t, i, gun)
	}
}
