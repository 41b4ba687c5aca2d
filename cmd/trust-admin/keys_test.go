package main_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign/certs"
	"countersign/internal/pgtest"
	"countersign/internal/proctest"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

const (
	keysMain = "main-Passphrase-41-long"
	keysNew  = "new-Passphrase-43-long"
)

// A keysStand is a running signer, and an administrator beside it.
type keysStand struct {
	dir    string
	addr   string
	env    []string
	signer *proctest.Process
}

func newKeysStand(t *testing.T, backend string) *keysStand {
	t.Helper()
	s := &keysStand{dir: t.TempDir(), addr: proctest.FreeAddr(t), env: []string{"NOTARY_SIGNER_MAIN=" + keysMain, "NOTARY_SIGNER_NEW=" + keysNew}}
	if err := certs.EnsureDev(certs.DevConfig{Dir: s.dir}); err != nil {
		t.Fatal(err)
	}
	server, signer := filepath.Join(s.dir, "server.db"), filepath.Join(s.dir, "signer.db")
	if backend == "postgres" {
		server, signer = pgtest.URL(t), pgtest.URL(t)
	}
	s.write(t, "signer.json", map[string]any{
		"server":  map[string]any{"grpc_addr": s.addr, "tls_cert_file": "signer.crt", "tls_key_file": "signer.key", "client_ca_file": "ca.crt"},
		"storage": map[string]any{"backend": backend, "db_url": signer, "default_alias": "main"},
		"logging": map[string]any{"level": "info"},
	})
	s.write(t, "server.json", map[string]any{
		"server":        map[string]any{"http_addr": "127.0.0.1:0"},
		"trust_service": map[string]any{"type": "remote", "hostname": "localhost", "port": "7899", "key_algorithm": "ecdsa"},
		"storage":       map[string]any{"backend": backend, "db_url": server},
	})
	s.admin(t, 0, "db", "migrate", "--server-config", s.path("server.json"), "--signer-config", s.path("signer.json"))
	s.signer = proctest.Start(t, proctest.Path("trust-signer"), s.env, "-config="+s.path("signer.json"))
	s.signer.AwaitText(t, "listening")
	return s
}

func (s *keysStand) path(name string) string { return filepath.Join(s.dir, name) }

