package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"countersign/admin/archive"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// A PurgePlan is what a purge of a repository takes away.
type PurgePlan struct {
	GUN     tuf.GUN     `json:"gun"`
	Roles   []RolePlan  `json:"roles"`
	Files   int         `json:"files"`
	Bytes   int64       `json:"bytes"`
	Keys    []KeyPlan   `json:"signer_keys"`
	Owners  []OwnerKeys `json:"owner_keys"`
	Signers []string    `json:"signers"` // names of delegations below targets, but for releases
	Tags    []TagPlan   `json:"tags"`
	// TagCount counts all tags; Tags holds the first maxTags.
	TagCount int `json:"tag_count"`
	// LastPublish is when a client last published; zero if that is unknown.
	LastPublish time.Time `json:"last_publish,omitzero"`
	// Faults are what could not be read. It goes all the same.
	Faults []string `json:"faults,omitempty"`
	// Unmatched says why the keys do not seem to be those of the repository. It is
	// not purged then, unless the operator says so.
	Unmatched []string `json:"unmatched,omitempty"`
	// Unfinished is the purge that was begun earlier and has not ended: the same
	// command ends it, and does nothing else.
	Unfinished *PurgeRecord `json:"unfinished,omitempty"`
}

// A RolePlan sums up the rows of a role.
type RolePlan struct {
	Role     tuf.RoleName `json:"role"`
	Versions int          `json:"versions"`
	Newest   tuf.Version  `json:"newest_version"`
	Bytes    int64        `json:"bytes"`
	Deleted  int          `json:"marked_deleted,omitempty"` // of Versions
}

// A KeyPlan is a key that the signer has for the repository.
type KeyPlan struct {
	ID       tuf.KeyID    `json:"key_id"`
	Role     tuf.RoleName `json:"role"`
	Created  time.Time    `json:"created_at,omitzero"`
	LastUsed time.Time    `json:"last_used,omitzero"`
	Deleted  bool         `json:"marked_deleted,omitempty"`
}

// OwnerKeys are the keys that the current root lists for a role that people sign.
type OwnerKeys struct {
	Role tuf.RoleName `json:"role"`
	IDs  []tuf.KeyID  `json:"key_ids"`
}

// A TagPlan is a tag with what was signed for it.
type TagPlan struct {
	Name   string       `json:"name"`
	Role   tuf.RoleName `json:"role"`
	SHA256 string       `json:"sha256"`
	Size   int64        `json:"size"`
}

// maxTags bounds the tags that a plan names; the archive has them all.
const maxTags = 1000

// PlanPurge reads what a purge of gun would take away, and changes nothing. If
// there is no such repository the error wraps storage.ErrNotFound, and names
// those with a similar name.
func (s *Site) PlanPurge(ctx context.Context, gun tuf.GUN) (*PurgePlan, error) {
	keys, err := s.Keys.Rows(ctx, keydb.Query{GUN: gun, Deleted: true})
	if err != nil {
		return nil, err
	}
	files, err := s.Metadata.Files(ctx, gun)
	if err != nil {
		return nil, err
	}
	p := newPlan(gun)
	open, err := s.Metadata.Purges(ctx, metadb.PurgeQuery{GUN: gun, Open: true, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		r := recordOf(open[0])
		p.Unfinished = &r
	}
	if len(files)+len(keys)+len(open) == 0 {
		return nil, s.noSuch(ctx, gun)
	}
	if p.Unfinished == nil {
		if p.Unmatched, err = s.unmatched(ctx, gun, files, keys); err != nil {
			return nil, err
		}
	}
	p.sum(files, keys)
	return p, p.read(func(r RolePlan) (storage.Metadata, error) { return s.Metadata.ByVersion(ctx, gun, r.Role, r.Newest) })
}

func newPlan(gun tuf.GUN) *PurgePlan {
	return &PurgePlan{GUN: gun, Roles: []RolePlan{}, Keys: []KeyPlan{}, Owners: []OwnerKeys{}, Signers: []string{}, Tags: []TagPlan{}}
}

// An ArchivedPurge is what an archive of a purge tells of it.
type ArchivedPurge struct {
	Plans   []*PurgePlan
	Records []PurgeRecord // of the same repositories
}

// ReadPurge reads an archive of a purge, for its card.
func ReadPurge(path string) (*ArchivedPurge, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	a, err := archive.Open(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	h := a.Header
	if h.Kind != "purge" {
		return nil, fmt.Errorf("%w: %s is an archive of kind %q, not of a purge", storage.ErrInvalid, path, h.Kind)
	}
	out := &ArchivedPurge{}
	return out, a.Each(func(r *archive.Repository, files archive.Files) error {
		p := newPlan(r.GUN)
		p.sum(r.Files, r.Keys)
		newest := map[tuf.RoleName][]byte{}
		if err := files(func(f storage.FileRow) error {
			for _, role := range p.Roles {
				if f.Role == role.Role && f.Version == role.Newest && f.Deleted.IsZero() {
					newest[f.Role] = f.Data
				}
			}
			return nil
		}); err != nil {
			return err
		}
		rec := PurgeRecord{GUN: r.GUN, At: h.Created, Archive: path, Digest: a.Digest, Actor: h.By, Reason: h.Reason, Keys: []tuf.KeyID{}}
		for _, k := range r.Keys {
			rec.Keys = append(rec.Keys, k.ID)
		}
		out.Plans, out.Records = append(out.Plans, p), append(out.Records, rec)
		return p.read(func(r RolePlan) (storage.Metadata, error) {
			return storage.Metadata{Role: r.Role, Data: newest[r.Role]}, nil
		})
	})
}

func (p *PurgePlan) sum(files []storage.FileInfo, keys []storage.KeyRow) {
	for _, k := range keys {
		p.Keys = append(p.Keys, KeyPlan{ID: k.ID, Role: k.Role, Created: k.CreatedAt, LastUsed: k.LastUsed, Deleted: !k.Deleted.IsZero()})
	}
	roles := map[tuf.RoleName]*RolePlan{}
	for _, f := range files {
		r := roles[f.Role]
		if r == nil {
			r = &RolePlan{Role: f.Role}
			roles[f.Role] = r
		}
		r.Versions++
		r.Bytes += f.Size
		if !f.Deleted.IsZero() {
			r.Deleted++
		} else {
			r.Newest = max(r.Newest, f.Version)
		}
		p.Files++
		p.Bytes += f.Size
		// The server renews timestamps and snapshots by itself.
		if f.Role != tuf.RoleTimestamp && f.Role != tuf.RoleSnapshot && f.Created.After(p.LastPublish) {
			p.LastPublish = f.Created
		}
	}
	for _, r := range roles {
		p.Roles = append(p.Roles, *r)
	}
	slices.SortFunc(p.Roles, func(a, b RolePlan) int {
		return cmp.Or(cmp.Compare(rank(a.Role), rank(b.Role)), cmp.Compare(a.Role, b.Role))
	})
}

// rank sorts roles as people name them: root, targets, delegations, the rest.
func rank(r tuf.RoleName) int {
	switch r {
	case tuf.RoleRoot:
		return 0
	case tuf.RoleTargets:
		return 1
	case tuf.RoleSnapshot:
		return 3
	case tuf.RoleTimestamp:
		return 4
	}
	return 2
}

// read looks into the newest files. The repository may be damaged: what cannot
// be read is told, and is no error. An error of the database is one.
func (p *PurgePlan) read(newest func(RolePlan) (storage.Metadata, error)) error {
	tags := map[string]TagPlan{}
	for _, r := range p.Roles {
		if r.Newest == 0 || r.Role == tuf.RoleSnapshot || r.Role == tuf.RoleTimestamp {
			continue
		}
		f, err := newest(r)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it was deleted since
		}
		if err != nil {
			return err
		}
		if err := p.look(f, tags); err != nil {
			p.Faults = append(p.Faults, fmt.Sprintf("%s version %d: %v", r.Role, r.Newest, err))
		}
	}
	p.TagCount = len(tags)
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		if len(p.Tags) == maxTags {
			break
		}
		p.Tags = append(p.Tags, tags[name])
	}
	slices.Sort(p.Signers)
	return nil
}

