package signer

import (
	"crypto"

	"countersign/tuf"
)

// Opened returns the private key that s holds open under id, or nil.
func (s *Service) Opened(id tuf.KeyID) crypto.Signer {
	s.opened.mu.Lock()
	defer s.opened.mu.Unlock()
	el, ok := s.opened.byID[id]
	if !ok {
		return nil
	}
	return el.Value.(*entry).key.key
}
