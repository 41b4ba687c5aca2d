package keydb_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

// TestCutAnywhere: wherever the connection breaks, asking again gives one key.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	db := open(t, sqldb.Config{Backend: "postgres", URL: url, MaxOpen: 1})
	s := keydb.New(db)
	n := 0
	for step := range 6 {
		for _, f := range []pgtest.Fault{pgtest.LoseRequest, pgtest.LoseAnswer} {
			next := func() storage.Key {
				n++
				k := storagetest.NewKey(n)
				k.GUN = tuf.GUN(strings.Repeat("x", 2*step+int(f)+1))
				return k
			}
			proxy.SetAfter(step, f)
			first, err := s.AddUnused(t.Context(), next())
			proxy.Set(pgtest.None)
			if err != nil && !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("step %d, fault %d: %v", step, f, err)
			}
			second, err2 := s.AddUnused(t.Context(), next())
			if err2 != nil {
				t.Fatal(err2)
			}
			if err == nil && first.ID != second.ID {
				t.Errorf("step %d, fault %d: two keys", step, f)
			}
			proxy.SetAfter(step, f)
			if err := s.MarkUsed(t.Context(), second.ID, time.Now()); err != nil {
				t.Errorf("step %d, fault %d: a mark can be sent again: %v", step, f, err)
			}
			proxy.Set(pgtest.None)
			if k, err := s.Key(t.Context(), second.ID); err != nil || k.LastUsed.IsZero() {
				t.Errorf("step %d, fault %d: not marked (%v)", step, f, err)
			}
		}
	}
	unused, err := sqldb.Collect(t.Context(), db, func(r *sql.Rows) (g string, err error) {
		err = r.Scan(&g)
		return g, err
	}, `select gun from private_keys group by gun having count(*) > 1`)
	if err != nil || len(unused) > 0 {
		t.Errorf("several keys for %d GUNs (%v)", len(unused), err)
	}
}

// TestUnreachable: a database that does not answer is never "no such key".
func TestUnreachable(t *testing.T) {
	t.Parallel()
	proxy, url := pgtest.NewProxy(t, pgtest.URL(t))
	s := keydb.New(open(t, sqldb.Config{Backend: "postgres", URL: url}))
	proxy.Set(pgtest.Refuse)
	k := storagetest.NewKey(1)
	_, err := s.Key(t.Context(), k.ID)
	_, err2 := s.Unused(t.Context(), k.GUN, k.Role, k.Algorithm)
	_, err3 := s.AddUnused(t.Context(), k)
	for i, err := range []error{err, err2, err3, s.MarkUsed(t.Context(), k.ID, time.Now()), s.Delete(t.Context(), k.ID), s.Check(t.Context())} {
		if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("call %d: got %v", i, err)
		}
	}
}

// TestPlan: the look-up of an unused key reads our index and nothing else,
// however many keys there are.
func TestPlan(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := open(t, sqldb.Config{Backend: "postgres", URL: url})
	if _, err := db.Exec(t.Context(), `insert into private_keys (key_id, encryption_alg, keywrap_alg, algorithm, passphrase_alias, public, private, gun, role, last_used)
		select md5(n::text), '', '', 'ecdsa', '', '', '', 'gun' || n, 'timestamp', case when n % 2 = 0 then current_timestamp end from generate_series(1, 20000) n`); err != nil {
		t.Fatal(err)
	}
	plan, err := sqldb.Collect(t.Context(), db, func(r *sql.Rows) (s string, err error) {
		err = r.Scan(&s)
		return s, err
	}, `explain `+keydb.UnusedQuery, "gun777", "timestamp", "ecdsa")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	if !strings.Contains(text, "using countersign_unused_key") || strings.Contains(text, "Sort") {
		t.Errorf("plan:\n%s", text)
	}
}
