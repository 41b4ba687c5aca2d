package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign/server"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// asForm sends body as the multipart form that the tests write by hand.
func asForm(gun tuf.GUN, body string) call {
	return call{method: "POST", target: "/v2/" + string(gun) + "/_trust/tuf/",
		header: [][2]string{{"Content-Type", formHeader().Get("Content-Type")}}, body: body}
}

// Section 5.
func TestPublish(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp, "targets/releases", "targets/releases/inner")
	s.publish(gunApp, repo.Upload())
	repo.AddTarget("targets/releases", "latest", []byte("image"))
	s.publish(gunApp, repo.Next("targets/releases"))
	r := s.get(app + "targets/releases.json")
	r.want(t, http.StatusOK, plainType, string(repo.File("targets/releases")))

	t.Run("nothing but the closing boundary", func(t *testing.T) {
		r := s.do(asForm(gunApp, last))
		r.want(t, http.StatusOK, "", "")
		if r := s.get(app + "3.timestamp.json"); r.status != http.StatusOK {
			t.Errorf("no third timestamp: %d", r.status)
		}
	})
	t.Run("without Content-Length", func(t *testing.T) {
		c := upload(gunApp, repo.Next(tuf.RoleTargets))
		c.chunked = true
		s.do(c).want(t, http.StatusOK, "", "")
	})
	t.Run("bytes as sent", func(t *testing.T) {
		repo.Targets["targets"].Version++
		odd := "\n " + strings.Replace(string(repo.File(tuf.RoleTargets)), ":", " :\t", 1) + "\r\n"
		s.do(upload(gunApp, map[tuf.RoleName][]byte{"targets": []byte(odd)})).want(t, http.StatusOK, "", "")
		s.get(app+"targets.json").want(t, http.StatusOK, plainType, odd)
		s.get(app+"targets."+tuf.Sum([]byte(odd)).String()+".json").want(t, http.StatusOK, plainType, odd)
	})
	s.check(gunApp)
}

// What the rules refuse reaches clients in a form that they can read.
func TestPublishRefused(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp)
	s.publish(gunApp, repo.Upload())
	wantBody := func(t *testing.T, r reply, code, detail string) {
		t.Helper()
		if r.status != http.StatusBadRequest || r.code(t) != code || !strings.Contains(r.body, detail+"}]}") {
			t.Errorf("got %d %s, want 400 %s with %s", r.status, r.body, code, detail)
		}
	}
	t.Run("again", func(t *testing.T) {
		r := s.do(upload(gunApp, repo.Upload()))
		r.want(t, http.StatusBadRequest, jsonType, `{"errors":[{"code":"VERSION","message":"A newer version of metadata is already available.","detail":{}}]}`+"\n")
	})
	t.Run("no root", func(t *testing.T) {
		r := s.do(upload("new", map[tuf.RoleName][]byte{"targets": repo.File(tuf.RoleTargets)}))
		r.want(t, http.StatusBadRequest, jsonType, `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.",`+
			`"detail":{"Name":"ErrValidation","Error":{"Msg":"no pre-existing root and no root provided in update."}}}]}`+"\n")
	})
	t.Run("root of another GUN", func(t *testing.T) {
		r := s.do(upload("new", repo.Upload()))
		wantBody(t, r, "INVALID_UPDATE", `"detail":{"Name":"ErrBadRoot","Error":{"Msg":"could not validate the path to a trusted root: unable to retrieve valid leaf certificates"}}`)
	})
	t.Run("targets by a stranger", func(t *testing.T) {
		repo.Targets["targets"].Version++
		good := repo.Keys["targets"]
		repo.Keys["targets"] = []*tuftest.Key{repo.NewKey("targets")}
		r := s.do(upload(gunApp, map[tuf.RoleName][]byte{"targets": repo.File("targets")}))
		repo.Keys["targets"] = good
		wantBody(t, r, "INVALID_UPDATE", `"detail":{"Name":"ErrBadTargets","Error":{"Msg":"valid signatures did not meet threshold for targets"}}`)
	})
	t.Run("snapshot of a stranger", func(t *testing.T) {
		mine := tuftest.New(t, "mine", tuftest.Options{Timestamp: serverKey(t, s.addr, "mine", "timestamp")})
		files := mine.Upload()
		delete(files, tuf.RoleSnapshot)
		r := s.do(upload("mine", files))
		want := `"detail":{"Name":"ErrBadHierarchy","Error":{"Missing":"snapshot","Msg":"no snapshot was included in update and server does not hold current snapshot key for repository`
		if r.status != http.StatusBadRequest || r.code(t) != "INVALID_UPDATE" || !strings.Contains(r.body, want) {
			t.Errorf("got %d %s, want %s", r.status, r.body, want)
		}
	})
	t.Run("a GUN that cannot be", func(t *testing.T) {
		for target, msg := range map[string]string{
			"/v2/" + strings.Repeat("a", 300) + "/_trust/tuf/": "invalid name: a GUN has at most 255 characters",
			"/v2/a%00b/_trust/tuf/":                            "invalid name: GUN has a NUL or '*'",
			"/v2/a%FFb/_trust/tuf/":                            "invalid name: GUN is not UTF-8",
		} {
			c := upload(gunApp, repo.Upload())
			c.target = target
			var b struct {
				Errors []struct {
					Code   string
					Detail struct{ Error struct{ Msg string } }
				}
			}
			r := s.do(c)
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || r.status != http.StatusBadRequest || b.Errors[0].Code != "INVALID_GUN" || b.Errors[0].Detail.Error.Msg != msg {
				t.Errorf("%.40s: %d %s", target, r.status, r.body)
			}
		}
	})
	s.check(gunApp)
}

