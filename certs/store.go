package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// pollInterval bounds, with the time to read the files, how long a change
	// goes unnoticed. Polling sees what notifications miss: renamed folders,
	// network mounts, the symbolic links of Kubernetes' secrets.
	pollInterval = 5 * time.Second
	warnBefore   = 30 * 24 * time.Hour
	warnEvery    = 24 * time.Hour
)

// Config is what a Store is made of.
type Config struct {
	Files Files
	// Log gets a line when the files were loaded anew or could not be, and once
	// a day while the certificate ends soon. nil means slog.Default().
	Log *slog.Logger
	// Interval between looks at the files. 0 means 5 s.
	Interval time.Duration
	// Now is time.Now, except in tests.
	Now func() time.Time
}

// A Store holds one key pair and one pool of CAs, as last loaded. Its methods
// may be called at once.
type Store struct {
	cfg     Config
	current atomic.Pointer[served]
}

// Load loads the files. The error names each file at fault.
func Load(cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Interval <= 0 {
		cfg.Interval = pollInterval
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if (cfg.Files.Cert == "") != (cfg.Files.Key == "") {
		return nil, errors.New("a certificate and its private key must be given together")
	}
	m, err := cfg.Files.load()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg}
	s.current.Store(serve(m))
	return s, nil
}

// Watch looks at the files until ctx ends. What cannot be loaded, such as a
// pair of which only one half has been replaced, changes nothing: the old pair
// stays in use, and the fault is logged once.
func (s *Store) Watch(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	told := ""
	var warned time.Time
	for {
		if now := s.cfg.Now(); now.Sub(warned) >= warnEvery && s.warn(ctx, now) {
			warned = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m, err := s.cfg.Files.load()
		switch {
		case err != nil:
			if err.Error() != told {
				told = err.Error()
				s.cfg.Log.ErrorContext(ctx, "certificate files changed but cannot be loaded; the old ones stay in use", "error", err)
			}
		case m.sum != s.current.Load().sum:
			told = ""
			warned = time.Time{}
			s.current.Store(serve(m))
			s.cfg.Log.InfoContext(ctx, "certificate files loaded anew", "certificate", s.cfg.Files.Cert, "ca", s.cfg.Files.CA, "not_after", s.NotAfter())
		default:
			told = ""
		}
	}
}

// warn logs a certificate that has ended or ends soon, and reports whether it did.
func (s *Store) warn(ctx context.Context, now time.Time) bool {
	leaf := s.leaf()
	if leaf == nil || leaf.NotAfter.Sub(now) > warnBefore {
		return false
	}
	attrs := []any{"certificate", s.cfg.Files.Cert, "not_after", leaf.NotAfter}
	if now.After(leaf.NotAfter) {
		s.cfg.Log.ErrorContext(ctx, "the certificate has expired; peers will refuse it", attrs...)
	} else {
		s.cfg.Log.WarnContext(ctx, "the certificate expires soon", append(attrs, "days_left", int(leaf.NotAfter.Sub(now).Hours()/24))...)
	}
	return true
}

// NotAfter is when the certificate ends; the zero time if there is none.
func (s *Store) NotAfter() time.Time {
	if leaf := s.leaf(); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

func (s *Store) leaf() *x509.Certificate {
	if c := s.current.Load().cert; c != nil {
		return c.Leaf
	}
	return nil
}
