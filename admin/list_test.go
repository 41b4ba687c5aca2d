package admin_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"countersign/admin"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// Ten thousand repositories, hundreds under the race detector: the first comes
// before the last is read, memory does not grow with their number, and all come,
// in order.
func TestListStreams(t *testing.T) {
	l := sqliteLooker(t)
	l.Keys = nil // half the queries
	models, copies := 10, 1000
	if raceDetector {
		models, copies = 3, 200
	}
	for i := range models {
		opts := tuftest.Options{Now: lookNow.Add(-day), KeyType: tuf.KeyECDSA}
		if i == 0 {
			opts.Delegations = []tuf.RoleName{"targets/releases", "targets/alice"}
		}
		r := tuftest.New(t, tuf.GUN(fmt.Sprintf("model/%d", i)), opts)
		// The certificate of root is for all, so that the rows can be used under any name.
		r.SetKeys("root", 1, tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: "*", NotBefore: lookNow.Add(-day), NotAfter: lookNow.Add(day)}))
		for j := range 20 {
			r.AddTarget("targets", fmt.Sprintf("tag-%d-%d", i, j), []byte{byte(j)})
		}
		l.put(r)
	}
	l.exec(`insert into tuf_files (created_at, gun, role, version, data, sha256)
		with recursive n (i) as (select 1 union all select i + 1 from n where i < ?)
		select f.created_at, printf('copy/%05d/', n.i) || f.gun, f.role, f.version, f.data, f.sha256
		from n cross join tuf_files f`, copies-1)

	l.exec(`insert into tuf_files (gun, role, version, data) values ('zz/last', 'root', 1, '')`)
	var heap, most uint64
	measure := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	n, last := 0, tuf.GUN("")
	start := time.Now()
	err := l.List(t.Context(), admin.Selection{All: true}, func(s admin.Summary) error {
		n++
		if n == 1 {
			// What has been read already would be listed.
			l.exec(`delete from tuf_files where gun = 'zz/last'`)
			heap = measure()
		} else if n%(models*copies/5) == 0 {
			most = max(most, measure())
		}
		if s.GUN <= last || s.State != admin.StateOK || s.Tags != 20 || s.Versions != 4+2*int64(len(s.Signers)) {
			return fmt.Errorf("after %q: %+v", last, s)
		}
		last = s.GUN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != models*copies {
		t.Errorf("%d repositories, want %d: was the last one read before the first was listed?", n, models*copies)
	}
	if most > heap+4<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", heap, most)
	}
	t.Logf("%d repositories in %v, heap %d to %d bytes", n, time.Since(start), heap, most)

	// A prefix, and an end in the middle.
	n = 0
	stop := errors.New("enough")
	if err := l.List(t.Context(), admin.Selection{Prefix: "copy/0000"}, func(admin.Summary) error { n++; return nil }); err != nil || n != 9*models {
		t.Errorf("%d with the prefix, %v", n, err)
	}
	if err := l.List(t.Context(), admin.Selection{All: true}, func(admin.Summary) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := l.List(ctx, admin.Selection{All: true}, func(admin.Summary) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := l.List(t.Context(), admin.Selection{}, nil); err == nil {
		t.Error("a list of nothing")
	}
}

// A list in PostgreSQL's order, with names and states of all kinds.
func TestListOnBoth(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		names := []tuf.GUN{"b/2", "a/1", "B/3", "a/\x1b[31m", "ü/4", "a/1/x"}
		for _, gun := range names {
			l.put(newRepo(l.t, gun))
		}
		l.exec(`insert into tuf_files (gun, role, version, data, deleted_at) values ('gone', 'root', 1, '', '2020-01-02 03:04:05')`)
		var got []tuf.GUN
		if err := l.List(l.t.Context(), admin.Selection{All: true}, func(s admin.Summary) error {
			if want := map[bool]string{true: admin.StateNoTimestamp, false: admin.StateOK}[s.GUN == "gone"]; s.State != want {
				l.t.Errorf("%q is %q", s.GUN, s.State)
			}
			got = append(got, s.GUN)
			return nil
		}); err != nil {
			l.t.Fatal(err)
		}
		want := append(slices.Clone(names), "gone")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			l.t.Errorf("got %q", got)
		}
	})
}
