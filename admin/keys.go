package admin

import (
	"context"
	"time"

	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

// keyPage is how many rows of the signer's table are held at once.
const keyPage = 500

// A KeyInfo is what is known of a row of the signer's table without opening it.
type KeyInfo struct {
	ID        tuf.KeyID    `json:"key_id"`
	GUN       tuf.GUN      `json:"gun"`
	Role      tuf.RoleName `json:"role"`
	Algorithm string       `json:"algorithm"`
	Alias     string       `json:"passphrase_alias"`
	Rounds    int          `json:"rounds"`     // of the derivation; 0: not readable
	Created   *time.Time   `json:"created_at"` // nil: not known
	LastUsed  *time.Time   `json:"last_used"`  // nil: never; at most a day behind
	Deleted   *time.Time   `json:"deleted_at"` // nil: a live row
}

func keyInfo(k storage.KeyRow) KeyInfo {
	form, _ := seal.FormOf(k.Sealed)
	stamp := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	return KeyInfo{
		ID: k.ID, GUN: k.GUN, Role: k.Role, Algorithm: k.Algorithm, Alias: k.Alias, Rounds: form.Rounds,
		Created: stamp(k.CreatedAt), LastUsed: stamp(k.LastUsed), Deleted: stamp(k.Deleted),
	}
}

// A KeyFilter says which keys. The zero value of a field does not limit.
type KeyFilter struct {
	GUN   tuf.GUN
	Alias string
}

// ListKeys calls show for each row of the signer's table, those marked as deleted
// too, in the order in which they were made. It ends with the first error of show.
func (s *Site) ListKeys(ctx context.Context, f KeyFilter, show func(KeyInfo) error) error {
	return s.eachKeyPage(ctx, keydb.Query{GUN: f.GUN, Alias: f.Alias, Deleted: true, Limit: keyPage}, func(page []storage.KeyRow) error {
		for _, k := range page {
			if err := show(keyInfo(k)); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachKeyPage calls f for pages of q.Limit rows. Rows that are made meanwhile come
// last, and are not missed.
func (s *Site) eachKeyPage(ctx context.Context, q keydb.Query, f func([]storage.KeyRow) error) error {
	for {
		page, err := s.Keys.Rows(ctx, q)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		if err := f(page); err != nil {
			return err
		}
		q.After = page[len(page)-1].RowID
	}
}

// eachGUNPage calls f for pages of the GUNs in the server's database.
func (s *Site) eachGUNPage(ctx context.Context, f func([]tuf.GUN) error) error {
	for after := tuf.GUN(""); ; {
		page, err := s.Metadata.GUNs(ctx, after, "", gunPage)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := f(page); err != nil {
			return err
		}
		after = page[len(page)-1]
	}
}

// rootListing is what the stored roots of a GUN, all versions, say of keys.
type rootListing struct {
	exists bool // the GUN has rows in the server's database
	// unsure: a root cannot be read, so what it lists is not known.
	unsure bool
	listed map[tuf.KeyID]bool // canonical IDs, for whatever role
}

func (s *Site) listing(ctx context.Context, gun tuf.GUN) (rootListing, error) {
	roots, exists, err := s.Metadata.Roots(ctx, gun)
	if err != nil {
		return rootListing{}, err
	}
	rk := rootListing{exists: exists, listed: map[tuf.KeyID]bool{}}
	for _, m := range roots {
		root, err := rootFile(m.Data)
		if err != nil {
			rk.unsure = true
			continue
		}
		for id, key := range root.Keys {
			rk.listed[id] = true
			if canonical, err := key.CanonicalID(); err == nil {
				rk.listed[canonical] = true
			}
		}
	}
	return rk, nil
}

func rootFile(data []byte) (*tuf.Root, error) {
	env, err := tuf.ParseEnvelope(data)
	if err != nil {
		return nil, err
	}
	return env.Root()
}

// rootsOf looks at the roots of the GUNs of a page of keys, each once.
func (s *Site) rootsOf(ctx context.Context, page []storage.KeyRow) (map[tuf.GUN]rootListing, error) {
	found := map[tuf.GUN]rootListing{}
	for _, k := range page {
		if _, ok := found[k.GUN]; ok || k.GUN == "" {
			continue
		}
		rk, err := s.listing(ctx, k.GUN)
		if err != nil {
			return nil, err
		}
		found[k.GUN] = rk
	}
	return found, nil
}

// sealer opens and seals with the passphrases of the signer's configuration.
func (s *Site) sealer(rounds int) (*seal.Sealer, error) {
	return seal.New(seal.Config{Passphrase: s.Signer.Passphrases.Passphrase, Iterations: rounds})
}
