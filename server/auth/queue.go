package auth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

const (
	// A comparison takes a processor for as long as the hash wants: 50 ms to 2 s.
	// Two at once leave some for those who are known already. Names that are not
	// in the password file get one of the two.
	maxCompares  = 2
	maxStrangers = 1

	// More than this many waiting are told to come again. Names that are in the
	// file have places of their own, which nobody takes who knows none of them.
	maxWaiting         = 64
	maxWaitingStranger = 32
	// Of these places, one address and one name get a share, so that who floods
	// from one address or with one name leaves some to others. Behind a proxy
	// all come from one address: so a share is no ban, and not small.
	maxWaitingFrom         = 48
	maxWaitingName         = 32
	maxWaitingStrangerFrom = 16
)

// A queue lets a few in at a time to have a password compared, and keeps a
// bounded number waiting. Without the bounds, who sends wrong passwords could
// fill the memory with waiting requests, or keep everybody else from being let
// in. Under a flood one can tell by the time that an answer takes whether there
// is a user of a name; that is less than to keep those who are there out.
type queue struct {
	slots     chan struct{} // one is held while bcrypt runs
	strangers chan struct{} // one of these, too, if the name is not known

	mu      sync.Mutex // guards waiting; nothing waits while it is held
	waiting map[place]int
}

// A place is what waiting requests are counted by; with neither address nor name
// it is all of a kind.
type place struct {
	known      bool
	from, name string
}

func newQueue() *queue {
	return &queue{slots: make(chan struct{}, maxCompares), strangers: make(chan struct{}, maxStrangers), waiting: map[place]int{}}
}

// enter waits for a slot, which the caller must leave. The error is [ErrBusy], or
// that of ctx.
func (q *queue) enter(ctx context.Context, from, name string, known bool) (leave func(), err error) {
	bounds := map[place]int{{known: false}: maxWaitingStranger, {from: from}: maxWaitingStrangerFrom}
	if known {
		bounds = map[place]int{{known: true}: maxWaiting, {known: true, from: from}: maxWaitingFrom, {known: true, name: name}: maxWaitingName}
	}
	if !q.take(bounds) {
		return nil, ErrBusy
	}
	defer q.free(bounds)
	leave = func() { <-q.slots }
	if !known {
		select {
		case q.strangers <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting to check a password: %w", ctx.Err())
		}
		leave = func() { <-q.slots; <-q.strangers }
	}
	select {
	case q.slots <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		if !known {
			<-q.strangers
		}
		return nil, fmt.Errorf("waiting to check a password: %w", ctx.Err())
	}
}

// take counts one more in each place, unless one of them is full.
func (q *queue) take(bounds map[place]int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, most := range bounds {
		if q.waiting[p] >= most {
			return false
		}
	}
	for p := range bounds {
		q.waiting[p]++
	}
	return true
}

func (q *queue) free(bounds map[place]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p := range bounds {
		if q.waiting[p]--; q.waiting[p] == 0 {
			delete(q.waiting, p)
		}
	}
}

// host is who a request comes from, without the port; of IPv6 the network, of
// which one machine has all addresses.
func host(remote string) string {
	h, _, err := net.SplitHostPort(remote)
	if err != nil {
		return "?" + remote // no request of a network has such an address
	}
	if a, err := netip.ParseAddr(h); err == nil && a.Is6() && !a.Is4In6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return h
}
