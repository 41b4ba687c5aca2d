package signer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/certs"
	"countersign/internal/pgtest"
	"countersign/signer"
	"countersign/signer/rpc"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// newPKI makes a development CA and the two sides' files in a folder.
func newPKI(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := certs.EnsureDev(certs.DevConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func loadPKI(t testing.TB, dir, name string) *certs.Store {
	t.Helper()
	s, err := certs.Load(certs.Config{Files: certs.Files{
		Cert: filepath.Join(dir, name+".crt"),
		Key:  filepath.Join(dir, name+".key"),
		CA:   filepath.Join(dir, "ca.crt"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t testing.TB, pki, addr string) *rpc.Client {
	t.Helper()
	c, err := rpc.Dial(rpc.ClientConfig{Addr: addr, TLS: loadPKI(t, pki, "client").Client("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// serve serves keys over mutual TLS until the test ends, and returns a client.
func serve(t testing.TB, keys rpc.KeyService, health func(context.Context) error) *rpc.Client {
	t.Helper()
	pki := newPKI(t)
	return dial(t, pki, serveOn(t, pki, keys, health))
}

// serveOn is serve with the certificates of folder pki; it returns the address.
func serveOn(t testing.TB, pki string, keys rpc.KeyService, health func(context.Context) error) string {
	t.Helper()
	return serveWith(t, pki, keys, health, slog.New(slog.DiscardHandler))
}

// serveWith is serveOn with a log.
func serveWith(t testing.TB, pki string, keys rpc.KeyService, health func(context.Context) error, log *slog.Logger) string {
	t.Helper()
	s, err := rpc.NewServer(rpc.ServerConfig{Keys: keys, Health: health, TLS: loadPKI(t, pki, "signer").Signer(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return lis.Addr().String()
}

// healthy polls until the signer behind c says that it can work.
func healthy(t testing.TB, c *rpc.Client, dead <-chan struct{}) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := c.Check(t.Context())
		if err == nil {
			return
		}
		select {
		case <-dead:
			t.Fatal("the signer ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// verified signs by wire, and verifies what comes back.
func verified(t testing.TB, c *rpc.Client, k storage.Key) {
	t.Helper()
	content := []byte(`{"_type":"Snapshot"}`)
	public, err := c.Key(t.Context(), k.GUN, k.Role, k.ID)
	if err != nil {
		t.Errorf("%s key: %v", k.Algorithm, err)
		return
	}
	sig, err := c.Sign(t.Context(), k.GUN, k.Role, k.ID, content)
	if err != nil {
		t.Errorf("%s key: %v", k.Algorithm, err)
		return
	}
	if err := public.VerifySignature(public.Method(), content, sig); err != nil {
		t.Errorf("%s key: %v", k.Algorithm, err)
	}
}

// TestOverTheWire takes the client, the server, the signer and a database
// together.
func TestOverTheWire(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		c := serve(t, s, s.Health)
		healthy(t, c, nil)
		for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519} {
			k := s.create(t, algorithm)
			made, err := c.CreateKey(t.Context(), gun, role, algorithm)
			if err != nil || made.ID() != k.ID {
				t.Errorf("CreateKey: got %v, %v", made.ID(), err)
			}
			verified(t, c, k)
			if _, err := c.Sign(t.Context(), "other/app", role, k.ID, nil); !errors.Is(err, storage.ErrKeyForbidden) {
				t.Errorf("Sign for another GUN: got %v", err)
			}
		}
		_, err := c.Key(t.Context(), gun, role, tuf.KeyID(fmt.Sprintf("%x", sha256.Sum256(nil))))
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Key that does not exist: got %v", err)
		}
		if _, err := c.CreateKey(t.Context(), tuf.GUN(strings.Repeat("g", 256)), role, tuf.KeyECDSA); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("CreateKey with a long GUN: got %v", err)
		}
		k := s.create(t, tuf.KeyECDSA)
		s.passphrases.set("main", "")
		s.restart(t, nil)
		c = serve(t, s, s.Health)
		if _, err := c.CreateKey(t.Context(), gun, role, tuf.KeyECDSA); !errors.Is(err, storage.ErrNoPassphrase) || strings.Contains(err.Error(), `"main"`) {
			t.Errorf("CreateKey without a passphrase: got %v", err)
		}
		if _, err := c.Key(t.Context(), gun, role, k.ID); !errors.Is(err, storage.ErrKeySealed) {
			t.Errorf("Key without a passphrase: got %v", err)
		}
	})
}

// freeAddr returns an address on which nothing listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

// run runs one of upstream's programs with that configuration in folder pki.
// The channel is closed if it ends.
func run(t testing.TB, program, pki string, config map[string]map[string]string, env ...string) <-chan struct{} {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pki, program+".json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-config="+path)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-dead
	})
	return dead
}

// upstream runs upstream's signer on the database of url, and returns a client
// of it.
func upstream(t testing.TB, url string, env ...string) *rpc.Client {
	t.Helper()
	pki, addr := newPKI(t), freeAddr(t)
	dead := run(t, "notary-signer", pki, map[string]map[string]string{
		"server":  {"grpc_addr": addr, "tls_cert_file": "signer.crt", "tls_key_file": "signer.key", "client_ca_file": "ca.crt"},
		"storage": {"backend": "postgres", "db_url": url, "default_alias": "main"},
		"logging": {"level": "error"},
	}, env...)
	c := dial(t, pki, addr)
	healthy(t, c, dead)
	return c
}

// TestUpstreamsSigner: either signer uses what the other has made in the same
// table, at the iteration count that we seal with, and our client works with
// upstream's signer.
func TestUpstreamsSigner(t *testing.T) {
	url := pgtest.URL(t)
	s := newStand(t, sqldb.Config{Backend: "postgres", URL: url})
	sealer, err := seal.New(seal.Config{Passphrase: s.passphrases.get})
	if err != nil {
		t.Fatal(err)
	}
	s.config.Sealer = sealer
	if s.Service, err = signer.New(s.config); err != nil {
		t.Fatal(err)
	}
	theirs := upstream(t, url, "NOTARY_SIGNER_MAIN=correct horse")
	for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519} {
		ours := s.create(t, algorithm)
		handed, err := theirs.CreateKey(t.Context(), gun, role, algorithm)
		if err != nil || handed.ID() != ours.ID {
			t.Errorf("%s: upstream does not hand out our unused key: %v, %v", algorithm, handed.ID(), err)
		}
		verified(t, theirs, ours)
		s.mustSign(t, ours)
		if _, err := theirs.Key(t.Context(), gun, role, ours.ID); err != nil {
			t.Errorf("%s: asking upstream's signer for a key: %v", algorithm, err)
		}
		// It signs for anybody, but says what a key was made for.
		if _, err := theirs.Key(t.Context(), gun, tuf.RoleSnapshot, ours.ID); !errors.Is(err, storage.ErrKeyForbidden) {
			t.Errorf("%s: asking upstream's signer for a timestamp key as the snapshot's: %v", algorithm, err)
		}

		made, err := theirs.CreateKey(t.Context(), gun, role, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		if made.ID() == ours.ID {
			t.Errorf("%s: a key that has signed is unused to upstream", algorithm)
		}
		row := s.create(t, algorithm)
		if row.ID != made.ID() {
			t.Errorf("%s: we do not hand out upstream's unused key", algorithm)
		}
		s.mustSign(t, row)
		verified(t, theirs, row)
		if next := s.create(t, algorithm); next.ID == row.ID {
			t.Errorf("%s: a key that has signed is unused to us", algorithm)
		}
	}
	k := s.importRSA(t, 2048)
	if _, err := theirs.Key(t.Context(), gun, role, k.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a key under an alias that upstream has no passphrase for: got %v", err)
	}
	if _, err := theirs.CreateKey(t.Context(), gun, role, tuf.KeyRSA); err == nil || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("CreateKey of an RSA key: got %v", err)
	}
	other := upstream(t, url, "NOTARY_SIGNER_MAIN=correct horse", "NOTARY_SIGNER_OTHER=battery staple")
	verified(t, other, k)
	if err := s.DeleteKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Sign(t.Context(), gun, role, k.ID, nil); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a key that we have deleted: got %v", err)
	}
}

// TestUpstreamsServer: upstream's server gets its keys from our signer, over
// its own, older gRPC.
func TestUpstreamsServer(t *testing.T) {
	s := onSQLite(t)
	pki := newPKI(t)
	signerAddr := serveOn(t, pki, s, s.Health)
	healthy(t, dial(t, pki, signerAddr), nil)
	host, port, err := net.SplitHostPort(signerAddr)
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	dead := run(t, "notary-server", pki, map[string]map[string]string{
		"server": {"http_addr": addr},
		"trust_service": {
			"type": "remote", "hostname": host, "port": port, "key_algorithm": "ecdsa",
			"tls_ca_file": "ca.crt", "tls_client_cert": "client.crt", "tls_client_key": "client.key",
		},
		"storage": {"backend": "memory"},
		"logging": {"level": "error"},
	})
	want := s.create(t, tuf.KeyECDSA)
	for deadline := time.Now().Add(30 * time.Second); ; {
		status, body, err := get(t, "http://"+addr+"/v2/"+string(gun)+"/_trust/tuf/timestamp.key")
		if err == nil {
			var got struct {
				KeyType string
				KeyVal  struct{ Public []byte }
			}
			if err := json.Unmarshal(body, &got); status != http.StatusOK || err != nil {
				t.Fatalf("got %d %s", status, body)
			}
			if got.KeyType != want.Algorithm || !bytes.Equal(got.KeyVal.Public, want.Public) {
				t.Errorf("got %s, want key %s", body, want.ID)
			}
			break
		}
		select {
		case <-dead:
			t.Fatal("the server ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func get(t testing.TB, url string) (status int, body []byte, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}
