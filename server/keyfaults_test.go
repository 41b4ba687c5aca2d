package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"countersign/server"
	"countersign/storage"
)

// A key that cannot sign is a 500 on every way to it, in words for each kind of
// fault and with the ID under which the log tells the rest. It is never a 404,
// nor a 400, whatever else the error says, and there is nothing to wait for.
func TestKeyFaults(t *testing.T) {
	const secret = `sealed under alias "hush"`
	for cause, words := range map[error]string{
		storage.ErrNoPassphrase:    "no passphrase for the key's alias",
		storage.ErrWrongPassphrase: "wrong passphrase for its alias",
		storage.ErrKeyCorrupt:      "what is stored of it is corrupt",
		storage.ErrKeySealed:       "cannot open a key of this repository; ask",
		storage.ErrKeyMissing:      "does not have a key",
	} {
		s := newStack(t, breakAll(func(context.Context) error {
			return fmt.Errorf("%s: %w", secret, errors.Join(storage.ErrNotFound, cause))
		}))
		for op, code := range map[string]string{"timestamp": "UNKNOWN", "snapshot": "UNKNOWN", "key": "UNKNOWN", "rotate": "UNKNOWN", "update": "UPDATING"} {
			r := s.do(everyCall[op])
			var body struct {
				Errors []struct{ Code, Message, Detail string }
			}
			if err := json.Unmarshal([]byte(r.body), &body); err != nil || len(body.Errors) != 1 {
				t.Fatalf("%v: %s: body %s: %v", cause, op, r.body, err)
			}
			e, id := body.Errors[0], r.header.Get("X-Request-Id")
			if r.status != http.StatusInternalServerError || e.Code != code || r.header.Get("Retry-After") != "" {
				t.Errorf("%v: %s: %d %s", cause, op, r.status, r.body)
			}
			if !strings.Contains(e.Detail, words) || id == "" || !strings.HasSuffix(e.Detail, "; ask the operator (request "+id+")") {
				t.Errorf("%v: %s: detail %q, want %q and request %s", cause, op, e.Detail, words, id)
			}
			if strings.Contains(r.body, "hush") || len(r.body) > server.MaxErrorBody {
				t.Errorf("%v: %s: body %s", cause, op, r.body)
			}
		}
		for _, line := range s.log.lines(t, "request failed", 5) {
			if text, _ := line["error"].(string); !strings.Contains(text, cause.Error()) || !strings.Contains(text, secret) || line["request_id"] == "" {
				t.Errorf("%v: log line %v", cause, line)
			}
		}
	}
}
