package signer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"countersign/signer"
	"countersign/storage"
	"countersign/tuf"
)

// TestCacheIsBounded: keys beyond the bound leave memory wiped, and still sign.
func TestCacheIsBounded(t *testing.T) {
	s := onSQLite(t)
	reg := prometheus.NewRegistry()
	s.restart(t, func(c *signer.Config) { c.CacheSize, c.Registerer = 2, reg })
	var keys []storage.Key
	for i := range 5 {
		algorithm := []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2]
		k, err := s.CreateKey(t.Context(), tuf.GUN(fmt.Sprint("gun", i)), role, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	keys = append(keys, s.importRSA(t, 2048))
	for range 2 {
		for i, k := range keys {
			s.mustSign(t, k)
			opened := s.Opened(k.ID)
			if opened == nil {
				t.Fatalf("key %d is not open after it signed", i)
			}
			s.mustSign(t, keys[(i+1)%len(keys)])
			s.mustSign(t, keys[(i+2)%len(keys)])
			if s.Opened(k.ID) != nil {
				t.Errorf("key %d is open though the cache is full of others", i)
			}
			if !wiped(opened) {
				t.Errorf("key %d (%s) was not wiped", i, k.Algorithm)
			}
		}
	}
	got := gather(t, reg)
	if got["countersign_signer_keys_open"] != 2 || got["countersign_signer_key_opens_total outcome=ok"] == 0 ||
		got["countersign_signer_key_cache_hits_total"] == 0 || got["countersign_signer_keys_created_total algorithm=ecdsa"] != 3 {
		t.Errorf("metrics: %v", got)
	}
}

func wiped(key any) bool {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 the raw value is what must be gone
		return allZero(k.D.Bits())
	case *rsa.PrivateKey:
		return allZero(k.D.Bits()) && allZero(k.Primes[0].Bits()) && allZero(k.Primes[1].Bits())
	case ed25519.PrivateKey:
		return allZero(k)
	}
	return false
}

func allZero[T ~uint | ~byte](words []T) bool {
	for _, w := range words {
		if w != 0 {
			return false
		}
	}
	return true
}

func gather(t testing.TB, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			found[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return found
}

// TestNothingLeaks: neither log nor metrics hold content, passphrases or what
// is sealed, and no label holds a GUN or a key ID.
func TestNothingLeaks(t *testing.T) {
	s := onSQLite(t)
	reg := prometheus.NewRegistry()
	s.restart(t, func(c *signer.Config) {
		c.Registerer = reg
		c.RequestID = func(context.Context) string { return "req-7" }
	})
	k := s.create(t, tuf.KeyECDSA)
	if _, _, err := s.Sign(t.Context(), gun, role, k.ID, []byte("the-content")); err != nil {
		t.Fatal(err)
	}
	s.passphrases.set("main", "xyzzy-plugh")
	s.restart(t, func(c *signer.Config) { c.Registerer = prometheus.WrapRegistererWithPrefix("again_", reg) })
	_, _, err := s.Sign(t.Context(), gun, role, k.ID, []byte("the-content"))
	if err == nil {
		t.Fatal("signed with a wrong passphrase")
	}
	if err := s.DeleteKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	log := s.log.String()
	for _, line := range []string{"key created", "key deleted", `"request_id":"req-7"`, string(gun), string(k.ID)} {
		if !strings.Contains(log, line) {
			t.Errorf("log lacks %q", line)
		}
	}
	for _, secret := range []string{"the-content", "correct horse", "xyzzy-plugh", string(k.Sealed[:40])} {
		if strings.Contains(log, secret) || strings.Contains(err.Error(), secret) {
			t.Errorf("log or error holds %q", secret)
		}
	}
	for name := range gather(t, reg) {
		if strings.Contains(name, string(gun)) || strings.Contains(name, string(k.ID)) {
			t.Errorf("metric %s", name)
		}
	}
	want := map[string]float64{
		"countersign_signer_keys_created_total algorithm=ecdsa":             1,
		"countersign_signer_key_cache_hits_total":                           1,
		"countersign_signer_keys_open":                                      1,
		"again_countersign_signer_key_cache_hits_total":                     0,
		"again_countersign_signer_key_opens_total outcome=wrong_passphrase": 1,
		"again_countersign_signer_keys_open":                                0,
	}
	if diff := cmp.Diff(want, gather(t, reg)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
