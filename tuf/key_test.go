package tuf_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/notary/tuf/data"
	"github.com/theupdateframework/notary/tuf/signed"
	"github.com/theupdateframework/notary/tuf/utils"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// allKeys has one key of every kind that can sign.
func allKeys(t *testing.T) map[string]*tuftest.Key {
	t.Helper()
	cert := tuftest.Cert{CN: "x", NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	rsa := tuftest.NewKey(t, tuf.KeyRSA)
	pkcs1, pkcs1x509 := *rsa, *rsa.Certify(t, cert)
	pkcs1.SignMethod, pkcs1x509.SignMethod = tuf.MethodRSAPKCS1v15, tuf.MethodRSAPKCS1v15
	long := tuftest.NewRSAKey(t, 3072)
	return map[string]*tuftest.Key{
		"P-224":                 tuftest.NewECDSAKey(t, elliptic.P224()),
		"P-256":                 tuftest.NewKey(t, tuf.KeyECDSA),
		"P-384":                 tuftest.NewECDSAKey(t, elliptic.P384()),
		"P-521":                 tuftest.NewECDSAKey(t, elliptic.P521()),
		"P-256 certificate":     tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, cert),
		"P-521 certificate":     tuftest.NewECDSAKey(t, elliptic.P521()).Certify(t, cert),
		"Ed25519":               tuftest.NewKey(t, tuf.KeyED25519),
		"RSA PSS":               rsa,
		"RSA 3072":              long,
		"RSA PKCS#1":            &pkcs1,
		"RSA certificate":       rsa.Certify(t, cert),
		"RSA PKCS#1 certified":  &pkcs1x509,
		"RSA PyCrypto":          rsa.PEM(),
		"RSA of 1024 bits":      tuftest.NewRSAKey(t, 1024),
		"RSA of 1024 bits, PEM": tuftest.NewRSAKey(t, 1024).PEM(),
	}
}

var methods = []string{tuf.MethodECDSA, tuf.MethodRSAPSS, tuf.MethodRSAPKCS1v15, tuf.MethodEdDSA, tuf.MethodPyCrypto, "", "ECDSA", "none"}

// TestSignatures checks every key against every method and every way to spoil a
// signature, beside upstream's verifiers.
func TestSignatures(t *testing.T) {
	message := []byte(`{"_type":"Targets"}`)
	for name, k := range allKeys(t) {
		t.Run(name, func(t *testing.T) {
			s := k.Sign(t, message)
			sigs := map[string][]byte{
				"good": s.Sig, "empty": nil, "short": s.Sig[1:], "long": append([]byte{0}, s.Sig...),
				"flipped": flip(s.Sig), "zero": make([]byte, len(s.Sig)), "half": s.Sig[:len(s.Sig)/2],
				"zero in the middle": slices.Insert(slices.Clone(s.Sig), len(s.Sig)/2, 0),
			}
			public := data.NewPublicKey(k.Type, k.Public)
			accepted := 0
			for _, method := range methods {
				for what, sig := range sigs {
					got := k.VerifySignature(method, message, sig)
					theirs := signed.VerifySignature(message, &data.Signature{Method: data.SigAlgorithm(method), Signature: sig}, public)
					if (got == nil) != (theirs == nil) {
						t.Errorf("%s by %q: %v; upstream: %v", what, method, got, theirs)
					}
					if got == nil {
						accepted++
						if what != "good" || method != s.Method {
							t.Errorf("%s signature taken by %q", what, method)
						}
					}
				}
			}
			want := 1
			if name == "RSA of 1024 bits" || name == "RSA of 1024 bits, PEM" {
				want = 0
			}
			if accepted != want {
				t.Errorf("%d signatures taken, want %d", accepted, want)
			}
			if k.VerifySignature(s.Method, append(message, ' '), s.Sig) == nil {
				t.Error("signature of another message taken")
			}
		})
	}
}

