// Package archtest holds the import rule of the project as a test.
package archtest_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "countersign"

// mayImport lists, for each package, the packages of this module that its
// non-test code may import. To add a line is to change the design: say why in
// the commit. What follows from it, and what the closure test below proves: the
// server links no key code, the signer no server code.
var mayImport = map[string][]string{
	"cmd/trust-server":    {"certs", "internal/config", "internal/program", "internal/service", "migrations", "server", "server/auth", "server/publish", "signer/rpc", "storage", "storage/metadb", "storage/sqldb", "tuf"},
	"cmd/trust-signer":    {"certs", "internal/config", "internal/program", "internal/service", "migrations", "signer", "signer/rpc", "signer/seal", "storage", "storage/keydb", "storage/sqldb", "tuf"},
	"cmd/trust-admin":     {"admin", "migrations", "server/auth", "storage", "tuf", "internal/buildinfo", "internal/config", "internal/service"},
	"admin/archive":       {"internal/atomicfile", "storage", "tuf"},
	"admin":               {"admin/archive", "certs", "internal/atomicfile", "internal/config", "migrations", "server/auth", "server/publish", "signer", "signer/rpc", "signer/seal", "storage", "storage/keydb", "storage/metadb", "storage/sqldb", "tuf"},
	"certs":               {"internal/atomicfile"},
	"internal/archtest":   {},
	"internal/atomicfile": {},
	"internal/buildinfo":  {},
	"internal/config":     {},
	"internal/pgtest":     {"internal/proctest"},
	"internal/proctest":   {},
	"internal/program":    {"certs", "internal/buildinfo", "internal/config", "internal/service", "migrations", "storage", "storage/sqldb"},
	"internal/service":    {},
	"migrations":          {"storage", "storage/sqldb"},
	"proto":               {},
	"server":              {"server/auth", "server/publish", "storage", "tuf"},
	"server/auth":         {},
	"server/publish":      {"storage", "tuf"},
	"signer":              {"signer/seal", "storage", "tuf"},
	"signer/rpc":          {"proto", "storage", "tuf"},
	"signer/seal":         {"storage"},
	"signer/sealtest":     {},
	"storage":             {"tuf"},
	"storage/keydb":       {"storage", "storage/sqldb", "tuf"},
	"storage/metadb":      {"storage", "storage/sqldb", "tuf"},
	"storage/sqldb":       {"storage"},
	"storage/storagetest": {"storage", "tuf", "tuf/tuftest"},
	"tuf":                 {"tuf/cjson"},
	"tuf/cjson":           {},
	"tuf/tuftest":         {"tuf"},
	"e2e":                 {},
	"e2e/tokenservice":    {},
}

// mustNotReach lists packages, of this module and others, that a program must
// not link, directly or through another package of this module.
var mustNotReach = map[string][]string{
	"cmd/trust-server": {"signer", "signer/seal", "storage/keydb", "github.com/theupdateframework/notary", "github.com/go-jose/go-jose/v4/cipher"},
	"cmd/trust-signer": {"server", "server/publish", "storage/metadb", "github.com/theupdateframework/notary", "github.com/gorilla/mux"},
	"cmd/trust-admin":  {"github.com/theupdateframework/notary"},
	"server":           {"database/sql"},
	"signer":           {"database/sql"},
}

// only lists foreign packages that just these packages of ours may import.
var only = map[string][]string{
	"database/sql":           {"storage/sqldb", "storage/metadb", "storage/keydb", "migrations", "internal/pgtest"},
	"github.com/lib/pq":      {"storage/sqldb", "internal/pgtest"},
	"modernc.org/sqlite":     {"storage/sqldb"},
	"github.com/gorilla/mux": {"server"},
	// Tokens are verified with it, keys unwrapped: nothing else may do either.
	"github.com/go-jose/go-jose": {"server/auth", "signer/seal"},
	"golang.org/x/crypto":        {"server/auth"},
	"golang.org/x/net":           {"signer/rpc"},
}

// imports parses the sources itself: a test that runs "go list" would be cached
// stale, since the go command does not see what a child process reads.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		if found[pkg] == nil {
			found[pkg] = []string{}
		}
		for _, i := range f.Imports {
			s, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			found[pkg] = append(found[pkg], s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImports(t *testing.T) {
	for pkg, list := range imports(t) {
		allowed, ok := mayImport[pkg]
		if !ok {
			t.Errorf("package %s is not in the import table", pkg)
			continue
		}
		for _, imp := range list {
			if ours, found := strings.CutPrefix(imp, module+"/"); found && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which the import table does not allow", pkg, ours)
			}
			for foreign, users := range only {
				if within(imp, foreign) && !slices.Contains(users, pkg) {
					t.Errorf("%s imports %s, which only %v may", pkg, imp, users)
				}
			}
		}
	}
}

func TestPrograms(t *testing.T) {
	all := imports(t)
	for pkg, forbidden := range mustNotReach {
		if all[pkg] == nil {
			t.Errorf("package %s does not exist", pkg)
		}
		seen := map[string]bool{}
		var walk func(string, []string)
		walk = func(p string, trail []string) {
			trail = append(slices.Clone(trail), p)
			for _, imp := range all[p] {
				ours, isOurs := strings.CutPrefix(imp, module+"/")
				for _, f := range forbidden {
					if (isOurs && ours == f) || (!isOurs && within(imp, f)) {
						t.Errorf("%s reaches %s: %s", pkg, imp, strings.Join(trail, " → "))
					}
				}
				if isOurs && !seen[ours] && ours != pkg {
					seen[ours] = true
					walk(ours, trail)
				}
			}
		}
		walk(pkg, nil)
	}
}

// within reports whether import path p is prefix or below it.
func within(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, path.Clean(prefix)+"/")
}
