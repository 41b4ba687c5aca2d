package metadb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"countersign/storage"
	"countersign/storage/sqldb"
	"countersign/tuf"
)

// newestQuery reads the row with the highest version of each role of a list:
// through the unique index from its end, so that the cost does not grow with
// the number of versions. One statement sees one state of the database.
var newestQuery = map[sqldb.Dialect]string{
	sqldb.Postgres: `select f.role, f.version, f.data, f.created_at
		from unnest($2::text[]) as wanted (role) cross join lateral (
			select ` + columns + ` from tuf_files
			where gun = $1 and role = wanted.role and deleted_at is null
			order by version desc limit 1) f`,
	sqldb.SQLite: `select f.role, f.version, f.data, f.created_at
		from json_each($2) as wanted join tuf_files f on f.id = (
			select id from tuf_files
			where gun = $1 and role = wanted.value and deleted_at is null
			order by version desc limit 1)`,
}

// timestampQuery is newestQuery for the timestamp alone, which is what clients
// ask for most, at half the cost of planning.
const timestampQuery = `select ` + columns + ` from tuf_files
	where gun = $1 and role = 'timestamp' and deleted_at is null
	order by version desc limit 1`

func (s *Store) newest(ctx context.Context, gun tuf.GUN, roles []tuf.RoleName) (map[tuf.RoleName]storage.Metadata, error) {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	d := s.db.Dialect()
	list, err := sqldb.Collect(ctx, s.db, scan, newestQuery[d], string(gun), d.List(names))
	if err != nil {
		return nil, err
	}
	found := make(map[tuf.RoleName]storage.Metadata, len(list))
	for _, m := range list {
		found[m.Role] = m
	}
	return found, nil
}

// Generation implements storage.MetadataStore. The newest rows of all roles,
// read in one query, are nearly always the current ones; what the timestamp and
// the snapshot name decides. A row that they name and that is not the newest is
// fetched by its checksum.
func (s *Store) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	for try := 1; ; try++ {
		g, err := s.generation(ctx, gun, roles)
		// A purge, or a purge and a new start, between two queries looks like
		// damage. Then it is gone, or whole, when looked at again.
		if errors.Is(err, storage.ErrDamaged) && try < 3 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("loading current generation: %w", err)
		}
		return g, nil
	}
}

// reached lists what must be read for roles: the timestamp, then the snapshot
// unless the timestamp is all, then the others, each once.
func reached(roles []tuf.RoleName) []tuf.RoleName {
	wanted := []tuf.RoleName{tuf.RoleTimestamp}
	for _, r := range roles {
		if len(wanted) == 1 && r != tuf.RoleTimestamp {
			wanted = append(wanted, tuf.RoleSnapshot)
		}
		if !slices.Contains(wanted, r) {
			wanted = append(wanted, r)
		}
	}
	return wanted
}

func (s *Store) generation(ctx context.Context, gun tuf.GUN, roles []tuf.RoleName) (*storage.Generation, error) {
	wanted := reached(roles)
	g := &storage.Generation{GUN: gun, Files: map[tuf.RoleName]storage.Metadata{}}
	if len(wanted) == 1 {
		ts, err := sqldb.One(ctx, s.db, scan, timestampQuery, string(gun))
		if errors.Is(err, storage.ErrNotFound) {
			return nil, s.absent(ctx, gun)
		}
		if err != nil {
			return nil, err
		}
		g.Timestamp = ts
		if len(roles) > 0 {
			g.Files[tuf.RoleTimestamp] = ts
		}
		return g, nil
	}
	newest, err := s.newest(ctx, gun, wanted)
	if err != nil {
		return nil, err
	}
	ts, ok := newest[tuf.RoleTimestamp]
	if !ok {
		return nil, s.absent(ctx, gun)
	}
	g.Timestamp = ts
	if slices.Contains(roles, tuf.RoleTimestamp) {
		g.Files[tuf.RoleTimestamp] = ts
	}
	top, err := readSigned(ts)
	if err != nil {
		return nil, err
	}
	snapshot, err := s.named(ctx, gun, tuf.RoleSnapshot, top.Meta, newest)
	if err != nil {
		return nil, err
	}
	if g.Snapshot, err = readSigned(snapshot); err != nil {
		return nil, err
	}
	if slices.Contains(roles, tuf.RoleSnapshot) {
		g.Files[tuf.RoleSnapshot] = snapshot
	}
	for _, r := range wanted[2:] {
		if _, named := g.Snapshot.Meta[r]; !named {
			continue
		}
		if g.Files[r], err = s.named(ctx, gun, r, g.Snapshot.Meta, newest); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// absent says why gun has no timestamp: ErrNotFound, which is leave to start
// anew, only if there is nothing that a start anew would bury.
func (s *Store) absent(ctx context.Context, gun tuf.GUN) error {
	_, err := sqldb.One(ctx, s.db, scanID, remains("$1")+` limit 1`, string(gun))
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: there are files, but no timestamp", storage.ErrDamaged)
}

// named returns the file of role that meta names.
func (s *Store) named(ctx context.Context, gun tuf.GUN, role tuf.RoleName, meta map[tuf.RoleName]tuf.FileMeta,
	newest map[tuf.RoleName]storage.Metadata) (storage.Metadata, error) {
	hash := meta[role].Hashes["sha256"]
	var sum tuf.Checksum
	if len(hash) != len(sum) {
		return storage.Metadata{}, fmt.Errorf("%w: no SHA-256 of %s in the metadata above it", storage.ErrDamaged, role)
	}
	copy(sum[:], hash)
	if m, ok := newest[role]; ok && m.Checksum == sum {
		return m, nil
	}
	m, err := s.byChecksum(ctx, gun, role, sum)
	if errors.Is(err, storage.ErrNotFound) {
		return m, fmt.Errorf("%w: %s with checksum %s is not stored", storage.ErrDamaged, role, sum)
	}
	return m, err
}

// readSigned reads what a stored timestamp or snapshot says of other files.
// What the rules of an upload were is not asked here: rows that upstream
// accepted, under rules that were laxer than ours, must stay readable, so this
// decodes as upstream and the clients do.
func readSigned(m storage.Metadata) (*tuf.Snapshot, error) {
	var file struct {
		Signed struct {
			Version tuf.Version
			Expires time.Time
			Meta    map[tuf.RoleName]tuf.FileMeta
		}
	}
	if err := json.Unmarshal(m.Data, &file); err != nil {
		return nil, fmt.Errorf("%w: reading %s version %d: %w", storage.ErrDamaged, m.Role, m.Version, err)
	}
	return &tuf.Snapshot{Version: file.Signed.Version, Expires: file.Signed.Expires, Meta: file.Signed.Meta}, nil
}
