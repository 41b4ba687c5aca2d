package server_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/server"
	"countersign/storage"
	"countersign/tuf"
)

// oneFile is a store that always has the file that is asked for.
type oneFile struct {
	brokenStore
	file storage.Metadata
}

func (o oneFile) Generation(_ context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	return &storage.Generation{GUN: gun, Files: map[tuf.RoleName]storage.Metadata{roles[0]: o.file}}, nil
}

// BenchmarkRead is what this package adds to the cost of reading a file.
func BenchmarkRead(b *testing.B) {
	reg := prometheus.NewRegistry()
	h, err := server.New(server.Config{
		Store:     oneFile{file: storage.NewMetadata(tuf.RoleRoot, 1, []byte(strings.Repeat(" ", 2500)))},
		Publisher: brokenPublisher{}, Registerer: reg, Gatherer: reg, CurrentMaxAge: time.Minute,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, app+"root.json", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
