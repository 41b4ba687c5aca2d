package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"countersign/admin"
	"countersign/tuf"
)

// noRoomVariable makes this program a child that can write no large file.
const noRoomVariable = "COUNTERSIGN_TEST_NO_ROOM"

type noRoomOrder struct{ Dir, What, Path string }

func init() {
	raw := os.Getenv(noRoomVariable)
	if raw == "" {
		return
	}
	var o noRoomOrder
	err := json.Unmarshal([]byte(raw), &o)
	if err == nil {
		// What a full disk does: the first bytes can be written.
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1500, Max: 1500})
	}
	if err == nil {
		err = o.run(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Exit(0)
}

func (o noRoomOrder) run(ctx context.Context) error {
	s, err := admin.OpenSite(ctx, admin.SiteConfig{
		ServerConfig: filepath.Join(o.Dir, "server.json"), SignerConfig: filepath.Join(o.Dir, "signer.json"),
		Environ: []string{"NOTARY_SIGNER_A=a passphrase of some length"},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	return o.work(ctx, s)
}

func (o noRoomOrder) work(ctx context.Context, s *admin.Site) (err error) {
	switch o.What {
	case "export":
		_, err = s.Export(ctx, admin.ExportConfig{Selection: admin.Selection{All: true}, Path: o.Path, Keys: true})
	case "import":
		err = s.Import(ctx, admin.ImportConfig{Path: o.Path}, func(admin.Imported) error { return nil })
	case "prune":
		err = s.Prune(ctx, admin.PruneConfig{Selection: admin.Selection{All: true}, KeepVersions: 1, Act: true, Archive: o.Path}, func(admin.Pruned) error { return nil })
	case "orphans":
		_, err = s.OrphanKeys(ctx, admin.OrphansConfig{UnusedDays: 30, Delete: true, Archive: o.Path}, func(admin.Orphan) error { return nil })
	}
	return err
}

// agedPair has something for each command to take away: old versions, and keys of
// a repository that is gone.
func agedPair(t *testing.T) *pair {
	t.Helper()
	p := newPair(t, "postgres")
	r := p.repo("example.org/a")
	for range 4 {
		p.publish(r.GUN, r.Next(tuf.RoleTargets))
	}
	p.repo("example.org/gone")
	p.sql("delete from tuf_files where gun = 'example.org/gone'")
	p.sql("update tuf_files set created_at = '2024-01-01 00:00:00'")
	typeSQL(t, p.backend, p.signer, "update private_keys set created_at = '2024-01-01 00:00:00', last_used = '2024-01-01 00:00:00' where gun = 'example.org/gone'")
	return p
}

// Without room for the archive nothing is taken away, nothing is left half
// written, and the reason is told. With room, each of these does something.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"export", "prune", "orphans"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := agedPair(t)
			before := p.stored()
			path := filepath.Join(p.dir, "out.tar")
			raw, err := json.Marshal(noRoomOrder{p.dir, what, path})
			if err != nil {
				t.Fatal(err)
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), noRoomVariable+"="+string(raw))
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "file too large") {
				t.Errorf("%v: %s", err, out)
			}
			same(t, what, before, p.stored())
			if left, err := filepath.Glob(filepath.Join(p.dir, "*out.tar*")); err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
			if err := (noRoomOrder{p.dir, what, path}).work(t.Context(), p.site()); err != nil {
				t.Errorf("with room: %v", err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the archive: %v, %v", info, err)
			}
		})
	}
}

// Into and in databases that cannot be written to, nothing happens, and that is said.
func TestReadOnlyDatabases(t *testing.T) {
	t.Parallel()
	_, all := exported(t, "sqlite3")
	for what, c := range map[string]struct{ table, of string }{
		"import": {"tuf_files", "server"}, "prune": {"tuf_files", "server"}, "orphans": {"private_keys", "signer"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := agedPair(t)
			path, url := filepath.Join(p.dir, "out.tar"), p.server
			if what == "import" {
				path = all
				p.sql("delete from tuf_files where gun = 'example.org/a'")
			}
			if c.of == "signer" {
				url = p.signer
			}
			before := p.stored()
			typeSQL(t, p.backend, url, "revoke insert, update, delete, truncate on "+c.table+" from current_user")
			err := (noRoomOrder{p.dir, what, path}).work(t.Context(), p.site())
			if err == nil || !strings.Contains(err.Error(), "permission denied for table "+c.table) {
				t.Errorf("got %v", err)
			}
			after := p.stored()
			if what == "import" {
				after.Keys = before.Keys // they come before the files, and may be there
			}
			same(t, what, before, after)
		})
	}
}
