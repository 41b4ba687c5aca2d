package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/admin/archive"
	"countersign/storage"
)

// An archive that is written to after it was opened is not believed: neither an
// index nor a file, in either way of reading.
func TestChangedSinceOpened(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	write(t, path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	repos, _ := sample()
	gun := repos[0].GUN
	for what, change := range map[string][2]string{
		"a file":   {`{"signed":{}}`, `{"SIGNED":{}}`},
		"an index": {`"passphrase_alias": "a"`, `"passphrase_alias": "b"`},
		"the end":  {`empty/_trust/repository.json`, "SHA256SUMS\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		a, err := archive.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, raw) || len(changed) != len(raw) {
			t.Fatalf("%s: nothing to change", what)
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		use := func(r *archive.Repository, files archive.Files) error {
			return files(func(storage.FileRow) error { return nil })
		}
		if err := a.Each(use); !errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%s: Each: %v", what, err)
		}
		if err := a.Each(func(*archive.Repository, archive.Files) error { return nil }); !errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%s: Each without files: %v", what, err)
		}
		if what != "the end" {
			if err := a.FilesOf(gun)(func(storage.FileRow) error { return nil }); !errors.Is(err, archive.ErrCorrupt) {
				t.Errorf("%s: FilesOf: %v", what, err)
			}
		}
		a.Close()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What no reader would take is not written.
func TestWriterRefuses(t *testing.T) {
	defer archive.SetMaxSums(500)()
	repos, files := sample()
	big := repos[0]
	big.Files = []storage.FileInfo{{Role: "root", Version: 1, Size: 1<<30 + 1}}
	for what, c := range map[string]struct {
		h    archive.Header
		list []archive.Repository
		says string
	}{
		"long header": {h: archive.Header{Reason: strings.Repeat("x", 1<<20)}, says: "shorter reason"},
		"many files":  {list: repos, says: "fewer repositories"},
		"twice":       {list: []archive.Repository{repos[2], repos[2]}, says: "already"},
		"large file":  {list: []archive.Repository{big}, says: "bytes, more than"},
	} {
		w, err := archive.Create(filepath.Join(t.TempDir(), "a.tar"), c.h)
		for _, r := range c.list {
			if err == nil {
				err = w.Begin(&r)
			}
			for _, f := range files[r.GUN] {
				if err == nil {
					err = w.Add(f)
				}
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		if w != nil {
			w.Abort()
		}
	}
}
