package program_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/certs"
	"countersign/internal/config"
	"countersign/internal/program"
	"countersign/migrations"
	"countersign/storage"
)

func begin(t *testing.T, args ...string) (p *program.Program, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	p, err := program.Begin("trust-x", args, stdout, stderr)
	if err != nil {
		t.Fatal(err)
	}
	return p, stdout, stderr
}

func TestLogging(t *testing.T) {
	for name, c := range map[string]struct {
		args    []string
		logging config.Logging
		want    string // how the lines of an info and of a told warning look, if any
	}{
		"quiet":               {nil, config.Logging{Level: "error", Format: "json"}, `"level":"warning","msg":"told"`},
		"chatty":              {nil, config.Logging{Level: "info", Format: "logfmt"}, "level=info msg=event"},
		"the flag wins":       {[]string{"-logf=logfmt"}, config.Logging{Level: "panic", Format: "json"}, "level=warning msg=told"},
		"faults are defaults": {nil, config.Logging{Level: "loud", Format: "xml"}, `"level":"warning","msg":"told"`},
	} {
		p, _, stderr := begin(t, c.args...)
		p.UseLogging(c.logging)
		p.Log.Info("event")
		p.Warn(t.Context(), "told")
		if got := stderr.String(); !strings.Contains(got, c.want) || strings.Contains(got, "event") != (name == "chatty") {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestSettle(t *testing.T) {
	faulty := &config.Report{File: "f.json", Warnings: []string{"w"}, Faults: config.Faults{{Key: "k", Problem: "p"}}}
	fine := &config.Report{File: "f.json", Warnings: []string{"w"}}
	for name, c := range map[string]struct {
		args   []string
		report *config.Report
		err    string // "" for nil
		stdout string
		stderr string
	}{
		"fine":              {nil, fine, "", "", "configuration: w"},
		"faulty":            {nil, faulty, faulty.Err().Error(), "", "configuration: w"},
		"check":             {[]string{"-check-config"}, fine, program.ErrDone.Error(), "warning: w\nconfig ok: f.json\n", ""},
		"check of faulty":   {[]string{"-check-config"}, faulty, faulty.Err().Error(), "warning: w\n", ""},
		"bootstrap":         {[]string{"-bootstrap"}, fine, "store does not support bootstrapping", "", ""},
		"bootstrap, faulty": {[]string{"-bootstrap"}, faulty, faulty.Err().Error(), "", ""},
	} {
		p, stdout, stderr := begin(t, c.args...)
		err := p.Settle(t.Context(), c.report)
		if got := errorText(err); got != c.err || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: %q, stdout %q, stderr %q", name, got, stdout, stderr)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	if err := certs.EnsureDev(certs.DevConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	keys := program.CertKeys{Cert: "c", Key: "k", CA: "a"}
	p, _, _ := begin(t)

	r := &config.Report{Faults: config.Faults{{Problem: "of no setting"}, {Key: "other"}}}
	if s := p.Certificates(r, keys, certs.Files{Cert: in("server.crt"), Key: in("server.key"), CA: in("ca.crt")}); s == nil || len(r.Faults) != 2 {
		t.Errorf("good files: %v, %v", s, r.Faults)
	}
	if s := p.Certificates(&config.Report{}, program.CertKeys{}, certs.Files{}); s == nil {
		t.Error("no files at all: no store")
	}
	// Two faults, told apart.
	r = &config.Report{}
	if s := p.Certificates(r, keys, certs.Files{Cert: in("server.crt"), Key: in("client.key"), CA: in("ca.key")}); s != nil || len(r.Faults) != 2 {
		t.Errorf("wrong key and CA: %v, %v", s, r.Faults)
	}
	// What is known to be at fault is not told again.
	r = &config.Report{Faults: config.Faults{{Key: "k", Problem: "missing"}}}
	if s := p.Certificates(r, keys, certs.Files{Cert: in("server.crt"), Key: in("no")}); s != nil || len(r.Faults) != 1 {
		t.Errorf("known fault: %v, %v", s, r.Faults)
	}
}

func TestOpenDatabase(t *testing.T) {
	dir := t.TempDir()
	sqlite := config.Storage{Backend: config.BackendSQLite, DBURL: filepath.Join(dir, "x.db"), Migrate: true}
	p, _, stderr := begin(t)

	without := sqlite
	without.Migrate = false
	if _, err := p.OpenDatabase(t.Context(), without, migrations.Server); !errors.Is(err, migrations.ErrShape) {
		t.Errorf("without tables, not to be made: %v", err)
	}
	for _, s := range []config.Storage{sqlite, without} {
		db, err := p.OpenDatabase(t.Context(), s, migrations.Server)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Ping(t.Context()), db.Close()); err != nil {
			t.Error(err)
		}
	}

	const secret = "s3cret"
	bad := config.Storage{Backend: config.BackendPostgres, DBURL: "postgres://u:" + secret + "@h/d?sslmode=" + secret}
	if _, err := p.OpenDatabase(t.Context(), bad, migrations.Server); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("an URL that cannot work: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	gone := config.Storage{Backend: config.BackendSQLite, DBURL: filepath.Join(dir, "no", "x.db")}
	if _, err := p.OpenDatabase(ctx, gone, migrations.Server); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("ended while waiting: %v", err)
	}
	if strings.Contains(stderr.String(), "u:"+secret) {
		t.Errorf("the log holds the password: %s", stderr)
	}
}

func TestTemporaryDatabase(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	p, _, _ := begin(t)
	db, err := p.OpenDatabase(t.Context(), config.Storage{Backend: config.BackendMemory}, migrations.Signer)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(tmp)
	if err != nil || len(entries) != 1 || !strings.HasPrefix(entries[0].Name(), "trust-x-") {
		t.Errorf("the temporary folder holds %v, %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(tmp, entries[0].Name())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err = os.ReadDir(tmp)
	if diff := cmp.Diff(0, len(entries)); diff != "" || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestExitCode(t *testing.T) {
	for want, err := range map[int]error{0: nil, 1: errors.New("a fault"), 2: program.ErrUsage} {
		var out bytes.Buffer
		if got := program.ExitCode("trust-x", err, &out); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
		if printed := out.String(); (want == 1) != (printed == "trust-x: a fault\n") {
			t.Errorf("%v: printed %q", err, printed)
		}
	}
}
