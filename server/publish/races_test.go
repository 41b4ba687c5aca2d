package publish_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// rounds is how often something is tried.
func rounds(n int) int {
	if raceDetector {
		return max(n/8, 2)
	}
	return n
}

// watch verifies gun again and again, as a reader does, until stop is called.
func (s *stack) watch(gun tuf.GUN) (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan struct{})
	rounds := 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := publish.Fsck(s.Context(), s.store, gun, s.clock.Now())
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				s.Errorf("a reader: %v", err)
				return
			}
			rounds++
			time.Sleep(time.Millisecond) // leaves the processor to the publishers
		}
	}()
	return func() {
		s.Helper()
		cancel()
		<-done
		if rounds == 0 {
			s.Error("the reader did not come to read")
		}
	}
}

// pair returns two Publishers that race: of one process, or of two.
func (s *stack) pair(processes int) [2]*publish.Publisher {
	s.Helper()
	if processes == 2 {
		return [2]*publish.Publisher{s.Publisher, s.replica()}
	}
	return [2]*publish.Publisher{s.Publisher, s.Publisher}
}

// Two publishers of the same next version, 200 times: one wins, the other is
// told so, nothing is lost, and a reader never sees anything but a whole.
func TestRacingPublishers(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for _, client := range []bool{false, true} {
			for processes := 1; processes <= 2; processes++ {
				t.Run(fmt.Sprintf("clientSnapshot=%v/processes=%d", client, processes), func(t *testing.T) {
					s := stackOn(t, backend)
					// In one process they take turns; two are those who race.
					s.race(s.pair(processes), client, rounds(map[int]int{1: 50, 2: 200}[processes]))
				})
			}
		}
	})
}

func (s *stack) race(publishers [2]*publish.Publisher, client bool, rounds int) {
	s.Helper()
	r := s.repo(client)
	s.must(r, r.Upload())
	stop := s.watch(r.GUN)
	defer stop()
	for round := range rounds {
		var uploads [2]publish.Upload
		var files [2][]byte
		for i := range uploads {
			r.Targets[tuf.RoleTargets].Targets = map[string]tuf.FileMeta{}
			r.AddTarget(tuf.RoleTargets, fmt.Sprintf("round-%d-by-%d", round, i), []byte("x"))
			if i == 0 {
				uploads[i] = upload(r.Next(tuf.RoleTargets))
			} else {
				uploads[i] = upload(r.Upload(tuf.RoleTargets))
				if client {
					uploads[i] = upload(r.Upload(tuf.RoleTargets, tuf.RoleSnapshot))
				}
			}
			files[i] = r.File(tuf.RoleTargets)
		}
		var errs [2]error
		var wg sync.WaitGroup
		for i, p := range publishers {
			wg.Go(func() { errs[i] = p.Publish(s.Context(), r.GUN, uploads[i]) })
		}
		wg.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || !errors.Is(errs[1-winner], storage.ErrVersionConflict) {
			s.Fatalf("round %d: %v and %v, want one nil and one ErrVersionConflict", round, errs[0], errs[1])
		}
		stored := s.generation(r.GUN, tuf.RoleTargets).Files[tuf.RoleTargets]
		if string(stored.Data) != string(files[winner]) {
			s.Fatalf("round %d: what was answered with success is not stored", round)
		}
	}
	s.fsck(r.GUN)
}

// Eight publishers of eight delegations of one GUN whose snapshot the server
// makes: all succeed, in every round.
func TestDelegationsDoNotConflict(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for processes := 1; processes <= 2; processes++ {
			t.Run(fmt.Sprintf("processes=%d", processes), func(t *testing.T) {
				const n = 8
				rounds := rounds(10)
				s := stackOn(t, backend)
				publishers := s.pair(processes)
				var names []tuf.RoleName
				for i := range n {
					names = append(names, tuf.RoleName(fmt.Sprintf("targets/d%d", i)))
				}
				r := s.repo(false, names...)
				s.must(r, r.Upload())
				stop := s.watch(r.GUN)
				for round := range rounds {
					var wg sync.WaitGroup
					for i, name := range names {
						up := upload(r.Next(name))
						wg.Go(func() {
							if err := publishers[i%2].Publish(t.Context(), r.GUN, up); err != nil {
								t.Errorf("round %d, %s: %v", round, name, err)
							}
						})
					}
					wg.Wait()
				}
				stop()
				gen := s.generation(r.GUN, names...)
				for _, name := range names {
					if v := gen.Files[name].Version; v != tuf.Version(rounds+1) {
						t.Errorf("%s: version %d, want %d: a publish is lost", name, v, rounds+1)
					}
				}
				if want := tuf.Version(n*rounds + 1); gen.Timestamp.Version != want || gen.Snapshot.Version != want {
					t.Errorf("timestamp %d, snapshot %d, want %d", gen.Timestamp.Version, gen.Snapshot.Version, want)
				}
				s.fsck(r.GUN)
			})
		}
	})
}

