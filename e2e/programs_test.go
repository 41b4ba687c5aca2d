package e2e_test

import (
	"debug/elf"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestStatic shows that the programs run on any Linux: they ask for no loader
// and no library.
func TestStatic(t *testing.T) {
	for _, name := range []string{"trust-server", "trust-signer", "trust-admin"} {
		f, err := elf.Open(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is not static: it has a %v", name, p.Type)
			}
		}
	}
}

// TestFlags runs the daemons by upstream's flags and exit codes.
func TestFlags(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"trust-server", "trust-signer"} {
		for _, c := range []struct {
			flag string
			code int
			says string
		}{
			{"-version", 0, `(?m)^` + name + ` Version: \S+, Git commit: \S+, Go version: go1\.\S+$`},
			{"-help", 0, `-config`},
			{"-h", 0, `-logf`},
			{"-nonsense", 2, `-nonsense`},
			{"-config=/nonexistent/config.json", 1, `/nonexistent/config.json`},
		} {
			out, code := runProgram(t, program(t, name), c.flag)
			if code != c.code || !regexp.MustCompile(c.says).MatchString(out) {
				t.Errorf("%s %s: exit %d, want %d, with %q:\n%s", name, c.flag, code, c.code, c.says, out)
			}
		}
	}
}

// TestRefusesToStart holds the server to its word that a configuration which it
// does not understand, or which asks for protection that it can not give, is not
// served openly.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours, backend: onSQLite})
	valid := func() object {
		return object{
			"server":        object{"http_addr": loopback(port(t))},
			"trust_service": object{"type": "remote", "hostname": "localhost", "port": "1", "key_algorithm": "ecdsa"},
			"storage":       object{"backend": "sqlite3", "db_url": "refused.db"},
		}
	}
	options := object{"realm": "https://auth.example/token", "service": "notary", "issuer": "auth.example", "rootcertbundle": s.ca.file("ca.crt")}
	for _, c := range []struct {
		name  string
		spoil func(object)
		says  string
	}{
		{"auth that is not there yet", func(o object) { o["auth"] = object{"type": "token", "options": options} }, "auth"},
		{"auth mistyped", func(o object) { o["auth"] = object{"type": "Token", "options": options} }, "auth.type"},
		{"auth of another kind", func(o object) { o["auth"] = object{"type": "htpasswd"} }, "auth.type"},
		{"unknown section", func(o object) { o["storag"] = object{} }, "storag"},
		{"unknown key", func(o object) { o["server"].(object)["htp_addr"] = ":1" }, "htp_addr"},
		{"half a key pair", func(o object) { o["server"].(object)["tls_cert_file"] = "server.crt" }, "tls_key_file"},
		{"no storage", func(o object) { delete(o, "storage") }, "storage"},
	} {
		o := valid()
		c.spoil(o)
		s.writeConfig("refused.json", o)
		out, code := runProgram(t, program(t, "trust-server"), "-config="+s.dir+"/refused.json")
		if code != 1 || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d, want 1, with %q:\n%s", c.name, code, c.says, out)
		}
	}
}

// runProgram runs a program that must end by itself.
func runProgram(t *testing.T, path string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = t.TempDir()
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	raw, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", path, err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}
