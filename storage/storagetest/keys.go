package storagetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/storage"
	"countersign/tuf"
)

// A KeyDB is an empty database with two stores on it.
type KeyDB struct {
	// Store is tested; Replica is another store on the same database.
	Store, Replica storage.KeyStore
	// SQL runs a statement as a person would type it.
	SQL func(t testing.TB, statement string, args ...any)
}

// RunKeys holds the stores that open makes to every promise of
// storage.KeyStore. open is called once for each test.
func RunKeys(t *testing.T, open func(*testing.T) KeyDB) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, KeyDB)
	}{
		{"empty", testNoKeys},
		{"add and read", testAddKey},
		{"unused", testUnused},
		{"unused, left by a race", testUnusedSeveral},
		{"mark used", testMarkUsed},
		{"sealed under an alias", testSealed},
		{"delete", testDeleteKey},
		{"empty ID", testEmptyID},
		{"ID taken", testIDTaken},
		{"too large", testKeyTooLarge},
		{"ended context", testKeyContext},
		{"concurrent first requests", testConcurrentKeys},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// NewKey returns a key that differs from those of other numbers in its ID.
func NewKey(n int) storage.Key {
	public := []byte(fmt.Sprintf("public \x00\xff %d", n))
	return storage.Key{
		ID: tuf.KeyID(tuf.Sum(public).String()), GUN: gun, Role: tuf.RoleTimestamp, Algorithm: tuf.KeyECDSA,
		Public: public, Sealed: []byte(fmt.Sprintf("sealed %d", n)), Alias: "alias_1",
		EncryptionAlg: "A256GCM", KeywrapAlg: "PBES2-HS256+A128KW",
	}
}

func sameKey(t testing.TB, want, got storage.Key) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return // long before Diff has looked at each byte
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("key (-want +got):\n%s", diff)
	}
}

