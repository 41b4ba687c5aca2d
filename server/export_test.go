package server

import (
	"io"
	"net/http"
	"testing"

	"countersign/server/publish"
)

// MaxErrorBody is the bound that tests hold every error body to.
const MaxErrorBody = maxErrorBody

// A Route is what SplitPath finds, in words that a test can compare.
type Route struct{ Op, GUN, Role, Checksum, Version string }

// SplitPath is the path split.
func SplitPath(method, path string) (Route, bool) {
	t, ok := splitPath(method, path)
	if !ok {
		return Route{}, false
	}
	return Route{string(t.op), t.gun, t.role, t.checksum, t.version}, true
}

// ReadUpload is the multipart reader. It fails the test if memory stays
// accounted for after the upload is done with.
func ReadUpload(t testing.TB, h http.Header, length int64, body io.Reader, l Limits) (publish.Upload, error) {
	l = l.withDefaults()
	var shared budget
	shared.left.Store(l.Uploads)
	in := newIntake(body, l.Body, &shared, nil)
	upload, err := parseParts(readParts(h, length, in, l))
	in.release()
	if left := shared.left.Load(); left != l.Uploads {
		t.Errorf("%d bytes of the budget are not given back", l.Uploads-left)
	}
	return upload, err
}

// AnswerTo is the answer to an upload that failed with err.
func AnswerTo(err error) (status int, code, body string) {
	a := answerTo(opUpdate, err)
	return a.status, a.code, string(a.body())
}
