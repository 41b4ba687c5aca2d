package admin_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/admin/archive"
	"countersign/storage"
)

func (p *pair) restore(s *admin.Site, c admin.RestoreConfig) admin.Restored {
	p.Helper()
	var out admin.Restored
	if err := s.Restore(p.Context(), c, func(r admin.Restored) error { out = r; return nil }); err != nil {
		p.Fatal(err)
	}
	return out
}

// A name that was begun anew is left alone, unless the operator says otherwise;
// then nothing of either life is lost.
func TestRestoreOverLife(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		s := p.site()
		before := p.stored()
		first := p.purge(s, lost)
		p.repo(lost)
		second := p.stored()
		err := s.Restore(t.Context(), admin.RestoreConfig{Path: first.Archive}, func(admin.Restored) error { t.Error("it was restored"); return nil })
		if !errors.Is(err, admin.ErrAlive) || !strings.Contains(err.Error(), "--replace") {
			t.Errorf("got %v", err)
		}
		same(t, "after the refusal", second, p.stored())
		out := p.restore(s, admin.RestoreConfig{Path: first.Archive, Replace: true, Dir: p.dir})
		if out.Replaced == nil {
			t.Fatalf("%+v", out)
		}
		now := p.stored()
		if diff := cmp.Diff(before.Files, now.Files); diff != "" {
			t.Error(diff)
		}
		p.fsck(lost)
		p.restore(s, admin.RestoreConfig{Path: out.Replaced.Archive, Replace: true, Dir: p.dir})
		if diff := cmp.Diff(second.Files, p.stored().Files); diff != "" {
			t.Error(diff)
		}
		p.fsck(lost)
	})
}

// On an empty pair of databases everything comes back, the changefeed too.
func TestRestoreElsewhere(t *testing.T) {
	onBackends(t, func(t *testing.T, backend string) {
		p := lostPair(t, backend)
		before := p.stored()
		r := p.purge(p.site(), lost)
		q := newPair(t, map[string]string{"postgres": "sqlite3", "sqlite3": "postgres"}[backend])
		q.restore(q.site(), admin.RestoreConfig{Path: r.Archive})
		got := q.stored()
		if diff := cmp.Diff(before.Files[lost], got.Files[lost]); diff != "" {
			t.Error(diff)
		}
		if len(got.Keys) != 4 || len(got.Changes) != 3 {
			t.Errorf("%d keys, changes %q", len(got.Keys), got.Changes)
		}
		q.fsck(lost)
	})
}

func TestRestoreFaults(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "sqlite3")
	s := p.site()
	r := p.purge(s, lost)
	before := p.stored()
	raw, err := os.ReadFile(r.Archive)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, content []byte, is error) {
		t.Helper()
		path := filepath.Join(p.dir, name+".tar")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Restore(t.Context(), admin.RestoreConfig{Path: path}, func(admin.Restored) error { return nil })
		if err == nil || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	try("cut", raw[:len(raw)*2/3], archive.ErrCorrupt)
	flipped := slices.Clone(raw)
	flipped[len(flipped)/2] ^= 1
	try("flipped", flipped, nil)
	try("other", []byte("hello"), archive.ErrCorrupt)
	path := filepath.Join(p.dir, "export.tar")
	w, err := archive.Create(path, archive.Header{Kind: "export"})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(t.Context(), admin.RestoreConfig{Path: path}, nil); err == nil || !strings.Contains(err.Error(), "trust-admin import") {
		t.Errorf("got %v", err)
	}
	if err := s.Restore(t.Context(), admin.RestoreConfig{Path: filepath.Join(p.dir, "none")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	same(t, "after all that", before, p.stored())

	// A key of that ID that was made for somebody else is no key of this archive.
	k := storage.KeyRow{Key: storage.Key{ID: r.Keys[0], GUN: "somebody/else", Role: "timestamp", Algorithm: "ecdsa", Public: []byte("p"), Sealed: []byte("s"), Alias: "a"}}
	if err := p.keys.Put(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(t.Context(), admin.RestoreConfig{Path: r.Archive}, nil); err == nil || !strings.Contains(err.Error(), "another installation") {
		t.Errorf("got %v", err)
	}
	if got := p.stored(); len(got.Files[lost]) != 0 {
		t.Error("files came back without their keys")
	}
}

// What cannot be written leaves no half, and is written by the same call later.
func TestRestoreReadOnly(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "postgres")
	before := p.stored()
	r := p.purge(p.site(), lost)
	purged := p.stored()
	for _, c := range []struct{ table, url string }{{"private_keys", p.signer}, {"tuf_files", p.server}, {"changefeed", p.server}} {
		typeSQL(t, p.backend, c.url, "revoke insert on "+c.table+" from current_user")
		err := p.site().Restore(t.Context(), admin.RestoreConfig{Path: r.Archive}, func(admin.Restored) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "permission denied for table "+c.table) {
			t.Errorf("%s: %v", c.table, err)
		}
		if diff := cmp.Diff(purged.Files, p.stored().Files); diff != "" {
			t.Errorf("%s: %s", c.table, diff)
		}
		typeSQL(t, p.backend, c.url, "grant insert on "+c.table+" to current_user")
	}
	p.restore(p.site(), admin.RestoreConfig{Path: r.Archive})
	if diff := cmp.Diff(before.Files, p.stored().Files); diff != "" {
		t.Error(diff)
	}
	p.fsck(lost)
}

func TestRestoreFullDisk(t *testing.T) {
	t.Parallel()
	p := lostPair(t, "sqlite3")
	before := p.stored()
	r := p.purge(p.site(), lost)
	out, killed := crashOrder{Dir: p.dir, Archive: r.Archive, Full: true}.run(t)
	if killed || !strings.Contains(out, "restoring example.org/team/app") {
		t.Errorf("killed %v: %s", killed, out)
	}
	if n := len(p.stored().Files[lost]); n != 0 {
		t.Errorf("%d files came back", n)
	}
	p.restore(p.site(), admin.RestoreConfig{Path: r.Archive})
	if diff := cmp.Diff(before.Files, p.stored().Files); diff != "" {
		t.Error(diff)
	}
	p.fsck(lost)
}
