package admin_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "github.com/lib/pq"
	_ "modernc.org/sqlite"

	"countersign/admin"
)

// crashVariable makes this program a child that purges or restores.
const crashVariable = "COUNTERSIGN_TEST_PURGE"

// A crashOrder is what a child has to do.
type crashOrder struct {
	Dir, GUN string
	Archive  string // to restore; "" to purge
	KillAt   string // the step after which it kills itself; "name#2" the second time
	Late     bool   // somebody stores a file once the first archive is made
	Replace  bool
	Full     bool // of disk
}

func init() {
	raw := os.Getenv(crashVariable)
	if raw == "" {
		return
	}
	if err := obey([]byte(raw)); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Exit(0)
}

func obey(raw []byte) error {
	var o crashOrder
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	ctx := context.Background()
	seen := map[string]int{}
	var s *admin.Site
	var err error
	s, err = admin.OpenSite(ctx, admin.SiteConfig{
		ServerConfig: filepath.Join(o.Dir, "server.json"), SignerConfig: filepath.Join(o.Dir, "signer.json"),
		Environ: []string{"NOTARY_SIGNER_A=a passphrase of some length"}, Actor: "operator test", Tool: "test",
		Step: func(name string) {
			seen[name]++
			if o.Late && name == "archived" && seen[name] == 1 {
				if err := storeLate(s); err != nil {
					fmt.Println(err)
					os.Exit(4)
				}
			}
			if name == o.KillAt || fmt.Sprintf("%s#%d", name, seen[name]) == o.KillAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	if o.Full {
		// What a full disk does: the first bytes can be written.
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 3000, Max: 3000}); err != nil {
			return err
		}
	}
	if o.Archive != "" {
		return s.Restore(ctx, admin.RestoreConfig{Path: o.Archive, Replace: o.Replace, Dir: o.Dir}, func(admin.Restored) error { return nil })
	}
	_, err = s.Purge(ctx, admin.PurgeConfig{GUN: "example.org/team/app", Dir: o.Dir, Reason: "laptop lost"})
	return err
}

// storeLate stores one more targets file, as upstream's server would: it locks nothing.
func storeLate(s *admin.Site) error {
	driver, url := "postgres", s.Server.Storage.DBURL
	if s.Server.Storage.Backend == "sqlite3" {
		driver, url = "sqlite", "file:"+url+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(`insert into tuf_files (gun, role, version, sha256, data, created_at, updated_at)
		select gun, 'targets/late', version, sha256, data, created_at, updated_at from tuf_files
		where gun = 'example.org/team/app' and role = 'targets' and version = 1`)
	return err
}

// run runs a child and returns what it says, and whether it was killed.
func (o crashOrder) run(t testing.TB) (out string, killed bool) {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashVariable+"="+string(raw))
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	_ = cmd.Run()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return b.String(), ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// child runs a child that must end by itself.
func child(t testing.TB, p *pair, what string) string {
	t.Helper()
	out, killed := crashOrder{Dir: p.dir, Full: what == "full disk"}.run(t)
	if killed {
		t.Fatal("it was killed")
	}
	return out
}

func runSQL(t testing.TB, driver, url, statement string) error {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(t.Context(), statement)
	return err
}

// typeSQL types a statement into a database.
func typeSQL(t testing.TB, backend, url, statement string) {
	t.Helper()
	driver := backend
	if backend == "sqlite3" {
		driver, url = "sqlite", "file:"+url+"?_pragma=busy_timeout(5000)"
	}
	if err := runSQL(t, driver, url, statement); err != nil {
		t.Fatal(err)
	}
}

// stepsOf are the names of the steps of an undisturbed run.
func stepsOf(p *pair, work func(*admin.Site)) (names []string) {
	work(p.site(func(c *admin.SiteConfig) { c.Step = func(name string) { names = append(names, name) } }))
	return names
}

// Killed after any step, the same command comes to the same end.
func TestPurgeKilled(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		names := stepsOf(p, func(s *admin.Site) { p.purge(s, lost) })
		if want := []string{"archived", "rows removed", "keys marked", "keys removed", "ended"}; !slices.Equal(names, want) {
			t.Fatalf("steps %q", names)
		}
		for _, name := range names {
			p.again()
			before := p.stored()
			if out, killed := (crashOrder{Dir: p.dir, KillAt: name}).run(t); !killed {
				t.Fatalf("%s: it was not killed: %s", name, out)
			}
			s := p.site()
			// What is gone is in an archive at every moment.
			archives, err := filepath.Glob(filepath.Join(p.dir, "*.purge.tar"))
			if err != nil || len(archives) != 1 || len(archivedFiles(t, archives[0])) != len(before.Files[lost]) {
				t.Fatalf("%s: archives %q, %v", name, archives, err)
			}
			r, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir, Reason: "laptop lost"})
			if name == "ended" {
				if err == nil || !strings.Contains(err.Error(), "no repository is named") {
					t.Errorf("%s: %v", name, err)
				}
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if len(archivedFiles(t, r.Archive)) != len(before.Files[lost]) {
				t.Errorf("%s: the archive %s is not the whole", name, r.Archive)
			}
			same(t, "killed after "+name, before.without(), p.stored())
			p.restore(s, admin.RestoreConfig{Path: archives[0]})
			p.fsck(lost)
			now := p.stored()
			now.Changes = before.Changes
			same(t, "killed after "+name+", and restored", before, now)
		}
	})
}

