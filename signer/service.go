package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"countersign/signer/seal"
	"countersign/storage"
	"countersign/tuf"
)

// markEvery is how often the last use of a key that is in use is written.
const markEvery = 24 * time.Hour

// CreateKey returns the unused key for gun, role and algorithm, or makes one
// if there is none: callers that race, at several Services too, get one key.
// A key that could not sign is never handed out. A fault is returned as that
// fault, and never makes a second key: storage.ErrInvalid for an algorithm
// other than ecdsa and ed25519 or a name that cannot be stored, ErrKeySealed,
// ErrUnavailable.
func (s *Service) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	if err := errors.Join(checkAlgorithm(algorithm), checkName("GUN", string(gun)), checkName("role", string(role))); err != nil {
		return storage.Key{}, fmt.Errorf("creating key: %w", err)
	}
	row, err := s.store.Unused(ctx, gun, role, algorithm)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		row, err = s.makeKey(ctx, gun, role, algorithm)
	case err == nil:
		err = s.openable(row)
	}
	if err != nil {
		return storage.Key{}, fmt.Errorf("creating key: %w", err)
	}
	return row, nil
}

func (s *Service) makeKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	if err := s.prove(ctx); err != nil {
		return storage.Key{}, fmt.Errorf("no key can be made: %w", err)
	}
	p, err := generate(algorithm)
	if err != nil {
		return storage.Key{}, err
	}
	plaintext, err := p.marshal()
	if err != nil {
		return storage.Key{}, err
	}
	defer clear(plaintext)
	sealed, err := s.sealer.Seal(s.alias, plaintext)
	if err != nil {
		return storage.Key{}, &keyFault{err, "", s.alias}
	}
	made := storage.Key{
		ID:            p.public.ID(),
		GUN:           gun,
		Role:          role,
		Algorithm:     algorithm,
		Public:        p.public.Public,
		Sealed:        sealed,
		Alias:         s.alias,
		EncryptionAlg: seal.EncryptionAlg,
		KeywrapAlg:    seal.KeywrapAlg,
	}
	// If we crash before this line nothing is left; after it, the key is
	// unused, and handed out to the next who asks.
	row, err := s.store.AddUnused(ctx, made)
	if err != nil {
		p.wipe()
		return storage.Key{}, err
	}
	if row.ID != made.ID {
		// Another call was faster.
		p.wipe()
		return row, s.openable(row)
	}
	s.opened.put(row.ID, fingerprint(row), p).release()
	s.metrics.created.WithLabelValues(algorithm).Inc()
	s.log.InfoContext(ctx, "key created", "key_id", string(row.ID), "gun", string(gun), "role", string(role), "request_id", s.requestID(ctx))
	return row, nil
}

// Key returns the key with that ID if it could sign for gun and role; either
// may be empty, and then claims nothing. A key that is stored with neither
// could sign for all. The error wraps storage.ErrInvalid,
// ErrNotFound, ErrKeyForbidden, ErrKeySealed or ErrUnavailable.
func (s *Service) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (storage.Key, error) {
	row, err := s.permitted(ctx, gun, role, id)
	if err == nil {
		err = s.openable(row)
	}
	if err != nil {
		return storage.Key{}, fmt.Errorf("reading key: %w", err)
	}
	return row, nil
}

// Sign signs content with the key of that ID, under the same conditions and
// with the same errors as Key. A signature is verified before it is given out,
// and the first of a key only once its use is on record: an unused key would
// be handed out again.
func (s *Service) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) (storage.Key, tuf.Signature, error) {
	row, err := s.permitted(ctx, gun, role, id)
	if err != nil {
		return storage.Key{}, tuf.Signature{}, fmt.Errorf("signing: %w", err)
	}
	sig, err := s.sign(row, content)
	if err != nil {
		return storage.Key{}, tuf.Signature{}, fmt.Errorf("signing: %w", err)
	}
	if err := s.markUsed(ctx, row); err != nil {
		return storage.Key{}, tuf.Signature{}, fmt.Errorf("signing: recording the key's use: %w", err)
	}
	s.log.DebugContext(ctx, "signed", "key_id", string(row.ID), "gun", string(row.GUN), "role", string(row.Role), "request_id", s.requestID(ctx))
	return row, tuf.Signature{KeyID: row.ID, Method: tuf.Key{Type: row.Algorithm}.Method(), Sig: sig}, nil
}

// DeleteKey deletes the key with that ID, here and for all other Services on
// the store. It is no error if there is none. The error wraps
// storage.ErrInvalid or ErrUnavailable.
func (s *Service) DeleteKey(ctx context.Context, id tuf.KeyID) error {
	if err := checkID(id); err != nil {
		return fmt.Errorf("deleting key: %w", err)
	}
	if err := s.store.Delete(ctx, id); err != nil {
		return fmt.Errorf("deleting key: %w", err)
	}
	s.opened.drop(id)
	s.log.InfoContext(ctx, "key deleted", "key_id", string(id), "request_id", s.requestID(ctx))
	return nil
}

