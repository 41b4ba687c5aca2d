package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime/multipart"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// BenchmarkPair measures our pair and upstream's by the same work in one run;
// what counts is their ratio:
//
//	go test -run '^$' -bench Pair -benchtime 3s ./e2e
//
// The client's own work, signing included, is in the time of both.
func BenchmarkPair(b *testing.B) {
	for _, clients := range []int{1, 8, 32} {
		for _, of := range []impl{upstream, ours} {
			s := newStack(b, stackConfig{server: of, signer: of})
			l := &load{s: s, client: s.client(), clients: clients}
			for _, work := range []struct {
				name string
				run  func(*testing.B)
			}{
				{"timestamp", l.timestamp},
				{"checksum", l.checksum},
				{"new-gun", l.newGUN},
				{"one-tag-of-1", func(b *testing.B) { l.oneTagMore(b, 1) }},
				{"one-tag-of-1000", func(b *testing.B) { l.oneTagMore(b, 1000) }},
			} {
				b.Run(fmt.Sprintf("%s/%s/c=%d", work.name, of, clients), work.run)
			}
			s.stopAll()
		}
	}
}

// A load is what clients do to one stack at once.
type load struct {
	s       *stack
	client  *http.Client
	clients int
	guns    atomic.Int64
}

// each runs work in a closed loop in each of the clients.
func (l *load) each(b *testing.B, client func() (work func())) {
	b.SetParallelism((l.clients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	if l.clients == 1 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		b.SetParallelism(1)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		work := client()
		for pb.Next() {
			work()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

func (l *load) read(b *testing.B, address string) []byte {
	status, body := get(b, l.client, address)
	if status != http.StatusOK {
		b.Fatalf("%s: %d %s", address, status, body)
	}
	return body
}

func (l *load) timestamp(b *testing.B) {
	r := l.repo(b)
	l.post(b, r, r.Upload(tuf.RoleRoot, tuf.RoleTargets))
	address := l.s.gunURL(0, string(r.GUN)) + "timestamp.json"
	l.each(b, func() func() { return func() { l.read(b, address) } })
}

func (l *load) checksum(b *testing.B) {
	r := l.repo(b)
	files := r.Upload(tuf.RoleRoot, tuf.RoleTargets)
	l.post(b, r, files)
	address := l.s.gunURL(0, string(r.GUN)) + "root." + tuf.Sum(files[tuf.RoleRoot]).String() + ".json"
	l.each(b, func() func() { return func() { l.read(b, address) } })
}

// newGUN is the first signed push as docker does it, but for the ping.
func (l *load) newGUN(b *testing.B) {
	l.each(b, func() func() {
		return func() {
			r := l.repo(b)
			l.post(b, r, r.Upload(tuf.RoleRoot, tuf.RoleTargets))
		}
	})
}

// oneTagMore is a push of a tag into a repository that has so many. Each
// client has a repository of its own.
func (l *load) oneTagMore(b *testing.B, tags int) {
	l.each(b, func() func() {
		r := l.repo(b)
		for i := range tags {
			r.AddTarget(tuf.RoleTargets, fmt.Sprintf("v1.%d", i), []byte{byte(i), byte(i >> 8)})
		}
		l.post(b, r, r.Upload(tuf.RoleRoot, tuf.RoleTargets))
		return func() {
			r.AddTarget(tuf.RoleTargets, "latest", fmt.Appendf(nil, "%d", r.Targets[tuf.RoleTargets].Version))
			l.post(b, r, r.Next(tuf.RoleTargets))
		}
	})
}

// repo begins a repository with keys of the server for snapshot and timestamp.
func (l *load) repo(b *testing.B) *tuftest.Repo {
	gun := fmt.Sprintf("bench.example.com/c%d/r%d", l.clients, l.guns.Add(1))
	if status, _ := get(b, l.client, l.s.gunURL(0, gun)+"root.json"); status != http.StatusNotFound {
		b.Fatalf("a new repository has a root: %d", status)
	}
	key := func(role tuf.RoleName) *tuf.Key {
		var k struct {
			Type  string                  `json:"keytype"`
			Value struct{ Public []byte } `json:"keyval"`
		}
		if err := json.Unmarshal(l.read(b, l.s.gunURL(0, gun)+string(role)+".key"), &k); err != nil {
			b.Fatal(err)
		}
		return &tuf.Key{Type: k.Type, Public: k.Value.Public}
	}
	return tuftest.New(b, tuf.GUN(gun), tuftest.Options{Timestamp: key(tuf.RoleTimestamp), Snapshot: key(tuf.RoleSnapshot)})
}

func (l *load) post(b *testing.B, r *tuftest.Repo, files map[tuf.RoleName][]byte) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for role, data := range maps.All(files) {
		part, err := w.CreateFormFile("files", string(role))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := part.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if a := post(l.client, l.s.gunURL(0, string(r.GUN)), w.FormDataContentType(), body.Bytes()); a.status != http.StatusOK {
		b.Fatalf("publish: %v", a)
	}
}