func testSealed(t *testing.T, db KeyDB) {
	var want []storage.Key
	for n := range 6 {
		k := NewKey(n)
		k.Role = tuf.RoleName(fmt.Sprint(n))
		if n == 1 {
			k.Alias = "alias_2"
		}
		stored, err := db.Store.AddUnused(t.Context(), k)
		must(t, err)
		if n == 2 || n == 3 || n == 5 {
			want = append([]storage.Key{stored}, want...)
		}
	}
	must(t, db.Store.Delete(t.Context(), NewKey(4).ID))
	got, err := db.Replica.Sealed(t.Context(), "alias_1", 3)
	must(t, err)
	if len(got) != len(want) {
		t.Fatalf("got %d keys", len(got))
	}
	for i := range want {
		sameKey(t, want[i], got[i])
	}
	if none, err := db.Store.Sealed(t.Context(), "alias_3", 3); err != nil || len(none) > 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func testNoKeys(t *testing.T, db KeyDB) {
	_, err := db.Store.Key(t.Context(), NewKey(1).ID)
	wantErr(t, err, storage.ErrNotFound)
	_, err = db.Store.Unused(t.Context(), gun, tuf.RoleTimestamp, tuf.KeyECDSA)
	wantErr(t, err, storage.ErrNotFound)
	wantErr(t, db.Store.MarkUsed(t.Context(), NewKey(1).ID, time.Now()), storage.ErrNotFound)
	must(t, db.Store.Delete(t.Context(), NewKey(1).ID))
}

func testAddKey(t *testing.T, db KeyDB) {
	before := time.Now().Add(-time.Second)
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	want := NewKey(1)
	want.CreatedAt = k.CreatedAt
	sameKey(t, want, k)
	if k.CreatedAt.Before(before) || k.CreatedAt.After(time.Now().Add(time.Second)) || k.CreatedAt.Location() != time.UTC {
		t.Errorf("created at %v", k.CreatedAt)
	}
	for _, s := range []storage.KeyStore{db.Store, db.Replica} {
		got, err := s.Key(t.Context(), k.ID)
		must(t, err)
		sameKey(t, k, got)
	}
	// A second one finds the first.
	again, err := db.Replica.AddUnused(t.Context(), NewKey(2))
	must(t, err)
	sameKey(t, k, again)
	_, err = db.Store.Key(t.Context(), NewKey(2).ID)
	wantErr(t, err, storage.ErrNotFound)
}

func testUnused(t *testing.T, db KeyDB) {
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	n := 2
	for _, change := range []func(*storage.Key){
		func(k *storage.Key) { k.GUN = other },
		func(k *storage.Key) { k.GUN = gun[:len(gun)-1] },
		func(k *storage.Key) { k.Role = tuf.RoleSnapshot },
		func(k *storage.Key) { k.Algorithm = tuf.KeyED25519 },
	} {
		o := NewKey(n)
		n++
		change(&o)
		_, err := db.Store.Unused(t.Context(), o.GUN, o.Role, o.Algorithm)
		wantErr(t, err, storage.ErrNotFound)
		got, err := db.Store.AddUnused(t.Context(), o)
		must(t, err)
		if got.ID != o.ID {
			t.Errorf("%s %s %s got the key of another", o.GUN, o.Role, o.Algorithm)
		}
		got, err = db.Store.Unused(t.Context(), o.GUN, o.Role, o.Algorithm)
		must(t, err)
		if got.ID != o.ID {
			t.Errorf("unused: got %s", got.ID)
		}
	}
	got, err := db.Store.Unused(t.Context(), k.GUN, k.Role, k.Algorithm)
	must(t, err)
	sameKey(t, k, got)
}

// insertKey writes a row as upstream does, which does not look for others first.
func insertKey(t testing.TB, db KeyDB, k storage.Key) {
	t.Helper()
	db.SQL(t, `insert into private_keys (created_at, updated_at, key_id, encryption_alg, keywrap_alg, algorithm, passphrase_alias, public, private, gun, role)
		values ('2020-02-03 04:05:06.789', '2020-02-03 04:05:06.789', $1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		string(k.ID), k.EncryptionAlg, k.KeywrapAlg, k.Algorithm, k.Alias, k.Public, k.Sealed, string(k.GUN), string(k.Role))
}

func testUnusedSeveral(t *testing.T, db KeyDB) {
	lowest := NewKey(0)
	for n := range 9 {
		k := NewKey(n)
		insertKey(t, db, k)
		lowest.ID = min(lowest.ID, k.ID)
	}
	k, err := db.Store.Unused(t.Context(), gun, tuf.RoleTimestamp, tuf.KeyECDSA)
	must(t, err)
	if k.ID != lowest.ID {
		t.Errorf("got %s, want the lowest, %s", k.ID, lowest.ID)
	}
	if want := time.Date(2020, 2, 3, 4, 5, 6, 789_000_000, time.UTC); !k.CreatedAt.Equal(want) || k.CreatedAt.Location() != time.UTC {
		t.Errorf("created at %v, want %v", k.CreatedAt, want)
	}
	got, err := db.Store.AddUnused(t.Context(), NewKey(99))
	must(t, err)
	if got.ID != lowest.ID {
		t.Errorf("added %s beside %d unused keys", got.ID, 9)
	}
}

func testMarkUsed(t *testing.T, db KeyDB) {
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	tokyo := time.FixedZone("", 9*3600)
	for _, at := range []time.Time{time.Date(2026, 5, 6, 7, 8, 9, 123_456_789, tokyo), time.Date(2026, 5, 7, 0, 0, 0, 0, time.UTC)} {
		must(t, db.Store.MarkUsed(t.Context(), k.ID, at))
		got, err := db.Replica.Key(t.Context(), k.ID)
		must(t, err)
		want := k
		want.LastUsed = at.UTC().Truncate(time.Microsecond)
		sameKey(t, want, got)
		_, err = db.Store.Unused(t.Context(), k.GUN, k.Role, k.Algorithm)
		wantErr(t, err, storage.ErrNotFound)
	}
	// Now there is room for another.
	got, err := db.Store.AddUnused(t.Context(), NewKey(2))
	must(t, err)
	if got.ID != NewKey(2).ID {
		t.Error("a used key was handed out")
	}
}

func testDeleteKey(t *testing.T, db KeyDB) {
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	o := NewKey(2)
	o.GUN = other
	_, err = db.Store.AddUnused(t.Context(), o)
	must(t, err)
	for range 2 {
		must(t, db.Store.Delete(t.Context(), k.ID))
	}
	for _, s := range []storage.KeyStore{db.Store, db.Replica} {
		_, err = s.Key(t.Context(), k.ID)
		wantErr(t, err, storage.ErrNotFound)
		_, err = s.Unused(t.Context(), k.GUN, k.Role, k.Algorithm)
		wantErr(t, err, storage.ErrNotFound)
		wantErr(t, s.MarkUsed(t.Context(), k.ID, time.Now()), storage.ErrNotFound)
		_, err = s.Key(t.Context(), o.ID)
		must(t, err)
	}
	got, err := db.Store.AddUnused(t.Context(), NewKey(3))
	must(t, err)
	if got.ID != NewKey(3).ID {
		t.Error("a deleted key was handed out")
	}
	// The row is kept, as upstream keeps it: a person may undo the deletion.
	db.SQL(t, `update private_keys set deleted_at = null where key_id = $1`, string(k.ID))
	got, err = db.Store.Key(t.Context(), k.ID)
	must(t, err)
	sameKey(t, k, got)
	// Deletion by hand is obeyed at once.
	db.SQL(t, `delete from private_keys where gun = $1`, string(gun))
	_, err = db.Store.Key(t.Context(), k.ID)
	wantErr(t, err, storage.ErrNotFound)
}

// testEmptyID: upstream reads an empty ID as "any key", and deletes them all.
func testEmptyID(t *testing.T, db KeyDB) {
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	wantErr(t, db.Store.Delete(t.Context(), ""), storage.ErrInvalid)
	wantErr(t, db.Store.MarkUsed(t.Context(), "", time.Now()), storage.ErrInvalid)
	_, err = db.Store.Key(t.Context(), "")
	wantErr(t, err, storage.ErrInvalid)
	none := NewKey(2)
	none.ID = ""
	_, err = db.Store.AddUnused(t.Context(), none)
	wantErr(t, err, storage.ErrInvalid)
	got, err := db.Store.Unused(t.Context(), k.GUN, k.Role, k.Algorithm)
	must(t, err)
	sameKey(t, k, got)
}

func testIDTaken(t *testing.T, db KeyDB) {
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	thief := NewKey(1)
	thief.GUN = other
	_, err = db.Store.AddUnused(t.Context(), thief)
	wantErr(t, err, storage.ErrInvalid)
	must(t, db.Store.Delete(t.Context(), k.ID))
	_, err = db.Store.AddUnused(t.Context(), NewKey(1))
	wantErr(t, err, storage.ErrInvalid)
	_, err = db.Store.Key(t.Context(), k.ID)
	wantErr(t, err, storage.ErrNotFound)
}

func testKeyTooLarge(t *testing.T, db KeyDB) {
	for name, grow := range map[string]func(*storage.Key){
		"gun":   func(k *storage.Key) { k.GUN = tuf.GUN(strings.Repeat("g", 256)) },
		"role":  func(k *storage.Key) { k.Role = tuf.RoleName(strings.Repeat("r", 256)) },
		"alias": func(k *storage.Key) { k.Alias = strings.Repeat("a", 51) },
		"id":    func(k *storage.Key) { k.ID = tuf.KeyID(strings.Repeat("f", 256)) },
	} {
		k := NewKey(1)
		grow(&k)
		if _, err := db.Store.AddUnused(t.Context(), k); !errors.Is(err, storage.ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", name, err)
		}
	}
	k := NewKey(1)
	k.GUN, k.Alias, k.Sealed = tuf.GUN(strings.Repeat("g", 255)), strings.Repeat("a", 50), make([]byte, 1<<20)
	k, err := db.Store.AddUnused(t.Context(), k)
	must(t, err)
	got, err := db.Store.Key(t.Context(), k.ID)
	must(t, err)
	sameKey(t, k, got)
}

func testKeyContext(t *testing.T, db KeyDB) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	k, err := db.Store.AddUnused(t.Context(), NewKey(1))
	must(t, err)
	_, err = db.Store.Key(ended, k.ID)
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.Unused(ended, k.GUN, k.Role, k.Algorithm)
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Store.AddUnused(ended, NewKey(2))
	wantErr(t, err, storage.ErrUnavailable)
	wantErr(t, db.Store.MarkUsed(ended, k.ID, time.Now()), storage.ErrUnavailable)
	wantErr(t, db.Store.Delete(ended, k.ID), storage.ErrUnavailable)
}

func testConcurrentKeys(t *testing.T, db KeyDB) {
	for round := range rounds(10, 3) {
		var (
			mu   sync.Mutex // guards got
			got  = map[tuf.KeyID]int{}
			many = newCrowd(t)
		)
		for i := range 10 {
			s := db.Store
			if i%2 == 1 {
				s = db.Replica
			}
			many.add(func() error {
				k := NewKey(100*round + i)
				k.GUN = tuf.GUN(fmt.Sprintf("race/%d", round))
				stored, err := s.AddUnused(t.Context(), k)
				mu.Lock()
				defer mu.Unlock()
				got[stored.ID]++
				return err
			})
		}
		many.run()
		if len(got) != 1 {
			t.Errorf("round %d: ten first requests got %d keys", round, len(got))
		}
	}
}
