package publish

import "countersign/tuf"

// Queue is how many publishes and renewals of gun are under way or waiting.
func (p *Publisher) Queue(gun tuf.GUN) int {
	p.locks.mu.Lock()
	defer p.locks.mu.Unlock()
	if g := p.locks.m[gun]; g != nil {
		return g.users
	}
	return 0
}

// Locks is for how many GUNs a lock is kept.
func (p *Publisher) Locks() int {
	p.locks.mu.Lock()
	defer p.locks.mu.Unlock()
	return len(p.locks.m)
}
