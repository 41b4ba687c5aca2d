package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"countersign/storage"
)

// wire is the one place where an error becomes a status, and a status an error
// again. What is not listed is Internal on the way out, and its text stays in
// the log; on the way in it is an internal fault.
var wire = []struct {
	err  error // server: the first that matches decides
	code codes.Code
	text string // what the client reads; "" for the text of the error itself
	back error  // client: of the line with that code and text, else of the last with that code
}{
	{storage.ErrInvalid, codes.InvalidArgument, "", storage.ErrInvalid},
	{storage.ErrTooLarge, codes.InvalidArgument, "value too large", storage.ErrInvalid},
	{storage.ErrNotFound, codes.NotFound, "key ID not found", storage.ErrNotFound},
	// Which alias, and what is wrong with the row, is for the log. Upstream's
	// server takes any code but OK alike.
	{storage.ErrNoPassphrase, codes.FailedPrecondition, storage.ErrNoPassphrase.Error(), storage.ErrNoPassphrase},
	{storage.ErrWrongPassphrase, codes.FailedPrecondition, storage.ErrWrongPassphrase.Error(), storage.ErrWrongPassphrase},
	{storage.ErrKeyCorrupt, codes.FailedPrecondition, storage.ErrKeyCorrupt.Error(), storage.ErrKeyCorrupt},
	{storage.ErrKeySealed, codes.FailedPrecondition, storage.ErrKeySealed.Error(), storage.ErrKeySealed},
	{storage.ErrKeyForbidden, codes.PermissionDenied, storage.ErrKeyForbidden.Error(), storage.ErrKeyForbidden},
	// The text of these may hold the address of the database.
	{storage.ErrUnavailable, codes.Unavailable, "key store unavailable", storage.ErrUnavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "deadline exceeded", storage.ErrUnavailable},
	{context.Canceled, codes.Canceled, "canceled", storage.ErrUnavailable},
	// Made by grpc alone: the signer is upstream's, and does not have that call.
	{nil, codes.Unimplemented, "", errors.ErrUnsupported},
	// Made by grpc alone, for a message beyond MaxMessage.
	{nil, codes.ResourceExhausted, "", storage.ErrTooLarge},
}

// A fault is an error on its way out: the status is for the client, the error
// for the log.
type fault struct {
	err   error
	st    *status.Status
	cause error // its line in wire; nil if it has none
}

func (f *fault) Error() string              { return f.err.Error() }
func (f *fault) Unwrap() error              { return f.err }
func (f *fault) GRPCStatus() *status.Status { return f.st }

// statusOf puts the status of err beside it. internal is what the client reads
// of an internal fault, for upstream's texts; notFound likewise.
func statusOf(err error, notFound, internal string) error {
	for _, w := range wire {
		if w.err == nil || !errors.Is(err, w.err) {
			continue
		}
		text := w.text
		switch {
		case w.code == codes.NotFound:
			text = notFound
		case text == "":
			text = err.Error()
		}
		return &fault{err, status.New(w.code, text), w.err}
	}
	return &fault{err, status.New(codes.Internal, internal), nil}
}

// errorOf is statusOf seen from the other end: it wraps the sentinel that
// belongs to the status of err, and err itself.
func errorOf(doing string, err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	var back error
	for _, w := range wire {
		if w.code != st.Code() {
			continue
		}
		back = w.back
		if w.text == st.Message() {
			break
		}
	}
	if back == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, back, err)
}
