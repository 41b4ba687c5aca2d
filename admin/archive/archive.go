// Package archive is the file in which repositories are kept outside of the
// databases: what a purge takes away, and what export writes. docs/archive.md
// describes it for those who read it by other means.
//
// An archive is a tar file, not compressed:
//
//	archive.json                        what this is: a Header
//	<gun>/_trust/repository.json        an index: a Repository
//	<gun>/_trust/tuf/<version>.<role>.json   each file, as its clients signed it
//	…                                   the next repository
//	SHA256SUMS                          of all entries above, as sha256sum writes it
//
// The sums come last, so that an archive that was cut off is no archive. Nothing
// is ever unpacked: names in an archive are compared, not followed.
//
// To write or to read one takes memory for a file, for the index of a repository
// (300 bytes for each of its files), and for the list of sums: some 150 bytes for
// each file of the archive, and 1 GiB at most, which is seven million files.
package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// Format is the version of the form that this package writes and reads.
const Format = 1

// ErrCorrupt is an archive that is not whole, or not as it was written.
var ErrCorrupt = errors.New("corrupt archive")

// Names of entries.
const (
	headerName = "archive.json"
	sumsName   = "SHA256SUMS"
	indexName  = "repository.json"
)

// maxIndex bounds the entries that are read into memory whole, but for files:
// an index takes about 300 bytes for each file.
const maxIndex = 1 << 30

// maxHeader is the longest header.
const maxHeader = 1 << 20

// maxSums is the longest list of sums. Tests make it less.
var maxSums int64 = 1 << 30

// maxData is the largest file that an archive holds; no database takes a larger.
const maxData = 1 << 30

