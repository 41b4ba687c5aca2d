package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// rounds is how often two publishers race for the same next version.
const rounds = 200

const raceGUN = "e2e.example/race/app"

// TestRacingPublishers lets two clients publish on the same base at the same
// moment, over and over, while readers verify everything from the timestamp to
// the delegation: each race has one winner, the loser is told so in the way that
// its client understands and gets its change in at the next try.
func TestRacingPublishers(t *testing.T) {
	for _, cfg := range []stackConfig{
		{backend: onPostgres, servers: 1},
		{backend: onPostgres, servers: 2},
		{backend: onSQLite, servers: 1},
	} {
		t.Run(fmt.Sprintf("%s_%d-servers", cfg.backend, cfg.servers), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, cfg)
			keys := newKeys()
			owner := s.newPublisher(t, 0, raceGUN, keys)
			owner.initialize(t, true)
			owner.delegate(t, "targets/releases")
			owner.add(t, "targets", "first")
			owner.must(t, "publish", owner.Publish())
			owner.add(t, "targets/releases", "first")
			owner.must(t, "publish", owner.Publish())
			before := s.walk(t, 0, raceGUN)

			r := &race{t: t, gate: make(chan struct{})}
			for i := range r.pair {
				r.pair[i] = s.newPublisher(t, i%cfg.servers, raceGUN, keys)
			}
			stop := s.watch(t, raceGUN)
			for n := range rounds {
				role := "targets"
				if n%2 == 1 {
					role = "targets/releases"
				}
				r.run(role, n)
			}
			stop()
			r.account(s, before)
		})
	}
}

// A race is two publishers that meet before each of their first uploads.
type race struct {
	t    *testing.T
	pair [2]*publisher
	gate chan struct{} // the first to arrive waits here for the second
}

// meet lets the two go at once.
func (r *race) meet() {
	select {
	case r.gate <- struct{}{}:
	case <-r.gate:
	case <-time.After(30 * time.Second):
		// The other one failed before its upload; its error tells why.
	}
}

