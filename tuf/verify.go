package tuf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// Verify returns nil if enough keys of a have signed e. It counts public keys,
// not signatures or key IDs: one key that is listed bare and in a certificate
// does not meet a threshold of two. Signatures by keys that a does not list,
// with an unknown method, or that are wrong, count for nothing; but a listed key
// that has signed under an ID other than its own fails the file.
//
// role names the file in errors. For a delegation the certificates among a's
// keys must be sound, if there are any; their dates do not matter.
func (e *Envelope) Verify(role RoleName, a Authority) error {
	if role.IsDelegation() {
		if err := checkDelegationKeys(a); err != nil {
			return err
		}
	}
	if len(e.Signatures) == 0 {
		return errors.New("tuf: data has no signatures")
	}
	if a.Threshold < 1 {
		return errors.New("valid signatures did not meet threshold")
	}
	message, err := e.Canonical()
	if err != nil {
		return err
	}
	met, err := meets(a, message, e.Signatures)
	if err != nil {
		return err
	}
	if !met {
		return fmt.Errorf("valid signatures did not meet threshold for %s", role)
	}
	return nil
}

// A listed key is one that may sign. It is parsed when it has signed.
type listedKey struct {
	key      Key
	public   publicKey
	identity string
	checked  bool
	unusable bool
}

func meets(a Authority, message []byte, sigs []Signature) (bool, error) {
	listed := make(map[KeyID]*listedKey, len(a.KeyIDs))
	for _, id := range a.KeyIDs {
		if k, ok := a.Keys[id]; ok {
			listed[id] = &listedKey{key: k}
		}
	}
	digest := sha256.Sum256(message)
	signers := make(map[string]bool, a.Threshold)
	for _, s := range sigs {
		k := listed[s.KeyID]
		if k == nil {
			continue
		}
		if err := k.check(s.KeyID); err != nil {
			return false, err
		}
		// Once enough have signed, the rest is looked at for its key IDs only.
		if k.unusable || signers[k.identity] || len(signers) >= a.Threshold {
			continue
		}
		if k.public.verify(s.Method, message, digest, s.Sig) == nil {
			signers[k.identity] = true
		}
	}
	return len(signers) >= a.Threshold, nil
}

// check compares the key with its ID, and parses it. A key that can not be
// parsed is no error, as it is none for the clients.
func (k *listedKey) check(id KeyID) (err error) {
	if k.checked {
		return nil
	}
	k.checked = true
	if k.key.ID() != id {
		return errors.New("key ID is not valid for key content")
	}
	if k.public, err = k.key.parse(); err == nil {
		k.identity, err = k.public.identity()
	}
	k.unusable = err != nil
	return nil
}

// An expiredError has upstream's text, and is ErrExpired.
type expiredError struct {
	role    RoleName
	expires time.Time
}

func (e expiredError) Error() string {
	return fmt.Sprintf("%s expired at %s", e.role, e.expires.Format("Mon Jan 2 15:04:05 MST 2006"))
}

func (expiredError) Unwrap() error { return ErrExpired }

// CheckExpiry returns an error that wraps [ErrExpired] if the file of that role
// has expired: if expires lies before now. There is no leeway.
func CheckExpiry(role RoleName, expires, now time.Time) error {
	if expires.Before(now) {
		return expiredError{role, expires}
	}
	return nil
}
