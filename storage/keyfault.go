package storage

import (
	"errors"
	"fmt"
)

// Why the signer's key cannot be opened. An error that wraps one of these is
// also an ErrKeySealed. Nobody but the signer's operator can mend it, and no new
// key may be made in its stead: it would not be the one that clients trust.
var (
	// ErrNoPassphrase: the signer was given no passphrase of the alias under
	// which the key is sealed.
	ErrNoPassphrase = fmt.Errorf("%w: no passphrase", ErrKeySealed)
	// ErrWrongPassphrase: the passphrase of the alias does not open the key. A
	// row that was damaged in its salt or wrapped key looks the same.
	ErrWrongPassphrase = fmt.Errorf("%w: wrong passphrase", ErrKeySealed)
	// ErrKeyCorrupt: the row holds no sealed key of a kind that is known, or
	// its parts do not belong together.
	ErrKeyCorrupt = fmt.Errorf("%w: its row is corrupt", ErrKeySealed)
)

// ErrKeyMissing: the stored root lists a key of the server, and the signer says
// that it has no such key. It is no ErrNotFound, which would be the absence of
// what was asked for.
var ErrKeyMissing = errors.New("the signer does not have a key that root lists")
