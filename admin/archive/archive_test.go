package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/tuf"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

func file(id int64, role tuf.RoleName, v tuf.Version, data string) storage.FileRow {
	return storage.FileRow{
		FileInfo: storage.FileInfo{ID: id, Role: role, Version: v, SHA256: tuf.Sum([]byte(data)).String(), Size: int64(len(data)), Created: created},
		Data:     []byte(data),
	}
}

// A sample holds what is odd, too: names that would lead out of the archive,
// null times, a wrong checksum, rows marked as deleted.
func sample() (repos []archive.Repository, files map[tuf.GUN][]storage.FileRow) {
	files = map[tuf.GUN][]storage.FileRow{
		"example.org:5000/team/app": {
			file(1, "root", 1, `{"signed":{}}`), file(7, "targets/releases", 2, ""), file(9, "targets/../../x", 3, "\x00\xff"),
		},
		"../..//etc/./%2e": {{FileInfo: storage.FileInfo{ID: 2, Role: "root", Version: -1, SHA256: "wrong", Size: 1, Deleted: created}, Data: []byte("x")}},
		"empty":            nil,
	}
	for _, gun := range []tuf.GUN{"example.org:5000/team/app", "../..//etc/./%2e", "empty"} {
		r := archive.Repository{GUN: gun}
		for _, f := range files[gun] {
			r.Files = append(r.Files, f.FileInfo)
		}
		repos = append(repos, r)
	}
	repos[0].Changes = []storage.Change{{ID: 3, CreatedAt: created, GUN: repos[0].GUN, Version: 1, SHA256: "ab", Category: "update"}, {ID: 4, GUN: repos[0].GUN, Category: "deletion"}}
	repos[0].Keys = []storage.KeyRow{{RowID: 5, Updated: created, Key: storage.Key{
		ID: "k", GUN: repos[0].GUN, Role: "timestamp", Algorithm: "ecdsa", Public: []byte{0, 1}, Sealed: []byte("ey.."), Alias: "a",
		EncryptionAlg: "A256GCM", KeywrapAlg: "PBES2-HS256+A128KW", CreatedAt: created, LastUsed: created,
	}}}
	return repos, files
}

