package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/server"
	"countersign/server/publish"
	"countersign/tuf"
)

const boundary = "frontier"

// envelope is the least that passes for a metadata file here; the rules come later.
const envelope = `{"signed":{"_type":"Root","version":1},"signatures":[]}`

// file is one part, as the clients write it.
func file(name, content string) string {
	return "--" + boundary + "\r\nContent-Disposition: form-data; name=\"files\"; filename=\"" + name +
		"\"\r\nContent-Type: application/octet-stream\r\n\r\n" + content + "\r\n"
}

const last = "--" + boundary + "--\r\n"

func formHeader() http.Header {
	return http.Header{"Content-Type": {"multipart/form-data; boundary=" + boundary}}
}

func readAll(t testing.TB, h http.Header, body string) (publish.Upload, error) {
	t.Helper()
	return server.ReadUpload(t, h, int64(len(body)), strings.NewReader(body), server.Limits{})
}

func contents(u publish.Upload) map[tuf.RoleName]string {
	m := map[tuf.RoleName]string{}
	for role, part := range u {
		m[role] = string(part.Data)
	}
	return m
}

func TestReadUpload(t *testing.T) {
	other := strings.Replace(envelope, "1", "2", 1)
	spaced := " " + envelope + "\n\n"
	mixed := http.Header{"Content-Type": {"multipart/mixed; boundary=" + boundary}}
	for name, c := range map[string]struct {
		header http.Header
		body   string
		want   map[tuf.RoleName]string
	}{
		"one file":                {body: file("root", envelope) + last, want: map[tuf.RoleName]string{"root": envelope}},
		"closing boundary only":   {body: last, want: map[tuf.RoleName]string{}},
		"no CRLF at the end":      {body: file("root", envelope) + strings.TrimSpace(last), want: map[tuf.RoleName]string{"root": envelope}},
		"delegation keeps folder": {body: file("targets/a/b", envelope) + last, want: map[tuf.RoleName]string{"targets/a/b": envelope}},
		"one .json goes":          {body: file("targets.json", envelope) + last, want: map[tuf.RoleName]string{"targets": envelope}},
		"last of a role wins":     {body: file("root", envelope) + file("root", other) + last, want: map[tuf.RoleName]string{"root": other}},
		"bytes as sent":           {body: file("root", spaced) + last, want: map[tuf.RoleName]string{"root": spaced}},
		"multipart/mixed":         {header: mixed, body: file("root", envelope) + last, want: map[tuf.RoleName]string{"root": envelope}},
		"epilogue":                {body: file("root", envelope) + last + "whatever", want: map[tuf.RoleName]string{"root": envelope}},
		"identity encoding":       {header: with(formHeader(), "Content-Encoding", "identity"), body: last, want: map[tuf.RoleName]string{}},
		"field name is ignored":   {body: strings.Replace(file("root", envelope), "files", "x", 1) + last, want: map[tuf.RoleName]string{"root": envelope}},
		"timestamp is parsed":     {body: file("timestamp", envelope) + last, want: map[tuf.RoleName]string{"timestamp": envelope}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.header == nil {
				c.header = formHeader()
			}
			got, err := readAll(t, c.header, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, contents(got)); diff != "" {
				t.Error(diff)
			}
			for role, part := range got {
				if part.Envelope == nil {
					t.Errorf("%s is not parsed", role)
				}
			}
		})
	}
}

func with(h http.Header, key, value string) http.Header {
	h.Set(key, value)
	return h
}

// detail is what stands in the body of an error that has a reason.
func detail(msg string) string {
	return fmt.Sprintf(`,"detail":{"Name":"ErrValidation","Error":{"Msg":%q}}`, msg)
}

