package certs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/certs"
)

var devFiles = []string{"ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key", "signer.crt", "signer.key"}

func ensureDev(t *testing.T, dir string, now time.Time, hosts ...string) map[string]string {
	t.Helper()
	if err := certs.EnsureDev(certs.DevConfig{Dir: dir, Hosts: hosts, Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	return contents(t, dir)
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(raw)
	}
	return all
}

// changed lists the files that differ.
func changed(before, after map[string]string) []string {
	var names []string
	for _, name := range devFiles {
		if before[name] != after[name] {
			names = append(names, name)
		}
	}
	return names
}

func devConnect(t *testing.T, dir, host string) result {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	server := load(t, certs.Files{Cert: in("server.crt"), Key: in("server.key")})
	signer := load(t, certs.Files{Cert: in("signer.crt"), Key: in("signer.key"), CA: in("ca.crt")})
	client := load(t, certs.Files{Cert: in("client.crt"), Key: in("client.key"), CA: in("ca.crt")})
	if r := connect(t, server.HTTPS(), client.Client(host)); !r.ok() {
		return r
	}
	return connect(t, signer.Signer(), client.Client("127.0.0.1"))
}

func TestDev(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first := ensureDev(t, dir, now)
	for _, name := range devFiles {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o644)
		if strings.HasSuffix(name, ".key") {
			want = 0o600
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
	if len(first) != len(devFiles) {
		t.Errorf("%d files, want %d", len(first), len(devFiles))
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if r := devConnect(t, dir, host); !r.ok() {
			t.Errorf("%s: client %v, server %v", host, r.client, r.server)
		}
	}
	if diff := changed(first, ensureDev(t, dir, now.Add(700*24*time.Hour))); diff != nil {
		t.Errorf("made anew without need: %v", diff)
	}
}

func TestDevReplaces(t *testing.T) {
	now := time.Now()
	leaves := []string{"client.crt", "client.key", "server.crt", "server.key", "signer.crt", "signer.key"}
	server := []string{"server.crt", "server.key"}
	for name, c := range map[string]struct {
		do   func(dir string)
		at   time.Duration
		want []string
	}{
		"leaves that end soon": {func(string) {}, (825 - 29) * 24 * time.Hour, leaves},
		"a CA that ends soon":  {func(string) {}, (3650 - 29) * 24 * time.Hour, devFiles},
		"a lost certificate":   {func(dir string) { remove(t, dir, "server.crt") }, 0, server},
		"a lost key":           {func(dir string) { remove(t, dir, "server.key") }, 0, server},
		"a crash between them": {func(dir string) { copyFile(t, dir, "client.key", "server.key") }, 0, server},
		"one of another CA": {func(dir string) {
			other := t.TempDir()
			ensureDev(t, other, now)
			copyFile(t, dir, filepath.Join(other, "server.crt"), "server.crt")
			copyFile(t, dir, filepath.Join(other, "server.key"), "server.key")
		}, 0, server},
		"a CA that nobody has yet": {func(dir string) { remove(t, dir, "ca.crt") }, 0, devFiles},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := ensureDev(t, dir, now)
			c.do(dir)
			if diff := cmp.Diff(c.want, changed(first, ensureDev(t, dir, now.Add(c.at)))); diff != "" {
				t.Errorf("replaced (-want +got):\n%s", diff)
			}
			if c.at > 0 {
				return // those certificates are for another day
			}
			if r := devConnect(t, dir, "localhost"); !r.ok() {
				t.Errorf("client %v, server %v", r.client, r.server)
			}
		})
	}
}

func TestDevHosts(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first := ensureDev(t, dir, now)
	second := ensureDev(t, dir, now, "trust.example.com", "192.0.2.7")
	if diff := cmp.Diff([]string{"server.crt", "server.key"}, changed(first, second)); diff != "" {
		t.Errorf("replaced (-want +got):\n%s", diff)
	}
	for _, host := range []string{"localhost", "trust.example.com", "192.0.2.7"} {
		if r := devConnect(t, dir, host); !r.ok() {
			t.Errorf("%s: client %v, server %v", host, r.client, r.server)
		}
	}
	if diff := changed(second, ensureDev(t, dir, now)); diff != nil {
		t.Errorf("made anew for fewer hosts: %v", diff)
	}
}

// TestDevKeepsItsCA: clients have copies, so a damaged CA is a matter for a person.
func TestDevKeepsItsCA(t *testing.T) {
	for name, do := range map[string]func(dir string){
		"lost key":    func(dir string) { remove(t, dir, "ca.key") },
		"another key": func(dir string) { copyFile(t, dir, "server.key", "ca.key") },
		"broken":      func(dir string) { write(t, filepath.Join(dir, "ca.crt"), []byte("x")) },
	} {
		dir := t.TempDir()
		ensureDev(t, dir, time.Now())
		do(dir)
		before := contents(t, dir)
		err := certs.EnsureDev(certs.DevConfig{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "to begin anew") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := changed(before, contents(t, dir)); diff != nil {
			t.Errorf("%s: it changed %v", name, diff)
		}
	}
}

// crashDir makes this test program one that replaces its CA, and crashes.
const crashDir = "COUNTERSIGN_CRASH_DIR"

// TestDevCrash kills a program that replaces its CA again and again, as soon as
// there is a new key: the next one must be able to go on.
func TestDevCrash(t *testing.T) {
	year := time.Now()
	if dir := os.Getenv(crashDir); dir != "" {
		for { // until it is killed
			year = year.Add(10 * 365 * 24 * time.Hour)
			ensureDev(t, dir, year)
		}
	}
	for range 10 {
		dir := t.TempDir()
		first := ensureDev(t, dir, year)
		cmd := exec.Command(os.Args[0], "-test.run=^TestDevCrash$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; {
			now, err := os.ReadFile(filepath.Join(dir, "ca.key"))
			if err == nil && string(now) != first["ca.key"] {
				break
			}
			if time.Now().After(deadline) {
				t.Error("no new key is made")
				break
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if err := certs.EnsureDev(certs.DevConfig{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, dir, from, to string) {
	t.Helper()
	if !filepath.IsAbs(from) {
		from = filepath.Join(dir, from)
	}
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, to), bytes.Clone(raw))
}
