package e2e_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSwapUnderLoad replaces one half after the other while clients publish and
// verify without a pause: each half by the other maker's and back, beside each
// maker's other half, which runs on untouched. What was answered 200 is there, in
// order, and what was read was sound.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours})
	l := s.newSwapLoad(t, s.url(0), s.transport)
	l.start()
	for _, to := range []pair{
		{upstream, ours}, {ours, ours}, // the server, and back
		{ours, upstream}, {ours, ours}, // the signer, and back
		{upstream, ours}, {upstream, upstream}, {upstream, ours}, // the signer under upstream's server
		{upstream, upstream}, {ours, upstream}, {ours, ours}, // and to the beginning by the other way
	} {
		if s.cfg.signer != to.signer {
			s.replaceSigner(to.signer)
		} else {
			s.replaceServer(0, to.server)
			s.cfg.server = to.server
		}
		l.mustGoOn(to.String(), 5)
	}
	l.finish()
	if l.outages.Load() == 0 {
		t.Error("no request met a swap: nothing is shown")
	}
}

// TestRollingSwap replaces two servers behind a load balancer one at a time. Here
// no request fails, and no reader sees one server behind the other. Ours come
// twice to a database that has only upstream's tables, and make their additions
// while upstream's other server publishes; in between these are removed, as the
// document says, under both of upstream's.
func TestRollingSwap(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: upstream, signer: ours, servers: 2})
	b := newBalancer(t, s.serverAddr(0), s.serverAddr(1))
	l := s.newSwapLoad(t, "https://localhost:"+b.port(), func() *http.Transport {
		tr := s.transport()
		tr.DisableKeepAlives = true // each request is a connection, which the balancer counts
		return tr
	})
	l.start()
	for _, to := range []impl{ours, upstream, ours} {
		for i := range s.servers {
			if err := b.remove(s.serverAddr(i)); err != nil {
				t.Fatal(err)
			}
			s.replaceServer(i, to)
			s.reachSigner(i)
			b.add(s.serverAddr(i))
			l.mustGoOn(fmt.Sprintf("server %d of 2 is %s", i, to), 8)
		}
		s.cfg.server = to
		const triggers = "select count(*) from pg_trigger where tgname like 'countersign%%' and tgrelid <> 0"
		if to == upstream {
			removeAdditions(t, s.serverDB)
			l.mustGoOn("the additions are removed", 8)
		} else if n := sql(t, s.serverDB, triggers); n != "4" {
			t.Errorf("ours have made %s triggers", n)
		}
	}
	l.finish()
	if n := l.outages.Load(); n > 0 {
		t.Errorf("%d requests failed, though a server was there all the time", n)
	}
}

