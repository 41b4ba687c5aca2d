// Package publish holds the rules of the trust server: which upload is
// accepted, how the server completes it with the roles that it signs, and when
// those are signed anew. It knows neither HTTP nor SQL.
//
// The promise, held by induction over publishes: if the current generation of
// a GUN verifies, then it verifies after every call that returns nil. What is
// stored is only ever a checked value, completed; there is no other way in.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"

	"countersign/storage"
	"countersign/tuf"
)

// Lifetimes of what the server signs. They are upstream's; clients expect them.
const (
	TimestampLife = 14 * 24 * time.Hour
	SnapshotLife  = 3 * 365 * 24 * time.Hour
)

const (
	// maxTries bounds how often a set is built anew because somebody else
	// published first.
	maxTries = 50
	// maxBlocked bounds it when nobody did: then a stored row that no
	// timestamp commits to is in the way, and will be the next time too.
	maxBlocked = 3
	// maxDepth bounds how deep an uploaded delegation may be nested: each one
	// has all that stand above it read and verified. In use are three levels.
	maxDepth = 16
	// maxBackoff is the longest wait between two tries.
	maxBackoff = 50 * time.Millisecond
)

// A Signer keeps the private keys of the roles that the server signs. gun and
// role say for what the key is wanted: a key that was made for something else
// must be refused with storage.ErrKeyForbidden. id is the canonical key ID. The
// other errors are storage.ErrNotFound (there is no such key),
// storage.ErrKeySealed and storage.ErrUnavailable. Its methods may be called at
// once from any number of goroutines.
type Signer interface {
	// CreateKey returns the unused key of gun, role and algorithm, or a new one.
	CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (tuf.Key, error)
	Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (tuf.Key, error)
	// Sign costs one round trip. What it returns is verified before it is used.
	Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) ([]byte, error)
	// DeleteKey makes sure that the key signs nothing from now on, if it was made
	// for gun and role. It is no error if there is none. A signer that cannot tell
	// whose a key is must refuse with errors.ErrUnsupported.
	DeleteKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error
}

// An Archivist remembers what must not be forgotten: who did what, and which
// keys are to go.
type Archivist interface {
	storage.AuditLog
	storage.Graveyard
}

// Config is what a Publisher is made of. Store and Signer are required; the
// zero value of everything else is its default.
type Config struct {
	Store  storage.MetadataStore
	Signer Signer
	// Archivist keeps on record who has keys rotated, and the keys of deleted
	// repositories. Default: nobody does; what Store itself records it records.
	Archivist Archivist
	// KeyAlgorithm is the type of new keys: tuf.KeyECDSA (default) or tuf.KeyED25519.
	KeyAlgorithm string
	Log          *slog.Logger     // default: discards
	Now          func() time.Time // default: time.Now

	// AllowUnvouched accepts a targets file that takes from a delegation the
	// keys by which its published file is signed, without that file being
	// signed anew in the same publish. Upstream accepts it; readers then skip
	// the delegation until somebody witnesses it. Otherwise it is refused.
	AllowUnvouched bool

	// SignTimeout bounds one signature, RenewTimeout one renewal on the spot.
	// Defaults: 15 and 30 seconds.
	SignTimeout, RenewTimeout time.Duration

	// The background renewer: RenewAfter is the share of its life after which
	// a timestamp is renewed (default 2/3); RenewInterval the time between two
	// looks for what is due (10 minutes); RenewPage how many GUNs one look
	// fetches (200); RenewConcurrency how many are renewed at once (4), with
	// a pause of RenewPause on average between two (50 ms).
	RenewAfter       float64
	RenewInterval    time.Duration
	RenewPage        int
	RenewConcurrency int
	RenewPause       time.Duration
}

// A Publisher checks, completes and renews. Its methods may be called at once
// from any number of goroutines, and by any number of replicas on one database.
type Publisher struct {
	cfg      Config
	locks    gunLocks
	renewals singleflight.Group // by GUN: a renewal on the spot, for all who wait
	stuck    stuckSet
}

// New checks cfg and fills in its defaults.
func New(cfg Config) (*Publisher, error) {
	switch {
	case cfg.Store == nil || cfg.Signer == nil:
		return nil, errors.New("publish: Store and Signer are required")
	case cfg.RenewAfter < 0 || cfg.RenewAfter >= 1:
		return nil, fmt.Errorf("publish: RenewAfter is a share of a life, not %v", cfg.RenewAfter)
	case cfg.KeyAlgorithm != "" && cfg.KeyAlgorithm != tuf.KeyECDSA && cfg.KeyAlgorithm != tuf.KeyED25519:
		return nil, fmt.Errorf("publish: keys can not be made of type %q", cfg.KeyAlgorithm)
	}
	defaultTo(&cfg.KeyAlgorithm, tuf.KeyECDSA)
	defaultTo(&cfg.Log, slog.New(slog.DiscardHandler))
	defaultTo(&cfg.SignTimeout, 15*time.Second)
	defaultTo(&cfg.RenewTimeout, 30*time.Second)
	defaultTo(&cfg.RenewAfter, 2.0/3)
	defaultTo(&cfg.RenewInterval, 10*time.Minute)
	defaultTo(&cfg.RenewPage, 200)
	defaultTo(&cfg.RenewConcurrency, 4)
	defaultTo(&cfg.RenewPause, 50*time.Millisecond)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Publisher{cfg: cfg}, nil
}

