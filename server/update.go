package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"countersign/storage"
	"countersign/tuf"
)

// update publishes the files in the body, all or nothing. Success has no body.
func (s *server) update(w http.ResponseWriter, q *request) error {
	end, _ := q.Context().Deadline() // set by ServeHTTP
	pace := newPace(http.NewResponseController(w).SetReadDeadline, s.Now, s.Limits.Stall, end)
	in := newIntake(q.Body, s.Limits.Body, &s.uploads, pace)
	defer in.release()
	files, fault := readParts(q.Header, q.ContentLength, in, s.Limits)
	if errors.Is(fault, os.ErrDeadlineExceeded) {
		// With it net/http has cancelled the context: nothing more can be done.
		return fmt.Errorf("reading the upload: %w", fault)
	}
	pace.done()
	if fault != nil {
		defer pace.renew() // for what net/http reads of the rest before it answers
	}
	leave, err := s.enter(q.Context(), in.read)
	if err != nil {
		return err
	}
	defer leave()
	upload, err := parseParts(files, fault)
	if err != nil {
		return fmt.Errorf("reading the upload: %w", err)
	}
	if err := s.Publisher.Publish(q.Context(), q.gun, upload); err != nil {
		return err
	}
	writeBody(w, http.StatusOK, plain, nil)
	return nil
}

// enter waits until an upload of size bytes may be parsed and published. What
// is parsed has no place in any budget, and is many times larger.
func (s *server) enter(ctx context.Context, size int64) (leave func(), err error) {
	places := s.small
	if size > largeUpload {
		places = s.large
	}
	leave = func() { <-places }
	select {
	case places <- struct{}{}:
		return leave, nil
	default:
	}
	select {
	case places <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for other uploads: %w", storage.ErrUnavailable, ctx.Err())
	}
}

// delete removes all of a GUN. That there was nothing to remove is no error.
func (s *server) delete(w http.ResponseWriter, q *request) error {
	if _, err := s.Publisher.Delete(q.Context(), q.gun); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	writeBody(w, http.StatusOK, plain, nil)
	return nil
}

// A publicKey is a key as clients expect it, in this order of members.
type publicKey struct {
	Type  string `json:"keytype"`
	Value struct {
		Public  []byte  `json:"public"`
		Private *string `json:"private"` // always null
	} `json:"keyval"`
}

// key answers with a public key for a server-managed role. The body of the
// request is of no account.
func (s *server) key(w http.ResponseWriter, q *request, get func(context.Context, tuf.GUN, tuf.RoleName) (tuf.Key, error)) error {
	k, err := get(q.Context(), q.gun, tuf.RoleName(q.target.role))
	if err != nil {
		return fmt.Errorf("getting a %s key: %w", q.target.role, err)
	}
	var p publicKey
	p.Type, p.Value.Public = k.Type, k.Public
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	writeBody(w, http.StatusOK, plain, body)
	return nil
}