// TestKeyTypes: the type decides how a key may sign, whatever its content is.
func TestKeyTypes(t *testing.T) {
	message := []byte("message")
	for name, k := range allKeys(t) {
		s := k.Sign(t, message)
		for _, typ := range []string{tuf.KeyECDSA, tuf.KeyECDSAX509, tuf.KeyRSA, tuf.KeyRSAX509, tuf.KeyED25519, "ECDSA", ""} {
			for what, content := range map[string][]byte{"same": k.Public, "DER": der(t, k)} {
				key := tuf.Key{Type: typ, Public: content}
				got := key.VerifySignature(s.Method, message, s.Sig)
				theirs := signed.VerifySignature(message, &data.Signature{Method: data.SigAlgorithm(s.Method), Signature: s.Sig}, data.NewPublicKey(typ, content))
				if (got == nil) != (theirs == nil) {
					t.Errorf("%s (%s) as %s: %v; upstream: %v", name, what, typ, got, theirs)
				}
			}
		}
	}
}

func der(t *testing.T, k *tuftest.Key) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSalt: a PSS signature has a salt of 32 bytes.
func TestSalt(t *testing.T) {
	k := tuftest.NewKey(t, tuf.KeyRSA)
	message := []byte("message")
	digest := sha256.Sum256(message)
	for _, length := range []int{rsa.PSSSaltLengthAuto, 20, 32, 64} {
		sig, err := k.Private.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: length, Hash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		got := k.VerifySignature(tuf.MethodRSAPSS, message, sig)
		theirs := signed.VerifySignature(message, &data.Signature{Method: data.RSAPSSSignature, Signature: sig}, data.NewPublicKey(k.Type, k.Public))
		if (got == nil) != (theirs == nil) || (got == nil) != (length == 32) {
			t.Errorf("salt of %d bytes: %v; upstream: %v", length, got, theirs)
		}
	}
}

func flip(b []byte) []byte {
	out := append([]byte(nil), b...)
	out[len(out)-1] ^= 1
	return out
}

func TestKeyIDs(t *testing.T) {
	for name, k := range allKeys(t) {
		public := data.NewPublicKey(k.Type, k.Public)
		if string(k.ID()) != public.ID() {
			t.Errorf("%s: ID %s, upstream's %s", name, k.ID(), public.ID())
		}
		got, err := k.CanonicalID()
		want, theirs := utils.CanonicalKeyID(public)
		if err != nil || theirs != nil || string(got) != want {
			t.Errorf("%s: canonical ID %s, %v; upstream's %s, %v", name, got, err, want, theirs)
		}
	}
	headers := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{}).Key
	headers.Public = bytes.Replace(headers.Public, []byte("-----\n"), []byte("-----\nrole: root\n\n"), 1)
	for _, k := range []tuf.Key{
		headers, {}, {Type: "x"}, {Type: "ecdsa", Public: []byte{}}, {Type: "\"\\<\n", Public: []byte("abc")}, {Type: tuf.KeyRSAX509, Public: []byte("no certificate")},
	} {
		public := data.NewPublicKey(k.Type, k.Public)
		if string(k.ID()) != public.ID() {
			t.Errorf("%+v: ID %s, upstream's %s", k, k.ID(), public.ID())
		}
		_, err := k.CanonicalID()
		if _, theirs := utils.CanonicalKeyID(public); (err == nil) != (theirs == nil) {
			t.Errorf("%+v: canonical ID: %v; upstream: %v", k, err, theirs)
		}
		for _, m := range methods {
			if k.VerifySignature(m, nil, nil) == nil {
				t.Errorf("%+v verifies by %q", k, m)
			}
		}
	}
}

func TestKeyMethod(t *testing.T) {
	for typ, want := range map[string]string{
		tuf.KeyECDSA: "ecdsa", tuf.KeyECDSAX509: "ecdsa", tuf.KeyRSA: "rsapss", tuf.KeyRSAX509: "rsapss", tuf.KeyED25519: "eddsa", "": "", "dsa": "",
	} {
		if got := (tuf.Key{Type: typ}).Method(); got != want {
			t.Errorf("%q signs by %q", typ, got)
		}
	}
}
