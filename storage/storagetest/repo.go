package storagetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// A Repo makes the sets of one GUN, each a generation built on the one before.
// Its files are what a store looks into, and no more: nobody has signed them.
type Repo struct {
	GUN tuf.GUN
	// Current are the files of the newest generation made, as expected back.
	Current map[tuf.RoleName]storage.Metadata
	note    string // makes the bytes differ from those of another writer
}

// NewRepo returns a repository with no files. Two of one GUN with different
// notes never make the same bytes.
func NewRepo(gun tuf.GUN, note string) *Repo {
	return &Repo{GUN: gun, Current: map[tuf.RoleName]storage.Metadata{}, note: note}
}

// From returns the repository that stands in g, so that note can build on it.
func From(g *storage.Generation, note string) *Repo {
	r := NewRepo(g.GUN, note)
	maps.Copy(r.Current, g.Files)
	r.Current[tuf.RoleTimestamp] = g.Timestamp
	return r
}

// Next makes a generation in which the given roles have new files: of the next
// version, or of version 1 for a role that the repository does not have. What
// it has stays. The first call needs root and targets.
func (r *Repo) Next(roles ...tuf.RoleName) storage.Set {
	set := storage.Set{GUN: r.GUN}
	if ts, ok := r.Current[tuf.RoleTimestamp]; ok {
		set.Base = &ts.Checksum
	}
	r.Current = maps.Clone(r.Current)
	for _, role := range roles {
		_, named := r.Current[role]
		if !named && set.Base != nil {
			set.Revived = append(set.Revived, role)
		}
		set.Files = append(set.Files, r.file(role, map[string]any{"note": r.note}))
	}
	set.Files = append(set.Files, r.file(tuf.RoleSnapshot, r.meta(func(role tuf.RoleName) bool {
		return role != tuf.RoleSnapshot && role != tuf.RoleTimestamp
	})))
	set.Files = append(set.Files, r.file(tuf.RoleTimestamp, r.meta(func(role tuf.RoleName) bool {
		return role == tuf.RoleSnapshot
	})))
	return set
}

// Remove makes a generation whose snapshot no longer names role.
func (r *Repo) Remove(role tuf.RoleName) storage.Set {
	r.Current = maps.Clone(r.Current)
	delete(r.Current, role)
	return r.Next()
}

func (r *Repo) meta(want func(tuf.RoleName) bool) map[string]any {
	meta := map[tuf.RoleName]any{}
	for role, m := range r.Current {
		if want(role) {
			meta[role] = map[string]any{"length": len(m.Data), "hashes": map[string]any{"sha256": m.Checksum[:]}}
		}
	}
	return map[string]any{"meta": meta, "note": r.note}
}

func (r *Repo) file(role tuf.RoleName, signed map[string]any) storage.Metadata {
	version := r.Current[role].Version + 1
	signed["version"] = version
	signed["expires"] = time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	signed["role"] = role
	data, err := json.Marshal(map[string]any{"signed": signed, "signatures": []any{}})
	if err != nil {
		panic(err) // maps of plain values always marshal
	}
	m := storage.NewMetadata(role, version, data)
	r.Current[role] = m
	return m
}

// Verify reads the current generation with all roles that its snapshot names,
// as a client would, and returns it. It is an error if a file is missing, is
// not the one named, or has other bytes. storage.ErrNotFound means that there
// is no repository.
func Verify(ctx context.Context, s storage.MetadataStore, gun tuf.GUN) (*storage.Generation, error) {
	g, err := s.Generation(ctx, gun, tuf.RoleSnapshot)
	if err != nil {
		return nil, err
	}
	for {
		named := slices.Sorted(maps.Keys(g.Snapshot.Meta))
		g, err = s.Generation(ctx, gun, append(named, tuf.RoleSnapshot)...)
		if err != nil {
			return nil, err
		}
		// A publish may have come between; then ask for what it names.
		if slices.Equal(named, slices.Sorted(maps.Keys(g.Snapshot.Meta))) {
			break
		}
	}
	for _, base := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
		if _, ok := g.Snapshot.Meta[base]; !ok {
			return nil, fmt.Errorf("the snapshot names no %s", base)
		}
	}
	for role, meta := range g.Snapshot.Meta {
		f, ok := g.Files[role]
		if !ok {
			return nil, fmt.Errorf("%s is named but absent", role)
		}
		if tuf.Sum(f.Data) != f.Checksum || string(meta.Hashes["sha256"]) != string(f.Checksum[:]) {
			return nil, fmt.Errorf("%s version %d is not the file that the snapshot names", role, f.Version)
		}
	}
	return g, nil
}

// Holds makes sure that the repository in s is exactly r, down to the bytes.
func (r *Repo) Holds(t testing.TB, s storage.MetadataStore) {
	t.Helper()
	g, err := Verify(t.Context(), s, r.GUN)
	if err != nil {
		t.Fatalf("%s: %v", r.GUN, err)
	}
	have := maps.Clone(g.Files)
	have[tuf.RoleTimestamp] = g.Timestamp
	for role, want := range r.Current {
		got, ok := have[role]
		if !ok || got.Version != want.Version || string(got.Data) != string(want.Data) || got.Checksum != want.Checksum || got.Role != role {
			t.Errorf("%s %s: got version %d, want %d", r.GUN, role, got.Version, want.Version)
		}
	}
	if len(have) != len(r.Current) {
		t.Errorf("%s: %d files, want %d", r.GUN, len(have), len(r.Current))
	}
}
