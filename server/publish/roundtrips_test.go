package publish_test

import (
	"fmt"
	"testing"
	"time"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// One read, one write, one RPC for each signature: counted where they leave.
func TestRoundTrips(t *testing.T) {
	for _, c := range []struct {
		name                 string
		client               bool
		do                   func(s *stack, r *tuftest.Repo)
		reads, writes, signs int
	}{
		{"targets", false, func(s *stack, r *tuftest.Repo) { s.send(r, r.Next(targets)) }, 1, 1, 2},
		{"a delegation", false, func(s *stack, r *tuftest.Repo) { s.send(r, r.Next(ab)) }, 1, 1, 2},
		{"all files", false, func(s *stack, r *tuftest.Repo) { s.send(r, r.Next(root, targets, a, ab)) }, 1, 1, 2},
		{"nothing", false, func(s *stack, r *tuftest.Repo) { s.send(r, files{}) }, 1, 1, 2},
		{"targets with the client's snapshot", true, func(s *stack, r *tuftest.Repo) { s.send(r, r.Next(targets)) }, 1, 1, 1},
		{"a delegation removed", false, func(s *stack, r *tuftest.Repo) {
			r.RemoveDelegation(a)
			s.send(r, r.Next(targets))
		}, 1, 1, 2},
		{"another key for a delegation", false, func(s *stack, r *tuftest.Repo) {
			r.SetKeys(a, 1, r.Keys[a][0], r.NewKey(a))
			s.send(r, r.Next(targets))
		}, 2, 1, 2},
		{"a publish that is refused", false, func(s *stack, r *tuftest.Repo) {
			if err := s.Publish(s.Context(), r.GUN, upload(r.Upload(targets))); err == nil {
				s.Error("accepted")
			}
		}, 1, 0, 0},
		{"reading the timestamp", false, func(s *stack, r *tuftest.Repo) { s.timestamp(r.GUN) }, 1, 0, 0},
		{"reading the snapshot", false, func(s *stack, r *tuftest.Repo) {
			if _, err := s.Snapshot(s.Context(), r.GUN); err != nil {
				s.Error(err)
			}
		}, 1, 0, 0},
		{"renewing the timestamp", false, func(s *stack, r *tuftest.Repo) {
			s.clock.Advance(15 * day)
			s.timestamp(r.GUN)
		}, 2, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, store := countingStack(t, "sqlite3")
			r := s.repo(c.client, a, ab, "targets/c")
			s.must(r, r.Upload())
			store.reset()
			before := s.signer.count("sign")
			c.do(s, r)
			reads, writes := store.reset()
			if signs := s.signer.count("sign") - before; reads != c.reads || writes != c.writes || signs != c.signs {
				t.Errorf("%d reads, %d writes, %d signatures; want %d, %d, %d", reads, writes, signs, c.reads, c.writes, c.signs)
			}
			s.fsck(r.GUN)
		})
	}
	t.Run("first publish", func(t *testing.T) {
		s, store := countingStack(t, "sqlite3")
		r := s.repo(false, a)
		store.reset()
		s.send(r, r.Upload())
		if reads, writes := store.reset(); reads != 1 || writes != 1 || s.signer.count("sign") != 2 {
			t.Errorf("%d reads, %d writes, %d signatures; want 1, 1, 2", reads, writes, s.signer.count("sign"))
		}
	})
}

// send publishes files without looking at what came of it.
func (s *stack) send(r *tuftest.Repo, up files) {
	s.Helper()
	if err := s.Publish(s.Context(), r.GUN, upload(up)); err != nil {
		s.Fatal(err)
	}
}

// One publish of targets with so many tags, with a signer in this process.
func BenchmarkPublish(b *testing.B) {
	for _, backend := range []string{"sqlite3", "postgres"} {
		for _, tags := range []int{1, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/tags=%d", backend, tags), func(b *testing.B) {
				s := stackOn(b, backend)
				r := s.repo(false)
				for i := range tags {
					r.AddTarget(tuf.RoleTargets, fmt.Sprintf("v%d", i), []byte("image"))
				}
				s.send(r, r.Upload())
				b.ReportAllocs()
				b.SetBytes(int64(len(r.File(tuf.RoleTargets))))
				for b.Loop() {
					b.StopTimer()
					up := upload(r.Next(tuf.RoleTargets))
					b.StartTimer()
					if err := s.Publish(b.Context(), r.GUN, up); err != nil {
						b.Fatal(err)
					}
				}
				s.fsck(r.GUN)
			})
		}
	}
}

// The read that every client begins with.
func BenchmarkTimestamp(b *testing.B) {
	s := newStack(b)
	r := s.repo(false)
	s.send(r, r.Upload())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Timestamp(b.Context(), r.GUN); err != nil {
			b.Fatal(err)
		}
	}
}

// A publish of a delegation beside many others does not look at those.
func BenchmarkPublishBesideDelegations(b *testing.B) {
	s := newStack(b)
	var names []tuf.RoleName
	for i := range 200 {
		names = append(names, tuf.RoleName(fmt.Sprintf("targets/d%d", i)))
	}
	r := s.repo(false, names...)
	s.send(r, r.Upload())
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		up := upload(r.Next(names[i%len(names)]))
		b.StartTimer()
		if err := s.Publish(b.Context(), r.GUN, up); err != nil {
			b.Fatal(err)
		}
	}
	if testing.Verbose() {
		b.ReportMetric(float64(time.Second)/float64(b.Elapsed()/time.Duration(b.N)), "publishes/s")
	}
}
