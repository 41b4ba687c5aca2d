package e2e_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// maxServerMemory bounds what a server may ever have had in memory while it was
// fed some 3 GiB of rubbish. By default all uploads together may hold 128 MiB, and the
// collector lets the heap grow to twice what is held and more before it sweeps.
const maxServerMemory = 768 << 20

const boundary = "e2e-boundary"

// A badRequest is one that must be refused in the way that it says.
type badRequest struct {
	name   string
	method string // GET if there is no body
	path   string // below the server's URL; %s is the GUN
	ctype  string // multipart with the boundary if empty
	header [2]string
	body   io.Reader
	status int // 0 is any 4xx
	code   string
	bare   bool // the error has no detail
}

// TestBadInput feeds a server over the network what no client sends: each is
// refused with a 4xx whose body clients can read, in bounded memory, and nothing
// is stored.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{})
	const gun = "e2e.example/bad/app"
	p := s.newPublisher(t, 0, gun, newKeys())
	p.initialize(t, true)
	p.add(t, "targets", "v1")
	p.must(t, "publish", p.Publish())
	good, err := fetch(s.client(), s.gunURL(0, gun)+"targets.json")
	if err != nil {
		t.Fatal(err)
	}
	before := s.stored(t)
	pid := s.servers[0].cmd.Process.Pid

	for _, c := range append(badUploads(good), badPaths()...) {
		for _, g := range []string{gun, "e2e.example/bad/new"} {
			s.refuses(t, c, g)
			if !strings.Contains(c.path, "%s") || c.body != nil {
				break // a body can be read only once
			}
		}
	}
	s.floods(t, gun)

	if after := s.stored(t); after != before {
		t.Errorf("something was stored: %s rows and changes, were %s", after, before)
	}
	if !s.servers[0].running() || s.servers[0].cmd.Process.Pid != pid {
		t.Error("the server has ended")
	}
	if peak := s.servers[0].status(t, "VmHWM"); peak > maxServerMemory {
		t.Errorf("the server has used %d MiB, want at most %d", peak>>20, maxServerMemory>>20)
	} else {
		t.Logf("the server has used %d MiB at most", peak>>20)
	}
	s.mustVerify(t, 0, gun, "targets")
}

// stored is the number of rows that an upload can add to.
func (s *stack) stored(t testing.TB) string {
	t.Helper()
	return sql(t, s.serverDB, "select (select count(*) from tuf_files) || ' and ' || (select count(*) from changefeed)")
}

