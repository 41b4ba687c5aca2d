// Package signer is the life of a server-managed key: it is made and stored
// sealed, handed out until it is first used, opened to sign, and deleted. What
// may sign, and when, is decided here and nowhere else; how keys are encrypted
// is package seal's affair, how requests arrive package rpc's.
//
// A signature is given only by a key whose row is in the store at that moment,
// whatever is still in memory, and only for the GUN and role that the key was
// made for, where the caller says for which it wants it.
package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/signer/seal"
	"countersign/storage"
	"countersign/tuf"
)

// DefaultCacheSize is the number of opened keys kept, if Config does not say.
const DefaultCacheSize = 4096

// Config is what a Service is made of.
type Config struct {
	// Store keeps the keys. Required.
	Store storage.KeyStore
	// Sealer seals and opens them. Required.
	Sealer *seal.Sealer
	// DefaultAlias names the passphrase of new keys, at most 50 bytes.
	// Required.
	DefaultAlias string
	// Check returns nil if the store can be asked: a part of Health. nil means
	// that it need not be asked.
	Check func(context.Context) error
	// CacheSize bounds the opened keys kept in memory. 0 means DefaultCacheSize.
	CacheSize int
	// Log gets a line for each key made or deleted. nil means slog.Default().
	Log *slog.Logger
	// RequestID gives the ID of the request that ctx belongs to, for the log.
	// nil means that there is none.
	RequestID func(context.Context) string
	// Registerer gets the metrics. nil means that there are none.
	Registerer prometheus.Registerer
	// Now is time.Now, except in tests.
	Now func() time.Time
}

// maxAlias is the width of the alias's column, which upstream made.
const maxAlias = 50

// A Service makes, describes, uses and deletes keys. Its methods may be called
// at once; any number of Services may share a store.
type Service struct {
	store     storage.KeyStore
	sealer    *seal.Sealer
	alias     string
	check     func(context.Context) error
	opened    *cache
	log       *slog.Logger
	requestID func(context.Context) string
	metrics   *metrics
	now       func() time.Time
	nameless  sync.Map // of the IDs of keys without GUN and role that were warned of
}

// New makes a Service. The error is about cfg: the store is not asked yet, nor
// whether the default alias has a passphrase; Health tells.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("making the signer: no store")
	case cfg.Sealer == nil:
		return nil, errors.New("making the signer: no sealer")
	case cfg.DefaultAlias == "" || len(cfg.DefaultAlias) > maxAlias:
		return nil, fmt.Errorf("making the signer: the default alias has %d bytes, want 1 to %d", len(cfg.DefaultAlias), maxAlias)
	case cfg.CacheSize < 0:
		return nil, fmt.Errorf("making the signer: cache of %d keys", cfg.CacheSize)
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = DefaultCacheSize
	}
	if cfg.Check == nil {
		cfg.Check = func(context.Context) error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.RequestID == nil {
		cfg.RequestID = func(context.Context) string { return "" }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{
		store:     cfg.Store,
		sealer:    cfg.Sealer,
		alias:     cfg.DefaultAlias,
		check:     cfg.Check,
		opened:    newCache(cfg.CacheSize),
		log:       cfg.Log,
		requestID: cfg.RequestID,
		now:       cfg.Now,
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, s.opened.len); err != nil {
		return nil, fmt.Errorf("making the signer: %w", err)
	}
	return s, nil
}

// Health returns nil if the signer can work: the store can be asked, what is
// sealed under the default alias opens again, and so do the keys that are stored
// under it. It may be called at any time.
func (s *Service) Health(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return fmt.Errorf("checking the key store: %w", err)
	}
	if err := s.sealer.Check(s.alias); err != nil {
		return fmt.Errorf("checking the default alias: %w", err)
	}
	if err := s.prove(ctx); err != nil {
		return fmt.Errorf("checking the default alias: %w", err)
	}
	return nil
}

// samples is how many keys prove looks at. One that does not open may be a
// damaged row.
const samples = 3

// prove makes sure that the passphrase of the default alias is the one that keys
// are stored under. A signer with a wrong passphrase would otherwise seal new keys
// with it, which nobody can open once the right one is back. Where nothing is
// stored, or nothing but what is corrupt, there is nothing to prove it by.
//
// It opens the newest keys, which are usually our own, under one salt: that
// costs microseconds.
func (s *Service) prove(ctx context.Context) error {
	rows, err := s.store.Sealed(ctx, s.alias, samples)
	if err != nil {
		return err
	}
	var wrong error
	for _, row := range rows {
		plaintext, err := s.sealer.Open(row.Alias, row.Sealed)
		clear(plaintext)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, storage.ErrWrongPassphrase):
			wrong = &keyFault{err, row.ID, row.Alias}
		}
	}
	return wrong
}

// checkAlgorithm lets through the types that upstream makes. RSA keys are
// imported, never made.
func checkAlgorithm(algorithm string) error {
	if algorithm != tuf.KeyECDSA && algorithm != tuf.KeyED25519 {
		return fmt.Errorf("%w: algorithm %.64q is not supported for new keys", storage.ErrInvalid, algorithm)
	}
	return nil
}

// checkName holds a GUN or role of a new key to what its column can hold. More
// is not asked: upstream takes any, the empty one included.
func checkName(what, name string) error {
	if tuf.TooLong(name) {
		return fmt.Errorf("%w: %s of %d bytes, want at most %d characters", storage.ErrInvalid, what, len(name), tuf.MaxName)
	}
	if strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return fmt.Errorf("%w: %s with a NUL, or not UTF-8", storage.ErrInvalid, what)
	}
	return nil
}

// checkID refuses the empty key ID above all: upstream takes it for any key.
func checkID(id tuf.KeyID) error {
	if id == "" {
		return fmt.Errorf("%w: empty key ID", storage.ErrInvalid)
	}
	return checkName("key ID", string(id))
}
