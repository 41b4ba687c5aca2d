package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/internal/pgtest"
	"countersign/migrations"
	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A pair is an installation: two databases with their configurations, and a
// publisher that works on them as a running server does.
type pair struct {
	testing.TB
	backend        string
	dir            string
	server, signer string // URLs or files
	meta           *metadb.Store
	keys           *keydb.Store
	rows           *rowSigner
	publisher      *publish.Publisher
}

func newPair(t testing.TB, backend string) *pair {
	t.Helper()
	p := &pair{TB: t, backend: backend, dir: t.TempDir()}
	p.server, p.signer = p.newURL("server.db"), p.newURL("signer.db")
	p.meta, p.keys = metadb.New(p.open(p.server, migrations.Server)), keydb.New(p.open(p.signer, migrations.Signer))
	p.rows = &rowSigner{tb: t, rows: p.keys, private: map[tuf.KeyID]*tuftest.Key{}}
	var err error
	if p.publisher, err = publish.New(publish.Config{Store: p.meta, Signer: p.rows, Archivist: p.meta}); err != nil {
		t.Fatal(err)
	}
	p.configure("server.json", p.server)
	p.configure("signer.json", p.signer)
	return p
}

func (p *pair) newURL(file string) string {
	if p.backend == "postgres" {
		return pgtest.URL(p)
	}
	return filepath.Join(p.dir, file)
}

func (p *pair) open(url string, schema migrations.Schema) *sqldb.DB {
	p.Helper()
	db, err := sqldb.Open(p.Context(), sqldb.Config{Backend: p.backend, URL: url})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { db.Close() })
	if err := migrations.Apply(p.Context(), db, schema); err != nil {
		p.Fatal(err)
	}
	return db
}

func (p *pair) configure(name, url string) string {
	p.Helper()
	raw, err := json.Marshal(map[string]any{"storage": map[string]any{"backend": p.backend, "db_url": url, "default_alias": "a"}})
	path := filepath.Join(p.dir, name)
	if err == nil && strings.HasPrefix(name, "server") {
		raw = []byte(strings.Replace(string(raw), `,"default_alias":"a"`, "", 1))
		raw = []byte(strings.Replace(string(raw), `"default_alias":"a",`, "", 1))
	}
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		p.Fatal(err)
	}
	return path
}

// site is what trust-admin opens.
func (p *pair) site(change ...func(*admin.SiteConfig)) *admin.Site {
	p.Helper()
	c := admin.SiteConfig{
		ServerConfig: filepath.Join(p.dir, "server.json"), SignerConfig: filepath.Join(p.dir, "signer.json"),
		Environ: []string{"NOTARY_SIGNER_A=a passphrase of some length"}, Actor: "operator test", Tool: "test",
	}
	for _, f := range change {
		f(&c)
	}
	s, err := admin.OpenSite(p.Context(), c)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { s.Close() })
	return s
}

// repo publishes a new repository, whose snapshot and timestamp the server signs.
func (p *pair) repo(gun tuf.GUN, delegations ...tuf.RoleName) *tuftest.Repo {
	p.Helper()
	var keys []*tuf.Key
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		k, err := p.rows.CreateKey(p.Context(), gun, role, tuf.KeyECDSA)
		if err != nil {
			p.Fatal(err)
		}
		keys = append(keys, &k)
	}
	r := tuftest.New(p, gun, tuftest.Options{Snapshot: keys[0], Timestamp: keys[1], Delegations: delegations})
	r.AddTarget(tuf.RoleTargets, "v1", []byte("one"))
	p.publish(gun, r.Upload())
	return r
}

func (p *pair) publish(gun tuf.GUN, files map[tuf.RoleName][]byte) {
	p.Helper()
	if err := p.publisher.Publish(p.Context(), gun, upload(files)); err != nil {
		p.Fatal(err)
	}
}

func upload(files map[tuf.RoleName][]byte) publish.Upload {
	u := publish.Upload{}
	for role, data := range files {
		u[role] = publish.Part{Data: data}
	}
	return u
}

// allRows is all that is in the databases, but for the IDs of rows and the times
// of what is written meanwhile.
type allRows struct {
	Files   map[tuf.GUN][]storage.FileRow
	Keys    []storage.KeyRow
	Changes []string
	Doomed  int
	Open    int
}

func (p *pair) stored() allRows {
	p.Helper()
	s, err := p.read()
	if err != nil {
		p.Fatal(err)
	}
	return s
}

