package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// tokenSite is a server's configuration and what signs the tokens for it.
func tokenSite(t *testing.T, options map[string]any) (config string, sign func(claims map[string]any) string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tokens"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bundle := filepath.Join(dir, "root.crt")
	write(t, bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	o := map[string]any{"realm": "https://registry.example.org/token", "service": "notary", "issuer": "me", "rootcertbundle": bundle}
	for k, v := range options {
		o[k] = v
	}
	// The private key of the server is not there: whoever asks need not be able to read it.
	raw, err := json.Marshal(map[string]any{
		"server":        map[string]any{"http_addr": ":4443", "tls_cert_file": "none.crt", "tls_key_file": "none.key"},
		"trust_service": map[string]any{"type": "remote", "hostname": "signer", "port": "7899", "key_algorithm": "ecdsa"},
		"storage":       map[string]any{"backend": "memory"},
		"auth":          map[string]any{"type": "token", "options": o},
	})
	if err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(dir, "server.json")
	write(t, config, raw)
	return config, func(claims map[string]any) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
			(&jose.SignerOptions{}).WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(der)}))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(raw)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// explain runs the command with the token on its standard input.
func explain(t *testing.T, token string, args ...string) (out string, err error) {
	t.Helper()
	root := newRoot()
	var stdout, stderr bytes.Buffer
	root.SetIn(strings.NewReader(token))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append([]string{"auth", "explain"}, args...))
	err = root.ExecuteContext(t.Context())
	if strings.Contains(stdout.String()+stderr.String(), strings.TrimSpace(token)) && token != "" {
		t.Error("the token was printed")
	}
	return stdout.String(), err
}

func TestExplain(t *testing.T) {
	config, sign := tokenSite(t, nil)
	claims := func(change func(map[string]any)) map[string]any {
		c := map[string]any{
			"iss": "me", "aud": "notary", "sub": "alice", "exp": time.Now().Add(time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(),
			"access": []any{map[string]any{"type": "repository", "name": "example.org/a", "actions": []string{"pull"}}},
		}
		change(c)
		return c
	}
	for name, c := range map[string]struct {
		change func(map[string]any)
		args   []string
		fails  string // the one check that fails; "" for none
	}{
		"good":           {func(map[string]any) {}, []string{"--gun", "example.org/a"}, ""},
		"no access":      {func(map[string]any) {}, nil, ""},
		"missing action": {func(map[string]any) {}, []string{"--gun", "example.org/a", "--action", "pull", "--action", "push"}, "access push on example.org/a"},
		"audience":       {func(c map[string]any) { c["aud"] = "other" }, nil, "audience"},
		"expired":        {func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() }, nil, "expiry"},
	} {
		t.Run(name, func(t *testing.T) {
			token := sign(claims(c.change))
			out, err := explain(t, " Bearer "+token+"\n", append([]string{"--server-config", config, "--output", "json"}, c.args...)...)
			if (err == nil) != (c.fails == "") {
				t.Errorf("error %v", err)
			}
			var got struct {
				Accepted bool
				Checks   []struct {
					Check, Text string
					OK          bool
				}
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			var failed []string
			for _, k := range got.Checks {
				if !k.OK {
					failed = append(failed, k.Check)
				}
			}
			if strings.Join(failed, ",") != c.fails || got.Accepted != (c.fails == "") || len(got.Checks) < 8 {
				t.Errorf("failed: %q in %s", failed, out)
			}
			if table, _ := explain(t, token, append([]string{"--server-config", config}, c.args...)...); strings.Count(table, "\n") != len(got.Checks) || strings.Contains(table, "FAILS") != (c.fails != "") {
				t.Errorf("table:\n%s", table)
			}
		})
	}
}

func TestExplainRefuses(t *testing.T) {
	config, sign := tokenSite(t, nil)
	incomplete, _ := tokenSite(t, map[string]any{"issuer": ""})
	token := sign(map[string]any{})
	for name, c := range map[string]struct {
		token string
		args  []string
		want  string
	}{
		"no token":          {"", []string{"--server-config", config}, "no token was given"},
		"no config":         {token, nil, "server-config"},
		"no such config":    {token, []string{"--server-config", filepath.Join(config, "x")}, "server.json"},
		"bad config":        {token, []string{"--server-config", incomplete}, "auth.options.issuer"},
		"no such action":    {token, []string{"--server-config", config, "--gun", "a", "--action", "delete"}, `no action "delete"`},
		"bad GUN":           {token, []string{"--server-config", config, "--gun", "\x00"}, "GUN"},
		"endless token":     {strings.Repeat("a", 2<<20), []string{"--server-config", config}, "more than"},
		"token as argument": {token, []string{"--server-config", config, token}, "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := explain(t, c.token, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}