// refuses sends one bad request.
func (s *stack) refuses(t *testing.T, c badRequest, gun string) {
	t.Helper()
	path := c.path
	if path == "" {
		path = "/v2/%s/_trust/tuf/"
	}
	path = strings.ReplaceAll(path, "%s", gun)
	method := c.method
	if method == "" {
		method = http.MethodGet
		if c.body != nil {
			method = http.MethodPost
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url(0)+path, c.body)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	if c.body != nil {
		req.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	}
	if c.ctype != "" {
		req.Header.Set("Content-Type", c.ctype)
	}
	if c.header[0] != "" {
		req.Header.Set(c.header[0], c.header[1])
	}
	resp, err := s.client().Do(req)
	if err != nil {
		t.Errorf("%s: no answer: %v", c.name, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, body: strings.TrimSpace(string(body)), err: err}
	switch {
	case err != nil, len(body) >= 1024, a.status < 400 || a.status > 499, c.status != 0 && a.status != c.status, c.code != "" && a.code() != c.code:
		t.Errorf("%s: %v, want %d %s", c.name, a, c.status, c.code)
	case c.bare && strings.Contains(a.body, "detail"):
		t.Errorf("%s: %v, want no detail", c.name, a)
	}
}

// part is one part of an upload. name goes into the header as it stands.
func part(name, content string) string {
	return "--" + boundary + "\r\nContent-Disposition: form-data; name=\"files\"; filename=\"" + name + "\"\r\n" +
		"Content-Type: application/octet-stream\r\n\r\n" + content + "\r\n"
}

const closing = "--" + boundary + "--\r\n"

func upload(parts ...string) io.Reader { return strings.NewReader(strings.Join(parts, "") + closing) }

// badUploads are uploads with one thing wrong. good is a targets file that the
// server has.
func badUploads(good []byte) []badRequest {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.Copy(z, upload(part("targets", string(good)))) // memory does not fail
	_ = z.Close()
	whole := part("targets", string(good))
	signed := func(members string) string {
		return `{"signed":{` + members + `},"signatures":[]}`
	}
	cases := []badRequest{
		{name: "NUL in a role", body: upload(part("targets/a\x00b", string(good))), status: 400},
		{name: "JSON", ctype: "application/json", body: strings.NewReader("{}"), status: 400, code: "MALFORMED_UPLOAD"},
		{name: "no boundary", ctype: "multipart/form-data", body: upload(whole), status: 400, code: "MALFORMED_UPLOAD"},
		{name: "other boundary", ctype: "multipart/form-data; boundary=other", body: upload(whole), status: 400},
		{name: "empty body", body: strings.NewReader(""), status: 400},
		{name: "cut in the middle", body: strings.NewReader(whole[:len(whole)*2/3]), status: 400},
		{name: "cut in a part's header", body: strings.NewReader(whole[:60]), status: 400},
		{name: "cut before the closing boundary", body: strings.NewReader(whole), status: 400},
		{name: "compressed", header: [2]string{"Content-Encoding", "gzip"}, body: &zipped},
		{name: "no file name", body: upload(strings.Replace(whole, `; filename="targets"`, "", 1)), status: 400, code: "NO_FILENAME"},
		{name: "empty file name", body: upload(part("", string(good))), status: 400, code: "NO_FILENAME"},
		{name: "bare extension", body: upload(part(".json", string(good))), status: 400, code: "NO_FILENAME"},
		{name: "roles null", body: upload(part("targets", signed(`"_type":"Targets","version":9,"expires":"2099-01-01T00:00:00Z","targets":{},"delegations":{"keys":{},"roles":[null]}`))), status: 400},
		{name: "signed null, signed by somebody", body: upload(part("targets", `{"signed":null,"signatures":[{"keyid":"aa","method":"ecdsa","sig":"AAAA"}]}`)), status: 400},
		{name: "snapshot without signed", body: upload(part("snapshot", `{"signatures":[{"keyid":"aa","method":"ecdsa","sig":"AAAA"}]}`)), status: 400},
		{name: "null", body: upload(part("targets", "null")), status: 400},
		{name: "empty object", body: upload(part("targets", "{}")), status: 400},
		{name: "garbage behind", body: upload(part("targets", string(good)+"garbage")), status: 400},
		{name: "duplicate member", body: upload(part("targets", strings.Replace(string(good), `"version":`, `"version":1,"version":`, 1))), status: 400},
		{name: "duplicate member in another case", body: upload(part("targets", strings.Replace(string(good), `"version":`, `"Version":1,"version":`, 1))), status: 400},
		{name: "deep nesting", body: upload(part("targets", `{"signed":`+strings.Repeat("[", 200000)+strings.Repeat("]", 200000)+`}`)), status: 400},
		{name: "deep nesting of members", body: upload(part("targets", `{"signed":`+strings.Repeat(`{"a":`, 100000)+"1"+strings.Repeat("}", 100000)+`}`)), status: 400},
		{name: "not UTF-8", body: upload(part("targets", strings.Replace(string(good), `"v1"`, "\"v\xff1\"", 1))), status: 400},
		{name: "old version again", body: upload(part("targets", string(good))), status: 400, code: "VERSION"},
	}
	for _, role := range []string{"mirrors", "../root", "targets/", "targets//a", "targets/UPPER", "targets/a b", "targets/\xff", "targets/.", "targets/" + strings.Repeat("n", 300)} {
		cases = append(cases, badRequest{name: fmt.Sprintf("role %.20q", role), body: upload(part(role, string(good))), status: 400, code: "INVALID_ROLE"})
	}
	for _, content := range []string{"", "{", "[]", `"targets"`, "7",
		signed(`"version":"1"`), signed(`"version":1.5`), signed(`"version":1e99`), signed(`"expires":"tomorrow"`), signed(`"expires":"2099-01-01"`), signed(`"_type":7`),
		`{"signed":{},"signatures":{}}`, `{"signed":{},"signatures":[{"keyid":"a","method":"ecdsa","sig":"***"}]}`} {
		cases = append(cases, badRequest{name: fmt.Sprintf("targets of %.60s", content), body: upload(part("targets", content)), status: 400, code: "MALFORMED_JSON"})
	}
	return cases
}

// badPaths are requests whose path, query or method is wrong.
func badPaths() []badRequest {
	long := strings.Repeat("n", 300)
	const tuf, notFound, noParameters = "/v2/%s/_trust/tuf/", "METADATA_NOT_FOUND", "INVALID_PARAMETERS"
	envelope := func() io.Reader { return upload(part("root", `{"signed":{},"signatures":[]}`)) }
	cases := []badRequest{
		{name: "long GUN, read", path: "/v2/" + long + "/_trust/tuf/root.json", status: 404, code: notFound},
		{name: "long GUN, key", path: "/v2/" + long + "/_trust/tuf/timestamp.key"},
		{name: "long GUN, upload", path: "/v2/" + long + "/_trust/tuf/", body: envelope()},
		{name: "long role", path: tuf + "targets/" + long + ".json", status: 404, code: notFound},
		{name: "version 0", path: tuf + "0.root.json", status: 404, code: notFound},
		{name: "version 000", path: tuf + "000.root.json", status: 404, code: notFound},
		{name: "version beyond 32 bits", path: tuf + "99999999999.root.json", status: 404, code: notFound},
		{name: "version beyond 64 bits", path: tuf + "99999999999999999999999.root.json", status: 404, code: notFound},
		{name: "checksum in upper case", path: tuf + "root." + strings.Repeat("A", 64) + ".json", status: 404, code: notFound},
		{name: "checksum of SHA-512's length", path: tuf + "root." + strings.Repeat("a", 128) + ".json", status: 404, code: notFound},
		{name: "checksum of no length", path: tuf + "root." + strings.Repeat("a", 63) + ".json", status: 404, code: notFound, bare: true},
		{name: "unknown role", path: tuf + "mirrors.json", status: 404, code: notFound, bare: true},
		{name: "unknown delegation", path: tuf + "targets/nobody.json", status: 404, code: notFound},
		{name: "key of root", path: tuf + "root.key", status: 404, code: notFound, bare: true},
		{name: "key of root, rotate", method: "POST", path: tuf + "root.key", status: 404, code: notFound, bare: true},
		{name: "unknown route", path: "/v3/", status: 404, code: notFound, bare: true},
		{name: "no slash", method: "DELETE", path: "/v2/%s/_trust/tuf", status: 404, code: notFound, bare: true},
		{name: "HEAD", method: "HEAD", path: tuf + "root.json", status: 404},
		{name: "PUT", method: "PUT", path: tuf, status: 404, code: notFound, bare: true},
		{name: "PATCH", method: "PATCH", path: tuf, status: 405},
		{name: "OPTIONS", method: "OPTIONS", path: tuf, status: 405},
		{name: "changes, no count", path: "/v2/_trust/changefeed", status: 400, code: noParameters},
		{name: "changes, no number", path: "/v2/_trust/changefeed?records=x", status: 400, code: noParameters},
		{name: "changes, huge count", path: "/v2/%s/_trust/changefeed?records=99999999999", status: 400, code: noParameters},
		{name: "changes, bad ID", path: "/v2/%s/_trust/changefeed?records=1&change_id=x", status: 400, code: noParameters},
	}
	for _, gun := range []string{"nul%00nul", "not-utf8-%ff"} {
		base := "/v2/" + gun + "/_trust/tuf/"
		cases = append(cases,
			badRequest{name: gun + ", read", path: base + "root.json"},
			badRequest{name: gun + ", by version", path: base + "1.root.json"},
			badRequest{name: gun + ", by checksum", path: base + "root." + strings.Repeat("a", 64) + ".json"},
			badRequest{name: gun + ", key", path: base + "timestamp.key"},
			badRequest{name: gun + ", rotate", method: "POST", path: base + "timestamp.key"},
			badRequest{name: gun + ", upload", path: base, body: envelope()},
		)
	}
	return cases
}

// floods are uploads of sizes that nobody needs, one alone and several at once.
func (s *stack) floods(t *testing.T, gun string) {
	t.Helper()
	var many bytes.Buffer
	w := multipart.NewWriter(&many)
	for i := range 10000 {
		f, err := w.CreateFormFile("files", fmt.Sprintf("targets/n%d", i))
		if err == nil {
			_, err = io.WriteString(f, `{"signed":{},"signatures":[]}`)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, badRequest{name: "10,000 parts", ctype: w.FormDataContentType(), body: &many}, gun)

	huge := func() io.Reader {
		const open = `{"signed":{"_type":"Targets","version":9,"x":"`
		return io.MultiReader(strings.NewReader(strings.TrimSuffix(part("targets", open), "\r\n")),
			io.LimitReader(letters{}, 200<<20), strings.NewReader(`"},"signatures":[]}`+"\r\n"+closing))
	}
	s.refuses(t, badRequest{name: "200 MB part", body: huge()}, gun)
	s.refuses(t, badRequest{name: "200 MB of the same part", body: io.MultiReader(strings.NewReader(strings.Repeat(part("targets", "{}"), 1<<20)), huge())}, gun)

	var wg sync.WaitGroup
	members := hostileMembers()
	for range 8 {
		wg.Go(func() {
			resp, err := s.client().Post(s.gunURL(0, gun), "multipart/form-data; boundary="+boundary, strings.NewReader(members))
			if err != nil {
				t.Errorf("many members beside others: no answer: %v", err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusBadRequest {
				t.Errorf("many members beside others: %s", resp.Status)
			}
		})
	}
	wg.Wait()
	for range 12 {
		wg.Go(func() {
			resp, err := s.client().Post(s.gunURL(0, gun), "multipart/form-data; boundary="+boundary, huge())
			if err != nil {
				t.Errorf("200 MB part beside others: no answer: %v", err)
				return
			}
			resp.Body.Close()
			// That there is no room for it just now is as good an answer.
			if resp.StatusCode != http.StatusServiceUnavailable && (resp.StatusCode < 400 || resp.StatusCode > 499) {
				t.Errorf("200 MB part beside others: %s", resp.Status)
			}
		})
	}
	wg.Wait()
}

// hostileMembers is an upload of as many members as fit into one file, in the
// order that costs most to sort.
func hostileMembers() string {
	var b strings.Builder
	for i := 1_500_000; i > 0; i-- {
		fmt.Fprintf(&b, `"%x":1,`, 1<<20+i)
	}
	return part("targets", `{"signed":{`+b.String()+`"a":1},"signatures":[]}`) + closing
}

// letters is an endless row of one letter.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
