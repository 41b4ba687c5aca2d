package signer_test

import (
	"errors"
	"testing"

	"countersign/storage"
	"countersign/tuf"
)

// A signer that was given a wrong passphrase makes no key with it, and says that
// it is not well; given the right one back, it goes on.
func TestWrongPassphraseMakesNoKey(t *testing.T) {
	backends(t, func(t *testing.T, s *stand) {
		if err := s.Health(t.Context()); err != nil {
			t.Fatalf("with nothing stored: %v", err)
		}
		k := s.create(t, tuf.KeyECDSA)
		right, err := s.passphrases.get(k.Alias)
		if err != nil {
			t.Fatal(err)
		}
		s.passphrases.set(k.Alias, "another one, and long enough")
		s.restart(t, nil)
		before := s.rows(t)
		for _, g := range []tuf.GUN{gun, gun + "2"} {
			if _, err := s.CreateKey(t.Context(), g, role, tuf.KeyECDSA); !errors.Is(err, storage.ErrWrongPassphrase) {
				t.Errorf("%s: %v", g, err)
			}
		}
		if err := s.Health(t.Context()); !errors.Is(err, storage.ErrWrongPassphrase) {
			t.Errorf("health: %v", err)
		}
		if after := s.rows(t); len(after) != len(before) {
			t.Errorf("there are %d keys instead of %d", len(after), len(before))
		}
		s.passphrases.set(k.Alias, right)
		s.restart(t, nil)
		if _, err := s.CreateKey(t.Context(), gun+"2", role, tuf.KeyECDSA); err != nil {
			t.Error(err)
		}
		if err := s.Health(t.Context()); err != nil {
			t.Error(err)
		}
		s.mustSign(t, k)
	})
}

// One damaged row, or several that are no sealed keys at all, do not stop a
// signer whose passphrase is right.
func TestDamagedRowsProveNothing(t *testing.T) {
	s := onSQLite(t)
	s.create(t, tuf.KeyECDSA)
	newest, err := s.CreateKey(t.Context(), gun+"2", role, tuf.KeyECDSA)
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte(nil), newest.Sealed...)
	at := len(broken) / 3 // in the wrapped key
	broken[at] ^= 1
	s.sql(t, `update private_keys set private = $1 where key_id = $2`, broken, string(newest.ID))
	if err := s.Health(t.Context()); err != nil {
		t.Errorf("one damaged: %v", err)
	}
	s.sql(t, `update private_keys set private = $1`, []byte("no key"))
	if err := s.Health(t.Context()); err != nil {
		t.Errorf("all corrupt: %v", err)
	}
	if _, err := s.CreateKey(t.Context(), gun+"3", role, tuf.KeyECDSA); err != nil {
		t.Error(err)
	}
}