// run is one round: both stage a target of their own for the role, upload at
// once, and the loser tries again.
func (r *race) run(role string, n int) {
	r.t.Helper()
	var wg sync.WaitGroup
	var errs [2]error
	var firsts [2]answer
	for i, p := range r.pair {
		p.add(r.t, role, fmt.Sprintf("round-%d-%d", n, i))
		var once sync.Once
		p.rec.take()
		p.rec.hold(func(req *http.Request) {
			if req.Method == http.MethodPost {
				once.Do(r.meet)
			}
		})
		wg.Go(func() { firsts[i], errs[i] = publishUntilIn(p) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		r.t.Fatalf("round %d: %v", n, err)
	}
	won := 0
	for _, a := range firsts {
		switch {
		case a.status == http.StatusOK:
			won++
		case a.status != http.StatusBadRequest || a.code() != "VERSION":
			r.t.Fatalf("round %d: the loser is told %v, want 400 VERSION", n, a)
		}
	}
	if won != 1 {
		r.t.Fatalf("round %d has %d winners: %v", n, won, firsts)
	}
}

// publishUntilIn publishes, and again after each lost race. It returns the answer
// to the first upload. Anything but 200 or 400 VERSION to an upload is an error.
func publishUntilIn(p *publisher) (first answer, err error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err = p.Publish()
		for _, a := range p.rec.take() {
			if a.status >= 500 || a.err != nil {
				return first, fmt.Errorf("publishing: %v", a)
			}
			if a.method != http.MethodPost {
				continue
			}
			if first.method == "" {
				first = a
			}
			if a.status != http.StatusOK && a.code() != "VERSION" {
				return first, fmt.Errorf("publishing: %v", a)
			}
		}
		if err == nil || time.Now().After(deadline) {
			return first, err
		}
	}
}

// account shows at the end that every change is there and that no version was
// spent on anything else.
func (r *race) account(s *stack, before generation) {
	r.t.Helper()
	for i := range s.cfg.servers {
		v, g := s.mustVerify(r.t, i, raceGUN, "targets", "targets/releases")
		for n := range rounds {
			role := []string{"targets", "targets/releases"}[n%2]
			for who := range r.pair {
				if name := fmt.Sprintf("round-%d-%d", n, who); !v[role][name] {
					r.t.Errorf("server %d: the publish of %s by %s is lost", i, name, role)
				}
			}
		}
		for role, want := range map[string]int{
			"timestamp": 2 * rounds, "snapshot": 2 * rounds, "targets": rounds, "targets/releases": rounds, "root": 0,
		} {
			if got := g.version(role) - before.version(role); got != want {
				r.t.Errorf("server %d: %s went up by %d versions, want %d", i, role, got, want)
			}
		}
	}
}

// watch verifies a GUN from all servers, as ever fresh clients and by plain
// names, until the returned function is called. No read may fail, see less than
// the one before, or see a generation that is not whole.
func (s *stack) watch(t *testing.T, gun string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range s.cfg.servers {
		tr := s.transport()
		t.Cleanup(tr.CloseIdleConnections)
		reads, seen, version := 0, 0, 0
		wg.Go(func() {
			for ; ctx.Err() == nil; reads++ {
				v, err := verify(s.url(i), gun, tr, "targets", "targets/releases")
				if err != nil || v.count() < seen {
					t.Errorf("reader of server %d, read %d: %d targets after %d: %v", i, reads, v.count(), seen, err)
					return
				}
				seen = v.count()
				g, err := tryWalk(&http.Client{Transport: tr}, s.gunURL(i, gun))
				if err != nil || g.version("timestamp") < version {
					t.Errorf("reader of server %d, walk %d: timestamp %d after %d: %v", i, reads, g.version("timestamp"), version, err)
					return
				}
				version = g.version("timestamp")
			}
		})
		t.Cleanup(func() {
			if reads < 20 && !t.Failed() {
				t.Errorf("server %d was verified only %d times", i, reads)
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop) // a test that fails must not leave readers of a stopped server
	return stop
}

// TestEightDelegations has eight publishers of eight delegations of one GUN
// upload at the same moment, three times. The server makes the snapshot, so that
// nobody need lose.
func TestEightDelegations(t *testing.T) {
	for _, cfg := range []stackConfig{{backend: onPostgres, servers: 2, race: true}, {backend: onSQLite, race: true}} {
		t.Run(string(cfg.backend), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, cfg)
			const gun, publishers, times = "e2e.example/race/eight", 8, 3
			keys := newKeys()
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
				v, g := s.mustVerify(t, i, gun, roles...)
				if v.count() != 1+publishers*times || g.version("timestamp") != 2+publishers*times {
					t.Errorf("server %d: %d targets and timestamp %d, want %d and %d", i, v.count(), g.version("timestamp"), 1+publishers*times, 2+publishers*times)
				}
			}
		})
	}
}

// publishTogether has one publisher for each role upload at the same moment, and
// wants them all to succeed at the first try.
func publishTogether(t *testing.T, s *stack, gun string, roles []string, n int, keys signedKeys) {
	t.Helper()
	var ready, done sync.WaitGroup
	ready.Add(len(roles))
	for i, role := range roles {
		p := s.newPublisher(t, i%s.cfg.servers, gun, keys)
		p.add(t, role, fmt.Sprintf("try-%d", n))
		var once sync.Once
		p.rec.hold(func(req *http.Request) {
			if req.Method == http.MethodPost {
				once.Do(func() { ready.Done(); ready.Wait() })
			}
		})
		done.Go(func() {
			err := p.Publish()
			once.Do(ready.Done) // whoever fails early must not hold up the others
			if err != nil {
				t.Errorf("publish %d of %s: %v; the server: %v", n, role, err, p.refusals())
			}
		})
	}
	done.Wait()
}

// TestFortyUploads sends one and the same upload forty times at once, to two
// servers: one is taken, and thirty-nine are told that it is too late.
func TestFortyUploads(t *testing.T) {
	for _, cfg := range []stackConfig{{backend: onPostgres, servers: 2, race: true}, {backend: onSQLite, race: true}} {
		t.Run(string(cfg.backend), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, cfg)
			const gun, uploads = "e2e.example/race/forty", 40
			p := s.newPublisher(t, 0, gun, newKeys())
			p.initialize(t, true)
			p.add(t, "targets", "v1")
			body, ctype := p.capture(t)

			answers := make(chan answer, uploads)
			c := s.client()
			for i := range uploads {
				go func() { answers <- post(c, s.gunURL(i%s.cfg.servers, gun), ctype, body) }()
			}
			won := 0
			for range uploads {
				a := <-answers
				if a.status == http.StatusOK {
					won++
				} else if a.status != http.StatusBadRequest || a.code() != "VERSION" {
					t.Errorf("an upload is told %v, want 200 or 400 VERSION", a)
				}
			}
			_, g := s.mustVerify(t, 0, gun, "targets")
			if won != 1 || g.version("timestamp") != 2 || g.version("targets") != 3 {
				t.Errorf("%d uploads won, timestamp %d, targets %d; want 1, 2 and 3", won, g.version("timestamp"), g.version("targets"))
			}
		})
	}
}

// capture is the upload that a publish would send. The publish itself fails.
func (p *publisher) capture(t *testing.T) (body []byte, ctype string) {
	t.Helper()
	real := p.rec.next
	defer func() { p.rec.next = real }()
	p.rec.next = roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Method != http.MethodPost {
			return real.RoundTrip(req)
		}
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		ctype = req.Header.Get("Content-Type")
		return nil, errors.New("captured")
	})
	if err := p.Publish(); err == nil || body == nil {
		t.Fatalf("nothing was captured: %v", err)
	}
	return body, ctype
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func post(c *http.Client, url, ctype string, body []byte) answer {
	resp, err := c.Post(url, ctype, bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{method: "POST", status: resp.StatusCode, body: strings.TrimSpace(string(raw)), err: err}
}
