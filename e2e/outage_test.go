package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/internal/pgtest"
)

// TestSignerOutage shows that reading does not depend on the signer, that an
// outage is never told as a fault of the client, and that it passes by itself.
func TestSignerOutage(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{})
	const gun = "e2e.example/outage/signer"
	p := s.newPublisher(t, 0, gun, newKeys())
	p.initialize(t, true)
	s.signer.kill()

	s.mustVerify(t, 0, gun)
	p.add(t, "targets", "v1")
	s.unavailable(t, "a publish", lastOf(p, p.Publish()))
	resp, err := s.client().Get(s.gunURL(0, gun+"2") + "timestamp.key")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.unavailable(t, "a key", answer{status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After")})
	s.healthSays(t, http.StatusServiceUnavailable, "Trust operational")
	s.mustVerify(t, 0, gun)

	s.startSigner()
	deadline := time.Now().Add(20 * time.Second)
	for err = p.Publish(); err != nil; err = p.Publish() {
		s.unavailable(t, "a publish before the signer is back", lastOf(p, err))
		if time.Now().After(deadline) {
			t.Fatalf("20 s after the signer's return: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.healthSays(t, http.StatusOK, "{}")
	if v, _ := s.mustVerify(t, 0, gun, "targets"); !v["targets"]["v1"] {
		t.Error("the publish after the outage is not there")
	}
}

// TestDatabaseOutage is the same for PostgreSQL. Nothing can be read then, but
// nothing may look as if it did not exist.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t)
	s := newStack(t, stackConfig{cluster: c})
	const gun = "e2e.example/outage/database"
	p := s.newPublisher(t, 0, gun, newKeys())
	p.initialize(t, true)
	byVersion, bySum := s.immutableNames(t, 0, gun)
	c.Stop(t)

	client := s.client()
	for _, name := range append(append(byVersion, bySum...), "root.json", "timestamp.json", "snapshot.json", "targets.json", "timestamp.key") {
		// What is kept in memory may still be served.
		if status, body := get(t, client, s.gunURL(0, gun)+name); status != http.StatusOK && status < 500 {
			t.Errorf("%s without a database: %d %s, want a 5xx", name, status, body)
		}
	}
	p.add(t, "targets", "v1")
	p.rec.take()
	if err := p.Publish(); err == nil {
		t.Error("a publish succeeds without a database")
	}
	for _, a := range p.rec.take() {
		if a.method == http.MethodPost {
			s.unavailable(t, "a publish", a)
		}
	}
	if status, _ := get(t, client, s.url(0)+"/v2/"); status != http.StatusOK {
		t.Errorf("/v2/ without a database: %d", status)
	}
	s.healthSays(t, http.StatusServiceUnavailable, "DB operational")

	c.Start(t)
	s.healthSays(t, http.StatusOK, "{}")
	p.must(t, "publish after the outage", p.Publish())
	s.mustVerify(t, 0, gun, "targets")
}

// lastOf is the last answer that a failed publish got.
func lastOf(p *publisher, err error) answer {
	all := p.rec.take()
	if err == nil || len(all) == 0 {
		return answer{err: fmt.Errorf("the publish ended with %v after %d answers", err, len(all))}
	}
	return all[len(all)-1]
}

// unavailable holds an answer to be one that blames the server.
func (s *stack) unavailable(t *testing.T, what string, a answer) {
	t.Helper()
	if a.err != nil || a.status < 500 || a.status == http.StatusServiceUnavailable && a.retryAfter == "" {
		t.Errorf("%s during an outage: %v (Retry-After %q), want 503 with Retry-After, or 500", what, a, a.retryAfter)
	}
}

// healthSays waits until the health page has this status and words. The checks
// behind it run every 10 seconds.
func (s *stack) healthSays(t *testing.T, status int, words string) {
	t.Helper()
	c := s.client()
	if err := waitFor(45*time.Second, "the health page", func() error {
		got, body := get(t, c, s.url(0)+"/_notary_server/health")
		if got != status || !strings.Contains(string(body), words) {
			return fmt.Errorf("it says %d %s, want %d with %q", got, body, status, words)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestExpiredTimestamp lets 200 readers meet an expired timestamp at the same
// moment, at two servers: one new version is made, and all get it.
func TestExpiredTimestamp(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{servers: 2, race: true})
	const gun, readers = "e2e.example/expired/app", 200
	p := s.newPublisher(t, 0, gun, newKeys())
	p.initialize(t, true)
	sql(t, s.serverDB, `update tuf_files set data = d, sha256 = encode(sha256(d), 'hex')
		from (select id, convert_to(regexp_replace(convert_from(data, 'UTF8'), '"expires":"[^"]*"', '"expires":"2020-01-01T00:00:00Z"'), 'UTF8') d
		      from tuf_files where gun = '%s' and role = 'timestamp') new where tuf_files.id = new.id`, gun)

	type read struct {
		status int
		body   []byte
		err    error
	}
	reads := make(chan read, readers)
	c := s.client()
	for i := range readers {
		go func() {
			resp, err := c.Get(s.gunURL(i%2, gun) + "timestamp.json")
			if err != nil {
				reads <- read{err: err}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			reads <- read{resp.StatusCode, body, err}
		}()
	}
	first := <-reads
	odd := 0
	for range readers - 1 {
		r := <-reads
		if r.err != nil || r.status != http.StatusOK || !bytes.Equal(r.body, first.body) {
			if odd++; odd == 1 {
				t.Errorf("one reader gets %d %s %v, another %d %s %v", r.status, r.body, r.err, first.status, first.body, first.err)
			}
		}
	}
	if odd > 0 {
		t.Errorf("%d of %d readers got something else than the first", odd, readers)
	}
	if got := sql(t, s.serverDB, "select string_agg(version::text, ',' order by version) from tuf_files where gun = '%s' and role = 'timestamp'", gun); got != "1,2" {
		t.Errorf("versions of the timestamp: %s, want 1,2", got)
	}
	if got := sql(t, s.serverDB, "select count(*) from changefeed where gun = '%s'", gun); got != "2" {
		t.Errorf("the changefeed has %s entries, want 2", got)
	}
	for i := range s.servers {
		s.mustVerify(t, i, gun)
	}
}
