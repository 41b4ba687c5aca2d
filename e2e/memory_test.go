package e2e_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

const (
	memoryGUNs  = 1000
	memoryReads = 100000
	// memoryGrowth bounds what a server may gain in 80,000 reads of GUNs that it
	// has read before. A leak of 1 KiB a read would be 78 MiB.
	memoryGrowth = 24 << 20
)

// TestMemoryStaysFlat reads many GUNs many times: nothing is kept of a read.
func TestMemoryStaysFlat(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{})
	const model = "e2e.example/memory/model"
	p := s.newPublisher(t, 0, model, newKeys())
	p.initialize(t, true)
	p.add(t, "targets", "v1")
	p.must(t, "publish", p.Publish())
	// A thousand GUNs of one content: the server, unlike clients, does not look
	// for the GUN's name in what it has stored.
	sql(t, s.serverDB, `insert into tuf_files (created_at, updated_at, gun, role, version, data, sha256)
		select created_at, updated_at, 'e2e.example/memory/app' || n, role, version, data, sha256
		from tuf_files, generate_series(1, %d) n where gun = '%s'`, memoryGUNs, model)
	_, bySum := s.immutableNames(t, 0, model)
	names := append(bySum, "root.json", "targets.json", "snapshot.json", "timestamp.json")

	s.readMany(t, names, memoryReads/5)
	warm := s.servers[0].status(t, "VmRSS")
	s.readMany(t, names, memoryReads*4/5)
	after := s.servers[0].status(t, "VmRSS")
	t.Logf("resident: %d MiB after %d reads of %d GUNs, %d MiB after %d", warm>>20, memoryReads/5, memoryGUNs, after>>20, memoryReads)
	if after-warm > memoryGrowth {
		t.Errorf("the server grew by %d MiB, want at most %d", (after-warm)>>20, memoryGrowth>>20)
	}
}

// readMany reads files of all GUNs by some of their names, at random.
func (s *stack) readMany(t *testing.T, names []string, reads int) {
	t.Helper()
	const readers = 4
	var wg sync.WaitGroup
	var bad atomic.Int32
	for r := range readers {
		c, random := s.client(), rand.New(rand.NewPCG(uint64(reads), uint64(r)))
		wg.Go(func() {
			for i := 0; i < reads/readers && bad.Load() == 0; i++ {
				gun := fmt.Sprintf("e2e.example/memory/app%d", 1+random.IntN(memoryGUNs))
				resp, err := c.Get(s.gunURL(0, gun) + names[random.IntN(len(names))])
				if err != nil {
					bad.Add(1)
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					bad.Add(1)
					t.Errorf("GET %s: %s %v", resp.Request.URL, resp.Status, err)
				}
			}
		})
	}
	wg.Wait()
}
