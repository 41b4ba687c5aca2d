package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"countersign/storage"
)

func TestWithRequest(t *testing.T) {
	var b bytes.Buffer
	log := withRequest(slog.New(slog.NewTextHandler(&b, nil))).With("gun", "a")
	log.InfoContext(t.Context(), "nobody's")
	log.InfoContext(storage.WithOrigin(t.Context(), storage.Origin{RequestID: "r1"}), "somebody's")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || strings.Contains(lines[0], "request_id") || !strings.HasSuffix(lines[1], `msg=somebody's gun=a request_id=r1`) {
		t.Errorf("%q", lines)
	}
}
