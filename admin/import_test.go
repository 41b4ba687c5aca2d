package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
)

// importVariable makes this program a child that imports.
const importVariable = "COUNTERSIGN_TEST_IMPORT"

type importOrder struct{ Dir, Archive, KillAt string }

func init() {
	raw := os.Getenv(importVariable)
	if raw == "" {
		return
	}
	var o importOrder
	err := json.Unmarshal([]byte(raw), &o)
	if err == nil {
		err = o.run(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Exit(0)
}

func (o importOrder) run(ctx context.Context) error {
	s, err := admin.OpenSite(ctx, admin.SiteConfig{
		ServerConfig: filepath.Join(o.Dir, "server.json"), SignerConfig: filepath.Join(o.Dir, "signer.json"),
		Environ: []string{"NOTARY_SIGNER_A=a passphrase of some length"},
		Step: func(name string) {
			if name == o.KillAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Import(ctx, admin.ImportConfig{Path: o.Archive}, func(admin.Imported) error { return nil })
}

// exported makes an installation with a past, and the archive of all of it.
func exported(t *testing.T, backend string) (p *pair, path string) {
	t.Helper()
	p = newPair(t, backend)
	for _, gun := range []tuf.GUN{"example.org/a", "example.org/b", "example.org/c"} {
		r := p.repo(gun, "targets/releases")
		p.publish(gun, r.Next(tuf.RoleTargets))
	}
	if _, err := p.publisher.Delete(t.Context(), "example.org/b"); err != nil {
		t.Fatal(err)
	}
	p.repo("example.org/b")
	path = filepath.Join(p.dir, "all.tar")
	out, err := p.site().Export(t.Context(), admin.ExportConfig{Selection: admin.Selection{All: true}, Path: path, Keys: true})
	if err != nil || out.Repositories != 3 || out.Keys == 0 || len(out.Digest) != 64 {
		t.Fatalf("%+v, %v", out, err)
	}
	return p, path
}

func importInto(t testing.TB, p *pair, path string) (list []admin.Imported, err error) {
	t.Helper()
	err = p.site().Import(t.Context(), admin.ImportConfig{Path: path}, func(i admin.Imported) error { list = append(list, i); return nil })
	return list, err
}

// feed is the whole changefeed, IDs included.
func (p *pair) feed() []storage.Change {
	p.Helper()
	list, err := p.meta.Changes(p.Context(), storage.ChangeQuery{Limit: 10000})
	if err != nil {
		p.Fatal(err)
	}
	return list
}

// Into empty databases, of the other kind too, everything comes as it was: files,
// keys, and the changefeed with its IDs. What comes after goes on behind it.
func TestImport(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		from, path := exported(t, backend)
		want := from.stored()
		want.Doomed = 0 // what is to be deleted at the old signer is no affair of the new one
		for _, other := range []string{"postgres", "sqlite3"} {
			to := newPair(t, other)
			list, err := importInto(t, to, path)
			if err != nil || len(list) != 3 || list[0].Already || list[0].Keys == 0 {
				t.Fatalf("%+v, %v", list, err)
			}
			same(t, backend+" to "+other, want, to.stored())
			// The keys of the repository that was deleted stay where they were.
			if diff := cmp.Diff(from.feed(), to.feed()); diff != "" {
				t.Errorf("changefeed: %s", diff)
			}
			for g := range want.Files {
				to.fsck(g)
			}
			to.rows.private = from.rows.private
			to.repo("example.org/new")
			feed := to.feed()
			if n := len(feed); n != len(from.feed())+1 || feed[n-1].ID <= feed[n-2].ID {
				t.Errorf("after a publish the feed has %d entries: %+v", n, feed[n-2:])
			}
			again, err := importInto(t, to, path)
			if err != nil || len(again) != 3 || !again[0].Already {
				t.Errorf("again: %+v, %v", again, err)
			}
			if got := to.feed(); len(got) != len(feed) {
				t.Errorf("importing again has added to the feed: %d entries", len(got))
			}
		}
	})
}

// Where there are others already, nobody's entries of the feed move, and those
// that come in are behind them.
func TestImportBesideOthers(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		_, path := exported(t, backend)
		to := newPair(t, backend)
		to.repo("example.org/mine")
		before := to.feed()
		if _, err := importInto(t, to, path); err != nil {
			t.Fatal(err)
		}
		after := to.feed()
		if len(after) <= len(before) || !slices.Equal(before, after[:len(before)]) {
			t.Errorf("the feed was %v, and is %v", before, after)
		}
		for _, gun := range []tuf.GUN{"example.org/a", "example.org/b", "example.org/c", "example.org/mine"} {
			to.fsck(gun)
		}
	})
}

func TestImportRefused(t *testing.T) {
	t.Parallel()
	from, path := exported(t, "sqlite3")
	to := newPair(t, "sqlite3")
	to.repo("example.org/b")
	before := to.stored()
	if _, err := importInto(t, to, path); !errors.Is(err, admin.ErrAlive) {
		t.Errorf("over another: %v", err)
	}
	after := to.stored()
	if diff := cmp.Diff(before.Files["example.org/b"], after.Files["example.org/b"]); diff != "" {
		t.Errorf("it was changed: %s", diff)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(filepath.Join(to.dir, "bad.tar"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := newPair(t, "sqlite3")
	if _, err := importInto(t, empty, filepath.Join(to.dir, "bad.tar")); err == nil || len(empty.stored().Files) > 0 {
		t.Errorf("a corrupt archive: %v", err)
	}
	if _, err := importInto(t, empty, filepath.Join(to.dir, "none.tar")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no archive: %v", err)
	}
	s := empty.site(func(c *admin.SiteConfig) { c.SignerConfig = "" })
	var left int
	if err := s.Import(t.Context(), admin.ImportConfig{Path: path}, func(i admin.Imported) error { left += i.KeysLeft; return nil }); err != nil || left != len(from.stored().Keys) {
		t.Errorf("without the signer: %d keys left, %v", left, err)
	}
}

// Killed after any step, the same command comes to the same end.
func TestImportKilled(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		from, path := exported(t, backend)
		want := from.stored()
		want.Doomed = 0
		var names []string
		first := newPair(t, backend).site(func(c *admin.SiteConfig) { c.Step = func(name string) { names = append(names, name) } })
		if err := first.Import(t.Context(), admin.ImportConfig{Path: path}, func(admin.Imported) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if len(names) != 7 {
			t.Fatalf("steps %q", names)
		}
		for _, name := range names {
			to := newPair(t, backend)
			raw, err := json.Marshal(importOrder{to.dir, path, name})
			if err != nil {
				t.Fatal(err)
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), importVariable+"="+string(raw))
			out, _ := cmd.CombinedOutput()
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
				t.Fatalf("%s: it was not killed: %s", name, out)
			}
			if _, err := importInto(t, to, path); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			same(t, name, want, to.stored())
			if diff := cmp.Diff(from.feed(), to.feed()); diff != "" {
				t.Errorf("%s: changefeed: %s", name, diff)
			}
		}
	})
}
