package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync/atomic"

	"countersign/server/publish"
	"countersign/tuf"
)

// maxBoundary is what RFC 2046 allows.
const maxBoundary = 70

// readUpload reads a multipart body: one file per part, the role in the file
// name, the last file of a role taken. Faults are reported in the order of the
// stream. It keeps no more in memory than the limits allow. in must be bounded
// by l.Body; length is what the client says that it sends, or -1.
func readUpload(h http.Header, length int64, in *intake, l Limits) (publish.Upload, error) {
	boundary, err := uploadBoundary(h)
	if err != nil {
		return nil, err
	}
	if length > l.Body {
		return nil, tooLarge("the upload", l.Body)
	}
	in.closing = "--" + boundary + "--"
	upload := publish.Upload{}
	parts := multipart.NewReader(in, boundary)
	for n := 0; ; n++ {
		in.betweenParts(l.PartHeader)
		part, err := parts.NextPart()
		if err == io.EOF { // only itself: wrapped, it means that the body ends too soon
			return upload, nil
		}
		if err != nil {
			return nil, in.fault(err)
		}
		if n == l.Parts {
			return nil, refused("an upload has at most %d files", l.Parts)
		}
		role, err := partRole(part)
		if err != nil {
			return nil, err
		}
		in.insidePart()
		data, err := io.ReadAll(io.LimitReader(part, l.Part+1))
		if err != nil {
			return nil, in.fault(err)
		}
		if int64(len(data)) > l.Part {
			return nil, tooLarge("a file of the upload", l.Part)
		}
		envelope, err := tuf.ParseEnvelope(data)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", answerJSON, role, err)
		}
		upload[role] = publish.Part{Data: data, Envelope: envelope}
	}
}

// uploadBoundary returns the boundary between parts. Bodies that are not
// multipart are told from multipart bodies that cannot be read as upstream
// does it: without a reason.
func uploadBoundary(h http.Header) (string, error) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	boundary, ok := params["boundary"]
	if err != nil || kind != "multipart/form-data" && kind != "multipart/mixed" || !ok {
		return "", answerUpload
	}
	if len(boundary) == 0 || len(boundary) > maxBoundary {
		return "", refused("the boundary of a multipart body has 1 to %d characters", maxBoundary)
	}
	if e := strings.TrimSpace(h.Get("Content-Encoding")); e != "" && !strings.EqualFold(e, "identity") {
		return "", refused("compressed uploads are not supported")
	}
	return boundary, nil
}

// partRole reads the role from the file name as it stands in the header:
// [multipart.Part.FileName] would make "releases" of "targets/releases".
func partRole(part *multipart.Part) (tuf.RoleName, error) {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	name := strings.TrimSuffix(params["filename"], ".json")
	if err != nil || name == "" {
		return "", answerNoFilename
	}
	role, err := tuf.ParseRoleName(name)
	if err != nil {
		return "", answerInvalidRole.with(name)
	}
	return role, nil
}

// refused is a malformed upload for a reason that clients print.
func refused(format string, args ...any) *answer {
	return answerUpload.with(because(fmt.Sprintf(format, args...)))
}

func tooLarge(what string, limit int64) *answer {
	return refused("%s has more than %d bytes", what, limit)
}

// A budget is how many bytes of uploads may yet be taken into memory.
type budget struct{ left atomic.Int64 }

// An intake reads a body within bounds: that of the body, that of what stands
// between its parts, and that of all uploads which are in memory. It never
// waits for memory: uploads that each held half of it would wait for ever.
type intake struct {
	r      io.Reader
	left   int64 // of this body
	shared *budget
	taken  int64 // from shared

	between bool
	gap     int64 // left of what may stand between two parts

	closing string // the boundary behind the last part
	tail    []byte // the last bytes that were read
	err     error  // why it does not read on
}

// maxTail is enough for a closing boundary and some white space.
const maxTail = 128

// newIntake reads the body r.
func newIntake(r io.Reader, limit int64, shared *budget) *intake {
	return &intake{r: r, left: limit, shared: shared, tail: []byte("\n")}
}

// betweenParts and insidePart say what is being read. The multipart reader
// reads ahead by up to one buffer, and the bounds are that vague.
func (in *intake) betweenParts(limit int64) { in.between, in.gap = true, limit }
func (in *intake) insidePart()              { in.between = false }

// Read returns io.EOF only behind a closing boundary, else io.ErrUnexpectedEOF.
// The multipart reader takes an end inside the header of a file for the end of
// the whole: a body that was cut there would pass without its last files.
func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.tail = append(in.tail, p[max(0, n-maxTail):n]...)
	in.tail = append(in.tail[:0], in.tail[max(0, len(in.tail)-maxTail):]...)
	in.left -= int64(n)
	if in.between {
		in.gap -= int64(n)
	}
	in.taken += int64(n)
	switch available := in.shared.left.Add(-int64(n)); {
	case in.left < 0:
		in.err = refused("the upload is too large")
	case in.between && in.gap < 0:
		in.err = refused("the header of a file in the upload is too large")
	case available < 0:
		in.err = fmt.Errorf("%w: the uploads that are being read fill the memory for them", answerUnavailable)
	case err == io.EOF:
		if in.err = io.ErrUnexpectedEOF; in.closed() {
			in.err = io.EOF
		}
		return n, in.err
	case err != nil:
		in.err = fmt.Errorf("%w: %w", refused("the upload ends too soon"), err)
	default:
		return n, nil
	}
	return 0, in.err
}

// closed reports whether the last line that was read is the closing boundary.
func (in *intake) closed() bool {
	before, ok := bytes.CutSuffix(bytes.TrimRight(in.tail, " \t\r\n"), []byte(in.closing))
	return ok && bytes.HasSuffix(before, []byte("\n"))
}

// release gives back what the body took of the shared budget.
func (in *intake) release() {
	in.shared.left.Add(in.taken)
	in.taken = 0
}

// fault says why the body could not be read on, given the multipart reader's
// view of it. That may quote the body or name addresses: it is for the log.
func (in *intake) fault(err error) error {
	if _, ok := errors.AsType[*answer](in.err); ok {
		return in.err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", refused("the upload ends too soon"), err)
	}
	return fmt.Errorf("%w: %w", refused("the upload is not a multipart body"), err)
}
