package auth

import "context"

// Look looks at both files now, as Watch does every few seconds.
func (h *Htpasswd) Look(ctx context.Context) {
	h.users.look(ctx)
	h.policy.look(ctx)
}

// SetCompare puts f into the place of bcrypt and returns what was there.
func (h *Htpasswd) SetCompare(f func(hash, password []byte) error) (old func(hash, password []byte) error) {
	old, h.compare = h.compare, f
	return old
}

// Waiting is how many passwords wait for a slot.
func (h *Htpasswd) Waiting() int {
	h.queue.mu.Lock()
	defer h.queue.mu.Unlock()
	return h.queue.waiting[place{known: true}] + h.queue.waiting[place{}]
}

// Places is how much the queue remembers.
func (h *Htpasswd) Places() int {
	h.queue.mu.Lock()
	defer h.queue.mu.Unlock()
	return len(h.queue.waiting)
}

// Remembered is how many right passwords are kept.
func (h *Htpasswd) Remembered() int {
	h.verified.mu.Lock()
	defer h.verified.mu.Unlock()
	return len(h.verified.until)
}

// Bounds that tests go up to.
const (
	MaxCompares            = maxCompares
	MaxStrangers           = maxStrangers
	MaxWaiting             = maxWaiting
	MaxWaitingFrom         = maxWaitingFrom
	MaxWaitingName         = maxWaitingName
	MaxWaitingStranger     = maxWaitingStranger
	MaxWaitingStrangerFrom = maxWaitingStrangerFrom
	MaxVerified            = maxVerified
	KeepVerified           = keepVerified
)

// Covers reports whether a rule for a prefix is about a GUN.
func Covers(prefix, gun string) bool {
	return grant{gun: prefix, prefix: true}.covers(Access{Type: "repository", Name: gun})
}