func (p *PurgePlan) look(f storage.Metadata, tags map[string]TagPlan) error {
	env, err := tuf.ParseEnvelope(f.Data)
	if err != nil {
		return err
	}
	if f.Role == tuf.RoleRoot {
		root, err := env.Root()
		if err != nil {
			return err
		}
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
			p.Owners = append(p.Owners, OwnerKeys{Role: role, IDs: append([]tuf.KeyID{}, root.Roles[role].KeyIDs...)})
		}
		return nil
	}
	if f.Role != tuf.RoleTargets && !f.Role.IsDelegation() {
		return nil
	}
	targets, err := env.Targets(f.Role)
	if err != nil {
		return err
	}
	if f.Role == tuf.RoleTargets {
		for _, d := range targets.Delegations.Roles {
			if name, ok := strings.CutPrefix(string(d.Name), "targets/"); ok && name != "releases" && !strings.Contains(name, "/") {
				p.Signers = append(p.Signers, name)
			}
		}
	}
	for name, meta := range targets.Files() {
		// Docker's clients look into targets/releases first, then into targets.
		have, ok := tags[name]
		if ok && (have.Role == "targets/releases" || have.Role == tuf.RoleTargets && f.Role != "targets/releases") {
			continue
		}
		tags[name] = TagPlan{Name: name, Role: f.Role, SHA256: fmt.Sprintf("%x", meta.Hashes["sha256"]), Size: meta.Length}
	}
	return nil
}

// noSuch is the error for a GUN that neither database knows.
func (s *Site) noSuch(ctx context.Context, gun tuf.GUN) error {
	near, err := s.similar(ctx, gun)
	if err != nil {
		return err
	}
	err = fmt.Errorf("%w: no repository is named %q", storage.ErrNotFound, gun)
	if len(near) == 0 {
		return err
	}
	return fmt.Errorf("%w; there is %s", err, strings.Join(near, ", "))
}

// similar finds at most three GUNs whose names are near to gun: the same
// without regard to case, with the same last part, or few letters away.
func (s *Site) similar(ctx context.Context, gun tuf.GUN) ([]string, error) {
	type found struct {
		gun  string
		away int
	}
	var near []found
	err := s.each(ctx, Selection{All: true}, func(g tuf.GUN) error {
		away := distance(strings.ToLower(string(g)), strings.ToLower(string(gun)))
		if away > 3 {
			if lastPart(string(g)) != lastPart(string(gun)) {
				return nil
			}
			away += 4
		}
		near = append(near, found{string(g), away})
		slices.SortStableFunc(near, func(a, b found) int { return a.away - b.away })
		near = near[:min(len(near), 3)]
		return nil
	})
	var names []string
	for _, n := range near {
		names = append(names, fmt.Sprintf("%q", n.gun))
	}
	return names, err
}

func lastPart(s string) string { return s[strings.LastIndex(s, "/")+1:] }

// distance is how many letters one must change, add or remove to get from a to b;
// both are at most a few hundred bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := above
			if a[i] != b[j] {
				cost++
			}
			above = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
