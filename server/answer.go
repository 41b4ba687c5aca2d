package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"countersign/server/auth"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// A handler answers one request, or returns an error for which [Server.fail]
// writes the answer.
type handler func(w http.ResponseWriter, q *request) error

// maxErrorBody is the longest error body: clients read 1024 bytes, and take a
// longer one for something that is no error message.
const maxErrorBody = 1023

// statusGone is recorded, and sent to nobody, when the client has hung up before
// its answer: that is no fault of this side. The number is nginx's.
const statusGone = 499

// retryAfter is what a client is told to wait for, in seconds, when the
// database or the signer cannot be asked: about one round of health checks.
const retryAfter = 10

// An answer is an error as a client sees it. It is an error itself, so that a
// handler can return it.
type answer struct {
	status  int
	code    string
	message string
	detail  any // nil leaves it out; [answer.body] may shorten it
}

func (a *answer) Error() string { return a.code + ": " + a.message }

// with returns a with that detail.
func (a *answer) with(detail any) *answer {
	b := *a
	b.detail = detail
	return &b
}

// What clients are told. Codes, messages and statuses are upstream's, but for
// UNAVAILABLE, which is the registry's.
var (
	answerNotFound     = &answer{http.StatusNotFound, "METADATA_NOT_FOUND", "You have requested metadata that does not exist.", empty{}}
	answerNoRoute      = answerNotFound.with(nil)
	answerInvalidGUN   = &answer{http.StatusBadRequest, "INVALID_GUN", "The server does not support actions on images of this name.", nil}
	answerUpload       = &answer{http.StatusBadRequest, "MALFORMED_UPLOAD", "The body of your request is malformed.", nil}
	answerNoFilename   = &answer{http.StatusBadRequest, "NO_FILENAME", "No file/role name provided.", nil}
	answerInvalidRole  = &answer{http.StatusBadRequest, "INVALID_ROLE", "The role you are attempting to operate on is invalid.", nil}
	answerJSON         = &answer{http.StatusBadRequest, "MALFORMED_JSON", "JSON sent by the client could not be parsed by the server", nil}
	answerUpdate       = &answer{http.StatusBadRequest, "INVALID_UPDATE", "Update sent by the client is invalid.", nil}
	answerVersion      = &answer{http.StatusBadRequest, "VERSION", "A newer version of metadata is already available.", empty{}}
	answerParameters   = &answer{http.StatusBadRequest, "INVALID_PARAMETERS", "The parameters provided are not valid.", empty{}}
	answerUnauthorized = &answer{http.StatusUnauthorized, "UNAUTHORIZED", "authentication required", nil}
	answerUnavailable  = &answer{http.StatusServiceUnavailable, "UNAVAILABLE", "service unavailable", nil}
	answerUpdating     = &answer{http.StatusInternalServerError, "UPDATING", "An error has occurred while updating the TUF repository.", nil}
	answerUnknown      = &answer{http.StatusInternalServerError, "UNKNOWN", "unknown error", empty{}}
)

// empty is the detail of an error of which upstream told no more than "{}".
type empty struct{}

// A reason is the detail that the clients print: they know five names.
type reason struct {
	Name  publish.Kind
	Error reasonText
}

type reasonText struct {
	Missing string `json:",omitempty"`
	Msg     string
}

// because is a reason for what upstream has no words for. Clients print
// "An error occurred during validation: " and msg.
func because(msg string) reason {
	return reason{Name: publish.KindValidation, Error: reasonText{Msg: msg}}
}

// Which operations a line of [wire] is about.
const (
	always = iota
	onRead // of a metadata file
	onUpdate
)

// wire is the one place where an error of the store or of the rules becomes an
// answer. The first line that fits holds; what is not listed is a 500.
// Faults that pass stand first: an error that also says "not found" must not be
// a 404, for a client takes a missing root as leave to start the repository anew.
var wire = []struct {
	err    error
	when   int
	answer *answer
}{
	{storage.ErrUnavailable, always, answerUnavailable},
	{auth.ErrBusy, always, answerUnavailable},
	{context.DeadlineExceeded, always, answerUnavailable},
	{context.Canceled, always, answerUnavailable},
	{storage.ErrNotFound, onRead, answerNotFound},
	{storage.ErrVersionConflict, onUpdate, answerVersion},
	{storage.ErrStale, onUpdate, answerVersion},
	{tuf.ErrMalformed, onUpdate, answerJSON},
	{storage.ErrTooLarge, onUpdate, answerUpdate.with(because("the metadata does not fit the server's database"))},
}

