package sealtest_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"countersign/signer/seal"
	"countersign/signer/sealtest"
)

// The derivations are those of the builds of upstream that ../seal/testdata tells of.
func TestDerive(t *testing.T) {
	salt := []byte("PBES2-HS256+A128KW\x000123456789ab")
	for _, c := range []struct {
		pass  string
		go115 bool
		want  string
	}{
		{"defaultA", false, "4978ae5d71cfa4638ee7b83d8030b969"},
		{"defaultA", true, "f52b16944dd270c959ecaec53f65ef1d"},
		{strings.Repeat("x", 80), false, "83600c0f5a5dc71c3270587b51db8a96"},
		{strings.Repeat("x", 80), true, "f96ae367c48c2a538c0d18c1c32688f9"},
	} {
		got := sealtest.Derive(sealtest.Form{Passphrase: c.pass, Iterations: 8192, Go115: c.go115}, salt)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%.8q, Go 1.15 %v: got %x, want %s", c.pass, c.go115, got, c.want)
		}
	}
}

// Package seal opens each form, and none that was damaged.
func TestSeal(t *testing.T) {
	s, err := seal.New(seal.Config{Passphrase: func(string) (string, error) { return "pass", nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []sealtest.Form{{}, {Go115: true}, {Iterations: 100_000}} {
		f.Passphrase = "pass"
		sealed := sealtest.Seal(t, f, []byte("hello"))
		if got, err := s.Open("a", sealed); err != nil || string(got) != "hello" {
			t.Errorf("%+v: got %q, %v", f, got, err)
		}
		for part := range 5 {
			if got, err := s.Open("a", sealtest.Flip(t, sealed, part)); err == nil {
				t.Errorf("%+v, part %d damaged: got %q", f, part, got)
			}
		}
	}
}
