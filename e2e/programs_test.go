package e2e_test

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
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

// TestRefusesToStart holds both programs to their word: a configuration that they
// do not understand, or that asks for protection which it does not give, is not
// served, and what is printed says what to change.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours, backend: onSQLite})
	for _, c := range []struct {
		name  string
		spoil func(object)
		says  []string
	}{
		{"token without options", func(o object) { o["auth"] = object{"type": "token"} },
			[]string{"has 4 faults", `token auth requires a valid option string: "realm"`, `"issuer"`, `"service"`, `"rootcertbundle"`}},
		{"certificates that are not there", func(o object) { o["auth"] = s.tokens("no/root.crt") },
			[]string{"unable to open token auth root certificate bundle file", "no/root.crt: no such file", "relative to the working directory"}},
		{"no certificate in the file", func(o object) { o["auth"] = s.tokens(s.ca.file("server.key")) }, []string{"auth.options.rootcertbundle", "server.key"}},
		{"auth mistyped", func(o object) { o["auth"] = s.tokens(s.ca.file("ca.crt")); o["auth"].(object)["type"] = "Token" },
			[]string{`auth.type = "Token"`, "rather than serve openly", `did you mean "token"?`}},
		{"auth of another kind", func(o object) { o["auth"] = object{"type": "silly"} }, []string{`auth.type = "silly"`, `set it to "token" or "htpasswd"`}},
		{"passwords without a file", func(o object) { o["auth"] = object{"type": "htpasswd"} }, []string{"has 2 faults", "auth.options.path", "auth.options.policy"}},
		{"unknown section", func(o object) { o["storag"] = object{} }, []string{"storag: there is no such setting", `did you mean "storage"?`}},
		{"unknown key", func(o object) { o["server"].(object)["htp_addr"] = ":1" }, []string{"server.htp_addr: there is no such setting", `did you mean "server.http_addr"?`}},
		{"half a key pair", func(o object) { o["server"].(object)["tls_cert_file"] = "server.crt" },
			[]string{"server.tls_key_file: it is missing beside server.tls_cert_file", "give both, or neither for plain HTTP"}},
		{"half a client's key pair", func(o object) { o["trust_service"].(object)["tls_client_key"] = "client.key" },
			[]string{"trust_service.tls_client_cert: it is missing beside trust_service.tls_client_key"}},
		{"a folder as a file", func(o object) { o["trust_service"].(object)["tls_ca_file"] = "." }, []string{"trust_service.tls_ca_file", "it is a directory"}},
		{"no storage", func(o object) { delete(o, "storage") }, []string{"storage.backend"}},
		{"all at once", func(o object) {
			o["server"].(object)["http_addr"] = "nowhere"
			o["trust_service"].(object)["type"] = "local"
			o["storage"] = object{"backend": "mysql", "db_url": "server:s3cret@tcp(mysql)/notaryserver"}
			o["logging"] = object{"level": 2}
			o["auth"] = object{"type": "Htpasswd"}
			o["reporting"] = object{"bugsnag": object{"api_key": "s3cret"}}
		}, []string{"has 5 faults", "server.http_addr", "run trust-signer", "move the data to PostgreSQL", `logging.level = "2"`, `did you mean "htpasswd"?`, "reporting.bugsnag.api_key: ignored"}},
	} {
		o := s.bareServer()
		c.spoil(o)
		s.wantRefusal("trust-server: "+c.name, "trust-server", o, c.says)
	}
	for _, c := range []struct {
		name  string
		spoil func(server object)
		says  []string
	}{
		{"unknown key", func(o object) { o["client_ca"] = "ca.crt" }, []string{"server.client_ca: there is no such setting", `did you mean "server.client_ca_file"?`}},
		{"half a key pair", func(o object) { delete(o, "tls_key_file") }, []string{"server.tls_key_file: it is missing beside server.tls_cert_file"}},
		{"names that nobody checks", func(o object) { o["client_names"] = "trust-server" }, []string{"server.client_names", "give server.client_ca_file too"}},
	} {
		server := object{"grpc_addr": loopback(port(t)), "tls_cert_file": "signer.crt", "tls_key_file": "signer.key"}
		c.spoil(server)
		o := object{"server": server, "storage": object{"backend": "sqlite3", "db_url": "refused.db", "default_alias": "a"}}
		s.wantRefusal("trust-signer: "+c.name, "trust-signer", o, c.says)
	}
	if _, err := os.Stat(s.file("refused.db")); err == nil {
		t.Error("a program that does not start made a database")
	}
}

// bareServer is the least that trust-server starts with.
func (s *stack) bareServer() object {
	return object{
		"server":        object{"http_addr": loopback(port(s.t))},
		"trust_service": object{"type": "remote", "hostname": "localhost", "port": "1", "key_algorithm": "ecdsa"},
		"storage":       object{"backend": "sqlite3", "db_url": "refused.db"},
	}
}