func TestReadUploadRefuses(t *testing.T) {
	long := strings.Repeat("a", 300)
	whole := file("root", envelope) + last
	for name, c := range map[string]struct {
		header http.Header
		body   string
		code   string
		detail string
	}{
		"no content type":     {header: http.Header{}, body: whole, code: "MALFORMED_UPLOAD"},
		"other content type":  {header: http.Header{"Content-Type": {"application/json"}}, body: "{}", code: "MALFORMED_UPLOAD"},
		"multipart/related":   {header: http.Header{"Content-Type": {"multipart/related; boundary=x"}}, code: "MALFORMED_UPLOAD"},
		"no boundary":         {header: http.Header{"Content-Type": {"multipart/form-data"}}, body: whole, code: "MALFORMED_UPLOAD"},
		"empty boundary":      {header: http.Header{"Content-Type": {`multipart/form-data; boundary=""`}}, body: whole, code: "MALFORMED_UPLOAD", detail: detail("the boundary of a multipart body has 1 to 70 characters")},
		"long boundary":       {header: http.Header{"Content-Type": {"multipart/form-data; boundary=" + long}}, code: "MALFORMED_UPLOAD", detail: detail("the boundary of a multipart body has 1 to 70 characters")},
		"gzip":                {header: with(formHeader(), "Content-Encoding", "gzip"), body: "\x1f\x8b", code: "MALFORMED_UPLOAD", detail: detail("compressed uploads are not supported")},
		"empty body":          {body: "", code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"cut in a boundary":   {body: whole[:len(whole)-6], code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"cut in a file":       {body: whole[:len(whole)-40], code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"cut in a header":     {body: whole[:40], code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"cut between parts":   {body: file("root", envelope), code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"other boundary":      {body: strings.ReplaceAll(whole, boundary, "other"), code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"not multipart":       {body: strings.Repeat("x", 5000), code: "MALFORMED_UPLOAD", detail: detail("the upload is not a multipart body")},
		"no file name":        {body: "--" + boundary + "\r\nContent-Disposition: form-data; name=\"files\"\r\n\r\n" + envelope + "\r\n" + last, code: "NO_FILENAME"},
		"no disposition":      {body: "--" + boundary + "\r\n\r\n" + envelope + "\r\n" + last, code: "NO_FILENAME"},
		"broken disposition":  {body: "--" + boundary + "\r\nContent-Disposition: form-data; filename\r\n\r\n" + envelope + "\r\n" + last, code: "NO_FILENAME"},
		"empty file name":     {body: file("", envelope) + last, code: "NO_FILENAME"},
		"file name .json":     {body: file(".json", envelope) + last, code: "NO_FILENAME"},
		"only one .json goes": {body: file("root.json.json", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"root.json"`},
		"unknown role":        {body: file("mirrors", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"mirrors"`},
		"upper case":          {body: file("targets/A", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"targets/A"`},
		"unclean":             {body: file("targets/../root", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"targets/../root"`},
		"folders":             {body: file("a/root", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"a/root"`},
		"300 characters":      {body: file("targets/"+long, envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"targets/` + long + `"`},
		"NUL in the name":     {body: file("targets/a\x00b", envelope) + last, code: "MALFORMED_UPLOAD", detail: detail("the upload is not a multipart body")},
		"not UTF-8":           {body: file("targets/\xff", envelope) + last, code: "INVALID_ROLE", detail: `,"detail":"targets/\ufffd"`},
		"not JSON":            {body: file("root", "x") + last, code: "MALFORMED_JSON"},
		"empty file":          {body: file("root", "") + last, code: "MALFORMED_JSON"},
		"300,000 members":     {body: file("root", `{"signed":{"targets":{`+strings.Repeat(`"":1,`, 300_000)+`"":1}}}`) + last, code: "MALFORMED_JSON"},
		"array":               {body: file("root", "[]") + last, code: "MALFORMED_JSON"},
		"version is a string": {body: file("root", `{"signed":{"version":"1"}}`) + last, code: "MALFORMED_JSON"},
		"deep":                {body: file("root", `{"signed":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`) + last, code: "MALFORMED_JSON"},
		"garbage behind":      {body: file("root", envelope+"x") + last, code: "MALFORMED_JSON"},
		// The first fault in the stream is the one that is told.
		"JSON before role": {body: file("root", "x") + file("mirrors", envelope) + last, code: "MALFORMED_JSON"},
		"role before JSON": {body: file("mirrors", "x") + file("root", "x") + last, code: "INVALID_ROLE", detail: `,"detail":"mirrors"`},
		"JSON before end":  {body: file("root", "x") + file("root", envelope), code: "MALFORMED_JSON"},
		"end before JSON":  {body: file("root", envelope) + file("root", "x")[:90], code: "MALFORMED_UPLOAD", detail: detail("the upload ends too soon")},
		"10,000 files":     {body: strings.Repeat(file("root", envelope), 10_000) + last, code: "MALFORMED_UPLOAD", detail: detail("an upload has at most 1000 files")},
		"header too large": {body: strings.Replace(file("root", envelope), "\r\n\r\n", strings.Repeat("\r\nX-Filler: "+long, 100)+"\r\n\r\n", 1) + last, code: "MALFORMED_UPLOAD", detail: detail("the header of a file in the upload is too large")},
	} {
		t.Run(name, func(t *testing.T) {
			if c.header == nil {
				c.header = formHeader()
			}
			got, err := readAll(t, c.header, c.body)
			if err == nil {
				t.Fatalf("accepted: %d files", len(got))
			}
			status, code, body := server.AnswerTo(err)
			if status != http.StatusBadRequest || code != c.code {
				t.Errorf("got %d %s, want 400 %s (%v)", status, code, c.code, err)
			}
			if want := c.detail + "}]}\n"; !strings.HasSuffix(body, want) {
				t.Errorf("body %s does not end in %s", body, want)
			}
			if c.detail == "" && strings.Contains(body, "detail") {
				t.Errorf("body has a detail: %s", body)
			}
			if len(body) > server.MaxErrorBody {
				t.Errorf("the body has %d bytes", len(body))
			}
		})
	}
}

// A tap is an endless body that counts what is drunk of it.
type tap struct {
	head io.Reader
	n    int64
}

func (r *tap) Read(p []byte) (int, error) {
	n, err := r.head.Read(p)
	if err == io.EOF {
		for i := range p {
			p[i] = ' '
		}
		n, err = len(p), nil
	}
	r.n += int64(n)
	return n, err
}

// Whatever is sent, no more is read than the limits allow, nor is more memory
// used than a small multiple of that.
func TestReadUploadIsBounded(t *testing.T) {
	small := server.Limits{Body: 3 << 20, Part: 1 << 20}
	open := strings.TrimSuffix(file("root", ""), "\r\n")
	for name, c := range map[string]struct {
		head   string
		length int64
		limits server.Limits
		most   int64
		msg    string
	}{
		"a file of 200 MB":         {head: open, length: -1, most: 17 << 20, msg: "a file of the upload has more than 16777216 bytes"},
		"a file, small limits":     {head: open, length: -1, limits: small, most: 1<<20 + 1<<16, msg: "a file of the upload has more than 1048576 bytes"},
		"a declared 200 MB":        {head: open, length: 200 << 20, most: 0, msg: "the upload has more than 33554432 bytes"},
		"many files":               {head: strings.Repeat(file("root", strings.Repeat(" ", 1<<19)+envelope), 10), length: -1, limits: small, most: 3<<20 + 1<<16, msg: "the upload is too large"},
		"an endless file header":   {head: "--" + boundary + "\r\nX: ", length: -1, most: 1 << 16, msg: "the header of a file in the upload is too large"},
		"an endless line at first": {head: "", length: -1, most: 1 << 16, msg: "the upload is not a multipart body"},
		"endless lines at first":   {head: strings.Repeat("x\r\n", 1<<20), length: -1, most: 1 << 16, msg: "the header of a file in the upload is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			body := &tap{head: strings.NewReader(c.head)}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := server.ReadUpload(t, formHeader(), c.length, body, c.limits)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("accepted")
			}
			if _, code, got := server.AnswerTo(err); code != "MALFORMED_UPLOAD" || !strings.Contains(got, c.msg) {
				t.Errorf("got %s, want MALFORMED_UPLOAD: %s", got, c.msg)
			}
			if body.n > c.most {
				t.Errorf("%d bytes were read, at most %d are needed to know", body.n, c.most)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > uint64(8*c.most)+1<<20 {
				t.Errorf("%d bytes of memory were used for %d bytes read", used, body.n)
			}
		})
	}
}

// FuzzMultipart holds the reader to mime/multipart's view of the same bytes.
func FuzzMultipart(f *testing.F) {
	form := formHeader().Get("Content-Type")
	for _, body := range []string{
		last, file("root", envelope) + last, file("targets/releases.json", envelope) + file("root", " null ") + last,
		file("root", envelope), file("", envelope) + last, file("root", "{") + last, "preamble\r\n" + file("root", "{}") + last + "epilogue",
		strings.Replace(file("root", envelope), "Content-Type: application/octet-stream", "Content-Transfer-Encoding: quoted-printable", 1) + last,
		strings.Replace(file("x", envelope), `filename="x"`, `filename*=UTF-8''targets%2Freleases`, 1) + last,
		strings.ReplaceAll(file("root", envelope)+last, "\r\n", "\n"), strings.ReplaceAll(file("root", envelope)+strings.TrimSpace(last), "\r\n", "\n"), "",
	} {
		f.Add(form, body)
	}
	f.Add("multipart/mixed; boundary=\"a b\"", "--a b\r\n\r\n--a b--")
	f.Add("multipart/form-data", last)
	f.Add("text/plain; boundary="+boundary, last)
	limits := server.Limits{Body: 1 << 16, Part: 1 << 12, Parts: 5, PartHeader: 1 << 13}
	f.Fuzz(func(t *testing.T, contentType, body string) {
		h := http.Header{"Content-Type": {contentType}}
		count := &counter{r: strings.NewReader(body)}
		got, err := server.ReadUpload(t, h, -1, count, limits)
		if err != nil {
			if status, _, text := server.AnswerTo(err); status != http.StatusBadRequest || len(text) > server.MaxErrorBody {
				t.Errorf("answered with %d, %d bytes: %v", status, len(text), err)
			}
		}
		if count.n > limits.Body+1<<13 {
			t.Errorf("%d bytes were read", count.n)
		}
		want, wantErr := oracleUpload(h, body, limits)
		switch {
		case errors.Is(wantErr, errLimit):
		case (err == nil) != (wantErr == nil):
			t.Errorf("got %v, mime/multipart says %v", err, wantErr)
		case err == nil:
			if diff := cmp.Diff(want, contents(got)); diff != "" {
				t.Error(diff)
			}
		}
	})
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// errLimit: what was sent is near one of the limits, which mime/multipart does
// not know.
var errLimit = errors.New("near a limit")

// oracleUpload reads body as net/http and mime/multipart do.
func oracleUpload(h http.Header, body string, l server.Limits) (map[tuf.RoleName]string, error) {
	if trailing := len(body) - len(strings.TrimRight(body, " \t\r\n")); len(body) > int(l.PartHeader) || trailing > 50 {
		return nil, errLimit
	}
	r := &http.Request{Method: http.MethodPost, Header: h, Body: io.NopCloser(strings.NewReader(body))}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	if _, params, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || len(params["boundary"]) > 70 {
		return nil, errLimit
	}
	files := map[tuf.RoleName]string{}
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if err == io.EOF {
			// It also says so at an end in the header of a part.
			_, params, _ := mime.ParseMediaType(h.Get("Content-Type"))
			if !strings.Contains("\n"+body, "\n--"+params["boundary"]+"--") {
				return nil, io.ErrUnexpectedEOF
			}
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if n == l.Parts {
			return nil, errLimit
		}
		role, err := roleOfPart(part)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		if len(data) > int(l.Part) {
			return nil, errLimit
		}
		if _, err := tuf.ParseEnvelope(bytes.Clone(data)); err != nil {
			return nil, err
		}
		files[role] = string(data)
	}
}

// roleOfPart reads the role out of a part by way of FileName, to which it adds
// the folders that FileName leaves out.
func roleOfPart(part *multipart.Part) (tuf.RoleName, error) {
	base := part.FileName()
	_, params, _ := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	full := params["filename"]
	if base == "" || full == "" {
		return "", errors.New("no file name")
	}
	return tuf.ParseRoleName(strings.TrimSuffix(full, ".json"))
}
