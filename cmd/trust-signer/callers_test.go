package main_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"countersign/internal/proctest"
)

// Only certificates for a name of the list get through; who is refused is told
// of, by the name that is missing there.
func TestClientNames(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.cfg["server"]["client_names"] = []string{"no-such-client"}
	p := proctest.Start(t, path(), []string{withPass}, "-config="+s.write(t))
	p.AwaitText(t, "listening")
	if err := s.client(t, true).Check(t.Context()); err == nil {
		t.Error("a certificate for no name of the list gets through")
	}
	p.AwaitText(t, "which server.client_names does not list")

	// The development certificate has only a common name.
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
	s.cfg["server"]["client_names"] = []string{"other", "Countersign development client"}
	s.start(t, []string{withPass})
}

// What Kubernetes asks of the port, as Harbor's chart configures it, is answered
// over both protocols, even when nothing could be signed.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	delete(s.cfg["server"], "client_ca_file")
	p := proctest.Start(t, path(), nil, "-config="+s.write(t)) // no passphrase
	p.AwaitText(t, "listening")
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2, DisableKeepAlives: true}
		for range 3 {
			resp, err := (&http.Client{Transport: tr}).Get("https://" + s.addr + "/")
			if err != nil {
				t.Fatalf("HTTP/2 %v: %v", h2, err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "trust-signer") || (resp.ProtoMajor == 2) != h2 {
				t.Errorf("HTTP/2 %v: %s %d %q, %v", h2, resp.Proto, resp.StatusCode, body, err)
			}
		}
	}
	if err := s.client(t, false).Check(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("health without a passphrase: %v", err)
	}
}
