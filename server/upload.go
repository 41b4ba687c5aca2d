package server

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"countersign/server/publish"
	"countersign/tuf"
)

// maxBoundary is what RFC 2046 allows.
const maxBoundary = 70

// A rawPart is one file of an upload before anything is known of its content.
type rawPart struct {
	role tuf.RoleName
	data []byte
}

// readParts reads a multipart body: one file per part, the role in the file
// name. It keeps no more in memory than the limits allow. in must be bounded by
// l.Body; length is what the client says that it sends, or -1. With an error
// come the files that stand before the fault.
func readParts(h http.Header, length int64, in *intake, l Limits) ([]rawPart, error) {
	boundary, err := uploadBoundary(h)
	if err != nil {
		return nil, err
	}
	if length > l.Body {
		return nil, tooLarge("the upload", l.Body)
	}
	in.closing = "--" + boundary + "--"
	var files []rawPart
	for parts := multipart.NewReader(in, boundary); ; {
		in.betweenParts(l.PartHeader)
		part, err := parts.NextPart()
		if err == io.EOF { // only itself: wrapped, it means that the body ends too soon
			return files, nil
		}
		if err != nil {
			return files, in.fault(err)
		}
		if len(files) == l.Parts {
			return files, refused("an upload has at most %d files", l.Parts)
		}
		role, err := partRole(part)
		if err != nil {
			return files, err
		}
		in.insidePart()
		data, err := io.ReadAll(io.LimitReader(part, l.Part+1))
		if err != nil {
			return files, in.fault(err)
		}
		if int64(len(data)) > l.Part {
			return files, tooLarge("a file of the upload", l.Part)
		}
		files = append(files, rawPart{role, data})
	}
}

// parseParts parses what readParts has read, and forgets it: the last file of a
// role is taken. Of all faults the first in the stream is told, and fault, if
// there is one, stands behind all files.
func parseParts(files []rawPart, fault error) (publish.Upload, error) {
	upload := publish.Upload{}
	for i, f := range files {
		files[i].data = nil
		envelope, err := tuf.ParseEnvelope(f.data)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", answerJSON, f.role, err)
		}
		upload[f.role] = publish.Part{Data: f.data, Envelope: envelope}
	}
	if fault != nil {
		return nil, fault
	}
	return upload, nil
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
