package signer

import (
	"bytes"
	"errors"
	"fmt"

	"countersign/signer/seal"
	"countersign/storage"
	"countersign/tuf"
)

// Which part of a row does not belong to the others. An error that wraps one of
// these is also a storage.ErrKeyCorrupt.
var (
	// ErrPlaintext: what is sealed is no private key.
	ErrPlaintext = errors.New("what is sealed is no private key")
	// ErrAlgorithm: the row's algorithm is not that of its key.
	ErrAlgorithm = errors.New("the column algorithm is wrong")
	// ErrPublic: the row's public key is not that of the private one, whose ID
	// the row has.
	ErrPublic = errors.New("the column public holds another key")
	// ErrOtherKey: the sealed private key is not that of the row's public one.
	ErrOtherKey = errors.New("the sealed private key is another one")
	// ErrKeyID: the halves belong together, and the row's ID is not theirs.
	ErrKeyID = errors.New("the column key_id is not the ID of the key")
)

// Examine opens row as Sign does, and wipes the private key again. It tells how
// the key was sealed, as far as that was found out. An error wraps
// storage.ErrNoPassphrase, ErrWrongPassphrase or ErrKeyCorrupt, and for a row
// whose parts do not belong together one of the sentinels of this package too.
func Examine(sealer *seal.Sealer, row storage.Key) (seal.Form, error) {
	p, form, err := openRow(sealer, row)
	if err == nil {
		p.wipe()
	}
	return form, err
}

// Reseal returns row with the same key, opened by from and sealed by to under
// alias. What it returns has been opened again, by to, and is that key: what is
// stored instead of row loses nothing. The error is as that of Examine, or about
// alias. Nothing of the private key outlives the call, as far as that can be
// reached.
func Reseal(from, to *seal.Sealer, row storage.Key, alias string) (storage.Key, error) {
	if alias == "" || len(alias) > maxAlias {
		return row, fmt.Errorf("%w: the alias has %d bytes, want 1 to %d", storage.ErrInvalid, len(alias), maxAlias)
	}
	// A row that could not sign is not made to look sound.
	if _, err := Examine(from, row); err != nil {
		return row, err
	}
	plaintext, err := from.Open(row.Alias, row.Sealed)
	if err != nil {
		return row, err
	}
	defer clear(plaintext)
	made := row
	made.Alias, made.EncryptionAlg, made.KeywrapAlg = alias, seal.EncryptionAlg, seal.KeywrapAlg
	if made.Sealed, err = to.Seal(alias, plaintext); err != nil {
		return row, err
	}
	again, err := to.Open(alias, made.Sealed)
	if err != nil {
		return row, fmt.Errorf("opening what was sealed: %w", err)
	}
	defer clear(again)
	if !bytes.Equal(plaintext, again) {
		return row, fmt.Errorf("%w: what was sealed under alias %q opens as something else", storage.ErrKeySealed, alias)
	}
	if _, err := Examine(to, made); err != nil {
		return row, fmt.Errorf("opening what was sealed: %w", err)
	}
	return made, nil
}

// openRow opens the private key of row, which the caller wipes. Who can write to
// the table must not make one key sign under the name of another: neither by
// moving the sealed part nor by moving the public one.
func openRow(sealer *seal.Sealer, row storage.Key) (*private, seal.Form, error) {
	plaintext, form, err := sealer.OpenForm(row.Alias, row.Sealed)
	if err != nil {
		return nil, form, err
	}
	defer clear(plaintext)
	p, err := parsePrivate(row.Algorithm, plaintext)
	if err != nil {
		return nil, form, fmt.Errorf("%w: %w", seal.ErrCorrupt, otherAlgorithm(row, plaintext, err))
	}
	public := tuf.Key{Type: row.Algorithm, Public: row.Public}
	if public.ID() == row.ID && p.matches(public) {
		return p, form, nil
	}
	id := p.public.ID()
	fault := fmt.Errorf("%w: it is %s", ErrOtherKey, id)
	switch {
	case p.matches(public):
		fault = fmt.Errorf("%w, which is %s", ErrKeyID, id)
	case id == row.ID:
		fault = ErrPublic
	}
	p.wipe()
	return nil, form, fmt.Errorf("%w: %w", seal.ErrCorrupt, fault)
}

// otherAlgorithm says whether plaintext is a key of another type than row says.
func otherAlgorithm(row storage.Key, plaintext []byte, err error) error {
	for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519, tuf.KeyRSA} {
		if p, err := parsePrivate(algorithm, plaintext); err == nil {
			p.wipe()
			return fmt.Errorf("%w: it says %.64q, the key is %s", ErrAlgorithm, row.Algorithm, algorithm)
		}
	}
	return fmt.Errorf("%w: %w", ErrPlaintext, err)
}
