package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
)

// programs is the directory that holds trust-server, trust-signer and trust-admin.
var programs string

// TestMain builds the programs, unless they are given.
func TestMain(m *testing.M) {
	if config := os.Getenv(nginxVariable); config != "" {
		fmt.Fprintln(os.Stderr, "nginx:", runNginx(config))
		os.Exit(1)
	}
	// The client library logs what it also returns, and warns of each outage
	// that a test makes.
	logrus.SetOutput(io.Discard)
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	programs = os.Getenv("COUNTERSIGN_BIN")
	if programs == "" {
		if programs, err = os.MkdirTemp("", "countersign-bin-"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(programs)
		if err := build(programs); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// build makes the programs as users get them, static, and the daemons once more
// with the race detector. The Makefile does the same.
func build(dir string) error {
	for _, args := range [][]string{
		{"CGO_ENABLED=0", "build", "-trimpath", "-o", dir + "/", "./cmd/..."},
		{"CGO_ENABLED=1", "build", "-race", "-o", dir + "/race/", "./cmd/trust-server", "./cmd/trust-signer"},
	} {
		cmd := exec.Command("go", args[1:]...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), args[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building the programs: %w\n%s", err, out)
		}
	}
	return nil
}

// program is the path of one of our programs.
func program(t testing.TB, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(programs, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("our program is missing: %v", err)
	}
	return p
}

// upstreamModule is the directory of upstream's source in the module cache. The
// database migrations there are the ones that upstream's users have run.
var upstreamModule = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/theupdateframework/notary").Output()
	if err != nil {
		return "", fmt.Errorf("locating upstream's source: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})
