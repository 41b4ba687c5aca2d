package admin

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"countersign/internal/config"
	"countersign/signer"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

// rewrapBatch is how many keys are written in a transaction.
const rewrapBatch = 100

// RewrapConfig says which keys to seal anew, and how.
type RewrapConfig struct {
	// To is the alias to seal under, at most 50 bytes. Required.
	To string
	// From are the aliases whose keys are meant; none: all.
	From []string
	// Rounds is PBKDF2's count, seal.MinIterations to seal.MaxIterations. 0 means
	// seal.DefaultIterations, and that keys under To that have more are left.
	Rounds int
	// Act writes. Without it every key is opened, and nothing is written.
	Act    bool
	Reason string
	// Batch is how many keys are written in a transaction; 0 means a hundred.
	Batch int
	// Progress, if set, is called after each batch.
	Progress func(done, total int64)
}

// A Rewrap says what was done, or would be.
type Rewrap struct {
	To     string `json:"to"`
	Rounds int    `json:"rounds"`
	Acted  bool   `json:"acted"`
	Rows   int64  `json:"rows"`      // live ones
	Meant  int64  `json:"meant"`     // of these, those to be sealed anew
	Done   int64  `json:"rewrapped"` // of these, those that were
	Failed int64  `json:"failed"`    // do not open; left as they are
	// Moved were changed or deleted by somebody else meanwhile, and left.
	Moved int64 `json:"changed_meanwhile"`
	// Warnings are about what an operator should know before he acts.
	Warnings []string `json:"warnings"`
	// Recorded: it is in the audit log.
	Recorded bool `json:"recorded"`
}

// RewrapKeys seals keys anew, each the same key: no root changes, and no client
// notices. A key that is in the form that is asked for already is left alone, so
// a run that was killed is finished by another. show is called for each key that
// does not open, which stays as it is.
//
// A signer may run, ours or upstream's. It can go on with what it has read, for
// it is the same key. What it reads from now on needs the passphrase of To, which
// it must have before: nothing here can see whether it does.
//
// Each key is opened again from what was sealed, before it is stored; and what the
// database gives back must be these bytes, before it is committed. A row that is
// not the one any more that was opened is not written.
func (s *Site) RewrapKeys(ctx context.Context, c RewrapConfig, show func(KeyFinding) error) (*Rewrap, error) {
	r, err := s.newRewrap(ctx, c, show)
	if err != nil {
		return nil, err
	}
	// The end is fixed: what is made from now on is sealed by a signer.
	err = s.eachKeyPage(ctx, keydb.Query{Limit: r.cfg.Batch}, func(page []storage.KeyRow) error { return r.batch(ctx, page) })
	if err == nil && r.out.Done > 0 {
		err = r.record(ctx, fmt.Sprintf("%d keys sealed anew under the alias %s, with %d rounds", r.out.Done, c.To, r.out.Rounds))
	}
	return &r.out, err
}

type rewrap struct {
	*Site
	cfg      RewrapConfig
	from, to *seal.Sealer
	show     func(KeyFinding) error
	total    int64
	batches  int
	out      Rewrap
}

