package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pair is whose server runs with whose signer.
type pair struct{ server, signer impl }

func (p pair) String() string { return fmt.Sprintf("%s-server_%s-signer", p.server, p.signer) }

// circuit goes from each of the four pairs to each other one exactly once. It
// begins and ends where installations that move over come from.
var circuit = func() []pair {
	all := map[rune]pair{'u': {upstream, upstream}, 'o': {ours, ours}, 's': {ours, upstream}, 'k': {upstream, ours}}
	var path []pair
	for _, name := range "uoukusokosksu" {
		path = append(path, all[name])
	}
	return path
}()

// TestSwapMatrix runs the whole life of a repository on every pair of servers and
// signers, on one pair of databases and one set of configuration files. In
// between halves are replaced in all ways, and the repositories that were made
// before go on: their owners publish and rotate keys, their readers follow.
func TestSwapMatrix(t *testing.T) {
	t.Parallel()
	ways := map[[2]pair]bool{}
	for i := range circuit[1:] {
		ways[[2]pair{circuit[i], circuit[i+1]}] = true
	}
	if len(ways) != 12 || len(circuit) != 13 {
		t.Fatalf("the circuit has %d steps, %d of them different, want all 12 ways once", len(circuit)-1, len(ways))
	}
	s := newStack(t, stackConfig{server: circuit[0].server, signer: circuit[0].signer})
	last := map[pair]int{}
	for step, p := range circuit {
		last[p] = step
	}
	made := map[pair]*flow{}
	var flows []*flow
	for step, to := range circuit {
		if step > 0 {
			began := time.Now()
			s.swapTo(to)
			t.Logf("step %d, to %v: publishing again after %v", step, to, time.Since(began).Round(time.Millisecond))
			f := flows[step%len(flows)]
			f.replaceServerKey([]string{"timestamp", "snapshot"}[step%2])
			f.carryOn(step)
		}
		if step == last[to] { // by now there is a repository of each pair's
			for _, f := range flows {
				f.carryOn(step)
			}
		}
		if made[to] != nil {
			continue
		}
		f := newFlow(t, s, "e2e.example:5000/swap/"+to.String())
		f.wholeLife()
		f.settle()
		made[to], flows = f, append(flows, f)
	}
	s.checkLedger(t)
}

// settle makes one more repository, with a snapshot of the server's and a
// delegation, for later pairs to go on with.
func (f *flow) settle() {
	f.t.Helper()
	f.gun += "/kept"
	f.owner, f.reader = newNotary(f.t, f.s, 0), newNotary(f.t, f.s, 0)
	f.owner.run("init", f.gun, "-p")
	f.owner.run("key", "rotate", f.gun, "snapshot", "-r")
	cert, _ := f.alice("alice")
	f.owner.run("delegation", "add", f.gun, "targets/team", cert, "--all-paths", "-p")
	f.want = map[string]string{"v": "targets", "d": "targets/team"}
	for name, role := range f.want {
		f.owner.run("addhash", f.gun, name, "13", "--sha256", f.sum, "--roles", role, "-p")
	}
	f.lists(f.reader, f.want)
}

// carryOn publishes to an older repository, and has all its readers follow.
func (f *flow) carryOn(step int) {
	f.t.Helper()
	before := f.walk()
	for _, role := range []string{"targets", "targets/team"} {
		name := fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(role, "/", "-"), step, len(f.want))
		f.owner.run("addhash", f.gun, name, "13", "--sha256", f.sum, "--roles", role, "-p")
		f.want[name] = role
	}
	f.lists(f.reader, f.want)
	fresh, after := f.s.mustVerify(f.t, 0, f.gun, "targets", "targets/team")
	if fresh.count() != len(f.want) {
		f.t.Fatalf("step %d, %s: a fresh client finds %v, want %v", step, f.gun, fresh, f.want)
	}
	for role, want := range map[string]int{"root": 0, "targets": 1, "targets/team": 1, "snapshot": 2, "timestamp": 2} {
		if got := after.version(role) - before.version(role); got != want {
			f.t.Fatalf("step %d, %s: %s went up by %d versions, want %d", step, f.gun, role, got, want)
		}
	}
}

// replaceServerKey has the present signer make a key for an older repository,
// which later signers then use.
func (f *flow) replaceServerKey(role string) {
	f.t.Helper()
	f.rotate(role, true, "")
	f.want[fmt.Sprintf("r%d", f.walk().version("root"))] = "targets"
}

// swapTo replaces the halves whose maker changes, one after the other, while the
// other half runs on.
func (s *stack) swapTo(to pair) {
	s.t.Helper()
	if s.cfg.signer != to.signer {
		s.replaceSigner(to.signer)
	}
	for i := range s.servers {
		if s.cfg.server != to.server {
			s.replaceServer(i, to.server)
		}
	}
	s.cfg.server = to.server
	for i := range s.servers {
		s.reachSigner(i)
	}
}

// replaceSigner ends the signer and starts that of another maker. The servers
// must not notice more than that it was away.
func (s *stack) replaceSigner(by impl) {
	s.t.Helper()
	before := s.life("server")
	s.stop(s.signer)
	s.cfg.signer = by
	s.startSigner()
	if after := s.life("server"); after != before {
		s.t.Fatalf("replacing the signer touched the servers: before %s, after %s", before, after)
	}
}

// replaceServer ends server i and starts that of another maker.
func (s *stack) replaceServer(i int, by impl) {
	s.t.Helper()
	was, others := s.cfg.server, s.life("signer")
	s.stop(s.servers[i])
	s.cfg.server = by
	s.startServer(i)
	s.cfg.server = was // the other servers are still his
	if after := s.life("signer"); after != others {
		s.t.Fatalf("replacing a server touched the signer: before %s, after %s", others, after)
	}
}

func (s *stack) stop(p *process) {
	s.t.Helper()
	if err := p.end(syscall.SIGTERM, 20*time.Second); err != nil {
		s.t.Error(err)
	}
}

// life tells which processes of a half run and how many were ever started.
func (s *stack) life(half string) string {
	starts, running := 0, []int{}
	for _, p := range s.started {
		if !strings.HasPrefix(p.name, half) {
			continue
		}
		starts++
		if p.running() {
			running = append(running, p.cmd.Process.Pid)
		}
	}
	return fmt.Sprintf("%d starts, running %v", starts, running)
}

// reachSigner waits until server i gets answers from its signer. Upstream's
// server tries to connect again at growing intervals.
func (s *stack) reachSigner(i int) {
	s.t.Helper()
	c := s.client()
	if err := waitFor(2*time.Minute, "the server to find its signer", func() error {
		status, body := get(s.t, c, s.gunURL(i, "e2e.example/swap/probe")+"timestamp.key")
		if status != http.StatusOK {
			return fmt.Errorf("a key: %d %s", status, body)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}