// Uploads that are broken as HTTP or as multipart leave nothing behind, and the
// connection to the server stays good for the next request.
func TestBrokenUploads(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp)
	good := upload(gunApp, repo.Upload())
	for name, c := range map[string]call{
		"cut":               {header: good.header, body: good.body[:len(good.body)-10]},
		"cut, chunked":      {header: good.header, body: good.body[:len(good.body)-10], chunked: true},
		"empty":             {header: good.header},
		"gzip":              {header: append(good.header[:1:1], [2]string{"Content-Encoding", "gzip"}), body: good.body},
		"no type":           {body: good.body},
		"null signed":       asForm(gunApp, file("root", string(repo.File("root")))+file("targets", `{"signed":null,"signatures":[{"keyid":"a","method":"ecdsa","sig":"AA=="}]}`)+last),
		"no signed":         asForm(gunApp, file("root", string(repo.File("root")))+file("targets", `{"signatures":[{"keyid":"a","method":"ecdsa","sig":"AA=="}]}`)+last),
		"null":              asForm(gunApp, file("root", `null`)+last),
		"empty object":      asForm(gunApp, file("root", `{}`)+last),
		"duplicate members": asForm(gunApp, file("root", `{"signed":{},"signed":{}}`)+last),
		"version 2^31":      asForm(gunApp, file("root", `{"signed":{"_type":"Root","version":2147483648}}`)+last),
		"nothing new":       asForm("fresh", last),
		"only a timestamp":  asForm("fresh", file("timestamp", `{}`)+last),
		"deep":              asForm(gunApp, file("root", strings.Repeat(`{"signed":`, 50_000))+last),
		"10,000 files":      asForm(gunApp, strings.Repeat(file("targets/a", envelope), 10_000)+last),
		"a long name":       asForm(gunApp, file("targets/"+strings.Repeat("a", 300), envelope)+last),
		"NUL in a name":     asForm(gunApp, file("targets/a\x00", envelope)+last),
	} {
		t.Run(name, func(t *testing.T) {
			c.method = "POST"
			if c.target == "" {
				c.target = app
			}
			if r := s.do(c); r.status < 400 || r.status > 499 || len(r.body) > server.MaxErrorBody {
				t.Errorf("%d %.300s", r.status, r.body)
			} else {
				r.code(t)
			}
		})
	}
	changes, err := s.store.Changes(t.Context(), storage.ChangeQuery{Limit: 1, Newest: true})
	if err != nil || len(changes) != 0 {
		t.Errorf("something was stored: %v %v", changes, err)
	}
	s.get(app+"root.json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	s.do(good).want(t, http.StatusOK, "", "")
	s.check(gunApp)
}