// Two owners begin the same GUN: one gets it, the other is told that he is late.
func TestRacingFirstPublishes(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for processes := 1; processes <= 2; processes++ {
			s := stackOn(t, backend)
			publishers := s.pair(processes)
			for round := range rounds(20) {
				gun := tuf.GUN(fmt.Sprintf("example.org/%d", round))
				uploads := [2]publish.Upload{upload(s.repoFor(gun, false).Upload()), upload(s.repoFor(gun, false).Upload())}
				var errs [2]error
				// In one process the second is certain to wait for the first.
				waiting := make(chan struct{})
				var once sync.Once
				s.signer.set(func(context.Context, string, tuf.RoleName) error {
					if processes == 1 {
						once.Do(func() { <-waiting })
					}
					return nil
				})
				var wg sync.WaitGroup
				for i, p := range publishers {
					wg.Go(func() { errs[i] = p.Publish(t.Context(), gun, uploads[i]) })
				}
				if processes == 1 {
					s.awaitQueue(publishers[0], gun, 2)
				}
				close(waiting)
				wg.Wait()
				s.signer.set(nil)
				won := 0
				for _, err := range errs {
					var rejection *publish.Rejection
					switch {
					case err == nil:
						won++
					case errors.Is(err, storage.ErrVersionConflict):
					case processes == 2 && errors.As(err, &rejection):
						// The other was done before this one began.
					default:
						t.Errorf("round %d: %v", round, err)
					}
				}
				if won != 1 {
					t.Errorf("round %d: %d of two succeed", round, won)
				}
				s.fsck(gun)
			}
		}
	})
}

// Who waits for another publish of the same GUN can give up, and leaves nothing.
func TestWaitingPublisherGivesUp(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	s.must(r, r.Upload())
	answer := make(chan struct{})
	s.signer.set(func(context.Context, string, tuf.RoleName) error { <-answer; return nil })
	first := make(chan error)
	up := upload(r.Next(tuf.RoleTargets))
	go func() { first <- s.Publish(t.Context(), r.GUN, up) }()
	s.awaitQueue(s.Publisher, r.GUN, 1)
	ctx, giveUp := context.WithCancel(t.Context())
	second := make(chan error)
	go func() { second <- s.Publish(ctx, r.GUN, up) }()
	s.awaitQueue(s.Publisher, r.GUN, 2)
	giveUp()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := s.Locks(); n != 0 {
		t.Errorf("%d locks are kept", n)
	}
	s.fsck(r.GUN)
}

// A deletion in the middle of publishes and renewals leaves a whole GUN or none.
func TestPublishAgainstDelete(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := stackOn(t, backend)
		other := s.replica()
		r := s.repo(false, "targets/a")
		first := upload(r.Upload())
		var later []publish.Upload
		for range rounds(60) {
			later = append(later, upload(r.Next("targets/a")))
		}
		stop := s.watch(r.GUN)
		var wg sync.WaitGroup
		var done atomic.Bool
		wg.Go(func() {
			defer done.Store(true)
			for _, up := range later {
				for _, u := range []publish.Upload{first, up} {
					err := other.Publish(t.Context(), r.GUN, u)
					var rejection *publish.Rejection
					if err != nil && !errors.Is(err, storage.ErrVersionConflict) && !errors.As(err, &rejection) {
						t.Errorf("publish: %v", err)
					}
				}
			}
		})
		deleted := 0
		for !done.Load() {
			ok, err := s.store.Delete(t.Context(), r.GUN)
			if err != nil {
				t.Errorf("delete: %v", err)
				break
			}
			if ok {
				deleted++
			}
			s.fsck(r.GUN)
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		stop()
		if deleted == 0 {
			t.Error("nothing was ever deleted")
		}
	})
}

// Publishing while the timestamp expires: renewals and publishes are built on
// each other, whoever comes first.
func TestPublishAgainstRenewal(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		s := stackOn(t, backend)
		other := s.replica()
		r := s.repo(false, "targets/a")
		for _, targets := range r.Targets {
			targets.Expires = s.clock.Now().Add(20 * 365 * day)
		}
		r.Root.Expires = s.clock.Now().Add(20 * 365 * day)
		r.SetKeys(tuf.RoleRoot, 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{
			CN: string(r.GUN), NotBefore: s.clock.Now().Add(-day), NotAfter: s.clock.Now().Add(20 * 365 * day),
		}))
		s.must(r, r.Upload())
		renewals := rounds(50)
		for range renewals {
			s.clock.Advance(15 * day)
			up := upload(r.Next("targets/a"))
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.Publish(t.Context(), r.GUN, up); err != nil {
					t.Errorf("publish: %v", err)
				}
			})
			for range 3 {
				wg.Go(func() {
					if _, err := other.Timestamp(t.Context(), r.GUN); err != nil {
						t.Errorf("timestamp: %v", err)
					}
				})
			}
			wg.Wait()
			s.fsck(r.GUN)
		}
		if v := s.generation(r.GUN, "targets/a").Files["targets/a"].Version; v != tuf.Version(renewals+1) {
			t.Errorf("version %d, want %d", v, renewals+1)
		}
	})
}
