package signer_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"countersign/signer"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/tuf"
)

// TestExamine: every row that the field has left is told apart as by signing,
// and of one that opens it is known how it was sealed.
func TestExamine(t *testing.T) {
	t.Parallel()
	s := onSQLite(t)
	s.passphrases.set("vectors", "defaultA")
	for i, r := range mixedRows() {
		if r.want == storage.ErrNotFound {
			continue
		}
		k := r.insert(t, s, []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2])
		row, err := s.config.Store.Key(t.Context(), k.ID)
		if err != nil {
			t.Fatal(err)
		}
		form, err := signer.Examine(s.config.Sealer, row)
		if !errors.Is(err, r.want) || (err == nil) != (r.want == nil) {
			t.Errorf("%s: got %v, want %v", r.name, err, r.want)
		}
		if err != nil {
			continue
		}
		want := seal.Form{Rounds: max(r.form.Iterations, 8192*btoi(r.form.Iterations == 0)), Older: r.form.Go115}
		if form != want {
			t.Errorf("%s: form %+v, want %+v", r.name, form, want)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestExamineParts: of a row whose parts are not of one key, the part that does
// not fit is named, and no other.
func TestExamineParts(t *testing.T) {
	t.Parallel()
	s := onSQLite(t)
	all := []error{signer.ErrPlaintext, signer.ErrAlgorithm, signer.ErrPublic, signer.ErrOtherKey, signer.ErrKeyID}
	for _, algorithm := range []string{tuf.KeyECDSA, tuf.KeyED25519} {
		good, other := s.sealedKey(t, algorithm), s.sealedKey(t, algorithm)
		foreign := tuf.KeyED25519
		if algorithm == foreign {
			foreign = tuf.KeyECDSA
		}
		noKey, err := s.config.Sealer.Seal("main", []byte("no key"))
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			change func(*storage.Key)
			want   error
		}{
			"good":            {func(*storage.Key) {}, nil},
			"no key in it":    {func(k *storage.Key) { k.Sealed = noKey }, signer.ErrPlaintext},
			"other algorithm": {func(k *storage.Key) { k.Algorithm = foreign }, signer.ErrAlgorithm},
			"no algorithm":    {func(k *storage.Key) { k.Algorithm = "" }, signer.ErrAlgorithm},
			"other public":    {func(k *storage.Key) { k.Public = other.Public }, signer.ErrPublic},
			"no public":       {func(k *storage.Key) { k.Public = nil }, signer.ErrPublic},
			"other sealed":    {func(k *storage.Key) { k.Sealed = other.Sealed }, signer.ErrOtherKey},
			"other ID":        {func(k *storage.Key) { k.ID = other.ID }, signer.ErrKeyID},
		} {
			row := good
			c.change(&row)
			_, err := signer.Examine(s.config.Sealer, row)
			for _, part := range all {
				if is := errors.Is(err, part); is != (part == c.want) {
					t.Errorf("%s, %s: %v; it is %v: %v", algorithm, name, err, part, is)
				}
			}
			if (err != nil) != errors.Is(err, storage.ErrKeyCorrupt) {
				t.Errorf("%s, %s: %v", algorithm, name, err)
			}
			made, err := signer.Reseal(s.config.Sealer, s.config.Sealer, row, "other")
			if c.want != nil && (!errors.Is(err, c.want) || !bytes.Equal(made.Sealed, row.Sealed)) {
				t.Errorf("%s, %s: resealed, %v", algorithm, name, err)
			}
		}
	}
}

// sealedKey is a key as CreateKey would store it.
func (s *stand) sealedKey(t *testing.T, algorithm string) storage.Key {
	t.Helper()
	k := newPlainKey(t, algorithm)
	sealed, err := s.config.Sealer.Seal("main", k.private)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Key{ID: k.ID(), GUN: gun, Role: role, Algorithm: algorithm, Public: k.Public, Sealed: sealed, Alias: "main"}
}

// TestReseal: the same key under another passphrase, as many rounds as asked
// for, and nothing that would not open again.
func TestReseal(t *testing.T) {
	t.Parallel()
	s := onSQLite(t)
	to, err := seal.New(seal.Config{Passphrase: s.passphrases.get, Iterations: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	old := s.sealedKey(t, tuf.KeyECDSA)
	made, err := signer.Reseal(s.config.Sealer, to, old, "other")
	if err != nil {
		t.Fatal(err)
	}
	if form, err := signer.Examine(s.config.Sealer, made); err != nil || form != (seal.Form{Rounds: 20_000}) || made.Alias != "other" {
		t.Errorf("%+v under %q, %v", form, made.Alias, err)
	}
	one, err := s.config.Sealer.Open("main", old.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	two, err := to.Open("other", made.Sealed)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("another key: %v", err)
	}
	made.Sealed, made.Alias = old.Sealed, old.Alias
	made.EncryptionAlg, made.KeywrapAlg = old.EncryptionAlg, old.KeywrapAlg
	if made.ID != old.ID || made.GUN != old.GUN || made.Role != old.Role || !bytes.Equal(made.Public, old.Public) {
		t.Errorf("more than the form has changed: %+v", made)
	}
	for name, c := range map[string]struct {
		alias string
		want  error
	}{
		"no alias": {"", storage.ErrInvalid}, "too long": {strings.Repeat("x", 51), storage.ErrInvalid}, "no passphrase": {"gone", storage.ErrNoPassphrase},
	} {
		if k, err := signer.Reseal(s.config.Sealer, to, old, c.alias); !errors.Is(err, c.want) || !bytes.Equal(k.Sealed, old.Sealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
