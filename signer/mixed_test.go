package signer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"countersign/signer"
	"countersign/signer/rpc"
	"countersign/signer/seal"
	"countersign/signer/sealtest"
	"countersign/storage"
	"countersign/tuf"
)

// A plainKey is a private key in the form that is sealed.
type plainKey struct {
	tuf.Key
	private []byte
}

func newPlainKey(t testing.TB, algorithm string) plainKey {
	t.Helper()
	if algorithm == tuf.KeyED25519 {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return plainKey{tuf.Key{Type: algorithm, Public: public}, append(append([]byte(nil), public...), private...)}
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
	return plainKey{tuf.Key{Type: algorithm, Public: public}, private}
}

// A mixedRow is one row of the table of a signer that has seen much.
type mixedRow struct {
	name  string
	form  sealtest.Form
	alias string // "" for "main"
	// seal makes the sealed key; nil is sealtest.Seal.
	seal  func(testing.TB, sealtest.Form, plainKey) []byte
	spoil func(testing.TB, *stand, storage.Key)
	want  error // nil if it signs
}

const (
	mainPass  = "correct horse"
	otherPass = "battery staple"
)

// flipped damages one part of an otherwise good row.
func flipped(part int) func(testing.TB, sealtest.Form, plainKey) []byte {
	return func(t testing.TB, f sealtest.Form, k plainKey) []byte {
		return sealtest.Flip(t, sealtest.Seal(t, f, k.private), part)
	}
}

// update is a statement about the row, as somebody typed it.
func update(set string, args ...any) func(testing.TB, *stand, storage.Key) {
	return func(t testing.TB, s *stand, k storage.Key) {
		s.sql(t, `update private_keys set `+set+` where key_id = $1`, append([]any{string(k.ID)}, args...)...)
	}
}

// vector is a sealed key of the field whose content is none.
func vector(t testing.TB, n int) []byte {
	t.Helper()
	raw, err := os.ReadFile("seal/testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^eyJ\S+$`).FindAll(raw, -1)[n]
}

func vectorOf(n int) func(testing.TB, sealtest.Form, plainKey) []byte {
	return func(t testing.TB, _ sealtest.Form, _ plainKey) []byte { return vector(t, n) }
}

func mixedRows() []mixedRow {
	standard, go115 := sealtest.Form{Passphrase: mainPass}, sealtest.Form{Passphrase: mainPass, Go115: true}
	other := sealtest.Form{Passphrase: otherPass}
	p2c := func(count string) sealtest.Form { return sealtest.Form{Passphrase: mainPass, P2C: count} }
	return []mixedRow{
		{name: "standard", form: standard},
		{name: "Go 1.15", form: go115},
		{name: "other alias", form: other, alias: "other"},
		{name: "other alias, Go 1.15", form: sealtest.Form{Passphrase: otherPass, Go115: true}, alias: "other"},
		{name: "more rounds", form: sealtest.Form{Passphrase: mainPass, Iterations: 20_000}},

		{name: "no such alias", form: standard, alias: "gone", want: storage.ErrNoPassphrase},
		{name: "another passphrase", form: other, want: storage.ErrWrongPassphrase},
		{name: "another passphrase, Go 1.15", form: sealtest.Form{Passphrase: "x", Go115: true}, want: storage.ErrWrongPassphrase},
		{name: "alias column wrong", form: other, alias: "main", want: storage.ErrWrongPassphrase},
		// What the key wrap does not tell from a wrong passphrase.
		{name: "salt flipped", form: standard, seal: flipped(0), want: storage.ErrWrongPassphrase},
		{name: "wrapped key flipped", form: standard, seal: flipped(1), want: storage.ErrWrongPassphrase},

		{name: "nonce flipped", form: standard, seal: flipped(2), want: storage.ErrKeyCorrupt},
		{name: "content flipped", form: go115, seal: flipped(3), want: storage.ErrKeyCorrupt},
		{name: "tag flipped", form: standard, seal: flipped(4), want: storage.ErrKeyCorrupt},
		{name: "cut", form: standard, want: storage.ErrKeyCorrupt, seal: func(t testing.TB, f sealtest.Form, k plainKey) []byte {
			whole := sealtest.Seal(t, f, k.private)
			return whole[:len(whole)*2/3]
		}},
		{name: "empty", form: standard, spoil: update(`private = $2`, []byte{}), want: storage.ErrKeyCorrupt},
		{name: "p2c 0", form: p2c("0"), want: storage.ErrKeyCorrupt},
		{name: "p2c huge", form: p2c("2147483647"), want: storage.ErrKeyCorrupt},
		{name: "p2c beyond numbers", form: p2c("1e400"), want: storage.ErrKeyCorrupt},
		{name: "p2c negative", form: p2c("-8192"), want: storage.ErrKeyCorrupt},
		{name: "public of another", form: standard, want: storage.ErrKeyCorrupt, spoil: func(t testing.TB, s *stand, k storage.Key) {
			update(`public = $2`, newPlainKey(t, k.Algorithm).Public)(t, s, k)
		}},
		{name: "algorithm wrong", form: standard, spoil: update(`algorithm = 'rsa'`), want: storage.ErrKeyCorrupt},
		{name: "no key in it", form: sealtest.Form{}, alias: "vectors", seal: vectorOf(0), want: storage.ErrKeyCorrupt},
		{name: "no key in it, Go 1.15", form: sealtest.Form{}, alias: "vectors", seal: vectorOf(1), want: storage.ErrKeyCorrupt},

		{name: "deleted", form: standard, spoil: update(`deleted_at = $2`, time.Now().UTC()), want: storage.ErrNotFound},
	}
}

// insert stores the row for a GUN of its name, as never used.
func (r mixedRow) insert(t testing.TB, s *stand, algorithm string) storage.Key {
	t.Helper()
	k := newPlainKey(t, algorithm)
	if r.seal == nil {
		r.seal = func(t testing.TB, f sealtest.Form, k plainKey) []byte { return sealtest.Seal(t, f, k.private) }
	}
	if r.alias == "" {
		r.alias = "main"
	}
	row, err := s.config.Store.AddUnused(t.Context(), storage.Key{
		ID: k.ID(), GUN: tuf.GUN("mixed/" + r.name), Role: role, Algorithm: algorithm, Public: k.Public, Sealed: r.seal(t, r.form, k), Alias: r.alias,
		EncryptionAlg: seal.EncryptionAlg, KeywrapAlg: seal.KeywrapAlg,
	})
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	if r.spoil != nil {
		r.spoil(t, s, row)
	}
	return row
}

// A table with everything that the field has left in it is served: the good keys
// sign, each bad one is told apart, at the signer's wire and in its log, and
// no key is made in the stead of one that is there.
func TestMixedTable(t *testing.T) {
	t.Parallel()
	backends(t, func(t *testing.T, s *stand) {
		s.passphrases.set("vectors", "defaultA")
		var keys []storage.Key
		rows := mixedRows()
		for i, r := range rows {
			keys = append(keys, r.insert(t, s, []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2]))
		}
		s.restart(t, nil)
		c := serveLogged(t, s)
		stored := len(s.rows(t))
		for i, r := range rows {
			k := keys[i]
			if r.want == nil {
				verified(t, c, k)
				continue
			}
			_, keyErr := c.Key(t.Context(), k.GUN, k.Role, k.ID)
			_, signErr := c.Sign(t.Context(), k.GUN, k.Role, k.ID, []byte("x"))
			faults := map[string]error{"Key": keyErr, "Sign": signErr}
			if r.want != storage.ErrNotFound { // then there is none, and one may be made
				_, faults["CreateKey"] = c.CreateKey(t.Context(), k.GUN, k.Role, s.algorithm(t, k.ID))
			}
			for call, err := range faults {
				toldApart(t, r.name+": "+call, err, r.want)
			}
			s.logged(t, r, k)
		}
		if got := len(s.rows(t)); got != stored {
			t.Errorf("%d keys are stored, %d were", got, stored)
		}
		for _, secret := range []string{mainPass, otherPass, "defaultA", "eyJ"} {
			if strings.Contains(s.log.String(), secret) {
				t.Errorf("the log holds %q", secret)
			}
		}
	})
}

// algorithm is what the row says, which may be wrong; a key of a type that is not made
// is asked for as of one that is.
func (s *stand) algorithm(t testing.TB, id tuf.KeyID) string {
	t.Helper()
	row, err := s.config.Store.Key(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if row.Algorithm == tuf.KeyRSA {
		s.sql(t, `update private_keys set algorithm = 'ed25519' where key_id = $1 and length(public) = 91`, string(id))
		s.sql(t, `update private_keys set algorithm = 'ecdsa' where key_id = $1 and length(public) = 32`, string(id))
		return s.algorithm(t, id)
	}
	return row.Algorithm
}

// faultClasses exclude each other.
var faultClasses = []error{storage.ErrNoPassphrase, storage.ErrWrongPassphrase, storage.ErrKeyCorrupt, storage.ErrNotFound, storage.ErrUnavailable}

func toldApart(t testing.TB, what string, err, want error) {
	t.Helper()
	for _, class := range faultClasses {
		if is := errors.Is(err, class); is != (class == want) {
			t.Errorf("%s: %v; it is %v: %v", what, err, class, is)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "alias \"") || len(err.Error()) > 500) {
		t.Errorf("%s: the caller reads what is for the log: %v", what, err)
	}
}

// logged holds that the log names kind, key and alias of the fault of r.
func (s *stand) logged(t testing.TB, r mixedRow, k storage.Key) {
	t.Helper()
	want := []string{fmt.Sprintf(`"msg":"rpc failed: %s"`, r.want), fmt.Sprintf(`"key_id":%q`, k.ID)}
	if r.want != storage.ErrNotFound {
		want = append(want, fmt.Sprintf(`"alias":%q`, k.Alias), `"level":"ERROR"`)
	} else {
		want = append(want, `"level":"WARN"`) // of Sign
	}
	for line := range strings.Lines(s.log.String()) {
		ok := true
		for _, w := range want {
			ok = ok && strings.Contains(line, w)
		}
		if ok {
			return
		}
	}
	t.Errorf("%s: no line of the log holds all of %q", r.name, want)
}

// serveLogged is serve with the stand's log, without the texts of its own.
func serveLogged(t testing.TB, s *stand) *rpc.Client {
	t.Helper()
	pki := newPKI(t)
	return dial(t, pki, serveWith(t, pki, s, s.Health, slog.New(slog.NewJSONHandler(s.log, nil))))
}

// The fifth fault, and the one that is no key's: the database is down. It is
// not taken for any of the others, and makes no key either.
func TestDownIsNotMissing(t *testing.T) {
	t.Parallel()
	backends(t, func(t *testing.T, s *stand) {
		k := mixedRows()[0].insert(t, s, tuf.KeyECDSA)
		store := s.config.Store
		s.restart(t, func(c *signer.Config) { c.Store = unreachable{store} })
		c := serveLogged(t, s)
		_, err := c.Key(t.Context(), k.GUN, k.Role, k.ID)
		toldApart(t, "Key", err, storage.ErrUnavailable)
		_, err = c.Sign(t.Context(), k.GUN, k.Role, k.ID, []byte("x"))
		toldApart(t, "Sign", err, storage.ErrUnavailable)
		_, err = c.CreateKey(t.Context(), k.GUN, k.Role, k.Algorithm)
		toldApart(t, "CreateKey", err, storage.ErrUnavailable)
		if !strings.Contains(s.log.String(), `"msg":"rpc failed: temporarily unavailable"`) {
			t.Errorf("log: %s", s.log)
		}
		if got := s.rows(t); len(got) != 1 {
			t.Errorf("%d keys are stored", len(got))
		}
	})
}

// unreachable is a store that cannot be read. A write would be kept, and told.
type unreachable struct{ storage.KeyStore }

func (unreachable) Key(context.Context, tuf.KeyID) (storage.Key, error) {
	return storage.Key{}, storage.ErrUnavailable
}

func (unreachable) Unused(context.Context, tuf.GUN, tuf.RoleName, string) (storage.Key, error) {
	return storage.Key{}, storage.ErrUnavailable
}

// A hostile row costs bounded time, at the wire, however often it is asked for:
// one that claims too many rounds is refused before the first.
func TestHostileRounds(t *testing.T) {
	t.Parallel()
	s := onSQLite(t)
	for _, count := range []string{"1000001", "2147483647", "9223372036854775807"} {
		k := mixedRow{name: count, form: sealtest.Form{Passphrase: mainPass, P2C: count}}.insert(t, s, tuf.KeyECDSA)
		s.restart(t, nil)
		c := serveLogged(t, s)
		healthy(t, c, nil) // the default alias's own derivation is done
		start := time.Now()
		for range 20 {
			_, err := c.Sign(t.Context(), k.GUN, k.Role, k.ID, []byte("x"))
			toldApart(t, count, err, storage.ErrKeyCorrupt)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("p2c %s: 20 refusals took %v", count, took)
		}
	}
}
