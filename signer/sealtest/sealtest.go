// Package sealtest seals keys as the builds of upstream's signer in the field
// did, and damages them in named ways. It shares no code with package seal, so
// that either can be held against the other.
package sealtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"testing"
)

// A Form says how a key is sealed. The zero value but for the passphrase is
// upstream's.
type Form struct {
	Passphrase string
	// Iterations of the derivation. 0 means upstream's 8192.
	Iterations int
	// Go115 is the derivation of upstream's signer built with Go 1.15.
	Go115 bool
	// P2C is the count that the header claims, as JSON. "" means Iterations.
	P2C string
}

const algorithm = "PBES2-HS256+A128KW"

// Seal returns plaintext as a compact JWE.
func Seal(t testing.TB, f Form, plaintext []byte) []byte {
	t.Helper()
	if f.Iterations == 0 {
		f.Iterations = 8192
	}
	if f.P2C == "" {
		f.P2C = fmt.Sprint(f.Iterations)
	}
	salt, cek, nonce := make([]byte, 12), make([]byte, 32), make([]byte, 12)
	for _, b := range [][]byte{salt, cek, nonce} {
		rand.Read(b)
	}
	kek := Derive(f, append([]byte(algorithm+"\x00"), salt...))
	header := encode(fmt.Appendf(nil, `{"alg":%q,"enc":"A256GCM","p2c":%s,"p2s":%q}`, algorithm, f.P2C, encode(salt)))
	sealed := gcm(t, cek).Seal(nil, nonce, plaintext, header)
	content, tag := sealed[:len(plaintext)], sealed[len(plaintext):]
	return bytes.Join([][]byte{header, encode(wrap(t, kek, cek)), encode(nonce), encode(content), encode(tag)}, []byte("."))
}

func encode(b []byte) []byte { return base64.RawURLEncoding.AppendEncode(nil, b) }

func gcm(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// Derive is PBKDF2 with HMAC-SHA-256 for 16 bytes. With Go115 the first HMAC has
// the outer pad on the inside too.
func Derive(f Form, salt []byte) []byte {
	prf := hmac.New(sha256.New, []byte(f.Passphrase))
	sum := func(h hash.Hash, b []byte) []byte {
		h.Reset()
		h.Write(b)
		return h.Sum(nil)
	}
	first := append(bytes.Clone(salt), 0, 0, 0, 1)
	u := sum(prf, first)
	if f.Go115 {
		key := []byte(f.Passphrase)
		if len(key) > sha256.BlockSize {
			key = sum(sha256.New(), key)
		}
		pad := make([]byte, sha256.BlockSize)
		copy(pad, key)
		for i := range pad {
			pad[i] ^= 0x5c
		}
		inner := sum(sha256.New(), append(bytes.Clone(pad), first...))
		u = sum(sha256.New(), append(bytes.Clone(pad), inner...))
	}
	out := bytes.Clone(u)
	for range f.Iterations - 1 {
		prf.Reset()
		prf.Write(u)
		u = prf.Sum(u[:0])
		for i := range out {
			out[i] ^= u[i]
		}
	}
	return out[:16]
}

// wrap is RFC 3394, 2.2.1.
func wrap(t testing.TB, kek, key []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	a, r := bytes.Repeat([]byte{0xa6}, 8), bytes.Clone(key)
	n := len(r) / 8
	for j := range 6 {
		for i := range n {
			b := append(bytes.Clone(a), r[8*i:8*i+8]...)
			block.Encrypt(b, b)
			binary.BigEndian.PutUint64(a, binary.BigEndian.Uint64(b)^uint64(n*j+i+1))
			copy(r[8*i:], b[8:])
		}
	}
	return append(a, r...)
}

// Flip returns sealed with one bit changed in a part: 0 the header's salt, 1 the
// wrapped key, 2 the nonce, 3 the content, 4 the tag.
func Flip(t testing.TB, sealed []byte, part int) []byte {
	t.Helper()
	parts := bytes.Split(sealed, []byte("."))
	raw, err := base64.RawURLEncoding.AppendDecode(nil, parts[part])
	if err != nil {
		t.Fatal(err)
	}
	if part == 0 {
		at := bytes.Index(raw, []byte(`"p2s":"`)) + len(`"p2s":"`)
		if raw[at] == 'A' {
			raw[at] = 'B'
		} else {
			raw[at] = 'A'
		}
	} else {
		raw[len(raw)/2] ^= 1
	}
	parts[part] = encode(raw)
	return bytes.Join(parts, []byte("."))
}