// DeleteOwnedKey deletes the key with that ID if it was made for gun and role,
// neither of which may be empty. It is no error if there is no such key. A key of
// unknown GUN is not deleted: whoever names its ID in a root of his own, and has
// that repository deleted, would take it from its owner. The error wraps
// storage.ErrInvalid, ErrKeyForbidden or ErrUnavailable.
func (s *Service) DeleteOwnedKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error {
	if gun == "" || role == "" {
		return fmt.Errorf("deleting key: %w: whose key it is was not said", storage.ErrInvalid)
	}
	row, err := s.permitted(ctx, gun, role, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("deleting key: %w", err)
	case row.GUN != gun || row.Role != role:
		return fmt.Errorf("deleting key: %w: it is not known for which repository key %s was made", storage.ErrKeyForbidden, row.ID)
	}
	return s.DeleteKey(ctx, id)
}

// permitted returns the row of id if it is alive and the caller's claim is
// true. Of a row that has neither GUN nor role, as upstream's oldest databases
// left them, nothing is known that could contradict a claim. It asks the store each time: a key that was purged, by another
// process too, must not sign on from the cache.
func (s *Service) permitted(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (storage.Key, error) {
	if err := checkID(id); err != nil {
		return storage.Key{}, err
	}
	row, err := s.store.Key(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		s.opened.drop(id)
	}
	if err != nil {
		return storage.Key{}, &keyFault{err, id, ""}
	}
	if row.GUN == "" && row.Role == "" {
		s.warnNameless(ctx, row.ID)
		return row, nil
	}
	if (gun != "" && gun != row.GUN) || (role != "" && role != row.Role) {
		return storage.Key{}, fmt.Errorf("%w: key %s is of GUN %q, role %q, and was asked for as of %.255q, %.255q",
			storage.ErrKeyForbidden, row.ID, row.GUN, row.Role, gun, role)
	}
	return row, nil
}

// warnNameless tells once for each key that it would sign for anybody.
func (s *Service) warnNameless(ctx context.Context, id tuf.KeyID) {
	if _, told := s.nameless.LoadOrStore(id, true); !told {
		s.log.WarnContext(ctx, "key has neither GUN nor role, so any claim to it is accepted: rotate it (notary key rotate)",
			"key_id", string(id), "request_id", s.requestID(ctx))
	}
}

// open returns the opened key of row, which the caller must release.
func (s *Service) open(row storage.Key) (*entry, error) {
	print := fingerprint(row)
	if e := s.opened.get(row.ID, print); e != nil {
		s.metrics.hits.Inc()
		return e, nil
	}
	p, err := s.unseal(row)
	s.metrics.opens.WithLabelValues(outcome(err)).Inc()
	if err != nil {
		return nil, &keyFault{fmt.Errorf("opening key %s: %w", row.ID, err), row.ID, row.Alias}
	}
	return s.opened.put(row.ID, print, p), nil
}

func (s *Service) unseal(row storage.Key) (*private, error) {
	p, _, err := openRow(s.sealer, row)
	return p, err
}

// A keyFault is why a key cannot be used, with the names under which an operator
// finds it: for the log alone.
type keyFault struct {
	err   error
	id    tuf.KeyID // "" for a key that is not made yet
	alias string    // "" if the row could not be read
}

func (f *keyFault) Error() string { return f.err.Error() }
func (f *keyFault) Unwrap() error { return f.err }

// LogAttrs are the fields for the line that tells of f.
func (f *keyFault) LogAttrs() (attrs []any) {
	if f.id != "" {
		attrs = append(attrs, "key_id", string(f.id))
	}
	if f.alias != "" {
		attrs = append(attrs, "alias", f.alias)
	}
	return attrs
}

// openable reports why row could not sign.
func (s *Service) openable(row storage.Key) error {
	e, err := s.open(row)
	if err != nil {
		return err
	}
	e.release()
	return nil
}

func (s *Service) sign(row storage.Key, content []byte) ([]byte, error) {
	e, err := s.open(row)
	if err != nil {
		return nil, err
	}
	defer e.release()
	sig, err := e.key.sign(content)
	if err != nil {
		return nil, fmt.Errorf("with key %s: %w", row.ID, err)
	}
	// A fault of memory or of a library must not publish what nobody can
	// verify, and for some algorithms would give the key away.
	if err := e.key.public.VerifySignature(e.key.public.Method(), content, sig); err != nil {
		return nil, fmt.Errorf("verifying our own signature with key %s: %w", row.ID, err)
	}
	return sig, nil
}

// markUsed records that row has signed. The first record decides whether the
// key is handed out again, so it must succeed; later ones tell an operator
// which keys are idle, and can wait.
func (s *Service) markUsed(ctx context.Context, row storage.Key) error {
	now := s.now()
	first := row.LastUsed.IsZero()
	if !first && now.Sub(row.LastUsed) < markEvery {
		return nil
	}
	err := s.store.MarkUsed(ctx, row.ID, now)
	if err != nil && !first && !errors.Is(err, storage.ErrNotFound) {
		s.log.WarnContext(ctx, "recording a key's use failed", "key_id", string(row.ID), "gun", string(row.GUN), "role", string(row.Role),
			"request_id", s.requestID(ctx), "error", err)
		return nil
	}
	return err
}
