package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// What is still read of the body of a request that is refused: more than the
// uploads of all but the largest repositories, and for no longer than anybody
// waits to be told no.
const (
	maxDrain  = 1 << 20
	drainTime = 2 * time.Second
)

// drain reads on where a request was refused before its body had come. The
// notary and docker clients send all of it before they look for an answer, on a
// connection that they do not keep. net/http closes such a connection at once,
// and who is still sending is then told "broken pipe" in the place of what the
// answer says. The body is thrown away as it comes.
func (s *server) drain(w http.ResponseWriter, r *http.Request, refusal error) {
	switch {
	case r.ContentLength == 0, r.Header.Get("Expect") != "":
		return // there is nothing, or the client waits to be asked for it
	case errors.Is(refusal, os.ErrDeadlineExceeded):
		return // it had its time
	}
	// It fails where there is no connection, as in some tests.
	_ = http.NewResponseController(w).SetReadDeadline(s.Now().Add(min(drainTime, s.Limits.Stall)))
	_, _ = io.CopyN(io.Discard, r.Body, maxDrain) // how it ends changes nothing
}