func (s *Site) newRewrap(ctx context.Context, c RewrapConfig, show func(KeyFinding) error) (*rewrap, error) {
	if c.Batch <= 0 {
		c.Batch = rewrapBatch
	}
	r := &rewrap{Site: s, cfg: c, show: show, out: Rewrap{To: c.To, Rounds: c.Rounds, Acted: c.Act, Warnings: []string{}, Recorded: s.Metadata != nil && s.Recorded}}
	if r.out.Rounds == 0 {
		r.out.Rounds = seal.DefaultIterations
	}
	var err error
	if r.from, err = s.sealer(0); err != nil {
		return nil, err
	}
	if r.to, err = s.sealer(c.Rounds); err != nil {
		return nil, fmt.Errorf("%w: %w", storage.ErrInvalid, err)
	}
	// Better now than after the first batch; this derives the key, too.
	if err := r.to.Check(c.To); err != nil {
		return nil, err
	}
	counts, err := s.Keys.AliasCounts(ctx)
	if err != nil {
		return nil, err
	}
	known := false
	var unknown []string
	for _, alias := range c.From {
		if !slices.ContainsFunc(counts, func(a keydb.AliasCount) bool { return a.Alias == alias }) {
			unknown = append(unknown, fmt.Sprintf("%q", alias))
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%w: no key is sealed under the alias %s; see trust-admin keys ls", storage.ErrNotFound, strings.Join(unknown, ", "))
	}
	for _, a := range counts {
		r.total += a.Rows - a.Deleted
		known = known || a.Alias == c.To && a.Rows > a.Deleted
	}
	r.warn(known)
	return r, nil
}

func (r *rewrap) warn(known bool) {
	say := func(format string, args ...any) {
		r.out.Warnings = append(r.out.Warnings, fmt.Sprintf(format, args...))
	}
	if !known {
		say("no key is sealed under the alias %q yet: give its passphrase to every running signer, and restart it, first", r.cfg.To)
	}
	if alias := r.Signer.Storage.DefaultAlias; alias != r.cfg.To {
		say("new keys are sealed under storage.default_alias, %q, and not under %q", alias, r.cfg.To)
	}
	if pass, err := r.Signer.Passphrases.Passphrase(r.cfg.To); err == nil {
		if why := config.WeakPassphrase(r.cfg.To, pass); why != "" {
			say("the passphrase of the alias %q is weak: %s", r.cfg.To, why)
		}
	}
	if r.out.Rounds < seal.DefaultIterations {
		say("with %d rounds a passphrase is tried out %d times as fast as with today's %d", r.out.Rounds, seal.DefaultIterations/r.out.Rounds, seal.DefaultIterations)
	}
	if !r.out.Recorded {
		say("this is not recorded: that needs --server-config, and the audit log's table in that database")
	}
}

// meant reports whether row has to be sealed anew. Only opening tells the older
// derivation, which exists with upstream's rounds only.
func (r *rewrap) meant(k storage.Key) bool {
	if len(r.cfg.From) > 0 && !slices.Contains(r.cfg.From, k.Alias) {
		return false
	}
	form, ok := seal.FormOf(k.Sealed)
	switch {
	case !ok || k.Alias != r.cfg.To:
		return true // what is no sealed key is told of
	case r.cfg.Rounds == 0:
		return form.Rounds < r.out.Rounds
	case form.Rounds != r.out.Rounds:
		return true
	case form.Rounds != seal.MinIterations:
		return false
	}
	form, err := signer.Examine(r.from, k)
	return err != nil || form.Older
}

func (r *rewrap) batch(ctx context.Context, page []storage.KeyRow) error {
	made := make([]*keydb.Resealing, len(page))
	faults := make([]error, len(page))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, k := range page {
		g.Go(func() error {
			if r.meant(k.Key) {
				made[i] = &keydb.Resealing{Old: k.Key}
				made[i].New, faults[i] = signer.Reseal(r.from, r.to, k.Key, r.cfg.To)
			}
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var list []keydb.Resealing
	for i, m := range made {
		r.out.Rows++
		if m == nil {
			continue
		}
		r.out.Meant++
		if faults[i] != nil {
			r.out.Failed++
			if err := r.show(faultFinding(page[i].Key, faults[i])); err != nil {
				return err
			}
			continue
		}
		list = append(list, *m)
	}
	if err := r.store(ctx, list); err != nil {
		return err
	}
	if r.cfg.Progress != nil {
		r.cfg.Progress(r.out.Rows, max(r.out.Rows, r.total))
	}
	return nil
}

func (r *rewrap) store(ctx context.Context, list []keydb.Resealing) error {
	if !r.cfg.Act || len(list) == 0 {
		return nil
	}
	if r.batches++; r.batches == 1 {
		// Who did it is on record before it is done.
		of := "all aliases"
		if len(r.cfg.From) > 0 {
			of = strings.Join(r.cfg.From, ", ")
		}
		if err := r.record(ctx, fmt.Sprintf("begun: keys of %s go under the alias %s, with %d rounds", of, r.cfg.To, r.out.Rounds)); err != nil {
			return err
		}
		r.step("recorded")
	}
	n := 0
	done, err := r.Keys.ResealAll(ctx, list, func(tuf.KeyID) {
		n++
		r.step(fmt.Sprintf("batch %d: key %d written", r.batches, n))
	})
	if err != nil {
		return err
	}
	for _, ok := range done {
		if ok {
			r.out.Done++
		} else {
			r.out.Moved++
		}
	}
	r.step(fmt.Sprintf("batch %d committed", r.batches))
	return nil
}

func (r *rewrap) record(ctx context.Context, what string) error {
	if !r.out.Recorded {
		return nil
	}
	if r.cfg.Reason != "" {
		what += ": " + r.cfg.Reason
	}
	return r.Metadata.Record(ctx, storage.Event{Action: storage.ActionRewrap, Origin: storage.Origin{Actor: r.Actor}, Reason: what})
}