// removeAdditions runs the document's statements, again as long as somebody is in
// their way.
func removeAdditions(t *testing.T, db string) {
	t.Helper()
	var statements string
	for _, s := range guide(t) {
		if s.kind == "plain" && s.name == "drop" {
			_, statements, _ = strings.Cut(s.script, "notaryserver <<END\n")
			statements, _, _ = strings.Cut(statements, "END\n")
		}
	}
	if !strings.Contains(statements, "drop trigger") {
		t.Fatalf("the document has no statements to remove the additions:\n%s", statements)
	}
	if err := waitFor(time.Minute, "the additions to be removed", func() error {
		cmd := exec.CommandContext(t.Context(), "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db)
		cmd.Stdin = strings.NewReader(statements)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// swapRoles are published to in turn.
var swapRoles = []string{"targets", "targets/releases"}

// A swapLoad is clients at work on two repositories, one with a snapshot of the
// server's and one without.
type swapLoad struct {
	t       *testing.T
	s       *stack
	url     string
	connect func() *http.Transport // one for each client
	writers []*swapWriter
	readers []*swapReader
	outages atomic.Int32 // publishes and reads that met one
	quit    chan struct{}
	wg      sync.WaitGroup
}

type swapWriter struct {
	*publisher
	before generation
	acked  atomic.Int32 // targets published and answered 200: names n0, n1, … in order
	unsure int          // publishes that were not; read when the writer has ended
}

// A swapReader reads what w publishes. It keeps its cache between reads, or has none.
type swapReader struct {
	w     *swapWriter
	keeps bool
	tr    *http.Transport
	good  atomic.Int32 // reads that got every answer and verified
	seen  int          // targets, at the last good read
}

func swapName(n int) string { return fmt.Sprintf("n%d", n) }

// newSwapLoad makes the repositories; connect makes the connections of one client.
func (s *stack) newSwapLoad(t *testing.T, url string, connect func() *http.Transport) *swapLoad {
	t.Helper()
	l := &swapLoad{t: t, s: s, url: url, connect: connect, quit: make(chan struct{})}
	for i, serverSnapshot := range []bool{true, false} {
		tr := connect()
		t.Cleanup(tr.CloseIdleConnections)
		p, err := newPublisher(url, fmt.Sprintf("e2e.example/swap/load%d", i), tr, newKeys())
		if err != nil {
			t.Fatal(err)
		}
		p.initialize(t, serverSnapshot)
		p.delegate(t, swapRoles[1])
		p.must(t, "publish", p.Publish())
		for _, role := range swapRoles {
			p.add(t, role, "first")
		}
		p.must(t, "publish", p.Publish())
		p.rec.take()
		w := &swapWriter{publisher: p, before: s.walk(t, 0, p.gun)}
		l.writers = append(l.writers, w)
		for _, keeps := range []bool{true, false} {
			l.readers = append(l.readers, &swapReader{w: w, keeps: keeps, tr: connect()})
		}
	}
	return l
}

func (l *swapLoad) start() {
	for _, w := range l.writers {
		l.run("publishing to "+w.gun, func() error { return l.write(w) })
	}
	for _, r := range l.readers {
		l.run("reading "+r.w.gun, func() error { return l.read(r) })
	}
	l.t.Cleanup(l.stop) // a test that fails must not leave clients of a stopped server
}

func (l *swapLoad) run(what string, work func() error) {
	l.wg.Go(func() {
		if err := work(); err != nil {
			l.t.Errorf("%s: %v", what, err)
		}
	})
}

func (l *swapLoad) stopped() bool {
	select {
	case <-l.quit:
		return true
	default:
		return false
	}
}

func (l *swapLoad) stop() {
	if !l.stopped() {
		close(l.quit)
	}
	l.wg.Wait()
}

// write publishes one target after the other, each until it is answered 200.
func (l *swapLoad) write(w *swapWriter) error {
	for n := 0; !l.stopped(); n++ {
		w.add(l.t, swapRoles[n%2], swapName(n))
		began := time.Now()
		for retried := false; ; retried = true {
			err := w.Publish()
			if fault := clientFault(w.rec.take(), retried); fault != nil {
				return fault
			}
			if err == nil {
				break
			}
			w.unsure++
			l.outages.Add(1)
			if time.Since(began) > goOnLimit {
				return fmt.Errorf("%s does not get in: %w", swapName(n), err)
			}
			time.Sleep(20 * time.Millisecond) // as a person would, who tries again
		}
		w.acked.Store(int32(n + 1))
	}
	return nil
}

// clientFault finds an answer to a publish that blames the client or denies the
// repository, which no outage may. Upstream's server reports a signer that it
// does not reach as a faulty upload; a publish that was stored and answered to
// nobody makes the next try, where there was one, too late.
func clientFault(answers []answer, retried bool) error {
	for _, a := range answers {
		switch {
		case a.status < 400 || a.status >= 500:
		case a.method == http.MethodPost && a.code() == "VERSION" && retried:
		case a.method == http.MethodPost && strings.Contains(a.body, "code = Unavailable"):
		default:
			return fmt.Errorf("a swap is blamed on the client: %v", a)
		}
	}
	return nil
}

// outage tells whether a request got no answer, or one that blames the server.
func outage(answers []answer) bool {
	for _, a := range answers {
		if a.status == 0 || a.err != nil || a.status >= 500 {
			return true
		}
	}
	return false
}

// read verifies everything, again and again.
func (l *swapLoad) read(r *swapReader) error {
	defer r.tr.CloseIdleConnections()
	pace := time.NewTicker(75 * time.Millisecond) // leave the machine to the writers
	defer pace.Stop()
	var p *publisher
	for n := 0; !l.stopped(); n++ {
		if p == nil || !r.keeps {
			var err error
			if p, err = newPublisher(l.url, r.w.gun, r.tr, newKeys()); err != nil {
				return err
			}
		}
		acked := int(r.w.acked.Load()) + 2 // each role begins with one
		v, err := p.view()
		switch {
		case outage(p.rec.take()):
			// It got less than it asked for. One that keeps its cache then shows that.
			l.outages.Add(1)
		case err != nil:
			return fmt.Errorf("read %d does not verify: %w", n, err)
		case v.count() < acked || v.count() < r.seen:
			return fmt.Errorf("read %d finds %d targets, %d were answered 200 before it began and %d seen", n, v.count(), acked, r.seen)
		default:
			r.seen = v.count()
			if err := l.readPlain(r); err != nil {
				return fmt.Errorf("read %d: %w", n, err)
			}
			r.good.Add(1)
		}
		<-pace.C
	}
	return nil
}

// readPlain follows the hashes from the newest timestamp down.
func (l *swapLoad) readPlain(r *swapReader) error {
	rec := &recorder{next: r.tr}
	_, err := tryWalk(&http.Client{Transport: rec}, l.url+"/v2/"+r.w.gun+"/_trust/tuf/")
	if outage(rec.take()) {
		l.outages.Add(1)
		return nil
	}
	return err
}

// goOnLimit is how long after a swap all clients must have gone on. Upstream's
// server connects again to a signer at intervals that grow to two minutes, but one
// that was away for a second it finds again in two. Upstream's signer takes a
// good part of a second of work to open each key that ours has sealed.
const goOnLimit = 2 * time.Minute

// mustGoOn waits until every writer has published and every reader verified
// again, a few times.
func (l *swapLoad) mustGoOn(after string, publishes int32) {
	l.t.Helper()
	began := time.Now()
	var first time.Duration // until each writer has come through
	marks := make([]int32, len(l.writers)+len(l.readers))
	for i, n := range l.counts() {
		marks[i] = n
	}
	err := waitFor(goOnLimit, "the clients to go on", func() error {
		lag, any := 0, 0
		for i, n := range l.counts() {
			want := publishes
			if i >= len(l.writers) {
				want = 2 // the second one began after the swap
			} else if n == marks[i] {
				any++
			}
			if n < marks[i]+want {
				lag++
			}
		}
		if any == 0 && first == 0 {
			first = time.Since(began)
		}
		if lag > 0 && !l.t.Failed() {
			return fmt.Errorf("%d of %d have not: %v after %v", lag, len(marks), l.counts(), marks)
		}
		return nil
	})
	if err != nil {
		l.t.Fatalf("%s: %v", after, err)
	}
	if l.t.Failed() {
		l.t.FailNow()
	}
	l.t.Logf("%s: the first publishes after %v, %v outages so far", after, first.Round(time.Millisecond), l.outages.Load())
}

// counts is how far each writer and each reader has come.
func (l *swapLoad) counts() []int32 {
	var out []int32
	for _, w := range l.writers {
		out = append(out, w.acked.Load())
	}
	for _, r := range l.readers {
		out = append(out, r.good.Load())
	}
	return out
}

// finish ends the clients and accounts for all that they did.
func (l *swapLoad) finish() {
	l.t.Helper()
	l.stop()
	all := l.s.checkLedger(l.t)
	for _, w := range l.writers {
		acked := int(w.acked.Load())
		stored := 0 // publishes beyond the first, of both roles
		for i, role := range swapRoles {
			n, err := w.inOrder(all[w.gun], role, i)
			if err != nil {
				l.t.Errorf("%s %s: %v", w.gun, role, err)
			}
			stored += n
		}
		if stored < acked || stored > acked+w.unsure {
			l.t.Errorf("%s: %d publishes are stored; %d were answered 200 and %d were not", w.gun, stored, acked, w.unsure)
		}
		for i := range l.s.servers {
			v, g := l.s.mustVerify(l.t, i, w.gun, swapRoles...)
			if v.count() != acked+2 || g.version("timestamp") != w.before.version("timestamp")+stored {
				l.t.Errorf("%s at server %d: %d targets and timestamp %d, want %d and %d", w.gun, i,
					v.count(), g.version("timestamp"), acked+2, w.before.version("timestamp")+stored)
			}
		}
		l.t.Logf("%s: %d publishes, %d tries that were not answered 200, of which %d were stored", w.gun, acked, w.unsure, stored-acked)
	}
	for _, r := range l.readers {
		l.t.Logf("reader of %s, keeping its cache %t: %d good reads", r.w.gun, r.keeps, r.good.Load())
	}
}

// inOrder holds the versions of a role to add one name after the other, every
// second from offset on, and to end with the last one that was answered 200. A
// version without a new name is a publish that was stored, answered to nobody,
// and made once more.
func (w *swapWriter) inOrder(l ledger, role string, offset int) (versions int, err error) {
	next := offset
	var last stored
	for _, e := range l {
		if e.role != role {
			continue
		}
		if e.version > w.before.version(role) {
			versions++
			if len(e.targets) == len(last.targets)+1 && e.targets[swapName(next)] {
				next += 2
			} else if len(e.targets) != len(last.targets) {
				return versions, fmt.Errorf("version %d has %d targets after %d, and %s: %t", e.version, len(e.targets), len(last.targets), swapName(next), e.targets[swapName(next)])
			}
		}
		for name := range last.targets {
			if !e.targets[name] {
				return versions, fmt.Errorf("version %d has lost %s", e.version, name)
			}
		}
		last = e
	}
	if acked := int(w.acked.Load()); next < acked || next-2 >= acked {
		return versions, fmt.Errorf("the next target would be %s, answered 200 were %d", swapName(next), acked)
	}
	return versions, nil
}

// TestInOrder shows that the account of the publishes finds one that is lost,
// late, or was never answered 200.
func TestInOrder(t *testing.T) {
	with := func(version int, names ...string) stored {
		e := stored{role: "targets", version: version, targets: map[string]bool{}}
		for _, name := range names {
			e.targets[name] = true
		}
		return e
	}
	base := with(1, "first")
	var before metaFile
	before.Signed.Version = base.version
	for _, c := range []struct {
		name  string
		l     ledger
		acked int32
		want  int // versions; 0 is a fault
	}{
		{"each once", ledger{base, with(2, "first", "n0"), with(3, "first", "n0", "n2")}, 4, 2},
		{"one stored, answered to nobody, and made again", ledger{base, with(2, "first", "n0"), with(3, "first", "n0"), with(4, "first", "n0", "n2")}, 3, 3},
		{"the last is lost", ledger{base, with(2, "first", "n0")}, 3, 0},
		{"one is lost later", ledger{base, with(2, "first", "n0"), with(3, "first", "n2")}, 3, 0},
		{"out of order", ledger{base, with(2, "first", "n2"), with(3, "first", "n2", "n0")}, 3, 0},
		{"two at once", ledger{base, with(2, "first", "n0", "n2")}, 3, 0},
		{"one too many", ledger{base, with(2, "first", "n0"), with(3, "first", "n0", "n2")}, 2, 0},
	} {
		w := &swapWriter{before: generation{"targets": before}}
		w.acked.Store(c.acked)
		got, err := w.inOrder(c.l, "targets", 0)
		if c.want == 0 && err == nil || c.want > 0 && (err != nil || got != c.want) {
			t.Errorf("%s: %d versions, %v; want %d", c.name, got, err, c.want)
		}
	}
}