// The same when somebody publishes between the archive and the removal: the first
// archive is there until the second is whole, and no key goes before the files.
func TestPurgeKilledStale(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		for _, name := range []string{"archived#1", "archived#2", "rows removed"} {
			p.again()
			before := p.stored()
			if out, killed := (crashOrder{Dir: p.dir, KillAt: name, Late: true}).run(t); !killed {
				t.Fatalf("%s: it was not killed: %s", name, out)
			}
			between := p.stored()
			archives, err := filepath.Glob(filepath.Join(p.dir, "*.purge.tar"))
			want := len(before.Files[lost]) + 1
			if name == "archived#1" {
				want--
			}
			if err != nil || len(archives) != 1 || len(archivedFiles(t, archives[0])) != want {
				t.Fatalf("%s: archives %q, %v", name, archives, err)
			}
			if alive := len(between.Files[lost]) > 0; alive != strings.HasPrefix(name, "archived") || alive && len(between.Keys) != len(before.Keys) {
				t.Errorf("%s: %d files, %d of %d keys", name, len(between.Files[lost]), len(between.Keys), len(before.Keys))
			}
			s := p.site()
			r := p.purge(s, lost)
			same(t, "killed after "+name, before.without(), p.stored())
			p.restore(s, admin.RestoreConfig{Path: r.Archive})
			now := p.stored()
			if len(now.Files[lost]) != len(before.Files[lost])+1 || len(now.Keys) != len(before.Keys) {
				t.Errorf("%s: %d files and %d keys came back", name, len(now.Files[lost]), len(now.Keys))
			}
			p.sql(`delete from tuf_files where role = 'targets/late'`) // which is no sound file
			p.fsck(lost)
		}
	})
}

// Killed while it replaces a repository, it loses nothing of either life.
func TestReplaceKilled(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		first := p.purge(p.site(), lost)
		p.repo(lost)
		names := stepsOf(p, func(s *admin.Site) {
			p.restore(s, admin.RestoreConfig{Path: first.Archive, Replace: true, Dir: p.dir})
		})
		if want := []string{"archived", "rows removed", "keys marked", "keys removed", "ended", "room made", "keys restored", "files restored"}; !slices.Equal(names, want) {
			t.Fatalf("steps %q", names)
		}
		for _, name := range names {
			p.again()
			before := p.stored()
			first := p.purge(p.site(), lost)
			p.repo(lost)
			second := p.stored()
			o := crashOrder{Dir: t.TempDir(), Archive: first.Archive, Replace: true, KillAt: name}
			for _, c := range []string{"server.json", "signer.json"} {
				if err := os.Link(filepath.Join(p.dir, c), filepath.Join(o.Dir, c)); err != nil {
					t.Fatal(err)
				}
			}
			if out, killed := o.run(t); !killed {
				t.Fatalf("%s: it was not killed: %s", name, out)
			}
			out := p.restore(p.site(), admin.RestoreConfig{Path: first.Archive, Replace: true, Dir: o.Dir})
			now := p.stored()
			if diff := cmp.Diff(before.Files, now.Files); diff != "" || now.Open > 0 || len(now.Keys) != len(before.Keys) {
				t.Errorf("%s: %+v; %d open, %d keys, want %d: %s", name, out, now.Open, len(now.Keys), len(before.Keys), diff)
			}
			p.fsck(lost)
			archives, err := filepath.Glob(filepath.Join(o.Dir, "*.purge.tar"))
			if err != nil || len(archives) == 0 || len(archivedFiles(t, archives[len(archives)-1])) != len(second.Files[lost]) {
				t.Errorf("%s: archives %q, %v", name, archives, err)
			}
		}
	})
}

func TestRestoreKilled(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		r := p.purge(p.site(), lost)
		names := stepsOf(p, func(s *admin.Site) { p.restore(s, admin.RestoreConfig{Path: r.Archive}) })
		if want := []string{"room made", "keys restored", "files restored"}; !slices.Equal(names, want) {
			t.Fatalf("steps %q", names)
		}
		for _, name := range names {
			p.again()
			before := p.stored()
			r := p.purge(p.site(), lost)
			if out, killed := (crashOrder{Dir: p.dir, Archive: r.Archive, KillAt: name}).run(t); !killed {
				t.Fatalf("%s: it was not killed: %s", name, out)
			}
			// At no moment can it be read and not renewed.
			if err := p.publisher.Publish(t.Context(), lost, nil); (err == nil) != (name == "files restored") {
				t.Errorf("%s: a renewal says %v", name, err)
			}
			p.restore(p.site(), admin.RestoreConfig{Path: r.Archive})
			p.fsck(lost)
			now := p.stored()
			if name != "files restored" { // there it was renewed
				now.Changes = before.Changes
				same(t, "killed after "+name, before, now)
			}
		}
	})
}
