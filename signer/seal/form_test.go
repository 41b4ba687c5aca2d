package seal_test

import (
	"testing"

	"countersign/signer/seal"
)

// TestForm: the field's two derivations are told apart by opening; the rounds
// are read without.
func TestForm(t *testing.T) {
	t.Parallel()
	s, err := seal.New(seal.Config{Passphrase: passphrases(map[string]string{"a": "defaultA"}), Iterations: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vectors(t) {
		if f, ok := seal.FormOf([]byte(v)); !ok || f.Rounds != 8192 {
			t.Errorf("vector %d: %+v, %v", i, f, ok)
		}
		_, f, err := s.OpenForm("a", []byte(v))
		if want := (seal.Form{Rounds: 8192, Older: i == 1}); err != nil || f != want {
			t.Errorf("vector %d: %+v, %v, want %+v", i, f, err, want)
		}
	}
	sealed, err := s.Seal("a", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := seal.FormOf(sealed); !ok || f.Rounds != 10_000 {
		t.Errorf("ours: %+v, %v", f, ok)
	}
	if _, ok := seal.FormOf([]byte("e30.AA.AA.AA.AA")); ok {
		t.Error("what is no sealed key has a form")
	}
}
