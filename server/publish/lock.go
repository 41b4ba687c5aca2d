package publish

import (
	"context"
	"sync"

	"countersign/tuf"
)

// gunLocks lets one publish or renewal of a GUN at a time go on in this
// process, so that publishers who would lose to each other don't have sets
// signed in vain. No promise rests on it: other replicas do not see it, and the
// store decides. It holds an entry only for a GUN that somebody works on.
type gunLocks struct {
	// mu guards m and the users of its entries. It is held for a look at the
	// map, never while waiting for a GUN.
	mu sync.Mutex
	m  map[tuf.GUN]*gunLock
}

type gunLock struct {
	free  chan struct{} // holds one token while nobody has the lock
	users int           // who has it or waits for it
}

// lock waits until gun is free or ctx ends, and reports whether somebody else
// had it, or wanted it, in the meantime.
// The caller must call unlock once.
func (l *gunLocks) lock(ctx context.Context, gun tuf.GUN) (unlock func(), waited bool, err error) {
	l.mu.Lock()
	g := l.m[gun]
	waited = g != nil
	if g == nil {
		g = &gunLock{free: make(chan struct{}, 1)}
		g.free <- struct{}{}
		if l.m == nil {
			l.m = map[tuf.GUN]*gunLock{}
		}
		l.m[gun] = g
	}
	g.users++
	l.mu.Unlock()

	unlock = func() { g.free <- struct{}{}; l.leave(gun, g) }
	select {
	case <-g.free:
		return unlock, waited, nil
	default: // who came later may have been faster
	}
	select {
	case <-g.free:
		return unlock, true, nil
	case <-ctx.Done():
		l.leave(gun, g)
		return nil, waited, ctx.Err()
	}
}

func (l *gunLocks) leave(gun tuf.GUN, g *gunLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(l.m, gun)
	}
}
