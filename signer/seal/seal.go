// Package seal seals and opens one private key under a passphrase alias: the
// name of a passphrase, which alone is stored beside the key.
//
// The sealed form is upstream's: a JWE in compact serialisation, PBES2-HS256+A128KW
// around a fresh key for A256GCM. Upstream derives a wrapping key from the
// passphrase anew for each row; the form leaves the choice of the salt to the
// writer, so a [Sealer] takes one salt per alias for as long as it lives and
// derives once. That is what makes a high iteration count affordable.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"countersign/storage"
)

// Iteration counts of PBKDF2.
const (
	// DefaultIterations is what new seals take. Upstream wrote 8,192, opens
	// any count, and other JWE libraries open at most a million.
	DefaultIterations = 600_000
	// MinIterations is the least that New accepts: upstream's own.
	MinIterations = 8192
	// MaxIterations bounds what New accepts and what Open obeys: a row that
	// was tampered with must not cost minutes.
	MaxIterations = 1_000_000
	// minOpenIterations is the least that Open obeys: RFC 7518 4.8.1.2.
	minOpenIterations = 1000
)

// Names of the two algorithms, for the informational columns of a key's row.
const (
	EncryptionAlg = "A256GCM"
	KeywrapAlg    = "PBES2-HS256+A128KW"
)

// Why a key cannot be sealed or opened: those of package storage, under short
// names. An error that wraps one of these names the alias; never the passphrase.
var (
	ErrNoPassphrase    = storage.ErrNoPassphrase
	ErrWrongPassphrase = storage.ErrWrongPassphrase
	ErrCorrupt         = storage.ErrKeyCorrupt
)

// Config is what a Sealer is made of.
type Config struct {
	// Passphrase returns the passphrase of an alias. An error, or "", means
	// that there is none. It is asked at every use, by several goroutines at
	// once: a passphrase that has changed is not used again. Required.
	Passphrase func(alias string) (string, error)
	// Iterations is PBKDF2's count for new seals. 0 means DefaultIterations.
	Iterations int
}

// A Sealer seals and opens keys. It keeps derived keys, not passphrases, in
// memory. Its methods may be called at once.
type Sealer struct {
	passphrase func(string) (string, error)
	iterations int
	derived    *deriver
}

// New makes a Sealer. The error is about cfg.
func New(cfg Config) (*Sealer, error) {
	if cfg.Passphrase == nil {
		return nil, errors.New("making a sealer: no passphrase function")
	}
	if cfg.Iterations == 0 {
		cfg.Iterations = DefaultIterations
	}
	if cfg.Iterations < MinIterations || cfg.Iterations > MaxIterations {
		return nil, fmt.Errorf("making a sealer: %d iterations, want %d to %d", cfg.Iterations, MinIterations, MaxIterations)
	}
	return &Sealer{passphrase: cfg.Passphrase, iterations: cfg.Iterations, derived: newDeriver()}, nil
}

// Seal encrypts plaintext under alias. The first call for an alias derives its
// key (about 0.1 s at the default), later ones take microseconds. The error
// wraps ErrNoPassphrase.
func (s *Sealer) Seal(alias string, plaintext []byte) ([]byte, error) {
	pass, err := s.lookUp(alias)
	if err != nil {
		return nil, err
	}
	salt, kek := s.derived.sealing(alias, pass, s.iterations)
	defer clear(kek[:])
	h := header{Alg: KeywrapAlg, Enc: EncryptionAlg, P2C: s.iterations, P2S: salt}

	var cek [cekSize]byte
	defer clear(cek[:])
	nonce := make([]byte, nonceSize)
	rand.Read(cek[:])
	rand.Read(nonce)
	block, err := aes.NewCipher(kek[:])
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	wrapped, err := josecipher.KeyWrap(block, cek[:])
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	aead, err := contentCipher(cek[:])
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	encoded, err := h.encode()
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return join(encoded, wrapped, nonce, aead.Seal(nil, nonce, plaintext, encoded)), nil
}

// Open decrypts what Seal, or upstream, sealed under alias. The error wraps
// ErrNoPassphrase, ErrWrongPassphrase or ErrCorrupt.
func (s *Sealer) Open(alias string, sealed []byte) ([]byte, error) {
	plaintext, _, err := s.OpenForm(alias, sealed)
	return plaintext, err
}

// OpenForm is Open, and tells how the key was sealed.
func (s *Sealer) OpenForm(alias string, sealed []byte) ([]byte, Form, error) {
	p, err := parse(sealed)
	if err != nil {
		return nil, Form{}, fmt.Errorf("%w, under alias %q: %w", ErrCorrupt, alias, err)
	}
	form := Form{Rounds: p.header.P2C}
	pass, err := s.lookUp(alias)
	if err != nil {
		return nil, form, err
	}
	cek, kind, err := s.unwrap(alias, pass, p)
	if err != nil {
		return nil, form, err
	}
	defer clear(cek)
	form.Older = kind == go115
	aead, err := contentCipher(cek)
	if err != nil {
		return nil, form, fmt.Errorf("%w, under alias %q: %w", ErrCorrupt, alias, err)
	}
	plaintext, err := aead.Open(nil, p.nonce, p.ciphertext, p.encoded)
	if err != nil {
		return nil, form, fmt.Errorf("%w, under alias %q: content does not authenticate", ErrCorrupt, alias)
	}
	return plaintext, form, nil
}

// unwrap tries the standard derivation, then that of a build of upstream with
// Go 1.15, which computed the first HMAC wrongly. The key wrap's own integrity
// check tells which one a row was written with.
func (s *Sealer) unwrap(alias, pass string, p parts) ([]byte, derivation, error) {
	kinds := []derivation{standard}
	if p.header.P2C == upstreamIterations {
		kinds = append(kinds, go115)
	}
	for _, kind := range kinds {
		kek := s.derived.opening(alias, pass, p.header.P2S, p.header.P2C, kind)
		block, err := aes.NewCipher(kek[:])
		clear(kek[:])
		if err != nil {
			return nil, kind, fmt.Errorf("opening: %w", err)
		}
		if cek, err := josecipher.KeyUnwrap(block, p.wrapped); err == nil {
			return cek, kind, nil
		}
	}
	return nil, standard, fmt.Errorf("%w for alias %q", ErrWrongPassphrase, alias)
}

// Check reports whether there is a passphrase for alias, and whether what is
// sealed under it opens again. The first check of an alias derives its key.
func (s *Sealer) Check(alias string) error {
	const probe = "probe"
	sealed, err := s.Seal(alias, []byte(probe))
	if err != nil {
		return err
	}
	opened, err := s.Open(alias, sealed)
	if err != nil {
		return err
	}
	if string(opened) != probe {
		return fmt.Errorf("%w: what was sealed under alias %q opens as something else", storage.ErrKeySealed, alias)
	}
	return nil
}

func (s *Sealer) lookUp(alias string) (string, error) {
	pass, err := s.passphrase(alias)
	if err != nil {
		return "", fmt.Errorf("%w for alias %q: %w", ErrNoPassphrase, alias, err)
	}
	if pass == "" {
		return "", fmt.Errorf("%w for alias %q", ErrNoPassphrase, alias)
	}
	return pass, nil
}

func contentCipher(cek []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// fingerprint stands for a passphrase in the index of derived keys.
func fingerprint(pass string) [sha256.Size]byte { return sha256.Sum256([]byte(pass)) }