func (s *stack) tokens(bundle string) object {
	return object{"type": "token", "options": object{"realm": "https://auth.example/token", "service": "notary", "issuer": "auth.example", "rootcertbundle": bundle}}
}

func (s *stack) file(name string) string { return filepath.Join(s.dir, name) }

// wantRefusal: the program ends with 1 and says all of it, whether it was to
// start or only to check, and no secret.
func (s *stack) wantRefusal(name, which string, o object, says []string) {
	s.t.Helper()
	s.writeConfig("refused.json", o)
	for _, flag := range []string{"-logf=logfmt", "-check-config"} {
		out, code := runProgram(s.t, program(s.t, which), "-config="+s.file("refused.json"), flag)
		missing := slices.ContainsFunc(says, func(word string) bool { return !strings.Contains(out, word) })
		if code != 1 || missing || strings.Contains(out, "s3cret") {
			s.t.Errorf("%s: exit %d, want 1, with %q:\n%s", name, code, says, out)
		}
	}
}

// TestManualsPolicy: the policy that the manual shows is one.
func TestManualsPolicy(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(manual), "```json\n")
	policy, _, closed := strings.Cut(rest, "```")
	if !found || !closed || !strings.Contains(policy, `"rules"`) {
		t.Fatalf("the manual shows no policy, but %q", policy)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("any"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, dir: t.TempDir()}
	o := s.bareServer()
	o["auth"] = object{"type": "htpasswd", "options": object{"path": "users", "policy": "policy.json"}}
	s.writeConfig("config.json", o)
	for name, content := range map[string]string{"users": "alice:" + string(hash) + "\n", "policy.json": policy} {
		if err := os.WriteFile(s.file(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := runProgram(t, program(t, "trust-server"), "-check-config", "-config="+s.file("config.json")); code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if err := os.WriteFile(s.file("policy.json"), []byte(strings.Replace(policy, `"rules"`, `"rulez"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := runProgram(t, program(t, "trust-server"), "-check-config", "-config="+s.file("config.json")); code != 1 || !strings.Contains(out, "rulez") {
		t.Errorf("with a fault in it: exit %d:\n%s", code, out)
	}
}

// TestUnreadableConfig: what is no file, or cannot be opened, is told with what it is.
func TestUnreadableConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	loop, list := filepath.Join(dir, "loop.json"), filepath.Join(dir, "list.json")
	if err := errors.Join(os.Symlink(loop, loop), os.WriteFile(list, []byte("[]"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{"trust-server", "trust-signer"} {
		for path, says := range map[string]string{
			dir: "is a directory", loop: "too many levels of symbolic links", list: "it holds no JSON object",
			filepath.Join(dir, "none.json"): "no such file or directory", "none.json": "relative paths are relative to the working directory",
		} {
			out, code := runProgram(t, program(t, which), "-config="+path)
			if code != 1 || !strings.Contains(out, says) || !strings.Contains(out, path) {
				t.Errorf("%s -config=%s: exit %d, want 1, with %q:\n%s", which, path, code, says, out)
			}
		}
		if out, code := runProgram(t, program(t, which)); code != 1 || !strings.Contains(out, "name it: -config=PATH") {
			t.Errorf("%s without a configuration: exit %d:\n%s", which, code, out)
		}
	}
}

// TestRetiredKeysStart: settings of upstream's that mean nothing here are told,
// also to who has set the log to errors only, and stop nobody.
func TestRetiredKeysStart(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours, backend: onSQLite})
	o := s.bareServer()
	o["reporting"] = object{"bugsnag": object{"api_key": "s3cret", "release_stage": "production", "endpoint": "https://bugsnag.example"}}
	o["storage"] = object{"backend": "sqlite3", "db_url": "retired.db", "database": "notaryserver", "username": "u", "password": "s3cret", "tls_ca_file": "no/ca.pem"}
	s.secrets = append(s.secrets, "s3cret")
	s.writeConfig("retired.json", o)

	says := []string{"reporting.bugsnag.api_key: ignored", "reporting.bugsnag.endpoint: ignored", "storage.database: ignored", "storage.password: ignored", "storage.tls_ca_file: ignored"}
	out, code := runProgram(t, program(t, "trust-server"), "-config="+s.file("retired.json"), "-check-config")
	if code != 0 || !strings.Contains(out, "config ok: ") {
		t.Errorf("-check-config: exit %d:\n%s", code, out)
	}
	p := s.run(ours, "server", "retired", "retired.json")
	defer func() { _ = p.end(syscall.SIGTERM, 20*time.Second) }()
	if err := waitForPort(p, o["server"].(object)["http_addr"].(string), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range says {
		if !strings.Contains(out, "warning: "+word) || !strings.Contains(string(log), word) {
			t.Errorf("%q is not in what is printed,\n%s\nor not in the log,\n%s", word, out, log)
		}
	}
}

// runProgram runs a program that must end by itself.
func runProgram(t testing.TB, path string, args ...string) (out string, code int) {
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
