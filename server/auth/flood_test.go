package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"countersign/server/auth"
)

// A flood holds up bcrypt, until it is told to end.
type flood struct {
	*site
	ctx     context.Context
	running atomic.Int64
	release chan struct{}
	results chan error
}

func newFlood(t *testing.T, most int64) *flood {
	t.Helper()
	f := &flood{site: newSite(t, users, rules), release: make(chan struct{}), results: make(chan error, 1000)}
	f.SetCompare(func(_, _ []byte) error {
		if f.running.Add(1) > most {
			t.Error("too many comparisons at once")
		}
		<-f.release
		f.running.Add(-1)
		return bcrypt.ErrMismatchedHashAndPassword
	})
	return f
}

// send has n requests come from an address.
func (f *flood) send(n int, from, name string) {
	f.t.Helper()
	for range n {
		r := request(f.t, "GET", "/v2/", name, "x").WithContext(f.ctx)
		r.RemoteAddr = from
		go func() {
			_, err := f.Authorize(r, catalog)
			f.results <- err
		}()
	}
}

// full reports whether one more from an address is sent away.
func (f *flood) full(from, name string) bool {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	cancel()
	r := request(f.t, "GET", "/v2/", name, "x").WithContext(ctx)
	r.RemoteAddr = from
	_, err := f.Authorize(r, catalog)
	if !errors.Is(err, auth.ErrBusy) && !errors.Is(err, context.Canceled) {
		f.t.Errorf("%s from %s: %v", name, from, err)
	}
	return errors.Is(err, auth.ErrBusy)
}

func (f *flood) await(running, waiting int) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%d run, %d wait", running, waiting), func() bool {
		return f.running.Load() == int64(running) && f.Waiting() == waiting
	})
}

// A flood of wrong passwords keeps two processors busy at most, and what waits
// is bounded; who is known already does not notice.
func TestFlood(t *testing.T) {
	t.Parallel()
	f := newFlood(t, auth.MaxCompares)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.ctx = ctx
	f.send(auth.MaxCompares, "10.0.0.1:1", "bob")
	f.await(auth.MaxCompares, 0)
	f.send(auth.MaxWaitingName, "10.0.0.1:1", "bob")
	f.await(auth.MaxCompares, auth.MaxWaitingName)
	if !f.full("10.0.0.2:1", "bob") || f.full("10.0.0.1:1", "carol") {
		t.Error("one name has more, or less, than its share")
	}
	f.send(auth.MaxWaitingFrom-auth.MaxWaitingName, "10.0.0.1:2", "carol")
	f.await(auth.MaxCompares, auth.MaxWaitingFrom)
	if !f.full("10.0.0.1:3", "alice") || f.full("10.0.0.2:1", "alice") || f.full("[2001:db8::1]:1", "alice") {
		t.Error("one address has more, or less, than its share")
	}
	f.send(auth.MaxWaiting-auth.MaxWaitingFrom, "[2001:db8::1]:1", "alice")
	f.await(auth.MaxCompares, auth.MaxWaiting)
	if !f.full("10.0.0.3:1", "testuser") {
		t.Error("more wait than shall")
	}
	cancel()
	for range auth.MaxWaiting {
		if err := <-f.results; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
	}
	close(f.release)
	for range auth.MaxCompares {
		f.refused(<-f.results, publicWrong)
	}
	if f.Waiting() != 0 || f.Places() != 0 {
		t.Errorf("%d still wait, %d places", f.Waiting(), f.Places())
	}
	_, err := f.ask("carol", "x", pull)
	f.refused(err, publicWrong)
}

// Whoever knows no name keeps nobody out who has one.
func TestFloodOfStrangers(t *testing.T) {
	t.Parallel()
	f := newFlood(t, auth.MaxCompares)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.ctx = ctx
	f.send(auth.MaxStrangers, "10.0.0.1:1", "mallory")
	f.await(auth.MaxStrangers, 0)
	f.send(auth.MaxWaitingStrangerFrom, "10.0.0.1:1", "mallory")
	f.await(auth.MaxStrangers, auth.MaxWaitingStrangerFrom)
	if !f.full("10.0.0.1:2", "trudy") || f.full("10.0.0.2:2", "trudy") {
		t.Error("one address has more, or less, than its share")
	}
	f.send(auth.MaxWaitingStranger-auth.MaxWaitingStrangerFrom, "[2001:db8::1]:1", "mallory")
	f.await(auth.MaxStrangers, auth.MaxWaitingStranger)
	if !f.full("10.0.0.3:1", "mallory") {
		t.Error("more strangers wait than shall")
	}
	f.send(1, "10.0.0.1:1", "bob") // as behind a proxy
	f.await(auth.MaxCompares, auth.MaxWaitingStranger)
	cancel()
	for range auth.MaxWaitingStranger {
		if err := <-f.results; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
	}
	close(f.release)
	for range auth.MaxCompares {
		f.refused(<-f.results, publicWrong, "mallory")
	}
	if f.Places() != 0 {
		t.Errorf("%d places are kept", f.Places())
	}
	if _, err := f.ask("mallory", "x", pull); err == nil { // a slot of a stranger is free again
		t.Error("allowed")
	}
}

// The addresses of one IPv6 network are one.
func TestFloodFromNetwork(t *testing.T) {
	t.Parallel()
	f := newFlood(t, auth.MaxCompares)
	f.ctx = t.Context()
	f.send(auth.MaxStrangers, "[2001:db8::1]:1", "mallory")
	f.await(auth.MaxStrangers, 0)
	for i := range auth.MaxWaitingStrangerFrom {
		f.send(1, fmt.Sprintf("[2001:db8::%x]:1", i+2), "mallory")
	}
	f.await(auth.MaxStrangers, auth.MaxWaitingStrangerFrom)
	if !f.full("[2001:db8::ffff:1]:1", "mallory") || f.full("[2001:db8:0:1::1]:1", "mallory") {
		t.Error("a network is not one address")
	}
	close(f.release)
	for range auth.MaxStrangers + auth.MaxWaitingStrangerFrom {
		f.refused(<-f.results, publicWrong)
	}
}

// What is typed into the field of the name may be a password.
func TestUnknownNameIsNotLogged(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	for _, password := range []string{"x", strings.Repeat("x", 100)} {
		_, err := s.ask("hunter2", password, pull)
		if _, ok := errors.AsType[*auth.Refusal](err); !ok || strings.Contains(err.Error()+s.log.String(), "hunter2") {
			t.Errorf("%v; %s", err, s.log)
		}
	}
}

// The first requests of a push come together: they are one comparison, or two.
func TestTogether(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	n := s.count()
	var together sync.WaitGroup
	for range 20 {
		together.Go(func() { s.allowed("testuser", "testpassword", pull) })
	}
	together.Wait()
	if n.Load() < 1 || n.Load() > auth.MaxCompares {
		t.Errorf("bcrypt ran %d times", n.Load())
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to this: " + what)
		}
	}
}
