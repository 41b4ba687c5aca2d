package signer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/signer"
	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// TestFirstCallsRace: however many ask first, at however many signers, one key
// is made.
func TestFirstCallsRace(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		first := s.Service
		s.restart(t, nil) // a second signer on the same database
		for _, n := range []int{10, 50} {
			name := tuf.GUN(fmt.Sprint("raced/by", n))
			ids := make([]tuf.KeyID, n)
			start := make(chan struct{})
			var wg sync.WaitGroup
			for i := range n {
				service := []*signer.Service{first, s.Service}[i%2]
				wg.Go(func() {
					<-start
					k, err := service.CreateKey(t.Context(), name, role, tuf.KeyECDSA)
					if err != nil {
						t.Errorf("call %d: %v", i, err)
					}
					ids[i] = k.ID
				})
			}
			before := len(s.rows(t))
			close(start)
			wg.Wait()
			for i, id := range ids {
				if id != ids[0] {
					t.Errorf("%d calls: call %d got key %s, the first %s", n, i, id, ids[0])
				}
			}
			if made := len(s.rows(t)) - before; made != 1 {
				t.Errorf("%d calls made %d keys", n, made)
			}
		}
	})
}

// TestDeleteRacesSign: a signature asked for after the deletion was answered is
// never given, by no signer; one asked for before is whole or refused.
func TestDeleteRacesSign(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		other := *s
		other.restart(t, nil)
		for round := range 20 {
			k := s.create(t, tuf.KeyECDSA)
			if round%2 == 0 {
				s.mustSign(t, k) // else the race is with the first use
			}
			var deleted atomic.Bool
			var wg sync.WaitGroup
			var signed atomic.Int64
			for i := range 4 {
				service := []*stand{s, &other}[i%2]
				wg.Go(func() {
					for range 500 {
						late := deleted.Load()
						_, sig, err := service.Sign(t.Context(), gun, role, k.ID, []byte("x"))
						switch {
						case err == nil && late:
							t.Error("a deleted key signed")
							return
						case err == nil:
							signed.Add(1)
							if err := (tuf.Key{Type: k.Algorithm, Public: k.Public}).VerifySignature(sig.Method, []byte("x"), sig.Sig); err != nil {
								t.Error(err)
							}
						case !errors.Is(err, storage.ErrNotFound):
							t.Error(err)
							return
						default:
							return
						}
					}
				})
			}
			for deadline := time.Now().Add(10 * time.Second); round%4 >= 2 && signed.Load() == 0 && time.Now().Before(deadline); {
				time.Sleep(100 * time.Microsecond) // half of the rounds delete under full load
			}
			if err := s.DeleteKey(t.Context(), k.ID); err != nil {
				t.Error(err)
			}
			deleted.Store(true)
			wg.Wait()
			s.refused(t, k, storage.ErrNotFound)
			other.refused(t, k, storage.ErrNotFound)
		}
	})
}

// TestSmallCacheUnderLoad: keys are evicted and wiped while others sign with
// them, and every signature verifies.
func TestSmallCacheUnderLoad(t *testing.T) {
	s := onSQLite(t)
	s.restart(t, func(c *signer.Config) { c.CacheSize = 1 })
	var keys []storage.Key
	for i := range 4 {
		k, err := s.CreateKey(t.Context(), tuf.GUN(fmt.Sprint("gun", i)), role, []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				s.mustSign(t, keys[(i+j)%len(keys)])
			}
		})
	}
	wg.Wait()
}

// TestLostWrites breaks each write, so that nothing is stored and so that only
// the answer is lost. The caller asks again, and all is as if nothing had been.
func TestLostWrites(t *testing.T) {
	for name, how := range map[string]fault{"lose": lose, "keep": keep} {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, s *stand) {
				store := &faulty{KeyStore: s.config.Store}
				s.restart(t, func(c *signer.Config) { c.Store = store })

				store.add = how
				if k, err := s.CreateKey(t.Context(), gun, role, tuf.KeyECDSA); !errors.Is(err, storage.ErrUnavailable) || k.ID != "" {
					t.Errorf("CreateKey: got %q, %v", k.ID, err)
				}
				k := s.create(t, tuf.KeyECDSA)
				if rows := s.rows(t); len(rows) != 1 || rows[0] != k.ID {
					t.Errorf("stored %v, handed out %v", rows, k.ID)
				}

				store.mark = how
				if _, sig, err := s.Sign(t.Context(), gun, role, k.ID, nil); !errors.Is(err, storage.ErrUnavailable) || sig.Sig != nil {
					t.Errorf("first Sign: got %x, %v", sig.Sig, err)
				}
				s.mustSign(t, k)
				if next := s.create(t, tuf.KeyECDSA); next.ID == k.ID {
					t.Error("a key that has signed was handed out as unused")
				}

				store.delete = how
				if err := s.DeleteKey(t.Context(), k.ID); !errors.Is(err, storage.ErrUnavailable) {
					t.Errorf("DeleteKey: got %v", err)
				}
				if err := s.DeleteKey(t.Context(), k.ID); err != nil {
					t.Errorf("DeleteKey again: got %v", err)
				}
				s.refused(t, k, storage.ErrNotFound)
			})
		})
	}
}

// TestLaterUseIsBestEffort: once a key's use is on record, a table that cannot
// be written to stops no signature.
func TestLaterUseIsBestEffort(t *testing.T) {
	s := onSQLite(t)
	now := time.Now()
	store := &faulty{KeyStore: s.config.Store}
	s.restart(t, func(c *signer.Config) {
		c.Store = store
		c.Now = func() time.Time { return now }
	})
	k := s.create(t, tuf.KeyECDSA)
	s.mustSign(t, k)
	now = now.Add(48 * time.Hour)
	store.mark = down
	s.mustSign(t, k)
	unused, err := s.CreateKey(t.Context(), "another", role, tuf.KeyECDSA)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Sign(t.Context(), "another", role, unused.ID, nil); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("the first signature was given without a record: %v", err)
	}
}

// TestDatabaseDown: nobody is told that a key does not exist because the
// database could not be asked, nothing signs from memory, no second key is made.
func TestDatabaseDown(t *testing.T) {
	cluster := pgtest.New(t)
	s := newStand(t, sqldb.Config{Backend: "postgres", URL: cluster.URL(t)})
	k := s.create(t, tuf.KeyECDSA)
	s.mustSign(t, k)
	unused := s.create(t, tuf.KeyECDSA)
	cluster.Stop(t)
	for range 2 {
		s.refused(t, k, storage.ErrUnavailable)
		if _, err := s.CreateKey(t.Context(), gun, role, tuf.KeyECDSA); !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("CreateKey: got %v", err)
		}
		if err := s.DeleteKey(t.Context(), k.ID); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("DeleteKey: got %v", err)
		}
		if err := s.Health(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("Health: got %v", err)
		}
	}
	cluster.Start(t)
	s.mustSign(t, k)
	if again := s.create(t, tuf.KeyECDSA); again.ID != unused.ID {
		t.Error("a second key was made")
	}
	// A server that hangs is cut off by the caller's deadline.
	cluster.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, _, err := s.Sign(ctx, gun, role, k.ID, nil)
	cluster.Resume(t)
	if err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Sign on a hung database: got %v", err)
	}
	s.mustSign(t, k)
}
