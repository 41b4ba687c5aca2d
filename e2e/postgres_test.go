package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"countersign/internal/pgtest"
)

// newDatabase is the URL of an empty database, of cluster c or of the one that
// all tests share.
func newDatabase(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	if c == nil {
		return pgtest.URL(t)
	}
	return c.URL(t)
}

// psql runs PostgreSQL's own client on a database, as an operator would, and
// returns its bare output.
func psql(t testing.TB, url string, args ...string) string {
	t.Helper()
	args = append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url}, args...)
	out, err := exec.CommandContext(t.Context(), "psql", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// sql runs one statement.
func sql(t testing.TB, url, format string, args ...any) string {
	t.Helper()
	return psql(t, url, "-c", fmt.Sprintf(format, args...))
}

// migrateUpstream brings a database to the shape that upstream's programs need,
// with upstream's own migrations. which is "server" or "signer".
func migrateUpstream(t testing.TB, url, which string) {
	t.Helper()
	dir, err := upstreamModule()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "migrations", which, "postgresql", "*.up.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations of upstream's %s in %s: %v", which, dir, err)
	}
	for _, f := range files {
		psql(t, url, "-f", f)
	}
}
