package storagetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// A Fault is one way in which a write can go wrong. In both the caller is told
// storage.ErrUnavailable, and can not know which it was.
type Fault int

const (
	Lose Fault = iota // nothing is stored
	Keep              // the write is stored, and the answer is lost
)

// faults decides which calls fail.
type faults struct {
	mu    sync.Mutex // guards the rest; never held during a call of the store
	down  bool
	next  int // the write that fails, counted down; 0: none
	fault Fault
	count int
}

// Fail makes the nth write from now on fail, 1 being the next one. Those before
// and after it succeed.
func (f *faults) Fail(n int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next, f.fault = n, fault
}

// Down makes every call fail, reads too, until it is called with false.
func (f *faults) Down(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// Writes is how many writes have been asked for.
func (f *faults) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (f *faults) read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return fmt.Errorf("%w: down on demand", storage.ErrUnavailable)
	}
	return nil
}

// write runs do, or not, and loses its answer, or not.
func (f *faults) write(do func() error) error {
	fails, fault := f.decide()
	if fails && fault == Lose {
		return fmt.Errorf("%w: write lost on demand", storage.ErrUnavailable)
	}
	if err := do(); err != nil || !fails {
		return err
	}
	return fmt.Errorf("%w: answer lost on demand", storage.ErrUnavailable)
}

func (f *faults) decide() (bool, Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.down {
		return true, Lose
	}
	if f.next > 0 {
		f.next--
		return f.next == 0, f.fault
	}
	return false, Lose
}

// Faulty is a MetadataStore in front of another, whose writes fail on demand.
type Faulty struct {
	faults
	store storage.MetadataStore
}

// FaultyKeys is the same for a KeyStore.
type FaultyKeys struct {
	faults
	store storage.KeyStore
}

var (
	_ storage.MetadataStore = (*Faulty)(nil)
	_ storage.KeyStore      = (*FaultyKeys)(nil)
)

// NewFaulty returns a store that works like s until it is told to fail.
func NewFaulty(s storage.MetadataStore) *Faulty { return &Faulty{store: s} }

// NewFaultyKeys returns a store that works like s until it is told to fail.
func NewFaultyKeys(s storage.KeyStore) *FaultyKeys { return &FaultyKeys{store: s} }

// Generation implements storage.MetadataStore.
func (f *Faulty) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	return f.store.Generation(ctx, gun, roles...)
}

// ByChecksum implements storage.MetadataStore.
func (f *Faulty) ByChecksum(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sum tuf.Checksum) (storage.Metadata, error) {
	if err := f.read(); err != nil {
		return storage.Metadata{}, err
	}
	return f.store.ByChecksum(ctx, gun, role, sum)
}

// ByVersion implements storage.MetadataStore.
func (f *Faulty) ByVersion(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version tuf.Version) (storage.Metadata, error) {
	if err := f.read(); err != nil {
		return storage.Metadata{}, err
	}
	return f.store.ByVersion(ctx, gun, role, version)
}

// Changes implements storage.MetadataStore.
func (f *Faulty) Changes(ctx context.Context, q storage.ChangeQuery) ([]storage.Change, error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	return f.store.Changes(ctx, q)
}

// Publish implements storage.MetadataStore; it is a write.
func (f *Faulty) Publish(ctx context.Context, set storage.Set) error {
	return f.write(func() error { return f.store.Publish(ctx, set) })
}

// Delete implements storage.MetadataStore; it is a write.
func (f *Faulty) Delete(ctx context.Context, gun tuf.GUN) (deleted bool, err error) {
	err = f.write(func() error {
		deleted, err = f.store.Delete(ctx, gun)
		return err
	})
	return deleted && err == nil, err
}

// Key implements storage.KeyStore.
func (f *FaultyKeys) Key(ctx context.Context, id tuf.KeyID) (storage.Key, error) {
	if err := f.read(); err != nil {
		return storage.Key{}, err
	}
	return f.store.Key(ctx, id)
}

// Unused implements storage.KeyStore.
func (f *FaultyKeys) Unused(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error) {
	if err := f.read(); err != nil {
		return storage.Key{}, err
	}
	return f.store.Unused(ctx, gun, role, algorithm)
}

// Sealed implements storage.KeyStore.
func (f *FaultyKeys) Sealed(ctx context.Context, alias string, limit int) ([]storage.Key, error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	return f.store.Sealed(ctx, alias, limit)
}

// AddUnused implements storage.KeyStore; it is a write.
func (f *FaultyKeys) AddUnused(ctx context.Context, k storage.Key) (stored storage.Key, err error) {
	err = f.write(func() error {
		stored, err = f.store.AddUnused(ctx, k)
		return err
	})
	if err != nil {
		return storage.Key{}, err
	}
	return stored, nil
}

// MarkUsed implements storage.KeyStore; it is a write.
func (f *FaultyKeys) MarkUsed(ctx context.Context, id tuf.KeyID, at time.Time) error {
	return f.write(func() error { return f.store.MarkUsed(ctx, id, at) })
}

// Delete implements storage.KeyStore; it is a write.
func (f *FaultyKeys) Delete(ctx context.Context, id tuf.KeyID) error {
	return f.write(func() error { return f.store.Delete(ctx, id) })
}