func write(t *testing.T, path string) {
	t.Helper()
	repos, files := sample()
	w, err := archive.Create(path, archive.Header{Kind: "purge", Created: created, Tool: "test", By: "me", Reason: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, r := range repos {
		if err := w.Begin(&r); err != nil {
			t.Fatal(err)
		}
		for _, f := range files[r.GUN] {
			if err := w.Add(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	write(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	a, err := archive.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if want := (archive.Header{Format: 1, Kind: "purge", Created: created, Tool: "test", By: "me", Reason: "lost"}); a.Header != want || len(a.Digest) != 64 {
		t.Errorf("header %+v, digest %s", a.Header, a.Digest)
	}
	repos, files := sample()
	for range 2 {
		i := 0
		err = a.Each(func(r *archive.Repository, each archive.Files) error {
			want := repos[i]
			i++
			if diff := cmp.Diff(want, *r); diff != "" {
				t.Errorf("%s: %s", want.GUN, diff)
			}
			if i == 2 {
				return nil // whoever leaves out files gets the next repository all the same
			}
			var got []storage.FileRow
			err := each(func(f storage.FileRow) error { got = append(got, f); return nil })
			if diff := cmp.Diff(files[r.GUN], got); diff != "" && len(got)+len(files[r.GUN]) > 0 {
				t.Errorf("%s: %s", want.GUN, diff)
			}
			return err
		})
		if err != nil || i != len(repos) {
			t.Errorf("%d repositories, %v", i, err)
		}
	}
	for i := range repos {
		r := repos[len(repos)-1-i]
		for range 2 {
			var got []storage.FileRow
			err := a.FilesOf(r.GUN)(func(f storage.FileRow) error { got = append(got, f); return nil })
			if diff := cmp.Diff(files[r.GUN], got); err != nil || diff != "" && len(got)+len(files[r.GUN]) > 0 {
				t.Errorf("%s: %v %s", r.GUN, err, diff)
			}
		}
	}
	if err := a.FilesOf("none")(nil); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if w, err := archive.Create(path, archive.Header{}); err != nil {
		t.Error(err)
	} else if err := w.Close(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an archive was written over another: %v", err)
	}
}

// Anybody can look into an archive with what every machine has.
func TestPlainTools(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.tar"))
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"tar", "-xf", "../a.tar"}, {"sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"}} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = out
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, text)
		}
	}
	got, err := os.ReadFile(filepath.Join(out, "example.org:5000/team/app/_trust/tuf/1.root.json"))
	if err != nil || string(got) != `{"signed":{}}` {
		t.Errorf("got %q, %v", got, err)
	}
}

// Each byte of an archive matters, and so does each one that is missing.
func TestCorrupt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	write(t, path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndex(raw, []byte("repository.json\n")) + len("repository.json\n")
	broken := filepath.Join(dir, "broken.tar")
	try := func(what string, content []byte) {
		t.Helper()
		if err := os.WriteFile(broken, content, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := archive.Open(broken)
		if err == nil {
			a.Close()
			t.Errorf("%s: nobody noticed", what)
		} else if !errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := 0; n < end; n += 97 {
		try(fmt.Sprintf("cut to %d of %d", n, len(raw)), raw[:n])
	}
	content := contents(t, raw)
	for _, r := range content {
		for i := r[0]; i < r[1]; i += 31 {
			flipped := bytes.Clone(raw)
			flipped[i] ^= 4
			if a, err := open(t, broken, flipped); err == nil {
				a.Close()
				t.Errorf("bit at %d flipped: nobody noticed", i)
			}
		}
	}
	try("no archive", []byte("hello"))
	try("empty", nil)
}

func open(t *testing.T, path string, content []byte) (*archive.Archive, error) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return archive.Open(path)
}

// contents finds where the entries' bytes are.
func contents(t *testing.T, raw []byte) (ranges [][2]int) {
	t.Helper()
	b := bytes.NewReader(raw)
	r := tar.NewReader(b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return ranges
		}
		if err != nil {
			t.Fatal(err)
		}
		at := len(raw) - b.Len()
		ranges = append(ranges, [2]int{at, at + int(h.Size)})
	}
}

// What changes while it is archived is told, and leaves nothing behind.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	repos, files := sample()
	r, have := repos[0], files[repos[0].GUN]
	other := have[1]
	other.Data, other.Size = []byte("more"), 4
	for name, add := range map[string][]storage.FileRow{
		"one gone": {have[0], have[2]}, "the last gone": have[:2], "all gone": nil, "grown": {have[0], other}, "twice": {have[0], have[0]},
		"more": append(have[:3:3], have[2]),
	} {
		w, err := archive.Create(filepath.Join(dir, "a.tar"), archive.Header{})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Begin(&r)
		for _, f := range add {
			if err == nil {
				err = w.Add(f)
			}
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, archive.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
		w.Abort()
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A repository that has changed is taken out again, and the archive is as if it
// had not been tried.
func TestRollback(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "once.tar"))
	repos, files := sample()
	w, err := archive.Create(filepath.Join(dir, "again.tar"), archive.Header{Kind: "purge", Created: created, Tool: "test", By: "me", Reason: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, r := range repos {
		for n := range files[r.GUN] {
			if err := w.Begin(&r); err != nil {
				t.Fatal(err)
			}
			for _, f := range files[r.GUN][:n] {
				if err := w.Add(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Begin(&r); err != nil {
			t.Fatal(err)
		}
		for _, f := range files[r.GUN] {
			if err := w.Add(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	once, err := os.ReadFile(filepath.Join(dir, "once.tar"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(dir, "again.tar"))
	if err != nil || !bytes.Equal(once, again) {
		t.Errorf("%d bytes instead of %d, %v", len(again), len(once), err)
	}
}
