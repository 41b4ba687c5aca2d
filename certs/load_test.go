package certs_test

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/certs"
)

func TestLoadErrors(t *testing.T) {
	root := ca(t, nil, "root")
	one, other := leaf(t, root, "a"), leaf(t, root, "b")
	sec1Encrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")})
	for name, c := range map[string]struct {
		file    string // the one to break: Cert, Key or CA
		content []byte // nil: remove it
		want    string
	}{
		"no certificate":     {"Cert", nil, "reading the certificate CERT: no such file"},
		"no key":             {"Key", nil, "reading the private key KEY: no such file"},
		"no CA":              {"CA", nil, "reading the CA file CA: no such file"},
		"empty certificate":  {"Cert", []byte{}, "CERT holds no PEM certificate"},
		"empty key":          {"Key", []byte("\n"), "KEY holds no PEM private key"},
		"empty CA":           {"CA", []byte("text\n"), "the CA file CA holds no PEM certificate"},
		"CA cannot parse":    {"CA", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "no certificate in the CA file CA can be parsed"},
		"swapped":            {"Cert", keyPEM(t, one), "are certificate and key swapped?"},
		"of another":         {"Key", keyPEM(t, other), "the private key KEY does not belong to the certificate CERT"},
		"encrypted":          {"Key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), "make sure the key is not encrypted"},
		"encrypted, old way": {"Key", sec1Encrypted, "make sure the key is not encrypted"},
		"key cannot parse":   {"Key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "loading the certificate CERT with the key KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			f := files(t, []*issuer{one}, root)
			path := map[string]string{"Cert": f.Cert, "Key": f.Key, "CA": f.CA}[c.file]
			if c.content == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, path, c.content)
			}
			_, err := certs.Load(certs.Config{Files: f})
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.NewReplacer(f.Cert, "CERT", f.Key, "KEY", f.CA, "CA").Replace(err.Error())
			if !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q in it", got, c.want)
			}
			if strings.Count(got, "\n") > 0 {
				t.Errorf("more than one error: %q", got)
			}
		})
	}
	dir := t.TempDir()
	_, err := certs.Load(certs.Config{Files: certs.Files{Cert: filepath.Join(dir, "x"), Key: filepath.Join(dir, "y"), CA: filepath.Join(dir, "z")}})
	if err == nil || strings.Count(err.Error(), "no such file") != 3 {
		t.Errorf("three missing files: %v", err)
	}
	if _, err := certs.Load(certs.Config{Files: certs.Files{Cert: "x"}}); err == nil {
		t.Error("a certificate without a key: no error")
	}
}

// TestPoolWithJunk: bundles hold comments and other blocks.
func TestPoolWithJunk(t *testing.T) {
	root := ca(t, nil, "root")
	srv := leaf(t, root, "signer")
	f := files(t, nil, root)
	junk := append([]byte("# a comment\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...)
	write(t, f.CA, append(junk, certPEM(root)...))
	if r := connect(t, load(t, files(t, []*issuer{srv})).Signer(), load(t, f).Client("signer")); !r.ok() {
		t.Errorf("client %v, server %v", r.client, r.server)
	}
}
