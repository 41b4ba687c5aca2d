package auth

import "context"

// Look does what Watch does each time.
func (t *Tokens) Look(ctx context.Context) { t.bundle.look(ctx) }
