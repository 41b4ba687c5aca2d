package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/certs"
	"countersign/internal/proctest"
)

type verdict struct {
	About, Verdict, Text string
	ToDo                 string `json:"to_do"`
}

// check runs the command and returns its lines.
func check(t *testing.T, env []string, dir string) (code int, lines []verdict) {
	t.Helper()
	code, stdout, stderr := proctest.Run(t, path(), env, "check", "--output", "json",
		"--server-config", filepath.Join(dir, "server.json"), "--signer-config", filepath.Join(dir, "signer.json"))
	for line := range strings.Lines(stdout) {
		var v verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v in %s\n%s", err, line, stderr)
		}
		lines = append(lines, v)
	}
	return code, lines
}

// A running pair is healthy, and each thing that is broken is named, with
// nothing else.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	p := startDev(t, dir, localAddr(t))
	code, lines := check(t, nil, dir)
	if code != 0 || len(lines) < 14 {
		t.Errorf("exit code %d, %+v", code, lines)
	}
	for _, v := range lines {
		if v.Verdict != "ok" {
			t.Errorf("%+v", v)
		}
	}
	edit := func(file, old, to string) func(*testing.T) {
		return func(t *testing.T) {
			path := filepath.Join(dir, file)
			raw, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(raw), old) {
				t.Fatalf("%s has no %q, %v", file, old, err)
			}
			t.Cleanup(func() {
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Error(err)
				}
			})
			if err := os.WriteFile(path, []byte(strings.Replace(string(raw), old, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T)
		env   []string
		code  int
		want  []string // what the lines that are not ok begin with
	}{
		"unknown key":      {edit("server.json", `"logging"`, `"loging"`), nil, 1, []string{"FAULT server: configuration: loging: there is no such setting"}},
		"wrong host":       {edit("server.json", `"hostname": "127.0.0.1"`, `"hostname": "signer.invalid"`), nil, 1, []string{"FAULT server: signer: signer.invalid:", "FAULT signer: certificate: "}},
		"weak passphrase":  {func(*testing.T) {}, []string{"NOTARY_SIGNER_DEV=short"}, 3, []string{`warning signer: passphrases: that of alias "dev" is weak`}},
		"no passphrase":    {edit("signer.json", `passphrase"`, `passphrase.none"`), nil, 1, []string{"FAULT signer: configuration", "warning signer: configuration", "FAULT signer: passphrases"}},
		"no such database": {edit("server.json", `server.db`, `none.db`), nil, 3, []string{"warning server: database: "}},
		"broken key":       {edit("certs/signer.key", "-----BEGIN", "-----BEGUN"), nil, 1, []string{"FAULT signer: certificate: "}},
	} {
		t.Run(name, func(t *testing.T) {
			c.spoil(t)
			code, lines := check(t, c.env, dir)
			var got []string
			for _, v := range lines {
				if v.Verdict != "ok" {
					got = append(got, v.Verdict+" "+v.About+": "+v.Text)
				}
			}
			ok := len(got) == len(c.want)
			for i := 0; ok && i < len(got); i++ {
				ok = strings.HasPrefix(got[i], c.want[i])
			}
			if code != c.code || !ok {
				t.Errorf("exit code %d, want %d; got %q, want %q", code, c.code, got, c.want)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		other := t.TempDir()
		if err := certs.EnsureDev(certs.DevConfig{Dir: other, Now: func() time.Time { return time.Now().AddDate(-3, 0, 0) }}); err != nil {
			t.Fatal(err)
		}
		edit("server.json", `"certs/client.crt"`, `"`+other+`/client.crt"`)(t)
		edit("server.json", `"certs/client.key"`, `"`+other+`/client.key"`)(t)
		code, lines := check(t, nil, dir)
		expired, handshake := false, false
		for _, v := range lines {
			expired = expired || v.Verdict == "FAULT" && v.About == "server: certificate for the signer" && strings.Contains(v.Text, "has expired on")
			handshake = handshake || v.Verdict == "FAULT" && v.About == "server: signer"
		}
		if code != 1 || !expired || !handshake {
			t.Errorf("exit code %d, %+v", code, lines)
		}
	})
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
	code, lines = check(t, nil, dir)
	faults := 0
	for _, v := range lines {
		if v.Verdict == "FAULT" {
			faults++
			if v.About != "server: signer" && v.About != "server: health" || v.ToDo == "" {
				t.Errorf("%+v", v)
			}
		}
	}
	if code != 1 || faults != 2 {
		t.Errorf("of a pair that has ended: exit code %d, %+v", code, lines)
	}
}