func defaultTo[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// A Part is one file of an upload: its bytes exactly as received, and their
// envelope if the caller has parsed it already.
type Part struct {
	Data     []byte
	Envelope *tuf.Envelope
}

// An Upload is what a client sent, unchecked: the last part for each role.
type Upload map[tuf.RoleName]Part

// Publish checks up, completes it with the roles that the server signs, and
// stores all of it or nothing. An upload of no roles is allowed: it renews. A
// timestamp in it is parsed, and otherwise ignored: that role is the server's.
//
// It returns a *Rejection if the client is at fault in one of the ways that
// clients can read; an error that wraps storage.ErrVersionConflict if
// somebody else published first; tuf.ErrBadName or tuf.ErrMalformed for parts
// that are no metadata at all; storage.ErrUnavailable if the database or the
// signer could not be asked. In that last case the write may have been kept;
// then all of it was.
func (p *Publisher) Publish(ctx context.Context, gun tuf.GUN, up Upload) error {
	u, err := parseUpload(up)
	if err != nil {
		return err
	}
	unlock, raced, err := p.locks.lock(ctx, gun)
	if err != nil {
		return fmt.Errorf("waiting for another publish of %s: %w", gun, err)
	}
	defer unlock()
	u.raced = raced
	now := p.cfg.Now()
	var last tuf.Checksum
	blocked := 0
	for try := range maxTries {
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("publishing %s: %w", gun, err)
		}
		base, err := p.attempt(ctx, gun, u, now)
		if !errors.Is(err, storage.ErrStale) {
			return err
		}
		u.raced = true
		if blocked++; base != last {
			blocked = 0
		}
		if last = base; blocked >= maxBlocked {
			return fmt.Errorf("publishing %s: nobody else publishes, yet a stored snapshot or timestamp is in the way: %w", gun, storage.ErrDamaged)
		}
	}
	return fmt.Errorf("publishing %s: %d others were faster: %w", gun, maxTries, storage.ErrVersionConflict)
}

// attempt is one publish on the generation that is current now, and returns
// the checksum of its timestamp. The order of its steps is the safety argument.
func (p *Publisher) attempt(ctx context.Context, gun tuf.GUN, u *upload, now time.Time) (base tuf.Checksum, err error) {
	// Step 1: one read. Everything below is about this generation.
	gen, err := p.read(ctx, gun, u)
	if err != nil {
		return base, err
	}
	if gen != nil {
		base = gen.Timestamp.Checksum
	}
	if u.outrun(gen) {
		return base, fmt.Errorf("publishing %s: another snapshot came first: %w", gun, storage.ErrVersionConflict)
	}
	// Step 2: the check. Only what it returns can be completed and stored.
	c, err := p.check(ctx, gun, u, gen, now)
	if err != nil {
		return base, err
	}
	// Step 3: snapshot and timestamp. Nothing is stored yet: a signer that
	// fails here leaves the GUN as it was.
	set, err := p.complete(ctx, c)
	if err != nil {
		return base, err
	}
	set.Event = &storage.Event{Action: storage.ActionPublish, Origin: storage.OriginOf(ctx)}
	// Step 4: store the set. If we crash before this line nothing is visible;
	// after it, every reader that starts at the timestamp sees all of it. The
	// store refuses if gen is no longer current.
	if err := p.cfg.Store.Publish(ctx, set); err != nil {
		return base, fmt.Errorf("publishing %s: %w", gun, err)
	}
	return base, nil
}

// read returns the current generation with the roles that the check of u
// needs, or nil if there is none.
func (p *Publisher) read(ctx context.Context, gun tuf.GUN, u *upload) (*storage.Generation, error) {
	gen, err := p.cfg.Store.Generation(ctx, gun, u.needs()...)
	switch {
	case err == nil:
		return gen, nil
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case errors.Is(err, storage.ErrDamaged):
		// Never taken for a new GUN: any pusher could then install a root of
		// his own over a repository of which only a row is missing.
		return nil, p.damaged(ctx, gun, err)
	default:
		return nil, fmt.Errorf("loading the current generation of %s: %w", gun, err)
	}
}

