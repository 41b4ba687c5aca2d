package signer_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"countersign/signer"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/tuf"
)

func scanID(r *sql.Rows) (id tuf.KeyID, err error) {
	err = r.Scan(&id)
	return id, err
}

func TestLife(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519} {
			k := s.create(t, algorithm)
			if k.GUN != gun || k.Role != role || k.Algorithm != algorithm || k.Alias != "main" ||
				k.EncryptionAlg != "A256GCM" || k.KeywrapAlg != "PBES2-HS256+A128KW" || !k.LastUsed.IsZero() {
				t.Errorf("created %+v", k)
			}
			if want := (tuf.Key{Type: algorithm, Public: k.Public}).ID(); k.ID != want {
				t.Errorf("key ID %s, want %s", k.ID, want)
			}
			if again := s.create(t, algorithm); again.ID != k.ID {
				t.Errorf("a second key was made while the first is unused")
			}
			got, err := s.Key(t.Context(), gun, role, k.ID)
			if err != nil || got.ID != k.ID {
				t.Errorf("Key: got %v, %v", got.ID, err)
			}
			if again := s.create(t, algorithm); again.ID != k.ID {
				t.Errorf("looking at an unused key used it")
			}
			s.restart(t, nil)
			s.mustSign(t, k)
			s.mustSign(t, k)
			next := s.create(t, algorithm)
			if next.ID == k.ID {
				t.Errorf("a used key was handed out again")
			}
			if err := s.DeleteKey(t.Context(), k.ID); err != nil {
				t.Fatal(err)
			}
			s.refused(t, k, storage.ErrNotFound)
			if err := s.DeleteKey(t.Context(), k.ID); err != nil {
				t.Errorf("deleting a deleted key: %v", err)
			}
			s.mustSign(t, next)
		}
	})
}

// TestNoKeyID: to upstream the empty key ID means any key for Sign, and every
// key for DeleteKey.
func TestNoKeyID(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		k := s.create(t, tuf.KeyECDSA)
		for _, id := range []tuf.KeyID{"", "a\x00b", "\xff", tuf.KeyID(strings.Repeat("a", 256))} {
			s.refused(t, storage.Key{ID: id}, storage.ErrInvalid)
			if err := s.DeleteKey(t.Context(), id); !errors.Is(err, storage.ErrInvalid) {
				t.Errorf("DeleteKey(%.10q): got %v", id, err)
			}
		}
		for _, id := range []tuf.KeyID{"x", tuf.KeyID(strings.ToUpper(string(k.ID))), k.ID[:63], "%", k.ID + " "} {
			s.refused(t, storage.Key{ID: id}, storage.ErrNotFound)
			if err := s.DeleteKey(t.Context(), id); err != nil {
				t.Errorf("DeleteKey(%.10q): got %v", id, err)
			}
		}
		s.mustSign(t, k)
	})
}

func TestNames(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		long := strings.Repeat("g", 255)
		for _, tt := range []struct {
			gun, role, algorithm string
			want                 error
		}{
			{"", "", tuf.KeyECDSA, nil},
			{"", "snapshot", tuf.KeyECDSA, nil},
			{"a * b", "root", tuf.KeyED25519, nil},
			{long, long, tuf.KeyECDSA, nil},
			{long + "g", "snapshot", tuf.KeyECDSA, storage.ErrInvalid},
			{"g", long + "g", tuf.KeyECDSA, storage.ErrInvalid},
			{"g\x00", "snapshot", tuf.KeyECDSA, storage.ErrInvalid},
			{"g", "\xff", tuf.KeyECDSA, storage.ErrInvalid},
			{"g", "snapshot", tuf.KeyRSA, storage.ErrInvalid},
			{"g", "snapshot", "", storage.ErrInvalid},
			{"g", "snapshot", "ECDSA", storage.ErrInvalid},
		} {
			before := len(s.rows(t))
			k, err := s.CreateKey(t.Context(), tuf.GUN(tt.gun), tuf.RoleName(tt.role), tt.algorithm)
			if !errors.Is(err, tt.want) {
				t.Errorf("CreateKey(%.10q, %.10q, %q): got %v", tt.gun, tt.role, tt.algorithm, err)
			}
			if tt.want != nil {
				if n := len(s.rows(t)); n != before {
					t.Errorf("CreateKey(%.10q, %.10q, %q): stored something", tt.gun, tt.role, tt.algorithm)
				}
				continue
			}
			s.mustSign(t, k)
		}
	})
}