func (s *keysStand) write(t *testing.T, name string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(s.path(name), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// admin runs trust-admin; nothing that it prints may hold a secret.
func (s *keysStand) admin(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, stdout, stderr := proctest.Run(t, path(), s.env, args...)
	if code != want {
		t.Errorf("%v: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	for _, secret := range []string{keysMain, keysNew, "eyJ"} {
		if strings.Contains(stdout+stderr, secret) {
			t.Errorf("%v: it prints %q", args, secret)
		}
	}
	return stdout + stderr
}

func (s *keysStand) keys(t *testing.T, want int, args ...string) string {
	t.Helper()
	args = append([]string{"keys"}, args...)
	args = append(args, "--signer-config", s.path("signer.json"))
	if args[1] != "ls" {
		args = append(args, "--server-config", s.path("server.json"))
	}
	return s.admin(t, want, args...)
}

func (s *keysStand) client(t *testing.T) *rpc.Client {
	t.Helper()
	store, err := certs.Load(certs.Config{Files: certs.Files{Cert: s.path("client.crt"), Key: s.path("client.key"), CA: s.path("ca.crt")}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := rpc.Dial(rpc.ClientConfig{Addr: s.addr, TLS: store.Client("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestKeysBesideSigner rewraps all keys of a running signer that signs with them
// all the time, there and back again: every signature is made, and verifies.
func TestKeysBesideSigner(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"postgres", "sqlite3"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := newKeysStand(t, backend)
			c := s.client(t)
			const n = 30
			keys := make([]tuf.Key, n)
			gun := func(i int) tuf.GUN { return tuf.GUN(fmt.Sprintf("example.org/%d", i)) }
			for i := range keys {
				var err error
				if keys[i], err = c.CreateKey(t.Context(), gun(i), tuf.RoleTimestamp, []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2]); err != nil {
					t.Fatal(err)
				}
			}
			var stop atomic.Bool
			var signed [n]atomic.Int64
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop.Store(true)
			for worker := range 3 {
				wg.Go(func() {
					for !stop.Load() {
						for i := worker; i < n; i += 3 {
							content := fmt.Appendf(nil, `{"n":%d}`, signed[i].Load())
							sig, err := c.Sign(t.Context(), gun(i), tuf.RoleTimestamp, keys[i].ID(), content)
							if err == nil {
								err = keys[i].VerifySignature(keys[i].Method(), content, sig)
							}
							if err != nil {
								t.Errorf("key %d: %v", i, err)
								return
							}
							signed[i].Add(1)
						}
					}
				})
			}
			// Everybody has signed under the form of now.
			rounds := func() {
				var before [n]int64
				for i := range signed {
					before[i] = signed[i].Load()
				}
				proctest.Eventually(t, "each key to sign twice more", func() error {
					for i := range signed {
						if signed[i].Load() < before[i]+2 {
							return fmt.Errorf("key %d has not", i)
						}
					}
					return nil
				})
			}
			rounds()
			tells(t, s.keys(t, 3, "rewrap", "--to", "new"), "30 keys, 30 to be sealed anew", "Nothing is changed", `no key is sealed under the alias "new" yet`)
			tells(t, s.keys(t, 0, "rewrap", "--to", "new", "--yes"), "30 are, 0 changed meanwhile, 0 do not open")
			rounds()
			tells(t, s.keys(t, 0, "rewrap", "--to", "main", "--from", "new", "--rounds", "8192", "--yes", "--reason", "back to upstream"), "30 are, 0 changed meanwhile")
			rounds()
			tells(t, s.keys(t, 0, "rewrap", "--to", "main", "--rounds", "8192", "--yes"), "30 keys, 0 to be sealed anew")
			tells(t, s.admin(t, 0, "log", "--server-config", s.path("server.json")), "rewrap", "30 keys sealed anew under the alias main, with 8192 rounds: back to upstream")
			stop.Store(true)
			wg.Wait()
			tells(t, s.keys(t, 0, "doctor"), "30 keys", "30  few-rounds", "ALIAS", "30         0")
		})
	}
}

// TestKeysCommands: what each prints and its exit code, as a person and a script
// meet them.
func TestKeysCommands(t *testing.T) {
	t.Parallel()
	s := newKeysStand(t, "sqlite3")
	c := s.client(t)
	k, err := c.CreateKey(t.Context(), "example.org/app", tuf.RoleTimestamp, tuf.KeyECDSA)
	if err != nil {
		t.Fatal(err)
	}
	text := s.keys(t, 0, "ls")
	today := time.Now().UTC().Format(time.DateOnly)
	tells(t, text, "example.org/app\n", fmt.Sprintf("  timestamp  %.12s  ecdsa    main          600000  %s  -\n", k.ID(), today))
	for line := range strings.Lines(text) {
		if len(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("more than 80 columns: %q", line)
		}
	}
	var row struct {
		ID       tuf.KeyID  `json:"key_id"`
		LastUsed *time.Time `json:"last_used"`
		Rounds   int        `json:"rounds"`
	}
	if err := json.Unmarshal([]byte(s.keys(t, 0, "ls", "--gun", "example.org/app", "--output", "json")), &row); err != nil || row.ID != k.ID() || row.LastUsed != nil || row.Rounds != 600000 {
		t.Errorf("%+v, %v", row, err)
	}
	if text := s.keys(t, 0, "ls", "--alias", "other"); text != "" {
		t.Errorf("of another alias: %s", text)
	}
	tells(t, s.keys(t, 0, "doctor", "--all"), "pending: timestamp of example.org/app\n    key "+string(k.ID()), "\n       1  pending\n")
	tells(t, s.keys(t, 0, "orphans"), "1 keys, 0 orphans")

	if _, err := c.Sign(t.Context(), "example.org/app", tuf.RoleTimestamp, k.ID(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.typed(t, "signer.db", `update private_keys set last_used = '2026-01-02 03:04:05'`)
	tells(t, s.keys(t, 3, "doctor"), "no-gun: timestamp of example.org/app\n", "last used 2026-01-02T03:04:05Z", "→ trust-admin keys orphans", "there is something to do")
	lines := strings.Split(strings.TrimSpace(s.keys(t, 3, "doctor", "--output", "json")), "\n")
	tells(t, lines[0], `{"class":"no-gun","fault":true,"key_id":"`+string(k.ID()), `"do":"trust-admin keys orphans"}`)
	tells(t, lines[1], `{"summary":{"rows":1,"classes":[{"class":"no-gun","fault":true,`)
	tells(t, s.keys(t, 3, "orphans"), "no-gun: timestamp of example.org/app", "1 keys, 1 orphans\nNothing is changed")
	archive := s.path("orphans.tar")
	tells(t, s.keys(t, 3, "orphans", "--delete", "--archive", archive), "Nothing is changed")
	tells(t, s.keys(t, 0, "orphans", "--delete", "--archive", archive, "--yes"), "no-gun: deleted: timestamp", "1 deleted, 0 kept\narchive "+archive+"\ncontent SHA-256 ")
	if info, err := os.Stat(archive); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	if _, err := c.Sign(t.Context(), "example.org/app", tuf.RoleTimestamp, k.ID(), []byte("x")); err == nil || !strings.Contains(err.Error(), storage.ErrNotFound.Error()) {
		t.Errorf("a deleted key: %v", err)
	}
	tells(t, s.keys(t, 2, "orphans", "--delete"), "--delete needs --archive FILE")
	tells(t, s.keys(t, 2, "orphans", "--yes"), "--yes and --archive are for --delete")
	tells(t, s.keys(t, 1, "rewrap", "--to", "gone", "--yes"), "NOTARY_SIGNER_GONE")
}

// typed runs a statement as sqlite3 would.
func (s *keysStand) typed(t *testing.T, file, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+s.path(file)+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func tells(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("does not say %q:\n%s", w, text)
		}
	}
}