func (p *pair) read() (allRows, error) {
	s := allRows{Files: map[tuf.GUN][]storage.FileRow{}}
	guns, err := p.meta.GUNs(p.Context(), "", "", 1000)
	if err != nil {
		return s, err
	}
	for _, g := range guns {
		if err := p.meta.EachFile(p.Context(), g, func(f storage.FileRow) error {
			f.ID = 0
			s.Files[g] = append(s.Files[g], f)
			return nil
		}); err != nil {
			return s, err
		}
	}
	if s.Keys, err = p.keys.Rows(p.Context(), keydb.Query{Deleted: true}); err != nil {
		return s, err
	}
	for i := range s.Keys {
		s.Keys[i].RowID = 0
	}
	changes, err := p.meta.Changes(p.Context(), storage.ChangeQuery{Limit: 10000})
	for _, c := range changes {
		s.Changes = append(s.Changes, fmt.Sprintf("%s %d %s %s", c.GUN, c.Version, c.SHA256, c.Category))
	}
	doomed, err2 := p.meta.Doomed(p.Context(), storage.DoomedQuery{Limit: 1000})
	open, err3 := p.meta.Purges(p.Context(), metadb.PurgeQuery{Open: true, Limit: 1000})
	s.Doomed, s.Open = len(doomed), len(open)
	return s, errors.Join(err, err2, err3)
}

// same compares two states, keys in any order.
func same(t testing.TB, what string, want, got allRows) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Transformer("byID", func(keys []storage.KeyRow) map[tuf.KeyID]storage.KeyRow {
		m := map[tuf.KeyID]storage.KeyRow{}
		for _, k := range keys {
			m[k.ID] = k
		}
		return m
	})); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// fsck makes sure that gun is sound, as a client sees it and row by row.
func (p *pair) fsck(gun tuf.GUN) {
	p.Helper()
	if err := publish.Fsck(p.Context(), p.meta, gun, time.Now()); err != nil {
		p.Error(err)
	}
	totals, err := p.site().Fsck(p.Context(), admin.FsckConfig{GUNs: []tuf.GUN{gun}}, func(o admin.Inspected) error {
		for _, f := range o.Findings {
			if f.Fault {
				p.Errorf("%+v", f)
			}
		}
		return nil
	})
	if err != nil || totals.Repositories != 1 {
		p.Errorf("%+v, %v", totals, err)
	}
}

func onBackends(t *testing.T, test func(t *testing.T, backend string)) {
	t.Parallel()
	for _, backend := range []string{"postgres", "sqlite3"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, backend)
		})
	}
}

// A rowSigner signs with keys that live in this process, as long as their rows
// live in the database: what any number of signers have in common.
type rowSigner struct {
	tb   testing.TB
	rows *keydb.Store
	// mu guards private.
	mu      sync.Mutex
	private map[tuf.KeyID]*tuftest.Key
}

func (s *rowSigner) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (tuf.Key, error) {
	k := tuftest.NewKey(s.tb, algorithm)
	row, err := s.rows.AddUnused(ctx, storage.Key{
		ID: k.ID(), GUN: gun, Role: role, Algorithm: algorithm, Public: k.Public, Sealed: []byte("sealed " + k.ID()), Alias: "a",
		EncryptionAlg: "e", KeywrapAlg: "w",
	})
	if err != nil {
		return tuf.Key{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if row.ID == k.ID() {
		s.private[k.ID()] = k
	}
	return tuf.Key{Type: row.Algorithm, Public: row.Public}, nil
}

func (s *rowSigner) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (tuf.Key, error) {
	row, err := s.rows.Key(ctx, id)
	if err == nil && (row.GUN != gun || row.Role != role) {
		err = storage.ErrKeyForbidden
	}
	return tuf.Key{Type: row.Algorithm, Public: row.Public}, err
}

func (s *rowSigner) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) ([]byte, error) {
	if _, err := s.Key(ctx, gun, role, id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	k := s.private[id]
	s.mu.Unlock()
	if k == nil {
		return nil, storage.ErrKeySealed
	}
	if err := s.rows.MarkUsed(ctx, id, time.Now()); err != nil {
		return nil, err
	}
	return k.Sign(s.tb, content).Sig, nil
}

func (s *rowSigner) DeleteKey(ctx context.Context, _ tuf.GUN, _ tuf.RoleName, id tuf.KeyID) error {
	return s.rows.Delete(ctx, id)
}
