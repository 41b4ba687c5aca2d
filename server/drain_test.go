package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign/server"
	"countersign/server/auth"
)

// refusing lets nobody in, and tells when it has refused somebody.
func refusing(t *testing.T) (s *stack, refused chan struct{}) {
	t.Helper()
	refused = make(chan struct{}, 100)
	return newStack(t, func(c *server.Config) {
		c.Access = func(*http.Request, []auth.Access) (string, error) {
			refused <- struct{}{}
			return "", refusal{}
		}
	}), refused
}

// A client that is refused before it has sent everything is told why, although
// its connection is closed behind the answer.
func TestRefusedWhileSending(t *testing.T) {
	t.Parallel()
	s, refused := refusing(t)
	for range 20 {
		conn := s.dial()
		half := strings.Repeat("x", 100<<10)
		if _, err := io.WriteString(conn, postHead(2*len(half))+half); err != nil {
			t.Fatal(err)
		}
		<-refused
		for range 100 { // piece by piece: a connection that is closed takes the first one or two
			if _, err := io.WriteString(conn, half[:len(half)/100]); err != nil {
				t.Fatal("sending on: ", err)
			}
		}
		if r := readReply(t, conn); r.status != http.StatusUnauthorized || r.header.Get("Www-Authenticate") == "" {
			t.Fatalf("%d %v %s", r.status, r.header, r.body)
		}
	}
}

// Nobody can hold up the answer, nor has one that waits to be asked for the body
// to send it.
func TestRefusedAndSilent(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"silent":  postHead(1 << 20),
		"waiting": strings.Replace(postHead(1<<20), "Host:", "Expect: 100-continue\r\nHost:", 1),
		"endless": postHead(1<<30) + strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := refusing(t)
			conn := s.dial()
			begin := time.Now()
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
			if r := readReply(t, conn); r.status != http.StatusUnauthorized {
				t.Errorf("%d %s", r.status, r.body)
			}
			limit := 2 * time.Second // what the silent one makes the server wait
			if name == "silent" {
				limit = 10 * time.Second
			}
			if took := time.Since(begin); took > limit {
				t.Errorf("answered after %v, want less than %v", took, limit)
			}
		})
	}
}