// A Header says what an archive is, and where it comes from.
type Header struct {
	Format  int       `json:"format"`
	Kind    string    `json:"kind"` // "purge", "export", "orphans" or "prune"
	Created time.Time `json:"created"`
	Tool    string    `json:"tool"` // program and version that wrote it
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// A Repository is all that the databases hold of a GUN. Its files' bytes are
// read one after the other, see [Archive.Each].
type Repository struct {
	GUN     tuf.GUN
	Files   []storage.FileInfo // in the order in which they were written
	Changes []storage.Change
	Keys    []storage.KeyRow
}

// The JSON forms. Times are RFC 3339 in UTC with microseconds, absent for null.
type (
	index struct {
		GUN     string       `json:"gun"`
		Files   []fileJSON   `json:"files"`
		Changes []changeJSON `json:"changefeed"`
		Keys    []keyJSON    `json:"keys"`
	}
	fileJSON struct {
		ID      int64      `json:"id"`
		Role    string     `json:"role"`
		Version int64      `json:"version"`
		Column  string     `json:"sha256_column"` // as stored; the file's own sum is in SHA256SUMS
		Size    int64      `json:"size"`
		Created *time.Time `json:"created_at,omitempty"`
		Updated *time.Time `json:"updated_at,omitempty"`
		Deleted *time.Time `json:"deleted_at,omitempty"`
	}
	changeJSON struct {
		ID       int64      `json:"id"`
		Created  *time.Time `json:"created_at,omitempty"`
		Version  int64      `json:"version"`
		SHA256   string     `json:"sha256,omitempty"`
		Category string     `json:"category"`
	}
	keyJSON struct {
		Row           int64      `json:"row"`
		ID            string     `json:"key_id"`
		GUN           string     `json:"gun"`
		Role          string     `json:"role"`
		Algorithm     string     `json:"algorithm"`
		Public        []byte     `json:"public"`
		Sealed        []byte     `json:"private_sealed"`
		Alias         string     `json:"passphrase_alias"`
		EncryptionAlg string     `json:"encryption_alg"`
		KeywrapAlg    string     `json:"keywrap_alg"`
		Created       *time.Time `json:"created_at,omitempty"`
		Updated       *time.Time `json:"updated_at,omitempty"`
		Deleted       *time.Time `json:"deleted_at,omitempty"`
		LastUsed      *time.Time `json:"last_used,omitempty"`
	}
)

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func unstamp(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func (r *Repository) marshal() ([]byte, error) {
	x := index{GUN: string(r.GUN), Files: []fileJSON{}, Changes: []changeJSON{}, Keys: []keyJSON{}}
	for _, f := range r.Files {
		x.Files = append(x.Files, fileJSON{f.ID, string(f.Role), int64(f.Version), f.SHA256, f.Size, stamp(f.Created), stamp(f.Updated), stamp(f.Deleted)})
	}
	for _, c := range r.Changes {
		x.Changes = append(x.Changes, changeJSON{c.ID, stamp(c.CreatedAt), int64(c.Version), c.SHA256, c.Category})
	}
	for _, k := range r.Keys {
		x.Keys = append(x.Keys, keyJSON{
			k.RowID, string(k.ID), string(k.GUN), string(k.Role), k.Algorithm, k.Public, k.Sealed, k.Alias, k.EncryptionAlg, k.KeywrapAlg,
			stamp(k.CreatedAt), stamp(k.Updated), stamp(k.Deleted), stamp(k.LastUsed),
		})
	}
	return json.MarshalIndent(x, "", " ")
}

func unmarshalRepository(raw []byte) (*Repository, error) {
	var x index
	if err := strict(raw, &x); err != nil {
		return nil, err
	}
	r := &Repository{GUN: tuf.GUN(x.GUN)}
	for _, f := range x.Files {
		if f.Size < 0 || f.Size > maxData || int64(tuf.Version(f.Version)) != f.Version {
			return nil, fmt.Errorf("file %s version %d of %d bytes cannot be", f.Role, f.Version, f.Size)
		}
		r.Files = append(r.Files, storage.FileInfo{
			ID: f.ID, Role: tuf.RoleName(f.Role), Version: tuf.Version(f.Version), SHA256: f.Column, Size: f.Size,
			Created: unstamp(f.Created), Updated: unstamp(f.Updated), Deleted: unstamp(f.Deleted),
		})
	}
	for _, c := range x.Changes {
		r.Changes = append(r.Changes, storage.Change{ID: c.ID, CreatedAt: unstamp(c.Created), GUN: r.GUN, Version: tuf.Version(c.Version), SHA256: c.SHA256, Category: c.Category})
	}
	for _, k := range x.Keys {
		r.Keys = append(r.Keys, storage.KeyRow{
			RowID: k.Row, Updated: unstamp(k.Updated), Deleted: unstamp(k.Deleted),
			Key: storage.Key{
				ID: tuf.KeyID(k.ID), GUN: tuf.GUN(k.GUN), Role: tuf.RoleName(k.Role), Algorithm: k.Algorithm, Public: k.Public, Sealed: k.Sealed,
				Alias: k.Alias, EncryptionAlg: k.EncryptionAlg, KeywrapAlg: k.KeywrapAlg, CreatedAt: unstamp(k.Created), LastUsed: unstamp(k.LastUsed),
			},
		})
	}
	return r, nil
}

// folder is where the entries of gun are. Segments are escaped as in a URL, so
// that no GUN, whatever was typed into the database, leads out of the archive.
func folder(gun tuf.GUN) string {
	segments := strings.Split(string(gun), "/")
	for i, s := range segments {
		segments[i] = segment(s)
	}
	return strings.Join(segments, "/") + "/_trust/"
}

func segment(s string) string {
	switch s {
	case "":
		return "%"
	case ".", "..":
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// fileName is the name of a file within its repository's folder.
func fileName(f storage.FileInfo) string {
	segments := strings.Split(string(f.Role), "/")
	for i, s := range segments {
		segments[i] = segment(s)
	}
	return fmt.Sprintf("tuf/%d.%s.json", f.Version, strings.Join(segments, "/"))
}
