package admin_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/admin"
	"countersign/storage"
	"countersign/storage/metadb"
)

func TestPurgeFaults(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "sqlite3")
	s := p.site()
	before := p.stored()
	for name, c := range map[string]struct {
		c    admin.PurgeConfig
		is   error
		says []string
	}{
		"no such GUN":    {admin.PurgeConfig{GUN: "example.org/team/ap", Dir: p.dir}, storage.ErrNotFound, []string{`no repository is named "example.org/team/ap"`, `there is "example.org/team/app", "example.org/team/app2"`}},
		"a prefix":       {admin.PurgeConfig{GUN: "example.org/team/", Dir: p.dir}, storage.ErrNotFound, []string{"no repository is named"}},
		"another host":   {admin.PurgeConfig{GUN: "registry.example.com/team/app", Dir: p.dir}, storage.ErrNotFound, []string{`there is "example.org/team/app"`}},
		"no such folder": {admin.PurgeConfig{GUN: lost, Dir: filepath.Join(p.dir, "none")}, os.ErrNotExist, []string{"nothing was removed", "none"}},
	} {
		_, err := s.Purge(t.Context(), c.c)
		if !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, word := range c.says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q is missing from %q", name, word, err)
			}
		}
	}
	now := time.Date(2026, 11, 21, 16, 4, 0, 0, time.UTC)
	fixed := p.site(func(c *admin.SiteConfig) { c.Now = func() time.Time { return now } })
	taken := filepath.Join(p.dir, admin.ArchiveName(lost, now))
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fixed.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir}); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(taken); err != nil || string(raw) != "mine" {
		t.Errorf("%q, %v", raw, err)
	}
	half := p.site(func(c *admin.SiteConfig) { c.SignerConfig = "" })
	if _, err := half.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir}); err == nil || !strings.Contains(err.Error(), "both programs") {
		t.Errorf("got %v", err)
	}
	same(t, "after all that", before, p.stored())
	p.sql(`drop table countersign_purge`)
	bare := p.site()
	if _, err := bare.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir}); !errors.Is(err, metadb.ErrUnrecorded) || !strings.Contains(err.Error(), "db migrate") {
		t.Errorf("got %v", err)
	}
}

// A full disk: nothing is removed, and nothing is left.
func TestPurgeFullDisk(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "postgres")
	before := p.stored()
	says := child(t, p, "full disk")
	if !strings.Contains(says, "nothing was removed") || !strings.Contains(says, "file too large") {
		t.Errorf("it says %q", says)
	}
	same(t, "on a full disk", before, p.stored())
	if left, err := filepath.Glob(filepath.Join(p.dir, "*purge.tar*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// A database that cannot be written to: what has to stay together does.
func TestPurgeReadOnly(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "postgres")
	before := p.stored()
	p.sql("revoke insert, update, delete, truncate on tuf_files from current_user")
	s := p.site()
	_, err := s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir})
	if err == nil || !strings.Contains(err.Error(), "permission denied for table tuf_files") || !strings.Contains(err.Error(), "nothing was removed") {
		t.Errorf("with a read-only server's database: %v", err)
	}
	same(t, "with a read-only server's database", before, p.stored())
	p.sql("grant insert, update, delete, truncate on tuf_files to current_user")

	before = p.stored()
	typeSQL(t, p.backend, p.signer, "revoke insert, update, delete, truncate on private_keys from current_user")
	_, err = s.Purge(t.Context(), admin.PurgeConfig{GUN: lost, Dir: p.dir})
	if err == nil || !strings.Contains(err.Error(), "permission denied for table private_keys") || !strings.Contains(err.Error(), "trust-admin purge resume") {
		t.Errorf("with a read-only signer's database: %v", err)
	}
	if got := p.stored(); got.Open != 1 || len(got.Files[lost]) != 0 || len(got.Keys) != len(before.Keys) {
		t.Errorf("%d open, %d files, %d keys", got.Open, len(got.Files[lost]), len(got.Keys))
	}
	typeSQL(t, p.backend, p.signer, "grant insert, update, delete, truncate on private_keys to current_user")
	var ended []admin.PurgeRecord
	if err := p.site().ResumePurges(t.Context(), func(r admin.PurgeRecord) error { ended = append(ended, r); return nil }); err != nil || len(ended) != 1 {
		t.Errorf("%+v, %v", ended, err)
	}
	same(t, "resumed", before.without(), p.stored())
}
