package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

const (
	crashGUNs      = 4
	crashPublishes = 200 // over all GUNs
	crashes        = 12
)

// TestCrash kills the server, the signer and PostgreSQL, in turn and at once
// started again, while clients publish. What was answered 200 must be there, and
// each GUN must be whole.
func TestCrash(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		c := pgtest.New(t)
		s := newStack(t, stackConfig{cluster: c})
		testCrash(t, s, func() { c.Kill(t); c.Start(t) })
	})
	t.Run("sqlite3", func(t *testing.T) {
		t.Parallel()
		testCrash(t, newStack(t, stackConfig{backend: onSQLite}))
	})
}

func testCrash(t *testing.T, s *stack, more ...func()) {
	t.Helper()
	victims := append([]func(){
		func() { s.servers[0].kill(); s.startServer(0) },
		func() { s.signer.kill(); s.startSigner() },
	}, more...)
	w := &crashWork{s: s, acked: make([]map[string]bool, crashGUNs)}
	var wg sync.WaitGroup
	for i := range crashGUNs {
		p := s.newPublisher(t, 0, crashGUN(i), newKeys())
		p.initialize(t, i%2 == 0) // with and without a snapshot of the server's
		w.acked[i] = map[string]bool{}
		wg.Go(func() {
			if err := w.publish(t, p, w.acked[i]); err != nil {
				t.Errorf("%s: %v", p.gun, err)
			}
		})
	}
	for n := range crashes {
		if err := waitFor(2*time.Minute, fmt.Sprintf("publish %d", n*crashPublishes/crashes), func() error {
			if int(w.done.Load()) < n*crashPublishes/crashes && !t.Failed() {
				return fmt.Errorf("%d are done", w.done.Load())
			}
			return nil
		}); err != nil {
			t.Error(err)
			break
		}
		if t.Failed() {
			break // a publisher has given up: the count may stand still
		}
		victims[n%len(victims)]()
	}
	wg.Wait()
	s.stopAll()
	s.startSigner()
	s.startServer(0)
	for i := range crashGUNs {
		v, _ := s.mustVerify(t, 0, crashGUN(i), "targets")
		for name := range w.acked[i] {
			if !v["targets"][name] {
				t.Errorf("%s has lost %s, which was answered 200", crashGUN(i), name)
			}
		}
		if len(w.acked[i]) != crashPublishes/crashGUNs {
			t.Errorf("%s: %d publishes came through, want %d", crashGUN(i), len(w.acked[i]), crashPublishes/crashGUNs)
		}
	}
	if w.failed.Load() == 0 {
		t.Error("no publish met a crash: nothing is shown")
	}
	t.Logf("%d tries met one of %d crashes", w.failed.Load(), crashes)
}

func crashGUN(i int) string { return fmt.Sprintf("e2e.example/crash/app%d", i) }

// crashWork is the publishing that goes on during the crashes.
type crashWork struct {
	s      *stack
	acked  []map[string]bool // by GUN; each is its publisher's alone until the end
	done   atomic.Int32      // publishes answered 200
	failed atomic.Int32      // tries that did not come through
}

// publish publishes its share, each target until it is in. An outage may look
// like a refused connection or a 5xx, never like a fault of the client or a
// repository that is not there.
func (w *crashWork) publish(t *testing.T, p *publisher, acked map[string]bool) error {
	p.rec.take()
	for n := range crashPublishes / crashGUNs {
		name := fmt.Sprintf("v%d", n)
		p.add(t, "targets", name)
		for deadline := time.Now().Add(90 * time.Second); ; {
			err := p.Publish()
			for _, a := range p.rec.take() {
				lost := a.status == http.StatusBadRequest && a.code() == "VERSION" // its own, answered to nobody
				if a.status >= 400 && a.status < 500 && !lost {
					return fmt.Errorf("during an outage: %v", a)
				}
				if a.status == http.StatusServiceUnavailable && a.retryAfter == "" {
					return fmt.Errorf("503 without Retry-After: %v", a)
				}
			}
			if err == nil {
				break
			}
			w.failed.Add(1)
			if time.Now().After(deadline) {
				return errors.Join(fmt.Errorf("%s does not get in", name), err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		acked[name] = true
		w.done.Add(1)
	}
	return nil
}
