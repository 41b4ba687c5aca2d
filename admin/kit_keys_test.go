package admin_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/admin"
	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/signer/seal"
	"countersign/signer/sealtest"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// Passphrases of the tests of keys. None may be found in what is shown.
const (
	mainPass  = "main-Passphrase-41-long"
	otherPass = "other-Passphrase-42-long"
	weakPass  = "sh0rt"
	newPass   = "new-Passphrase-43-long"
)

// A keyring is an installation whose signer's table a test fills as it likes.
type keyring struct {
	t              testing.TB
	backend        string
	server, signer string // URLs, or files
	dir            string
	onServer       func(query string, args ...any)
	onSigner       func(query string, args ...any)
	now            time.Time
	plain          *admin.Site // for what the test itself reads and writes
}

func bothKeyrings(t *testing.T, test func(*testing.T, *keyring)) {
	t.Helper()
	for _, backend := range []string{"postgres", "sqlite3"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, newKeyring(t, backend))
		})
	}
}

func newKeyring(t testing.TB, backend string) *keyring {
	t.Helper()
	r := &keyring{t: t, backend: backend, dir: t.TempDir(), now: time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC)}
	if backend == "postgres" {
		r.server, r.signer = pgtest.URL(t), pgtest.URL(t)
	} else {
		r.server, r.signer = filepath.Join(r.dir, "server.db"), filepath.Join(r.dir, "signer.db")
	}
	r.onServer, r.onSigner = r.open(r.server, migrations.Server), r.open(r.signer, migrations.Signer)
	r.write("server.json", map[string]any{
		"server":        map[string]any{"http_addr": ":4443"},
		"trust_service": map[string]any{"type": "remote", "hostname": "localhost", "port": "7899", "key_algorithm": "ecdsa"},
		"storage":       map[string]any{"backend": backend, "db_url": r.server},
	})
	r.write("signer.json", map[string]any{
		"server":  map[string]any{"grpc_addr": ":7899", "tls_cert_file": "none.crt", "tls_key_file": "none.key"},
		"storage": map[string]any{"backend": backend, "db_url": r.signer, "default_alias": "main"},
	})
	r.plain = r.site(nil)
	return r
}

func (r *keyring) write(name string, v any) {
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, name), raw, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// open makes a database, and returns how to type statements into it.
func (r *keyring) open(url string, schema migrations.Schema) func(string, ...any) {
	r.t.Helper()
	db, err := sqldb.Open(r.t.Context(), sqldb.Config{Backend: r.backend, URL: url})
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	if err := migrations.Apply(r.t.Context(), db, schema); err != nil {
		r.t.Fatal(err)
	}
	driver, source := "postgres", url
	if r.backend == "sqlite3" {
		driver, source = "sqlite", "file:"+url+"?_busy_timeout=5000"
	}
	raw, err := sql.Open(driver, source)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { raw.Close() })
	return func(query string, args ...any) {
		r.t.Helper()
		if _, err := raw.ExecContext(r.t.Context(), query, args...); err != nil {
			r.t.Fatalf("%s: %v", query, err)
		}
	}
}

var keyringEnv = []string{
	"NOTARY_SIGNER_MAIN=" + mainPass, "NOTARY_SIGNER_OTHER=" + otherPass, "NOTARY_SIGNER_WEAK=" + weakPass, "NOTARY_SIGNER_NEW=" + newPass,
}

func keyringConfig(dir string, now time.Time) admin.SiteConfig {
	return admin.SiteConfig{
		ServerConfig: filepath.Join(dir, "server.json"), SignerConfig: filepath.Join(dir, "signer.json"),
		Environ: keyringEnv, Actor: "operator test", Tool: "test", Now: func() time.Time { return now },
	}
}

func (r *keyring) site(change func(*admin.SiteConfig)) *admin.Site {
	r.t.Helper()
	c := keyringConfig(r.dir, r.now)
	if change != nil {
		change(&c)
	}
	s, err := admin.OpenSite(r.t.Context(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

// A rawKey is a key with its private half in the form that is sealed.
type rawKey struct {
	tuf.Key
	private []byte
}

func newRawKey(t testing.TB, algorithm string) rawKey {
	t.Helper()
	if algorithm == tuf.KeyED25519 {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return rawKey{tuf.Key{Type: algorithm, Public: public}, append(append([]byte(nil), public...), private...)}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return rawKey{tuf.Key{Type: algorithm, Public: public}, private}
}

// A keptGUN is a GUN whose root lists these two keys, each with a row.
type keptGUN struct {
	gun                 tuf.GUN
	repo                *tuftest.Repo
	timestamp, snapshot rawKey
}

const longAgo = 100 * 24 * time.Hour

// row stores k as used two hundred days after it was made, a hundred days ago.
func (r *keyring) row(gun tuf.GUN, role tuf.RoleName, k rawKey, alias string, form sealtest.Form) storage.KeyRow {
	r.t.Helper()
	row := storage.KeyRow{Updated: r.now.Add(-longAgo), Key: storage.Key{
		ID: k.ID(), GUN: gun, Role: role, Algorithm: k.Type, Public: k.Public, Sealed: sealtest.Seal(r.t, form, k.private), Alias: alias,
		EncryptionAlg: "A256GCM", KeywrapAlg: "PBES2-HS256+A128KW", CreatedAt: r.now.Add(-3 * longAgo), LastUsed: r.now.Add(-longAgo),
	}}
	if err := r.plain.Keys.Put(r.t.Context(), row); err != nil {
		r.t.Fatal(err)
	}
	return row
}

// root stores a root of gun, as its owner would have published it.
func (r *keyring) root(g *keptGUN, version int, at time.Time) {
	r.t.Helper()
	g.repo.Root.Version = tuf.Version(version)
	data := g.repo.File(tuf.RoleRoot)
	r.onServer(`insert into tuf_files (created_at, updated_at, gun, role, version, sha256, data) values ($1, $1, $2, 'root', $3, $4, $5)`,
		at.Format("2006-01-02 15:04:05"), string(g.gun), version, tuf.Sum(data).String(), data)
}

// gun stores a GUN with a root and both keys, sealed under main in form.
func (r *keyring) gun(name string, form sealtest.Form) *keptGUN {
	r.t.Helper()
	g := &keptGUN{gun: tuf.GUN("example.org/" + name), timestamp: newRawKey(r.t, tuf.KeyECDSA), snapshot: newRawKey(r.t, tuf.KeyED25519)}
	g.repo = tuftest.New(r.t, g.gun, tuftest.Options{Timestamp: &g.timestamp.Key, Snapshot: &g.snapshot.Key, Now: r.now.Add(-3 * longAgo)})
	r.root(g, 1, r.now.Add(-3*longAgo))
	r.row(g.gun, tuf.RoleTimestamp, g.timestamp, "main", form)
	r.row(g.gun, tuf.RoleSnapshot, g.snapshot, "main", form)
	return g
}

func (r *keyring) rows() []storage.KeyRow {
	r.t.Helper()
	rows, err := r.plain.Keys.Rows(r.t.Context(), keydb.Query{Deleted: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return rows
}

func wantNoSecrets(t testing.TB, what string, v any) {
	t.Helper()
	text := fmt.Sprintf("%+v", v)
	for _, secret := range []string{mainPass, otherPass, weakPass, newPass, "lost-Passphrase", "eyJ"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows %q", what, secret)
		}
	}
}

// sealerOf opens and seals as the signer would.
func (r *keyring) sealerOf() (*seal.Sealer, error) {
	return seal.New(seal.Config{Passphrase: r.plain.Signer.Passphrases.Passphrase})
}