// TestClaims: only keys of this GUN and role sign for this GUN and role.
func TestClaims(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		k := s.create(t, tuf.KeyECDSA)
		for _, tt := range []struct {
			gun  tuf.GUN
			role tuf.RoleName
			want error
		}{
			{gun, role, nil},
			{"", "", nil},
			{gun, "", nil},
			{"", role, nil},
			{gun + "x", role, storage.ErrKeyForbidden},
			{gun[:len(gun)-1], "", storage.ErrKeyForbidden},
			{gun, tuf.RoleSnapshot, storage.ErrKeyForbidden},
			{"", tuf.RoleSnapshot, storage.ErrKeyForbidden},
			{tuf.GUN(strings.ToUpper(string(gun))), role, storage.ErrKeyForbidden},
		} {
			if _, err := s.Key(t.Context(), tt.gun, tt.role, k.ID); !errors.Is(err, tt.want) {
				t.Errorf("Key for %q %q: got %v", tt.gun, tt.role, err)
			}
			_, sig, err := s.Sign(t.Context(), tt.gun, tt.role, k.ID, []byte("x"))
			if !errors.Is(err, tt.want) || (sig.Sig == nil) != (tt.want != nil) {
				t.Errorf("Sign for %q %q: got %x, %v", tt.gun, tt.role, sig.Sig, err)
			}
		}
	})
}

// TestNameless: rows of upstream's old migrations have neither GUN nor role. They
// sign for whoever asks, and the log says so once. One that has either is held
// to it.
func TestNameless(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		k := s.create(t, tuf.KeyECDSA)
		for set, want := range map[string]error{
			`gun = '', role = ''`:         nil,
			`gun = 'x', role = ''`:        storage.ErrKeyForbidden,
			`gun = '', role = 'snapshot'`: storage.ErrKeyForbidden,
		} {
			s.sql(t, `update private_keys set `+set)
			for range 2 {
				if _, err := s.Key(t.Context(), gun, role, k.ID); !errors.Is(err, want) {
					t.Errorf("%s: Key: got %v", set, err)
				}
				if _, sig, err := s.Sign(t.Context(), gun, role, k.ID, []byte("x")); !errors.Is(err, want) || (sig.Sig == nil) != (want != nil) {
					t.Errorf("%s: Sign: got %x, %v", set, sig.Sig, err)
				}
			}
		}
		if n := strings.Count(s.log.String(), "neither GUN nor role"); n != 1 {
			t.Errorf("warned %d times", n)
		}
	})
}

// importRSA stores an RSA key as a tool of the operator's would.
func (s *stand) importRSA(t testing.TB, bits int) storage.Key {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.config.Sealer.Seal("other", x509.MarshalPKCS1PrivateKey(key))
	if err != nil {
		t.Fatal(err)
	}
	row := storage.Key{
		ID: tuf.Key{Type: tuf.KeyRSA, Public: public}.ID(), GUN: gun, Role: role, Algorithm: tuf.KeyRSA, Public: public,
		Sealed: sealed, Alias: "other", EncryptionAlg: seal.EncryptionAlg, KeywrapAlg: seal.KeywrapAlg,
	}
	if row, err = s.config.Store.AddUnused(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	return row
}

func TestRSA(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		k := s.importRSA(t, 2048)
		if _, err := s.CreateKey(t.Context(), gun, role, tuf.KeyRSA); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("CreateKey hands out an imported RSA key: %v", err)
		}
		_, sig, err := s.Sign(t.Context(), gun, role, k.ID, nil)
		if err != nil || sig.Method != "rsapss" || len(sig.Sig) != 256 {
			t.Errorf("Sign: got %s of %d bytes, %v", sig.Method, len(sig.Sig), err)
		}
		s.mustSign(t, k)
	})
}

