package admin_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/admin"
	"countersign/migrations"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// Somebody has asked for a new key, and publishes a root that lists it while the
// repository is purged. If the purge ends there, he can go on, and an archive is
// left; if it goes on, his files are in the archive.
func TestPurgeIntoRotation(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		for _, fails := range []bool{true, false} {
			p := newPair(t, backend)
			r := p.repo(lost)
			k, err := p.rows.CreateKey(t.Context(), lost, tuf.RoleSnapshot, tuf.KeyECDSA)
			if err != nil {
				t.Fatal(err)
			}
			s := p.site()
			archives, moved := filepath.Join(p.dir, "archives"), filepath.Join(p.dir, "moved")
			if err := os.Mkdir(archives, 0o700); err != nil {
				t.Fatal(err)
			}
			once := false
			s.Step = func(name string) {
				if name != "archived" || once {
					return
				}
				once = true
				r.Manage(tuf.RoleSnapshot, k)
				p.publish(lost, r.Next(tuf.RoleRoot))
				if fails {
					if err := os.Rename(archives, moved); err != nil {
						t.Error(err)
					}
				}
			}
			rec, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: archives})
			s.Step = nil
			if !fails {
				if err != nil || !hasRoot(archivedFiles(t, rec.Archive), 2) {
					t.Errorf("%+v, %v", rec, err)
				}
				if list, err := os.ReadDir(archives); err != nil || len(list) != 1 {
					t.Errorf("%v, %v", list, err)
				}
				p.restore(s, admin.RestoreConfig{Path: rec.Archive})
			} else {
				if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nothing was removed") {
					t.Errorf("got %v", err)
				}
				if list, err := os.ReadDir(moved); err != nil || len(list) != 1 {
					t.Errorf("%v, %v", list, err)
				}
			}
			p.fsck(lost)
			if err := p.publisher.Publish(t.Context(), lost, nil); err != nil {
				t.Errorf("fails %v: it cannot go on: %v", fails, err)
			}
		}
	})
}

func hasRoot(files []storage.FileInfo, v tuf.Version) bool {
	return slices.ContainsFunc(files, func(f storage.FileInfo) bool { return f.Role == tuf.RoleRoot && f.Version == v })
}

// Who is handed a key just before it goes, and has not used it, is refused, and
// nothing else; who has spared it keeps it.
func TestPurgeHandedOut(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		for _, kept := range []bool{true, false} {
			p := lostPair(t, backend)
			s := p.site()
			var k tuf.Key
			s.Step = func(name string) {
				if name != "rows removed" {
					return
				}
				var err error
				if k, err = p.rows.CreateKey(t.Context(), lost, tuf.RoleTimestamp, tuf.KeyECDSA); err != nil {
					t.Error(err)
				}
				if kept { // he spares the key, and has yet to sign
					if _, err := p.meta.Spare(t.Context(), lost, []storage.DoomedKey{{GUN: lost, Role: tuf.RoleTimestamp, ID: k.ID()}}); err != nil {
						t.Error(err)
					}
				}
			}
			p.purge(s, lost)
			if _, err := p.keys.Key(t.Context(), k.ID()); (err == nil) != kept {
				t.Errorf("kept %v: %v", kept, err)
			}
		}
	})
}

// Both programs on one file of SQLite.
func TestPurgeOneFile(t *testing.T) {
	t.Parallel()
	p := &pair{TB: t, backend: "sqlite3", dir: t.TempDir()}
	p.server = p.newURL("both.db")
	p.signer = p.server
	p.meta, p.keys = metadb.New(p.open(p.server, migrations.Server)), keydb.New(p.open(p.signer, migrations.Signer))
	p.rows = &rowSigner{tb: t, rows: p.keys, private: map[tuf.KeyID]*tuftest.Key{}}
	var err error
	if p.publisher, err = publish.New(publish.Config{Store: p.meta, Signer: p.rows, Archivist: p.meta}); err != nil {
		t.Fatal(err)
	}
	p.configure("server.json", p.server)
	p.configure("signer.json", p.signer)
	p.lose()
	before := p.stored()
	r := p.purge(p.site(), lost)
	same(t, "purged", before.without(), p.stored())
	p.restore(p.site(), admin.RestoreConfig{Path: r.Archive})
	p.fsck(lost)
	if out, killed := (crashOrder{Dir: p.dir, KillAt: "keys removed"}).run(t); !killed {
		t.Fatalf("it was not killed: %s", out)
	}
	if got := p.stored(); got.Open != 1 || len(got.Keys) != len(before.Keys) {
		t.Errorf("%d open, %d keys", got.Open, len(got.Keys))
	}
	if err := p.site().ResumePurges(t.Context(), func(admin.PurgeRecord) error { return nil }); err != nil {
		t.Error(err)
	}
	if got := p.stored(); got.Open != 0 || len(got.Keys) != 2 {
		t.Errorf("%d open, %d keys", got.Open, len(got.Keys))
	}
}

// The server of one installation and the signer of another.
func TestPurgeWrongPair(t *testing.T) {
	t.Parallel()
	a, b := newPair(t, "sqlite3"), newPair(t, "sqlite3")
	a.repo(lost)
	b.repo(lost)
	b.repo("example.org/b")
	s := a.site(func(c *admin.SiteConfig) { c.SignerConfig = filepath.Join(b.dir, "signer.json") })
	for _, gun := range []tuf.GUN{lost, "example.org/b"} {
		_, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: gun, Dir: a.dir})
		if !errors.Is(err, admin.ErrUnmatched) || !strings.Contains(err.Error(), "--keys-elsewhere") || !strings.Contains(err.Error(), "nothing was removed") {
			t.Errorf("%s: %v", gun, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(a.dir, "*.tar")); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
	for _, p := range []*pair{a, b} {
		if err := p.publisher.Publish(t.Context(), lost, nil); err != nil {
			t.Error(err)
		}
	}
}

// VACUUM and CREATE INDEX CONCURRENTLY hold their lock for hours: a purge and a
// restoration go on beside them, and keep nobody of another repository waiting.
func TestPurgeBesideVacuum(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "postgres")
	before := p.stored()
	db, err := sql.Open("postgres", p.server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `lock table tuf_files in share update exclusive mode`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // below the wait for a lock
	defer cancel()
	s := p.site()
	s.Step = func(name string) {
		if err := p.publisher.Publish(ctx, lost+"2", nil); err != nil {
			t.Errorf("%s: another repository: %v", name, err)
		}
	}
	r, err := s.Purge(ctx, admin.PurgeConfig{GUN: lost, Dir: p.dir})
	if err == nil {
		err = s.Restore(ctx, admin.RestoreConfig{Path: r.Archive}, func(admin.Restored) error { return nil })
	}
	if err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if got := p.stored(); len(got.Files[lost]) != len(before.Files[lost]) {
		t.Errorf("%d files", len(got.Files[lost]))
	}
}

// No two names of repositories give one name of a file.
func TestFileName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 200)
	seen := map[string]tuf.GUN{}
	for _, gun := range []tuf.GUN{"a/b", "a_b", "a:b", "a b", ".a/b", "..a/b", tuf.GUN(long), tuf.GUN(long + "b"), "", "/", "_", "é", "è"} {
		name := admin.FileName(gun)
		if other, ok := seen[name]; ok || name != filepath.Base(name) && name != "" || strings.HasPrefix(name, ".") || len(name) > 170 {
			t.Errorf("%q gives %q, as %q does", gun, name, other)
		}
		seen[name] = gun
	}
	if name := admin.FileName("a/b"); name != "a_b" {
		t.Errorf("got %q", name)
	}
}