// endless writes an upload of one file of n bytes, and says how much of it the
// server took.
func endless(t *testing.T, addr, head string, n int) (sent int, r reply) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answered := make(chan reply, 1)
	go func() {
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			answered <- reply{body: err.Error()}
			return
		}
		body, _ := io.ReadAll(res.Body)
		answered <- reply{res.StatusCode, res.Header, string(body)}
	}()
	_, err = io.WriteString(conn, head)
	block := []byte("10000\r\n" + strings.Repeat(" ", 1<<16) + "\r\n")
	for err == nil && sent < n {
		_, err = conn.Write(block)
		sent += 1 << 16
	}
	return sent, <-answered
}

func TestAFileOf200MB(t *testing.T) {
	s := newStack(t, nil)
	head := "POST " + app + " HTTP/1.1\r\nHost: x\r\nContent-Type: " + formHeader().Get("Content-Type") + "\r\n"
	part := strings.TrimSuffix(file("root", ""), "\r\n")
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(part), part)
	sent, r := endless(t, s.addr, head+"Transfer-Encoding: chunked\r\n\r\n"+chunk, 200<<20)
	if r.status != http.StatusBadRequest || !strings.Contains(r.body, "a file of the upload has more than 16777216 bytes") {
		t.Errorf("chunked: %d %s", r.status, r.body)
	}
	if sent > 64<<20 {
		t.Errorf("the server took %d bytes", sent)
	}
	_, r = endless(t, s.addr, head+fmt.Sprintf("Content-Length: %d\r\n\r\n", 200<<20), 0)
	if r.status != http.StatusBadRequest || !strings.Contains(r.body, "the upload has more than 33554432 bytes") {
		t.Errorf("declared: %d %s", r.status, r.body)
	}
}

// All uploads together take no more memory than is set aside for them; one
// that finds it used up is told to come again.
func TestUploadsShareMemory(t *testing.T) {
	s := newStack(t, func(c *server.Config) { c.Limits.Uploads = 1 << 20 })
	// An upload that holds nearly all, and does not end. To write to a pipe is
	// to know that it has been read.
	read, write := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, app, read)
		r.Header = formHeader()
		s.handler.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if _, err := io.WriteString(write, strings.TrimSuffix(file("root", ""), "\r\n")+strings.Repeat(" ", 1<<20+60<<10)); err != nil {
		t.Fatal(err)
	}
	repo := s.newRepo(gunApp)
	large := asForm(gunApp, file("root", strings.Repeat(" ", 128<<10))+last)
	r := s.do(large)
	if r.status != http.StatusServiceUnavailable || r.code(t) != "UNAVAILABLE" || r.header.Get("Retry-After") != "10" {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	s.publish(gunApp, repo.Upload()) // what usual clients send is not counted
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	if r := s.do(large); r.status != http.StatusBadRequest {
		t.Errorf("the memory is not given back: %d %s", r.status, r.body)
	}
	s.check(gunApp)
}

// Of publishers of one version, one wins, and all others are told so.
func TestRacingPublishers(t *testing.T) {
	s := newStack(t, nil)
	repo := s.newRepo(gunApp)
	s.publish(gunApp, repo.Upload())
	next := upload(gunApp, repo.Next(tuf.RoleTargets))
	replies := make([]reply, 8)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = s.do(next) })
	}
	wg.Wait()
	won := 0
	for _, r := range replies {
		if r.status == http.StatusOK {
			won++
		} else if r.status != http.StatusBadRequest || r.code(t) != "VERSION" {
			t.Errorf("a loser got %d %s", r.status, r.body)
		}
	}
	if won != 1 {
		t.Errorf("%d publishers won", won)
	}
	s.check(gunApp)
}

// An expired timestamp is renewed by whoever reads it, and not by who reads
// anything else.
func TestExpiredTimestamp(t *testing.T) {
	s := newStack(t, nil)
	files := s.newRepo(gunApp).Upload()
	s.publish(gunApp, files)
	s.clock.advance(15 * 24 * time.Hour)
	s.get(app+"root.json").want(t, http.StatusOK, plainType, string(files["root"]))
	s.get(app+"2.timestamp.json").want(t, http.StatusNotFound, jsonType, bodyNotFound)
	renewed := s.get(app + "timestamp.json")
	s.get(app+"2.timestamp.json").want(t, http.StatusOK, plainType, renewed.body)
	s.get(app+"timestamp.json").want(t, http.StatusOK, plainType, renewed.body)
	s.check(gunApp)
}