// TestSignatures looks at the form of what is signed, empty content included.
func TestSignatures(t *testing.T) {
	s := onSQLite(t)
	for algorithm, method := range map[string]string{tuf.KeyECDSA: "ecdsa", tuf.KeyED25519: "eddsa"} {
		k := s.create(t, algorithm)
		// ECDSA numbers with a leading zero byte come up once in 128 signatures.
		for i := range 300 {
			content := make([]byte, i)
			_, sig, err := s.Sign(t.Context(), gun, role, k.ID, content)
			if err != nil || sig.Method != method || len(sig.Sig) != 64 {
				t.Fatalf("%s: got %s of %d bytes, %v", algorithm, sig.Method, len(sig.Sig), err)
			}
			if err := (tuf.Key{Type: algorithm, Public: k.Public}).VerifySignature(sig.Method, content, sig.Sig); err != nil {
				t.Fatalf("%s, %d bytes: %v", algorithm, i, err)
			}
		}
	}
}

// TestPurge: what an operator deletes by hand signs nothing from then on,
// though it is open in memory.
func TestPurge(t *testing.T) {
	for name, purge := range map[string]string{
		"deleted":      `delete from private_keys where gun = $1`,
		"soft-deleted": `update private_keys set deleted_at = created_at where gun = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, s *stand) {
				k := s.create(t, tuf.KeyECDSA)
				s.mustSign(t, k)
				if s.Opened(k.ID) == nil {
					t.Fatal("the key is not open, so this test shows nothing")
				}
				s.sql(t, purge, string(gun))
				s.refused(t, k, storage.ErrNotFound)
				if s.Opened(k.ID) != nil {
					t.Error("a purged key is still open")
				}
				if next := s.create(t, tuf.KeyECDSA); next.ID == k.ID {
					t.Error("a purged key was handed out")
				}
			})
		})
	}
}

// TestSealed: a key that cannot be opened is neither missing nor replaced, and
// the error names the alias.
func TestSealed(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(testing.TB, *stand)
		cause error
	}{
		"no passphrase":    {func(_ testing.TB, s *stand) { s.passphrases.set("main", "") }, seal.ErrNoPassphrase},
		"wrong passphrase": {func(_ testing.TB, s *stand) { s.passphrases.set("main", "wrong") }, seal.ErrWrongPassphrase},
		"cut short": {func(t testing.TB, s *stand) {
			s.sql(t, `update private_keys set private = $1`, []byte("eyJhbGciOiJQQkVTMi1IUzI1NitBMTI4S1ciL"))
		}, seal.ErrCorrupt},
		"another kind of key": {func(t testing.TB, s *stand) {
			sealed, err := s.config.Sealer.Seal("main", []byte("not a key"))
			if err != nil {
				t.Fatal(err)
			}
			s.sql(t, `update private_keys set private = $1`, sealed)
		}, seal.ErrCorrupt},
		"another type": {func(t testing.TB, s *stand) {
			s.sql(t, `update private_keys set algorithm = 'ed25519' where algorithm = 'ecdsa'`)
		}, seal.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, s *stand) {
				k := s.create(t, tuf.KeyECDSA)
				tt.spoil(t, s)
				s.restart(t, nil)
				s.refused(t, k, storage.ErrKeySealed)
				s.refused(t, k, tt.cause)
				row, err := s.config.Store.Key(t.Context(), k.ID)
				if err != nil {
					t.Fatal(err)
				}
				made, err := s.CreateKey(t.Context(), gun, role, row.Algorithm)
				if !errors.Is(err, tt.cause) || !errors.Is(err, storage.ErrKeySealed) || made.ID != "" {
					t.Errorf("CreateKey: got %q, %v", made.ID, err)
				}
				if tt.cause != seal.ErrCorrupt && !strings.Contains(err.Error(), `"main"`) {
					t.Errorf("%q does not name the alias", err)
				}
				if got := s.rows(t); len(got) != 1 {
					t.Errorf("%d keys are stored, want the one", len(got))
				}
			})
		})
	}
}

// TestSwappedRows: who can write to the table cannot have one key sign under
// the name of another.
func TestSwappedRows(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519} {
			victim := s.create(t, algorithm)
			mine, err := s.CreateKey(t.Context(), "evil/app", role, algorithm)
			if err != nil {
				t.Fatal(err)
			}
			for name, swap := range map[string]storage.Key{
				"private":            {Sealed: mine.Sealed, Public: victim.Public},
				"public":             {Sealed: victim.Sealed, Public: mine.Public},
				"private and public": {Sealed: mine.Sealed, Public: mine.Public},
			} {
				const set = `update private_keys set private = $2, public = $3 where key_id = $1`
				s.mustSign(t, victim) // it is open, which must not help
				s.sql(t, set, string(victim.ID), swap.Sealed, swap.Public)
				s.refused(t, victim, seal.ErrCorrupt)
				s.sql(t, set, string(victim.ID), victim.Sealed, victim.Public)
				s.mustSign(t, victim)
				if t.Failed() {
					t.Fatalf("%s: swapped %s", algorithm, name)
				}
			}
		}
	})
}

// TestRewrap: a row that was sealed anew under another alias is opened anew.
func TestRewrap(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		k := s.create(t, tuf.KeyED25519)
		s.mustSign(t, k)
		plaintext, err := s.config.Sealer.Open("main", k.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		if len(plaintext) != 96 || !ed25519.PublicKey(k.Public).Equal(ed25519.PublicKey(plaintext[:32])) {
			t.Errorf("the sealed form has %d bytes", len(plaintext))
		}
		sealed, err := s.config.Sealer.Seal("other", plaintext)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Opened(k.ID)
		s.sql(t, `update private_keys set private = $1, passphrase_alias = 'other'`, sealed)
		s.mustSign(t, k)
		if after := s.Opened(k.ID); after == nil || &after.(ed25519.PrivateKey)[0] == &before.(ed25519.PrivateKey)[0] {
			t.Error("the old opening is still in use")
		}
		s.passphrases.set("main", "")
		s.restart(t, nil)
		s.mustSign(t, k)
	})
}

// TestLastUsed: the first use is recorded at once, later ones at most daily.
func TestLastUsed(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		s.restart(t, func(c *signer.Config) { c.Now = func() time.Time { return now } })
		k := s.create(t, tuf.KeyECDSA)
		last := func() time.Time {
			t.Helper()
			row, err := s.config.Store.Key(t.Context(), k.ID)
			if err != nil {
				t.Fatal(err)
			}
			return row.LastUsed
		}
		start := now
		for _, tt := range []struct{ at, want time.Duration }{
			{0, 0}, {time.Minute, 0}, {24*time.Hour - 1, 0}, {24 * time.Hour, 24 * time.Hour}, {30 * time.Hour, 24 * time.Hour},
			{-time.Hour, 24 * time.Hour}, // a clock that was set back
			{90 * 24 * time.Hour, 90 * 24 * time.Hour},
		} {
			now = start.Add(tt.at)
			s.mustSign(t, k)
			if got := last().Sub(start); got != tt.want {
				t.Errorf("after a signature at %v, last use is %v, want %v", tt.at, got, tt.want)
			}
		}
	})
}

func TestHealth(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		if err := s.Health(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
		s.passphrases.set("main", "")
		if err := s.Health(t.Context()); !errors.Is(err, seal.ErrNoPassphrase) {
			t.Errorf("without a passphrase: got %v", err)
		}
		s.passphrases.set("main", "another")
		if err := s.Health(t.Context()); err != nil {
			t.Errorf("with another passphrase: got %v", err)
		}
		s.sql(t, `alter table private_keys rename to keys_elsewhere`)
		if err := s.Health(t.Context()); err == nil {
			t.Error("without its table: healthy")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Health(ctx); err == nil {
			t.Error("with a store that cannot be asked: healthy")
		}
	})
}

func TestConfigRefused(t *testing.T) {
	good := onSQLite(t).config
	for name, spoil := range map[string]func(*signer.Config){
		"store":      func(c *signer.Config) { c.Store = nil },
		"sealer":     func(c *signer.Config) { c.Sealer = nil },
		"alias":      func(c *signer.Config) { c.DefaultAlias = "" },
		"long alias": func(c *signer.Config) { c.DefaultAlias = strings.Repeat("a", 51) },
		"cache":      func(c *signer.Config) { c.CacheSize = -1 },
	} {
		bad := good
		spoil(&bad)
		if _, err := signer.New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