// damaged tells the operator in the log what is wrong with the stored
// repository, and the client that he is not to blame but cannot go on.
func (p *Publisher) damaged(ctx context.Context, gun tuf.GUN, cause error) error {
	p.cfg.Log.ErrorContext(ctx, "stored repository is damaged: nothing can be published", "gun", string(gun), "error", cause)
	return reject(KindValidation, "the repository stored on the server is damaged: %v. "+
		"Have it restored from a backup, or delete it (notary delete --remote) and publish it anew", cause)
}

// pause waits before a repeated try: a little longer each time, and never as
// long as others wait.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return ctx.Err()
	}
	d := min(time.Millisecond<<min(try, 10), maxBackoff)
	return sleep(ctx, d/2+rand.N(d))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A file is one uploaded part, parsed as far as it can be without a key.
type file struct {
	data []byte
	env  *tuf.Envelope
	// The typed view, of targets and delegations; viewErr if there is none. It
	// is made when the signatures hold: it takes more memory than the file.
	targets *tuf.Targets
	viewErr error
}

func (f *file) view(role tuf.RoleName) {
	if f.targets == nil && f.viewErr == nil {
		f.targets, f.viewErr = f.env.Targets(role)
	}
}

// An upload is an Upload with names checked and envelopes parsed.
type upload struct {
	files map[tuf.RoleName]*file
	// targets are the uploaded targets and delegations, shallow ones first:
	// a parent is checked before what it delegates to.
	targets  []tuf.RoleName
	snapshot *tuf.Snapshot // the typed view of an uploaded snapshot, if it has one
	// keeps holds the parents of what the snapshot names and is not uploaded.
	keeps map[tuf.RoleName]bool
	// raced: somebody else published this GUN since the upload arrived.
	raced bool
	// first is the snapshot that was current at the first attempt; zero if
	// there was none.
	first     tuf.Checksum
	attempted bool
}

// outrun reports whether the client has signed a snapshot over another one than
// is current now. Only the client could make a newer. A mere renewal of the
// timestamp in between does not harm it.
func (u *upload) outrun(gen *storage.Generation) bool {
	var current tuf.Checksum
	if gen != nil {
		current = gen.Files[tuf.RoleSnapshot].Checksum
	}
	if !u.attempted {
		u.first, u.attempted = current, true
	}
	return u.snapshot != nil && current != u.first
}

func parseUpload(up Upload) (*upload, error) {
	u := &upload{files: make(map[tuf.RoleName]*file, len(up))}
	for role, part := range up {
		if _, err := tuf.ParseRoleName(string(role)); err != nil {
			return nil, err
		}
		f := &file{data: part.Data, env: part.Envelope}
		if f.env == nil {
			var err error
			if f.env, err = tuf.ParseEnvelope(part.Data); err != nil {
				return nil, fmt.Errorf("reading the uploaded %s: %w", role, err)
			}
		}
		if role == tuf.RoleTimestamp {
			continue
		}
		u.files[role] = f
		if role == tuf.RoleTargets || role.IsDelegation() {
			u.targets = append(u.targets, role)
		}
		if role.Depth() > maxDepth {
			return nil, reject(KindBadTargets, "%s is nested deeper than %d levels", role, maxDepth)
		}
	}
	if f := u.files[tuf.RoleSnapshot]; f != nil {
		u.snapshot, f.viewErr = f.env.Snapshot()
	}
	if u.snapshot != nil {
		u.keeps = map[tuf.RoleName]bool{}
		for name := range u.snapshot.Meta {
			if u.files[name] == nil {
				u.keeps[name.Parent()] = true
			}
		}
	}
	slices.SortFunc(u.targets, shallowFirst)
	return u, nil
}

// needs lists the stored roles that the check of u looks at.
func (u *upload) needs() []tuf.RoleName {
	need := map[tuf.RoleName]bool{tuf.RoleRoot: true, tuf.RoleSnapshot: true}
	// A new root must still vouch for the targets that are stored.
	if u.files[tuf.RoleRoot] != nil && u.files[tuf.RoleTargets] == nil {
		need[tuf.RoleTargets] = true
	}
	for _, role := range u.targets {
		for p := role.Parent(); p != ""; p = p.Parent() {
			if u.files[p] == nil {
				need[p] = true
			}
		}
		// What it delegated so far tells which stored children are affected.
		if u.keeps[role] || u.files[role].env.Delegates() {
			need[role] = true
		}
	}
	roles := make([]tuf.RoleName, 0, len(need))
	for role := range need {
		roles = append(roles, role)
	}
	slices.SortFunc(roles, shallowFirst)
	return roles
}

// shallowFirst orders roles as they are checked and stored.
func shallowFirst(a, b tuf.RoleName) int {
	if d := a.Depth() - b.Depth(); d != 0 {
		return d
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
