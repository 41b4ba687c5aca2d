package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"countersign/admin"
	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A vault is a server's database with repositories that the test signs itself.
type vault struct {
	testing.TB
	backend, url, config string
	db                   *sqldb.DB
	store                *metadb.Store
	now                  time.Time // of what is written next
	base                 map[tuf.GUN]storage.Metadata
}

const vaultStart = 24 * time.Hour // how long ago its life begins

func newVault(t testing.TB, backend string) *vault {
	t.Helper()
	v := &vault{TB: t, backend: backend, now: time.Now().UTC().Add(-vaultStart).Truncate(time.Second), base: map[tuf.GUN]storage.Metadata{}}
	dir := t.TempDir()
	if v.url = filepath.Join(dir, "server.db"); backend == "postgres" {
		v.url = pgtest.URL(t)
	}
	v.open()
	if err := migrations.Apply(t.Context(), v.db, migrations.Server); err != nil {
		t.Fatal(err)
	}
	v.config = filepath.Join(dir, "server.json")
	v.configure(map[string]any{})
	return v
}

func (v *vault) open() {
	v.Helper()
	db, err := sqldb.Open(v.Context(), sqldb.Config{Backend: v.backend, URL: v.url, Now: func() time.Time { return v.now }})
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { db.Close() })
	v.db, v.store = db, metadb.New(db)
}

// configure writes the server's configuration.
func (v *vault) configure(more map[string]any) {
	v.Helper()
	more["storage"] = map[string]any{"backend": v.backend, "db_url": v.url}
	raw, err := json.Marshal(more)
	if err = errors.Join(err, os.WriteFile(v.config, raw, 0o600)); err != nil {
		v.Fatal(err)
	}
}

func (v *vault) site(change ...func(*admin.SiteConfig)) *admin.Site {
	v.Helper()
	c := admin.SiteConfig{ServerConfig: v.config, Actor: "operator test", Tool: "test"}
	for _, f := range change {
		f(&c)
	}
	s, err := admin.OpenSite(v.Context(), c)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { s.Close() })
	return s
}

// exec runs SQL that a person has typed.
func (v *vault) exec(query string, args ...any) {
	v.Helper()
	if err := v.db.Tx(v.Context(), func(tx *sqldb.Tx) error {
		_, err := tx.Exec(v.Context(), query, args...)
		return err
	}); err != nil {
		v.Fatalf("%s: %v", query, err)
	}
}

// publish stores files of r, with the snapshot and timestamp that r makes of
// them, a minute after what was stored before.
func (v *vault) publish(r *tuftest.Repo, files map[tuf.RoleName][]byte, revived ...tuf.RoleName) {
	v.Helper()
	set := storage.Set{GUN: r.GUN, Revived: revived}
	if base, ok := v.base[r.GUN]; ok {
		set.Base = &base.Checksum
	}
	for _, role := range r.Roles() {
		data, ok := files[role]
		if role == tuf.RoleTimestamp {
			data, ok = r.File(role), true
		}
		if ok {
			env, err := tuf.ParseEnvelope(data)
			if err != nil {
				v.Fatal(err)
			}
			set.Files = append(set.Files, storage.NewMetadata(role, tuf.Version(env.Version), data))
		}
	}
	v.now = v.now.Add(time.Minute)
	if err := v.store.Publish(v.Context(), set); err != nil {
		v.Fatal(err)
	}
	v.base[r.GUN] = set.Files[len(set.Files)-1]
}

// begin makes a repository and publishes it.
func (v *vault) begin(gun tuf.GUN) *tuftest.Repo {
	v.Helper()
	r := tuftest.New(v, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/a", "targets/a/b"}})
	v.publish(r, r.Upload())
	return r
}

// repo makes a repository of five generations: root 2, targets 3, targets/a 2,
// targets/a/b 2, snapshot 5, timestamp 5. Root 2 gives targets a new key.
func (v *vault) repo(gun tuf.GUN) *tuftest.Repo {
	v.Helper()
	r := v.begin(gun)
	v.publish(r, r.Next("targets/a"))
	r.Rotate(tuf.RoleTargets)
	v.publish(r, r.Next(tuf.RoleRoot, tuf.RoleTargets))
	v.publish(r, r.Next("targets/a/b"))
	v.publish(r, r.Next(tuf.RoleTargets))
	return r
}

// file reads a stored file.
func (v *vault) file(gun tuf.GUN, role tuf.RoleName, version tuf.Version) []byte {
	v.Helper()
	m, err := v.store.ByVersion(v.Context(), gun, role, version)
	if err != nil {
		v.Fatal(err)
	}
	return m.Data
}

const one = ` where gun = $1 and role = $2 and version = $3`

// bytes replaces the bytes of a row, and nothing else of it.
func (v *vault) bytes(gun tuf.GUN, role tuf.RoleName, version tuf.Version, data []byte) {
	v.Helper()
	v.exec(`update tuf_files set data = $4`+one, string(gun), string(role), int(version), data)
}

// set replaces a file, with its checksum.
func (v *vault) set(gun tuf.GUN, role tuf.RoleName, version tuf.Version, data []byte) {
	v.Helper()
	v.exec(`update tuf_files set data = $4, sha256 = $5`+one, string(gun), string(role), int(version), data, tuf.Sum(data).String())
}

// flip changes one bit in the middle of a file.
func (v *vault) flip(gun tuf.GUN, role tuf.RoleName, version tuf.Version) {
	v.Helper()
	data := slices.Clone(v.file(gun, role, version))
	data[len(data)/2] ^= 1
	v.bytes(gun, role, version, data)
}

// resign changes the signatures of a file.
func (v *vault) resign(gun tuf.GUN, role tuf.RoleName, version tuf.Version, change func([]any) []any) {
	v.Helper()
	var file struct {
		Signed     json.RawMessage `json:"signed"`
		Signatures []any           `json:"signatures"`
	}
	err := json.Unmarshal(v.file(gun, role, version), &file)
	file.Signatures = change(file.Signatures)
	data, err2 := json.Marshal(file)
	if err = errors.Join(err, err2); err != nil {
		v.Fatal(err)
	}
	v.set(gun, role, version, data)
}

// short writes a finding as "role version class".
func short(f admin.Finding) string {
	return fmt.Sprintf("%s %d %s", f.Role, f.Version, f.Class)
}

// fsck returns all findings by GUN.
func (v *vault) fsck(c admin.FsckConfig) (map[tuf.GUN][]string, admin.FsckTotals) {
	v.Helper()
	found := map[tuf.GUN][]string{}
	totals, err := v.site().Fsck(v.Context(), c, func(o admin.Inspected) error {
		for _, f := range o.Findings {
			if f.Text == "" || f.Do == "" || o.GUN != "" && f.GUN != o.GUN {
				v.Errorf("a finding says too little: %+v", f)
			}
			found[f.GUN] = append(found[f.GUN], short(f))
			v.Logf("%s: %s, row %d: %s", f.GUN, short(f), f.Row, f.Text)
		}
		return nil
	})
	if err != nil {
		v.Fatal(err)
	}
	return found, totals
}

// clean makes sure that nothing is found.
func (v *vault) clean() {
	v.Helper()
	if found, _ := v.fsck(admin.FsckConfig{}); len(found) > 0 {
		v.Errorf("found %v", found)
	}
}

func onBothVaults(t *testing.T, f func(t *testing.T, v *vault)) {
	t.Parallel()
	for _, backend := range []string{"sqlite3", "postgres"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			f(t, newVault(t, backend))
		})
	}
}