// keyFaults are the words for what is wrong with a key that the server should
// sign with. It is no client's fault, and must not look like the absence of
// anything; but whoever reads it can tell the operator which it is.
var keyFaults = []struct {
	err  error
	text string
}{
	{storage.ErrNoPassphrase, "the signer cannot open a key of this repository: it has no passphrase for the key's alias"},
	{storage.ErrWrongPassphrase, "the signer cannot open a key of this repository: wrong passphrase for its alias"},
	{storage.ErrKeyCorrupt, "the signer cannot open a key of this repository: what is stored of it is corrupt"},
	{storage.ErrKeySealed, "the signer cannot open a key of this repository"},
	{storage.ErrKeyMissing, "the signer does not have a key that root lists for the server"},
}

// operatorsTask is a detail to which the ID of the request is added.
type operatorsTask string

// under returns a with id in its detail, if it is one for the operator.
func (a *answer) under(id string) *answer {
	if task, ok := a.detail.(operatorsTask); ok {
		return a.with(string(task) + "; ask the operator (request " + id + ")")
	}
	return a
}

// answerTo returns the answer to a request for op that failed with err.
func answerTo(op operation, err error) *answer {
	if a, ok := errors.AsType[*answer](err); ok {
		return a
	}
	when, otherwise := always, answerUnknown
	switch op {
	case opByHash, opByVersion, opCurrent:
		when = onRead
	case opUpdate:
		when, otherwise = onUpdate, answerUpdating
		if r, ok := errors.AsType[*publish.Rejection](err); ok {
			return answerUpdate.with(reason{r.Kind, reasonText{r.Missing, r.Msg}})
		}
	}
	for _, f := range keyFaults {
		if errors.Is(err, f.err) {
			return otherwise.with(operatorsTask(f.text))
		}
	}
	for _, line := range wire {
		if errors.Is(err, line.err) && (line.when == always || line.when == when) {
			return line.answer
		}
	}
	return otherwise
}

// body is the JSON form of a, at most [maxErrorBody] bytes: a detail that holds
// what the client sent is cut to fit, and then the message.
func (a *answer) body() []byte {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	for detail, message := a.detail, a.message; ; detail = shorten(detail) {
		var b bytes.Buffer
		err := json.NewEncoder(&b).Encode(map[string][]one{"errors": {{a.code, message, detail}}})
		if err == nil && b.Len() <= maxErrorBody {
			return b.Bytes()
		}
		if detail == nil {
			message = cut(message)
		}
	}
}

// cut takes a quarter off s.
func cut(s string) string { return strings.ToValidUTF8(s[:len(s)*3/4], "") }

// shorten cuts the text in detail by a quarter, or drops a detail that has none.
func shorten(detail any) any {
	switch d := detail.(type) {
	case string:
		if d != "" {
			return cut(d)
		}
	case reason:
		if d.Error.Msg != "" {
			d.Error.Msg = cut(d.Error.Msg)
			return d
		}
	}
	return nil
}

// write sends a.
func (a *answer) write(w http.ResponseWriter) {
	if a.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	writeBody(w, a.status, "application/json; charset=utf-8", a.body())
}

// plain is the content type of every success: what upstream's bodies were
// taken for by Go, since it named none.
const plain = "text/plain; charset=utf-8"

// writeBody sends a whole answer. A failed write means that the client has
// gone: there is nobody to tell.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	if len(body) > 0 {
		h.Set("Content-Type", contentType)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// answerRate is how many bytes a second a client must take of a large answer,
// on average and beyond [Limits.Stall]: the largest is then through within the
// time of a request.
const answerRate = 512 << 10

// send answers with a body that may be large. Who finds the memory for answers
// taken by slow readers is told to come again, and slow readers are cut off.
func (s *server) send(w http.ResponseWriter, q *request, header func(http.Header), body []byte) error {
	n := charged(int64(len(body)))
	defer s.answers.give(n)
	if !s.answers.take(n) {
		return fmt.Errorf("%w: the answers that are being sent fill the memory for them", answerUnavailable)
	}
	if n > 0 {
		end, _ := q.Context().Deadline() // set by ServeHTTP
		late := s.Now().Add(s.Limits.Stall + time.Duration(n)*time.Second/answerRate)
		if end = end.Add(s.Limits.Stall); late.After(end) {
			late = end
		}
		// It fails where there is no connection, as in some tests.
		_ = http.NewResponseController(w).SetWriteDeadline(late)
	}
	if header != nil {
		header(w.Header())
	}
	writeBody(w, http.StatusOK, plain, body)
	return nil
}
