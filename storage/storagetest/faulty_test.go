package storagetest_test

import (
	"errors"
	"path/filepath"
	"testing"

	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
	"countersign/storage/storagetest"
	"countersign/tuf"
)

func open(t *testing.T) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "sqlite3", URL: filepath.Join(t.TempDir(), "test.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, s := range []migrations.Schema{migrations.Server, migrations.Signer} {
		if err := migrations.Apply(t.Context(), db, s); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// TestFaulty: a faulty store is a good one until told otherwise, and then does
// exactly what was asked of it.
func TestFaulty(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.Lose, storagetest.Keep} {
		f := storagetest.NewFaulty(metadb.New(open(t)))
		r := storagetest.NewRepo("example.org/faulty", "a")
		f.Fail(2, fault)
		if err := f.Publish(t.Context(), r.Next(tuf.RoleRoot, tuf.RoleTargets)); err != nil {
			t.Fatal(err)
		}
		before := *r
		if err := f.Publish(t.Context(), r.Next(tuf.RoleTargets)); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("fault %d: got %v", fault, err)
		}
		if fault == storagetest.Lose {
			before.Holds(t, f)
			*r = before
		}
		r.Holds(t, f)
		if err := f.Publish(t.Context(), r.Next()); err != nil {
			t.Fatal(err)
		}
		f.Down(true)
		if _, err := f.Generation(t.Context(), r.GUN); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("down: got %v", err)
		}
		f.Down(false)
		f.Fail(1, fault)
		if deleted, err := f.Delete(t.Context(), r.GUN); deleted || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("fault %d: deleted %v, %v", fault, deleted, err)
		}
		if _, err := f.Generation(t.Context(), r.GUN); errors.Is(err, storage.ErrNotFound) != (fault == storagetest.Keep) {
			t.Errorf("fault %d: after the deletion: %v", fault, err)
		}
	}
}

func TestFaultyKeys(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.Lose, storagetest.Keep} {
		f := storagetest.NewFaultyKeys(keydb.New(open(t)))
		f.Fail(1, fault)
		k := storagetest.NewKey(1)
		if got, err := f.AddUnused(t.Context(), k); got.ID != "" || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("fault %d: got %v, %v", fault, got.ID, err)
		}
		if _, err := f.Key(t.Context(), k.ID); errors.Is(err, storage.ErrNotFound) != (fault == storagetest.Lose) {
			t.Errorf("fault %d: after adding: %v", fault, err)
		}
		if f.Writes() != 1 {
			t.Errorf("%d writes", f.Writes())
		}
	}
}
