package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/storage/storagetest"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// Each write lost, and each kept without an answer: the repository is whole,
// and the client who goes on from what he then reads succeeds.
func TestWriteFaults(t *testing.T) {
	t.Parallel()
	bothBackends(t, func(t *testing.T, backend string) {
		for _, fault := range []storagetest.Fault{storagetest.Lose, storagetest.Keep} {
			for _, client := range []bool{false, true} {
				t.Run(fmt.Sprintf("fault=%d/clientSnapshot=%v", fault, client), func(t *testing.T) {
					var faulty *storagetest.Faulty
					s := stackOn(t, backend, func(c *publish.Config) {
						faulty = storagetest.NewFaulty(c.Store)
						c.Store = faulty
					})
					r := s.repo(client, "targets/a")
					for _, files := range []func() files{
						func() files { return r.Upload() },
						func() files { return r.Next(tuf.RoleRoot) },
						func() files { return r.Next(tuf.RoleTargets, "targets/a") },
					} {
						up := files()
						faulty.Fail(1, fault)
						if err := s.Publish(t.Context(), r.GUN, upload(up)); !errors.Is(err, storage.ErrUnavailable) {
							t.Fatalf("got %v, want ErrUnavailable", err)
						}
						s.fsck(r.GUN)
						err := s.publish(r.GUN, up)
						if fault == storagetest.Lose && err != nil {
							t.Errorf("after a lost write: %v", err)
						}
						if fault == storagetest.Keep && !errors.Is(err, storage.ErrVersionConflict) {
							t.Errorf("after a write that was kept: %v", err)
						}
					}
					s.clock.Advance(15 * day)
					faulty.Fail(1, fault)
					if _, err := s.Timestamp(t.Context(), r.GUN); !errors.Is(err, storage.ErrUnavailable) {
						t.Errorf("renewing: got %v, want ErrUnavailable", err)
					}
					s.timestamp(r.GUN)
					s.fsck(r.GUN)
					s.must(r, r.Next("targets/a"))
				})
			}
		}
	})
}

// A database that is down is never a new GUN, nor the client's fault.
func TestStoreDown(t *testing.T) {
	var faulty *storagetest.Faulty
	s := newStack(t, func(c *publish.Config) {
		faulty = storagetest.NewFaulty(c.Store)
		c.Store = faulty
	})
	r := s.repo(false, "targets/a")
	s.must(r, r.Upload())
	faulty.Down(true)
	for name, err := range map[string]error{
		"publish":   s.Publish(t.Context(), r.GUN, upload(s.repo2(r).Upload())),
		"timestamp": second(s.Timestamp(t.Context(), r.GUN)),
		"snapshot":  second(s.Snapshot(t.Context(), r.GUN)),
		"key":       second(s.Key(t.Context(), r.GUN, tuf.RoleSnapshot)),
	} {
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
	faulty.Down(false)
	s.fsck(r.GUN)
}

func second[T any](_ T, err error) error { return err }

// repo2 is another owner's repository with the GUN and the server keys of r.
func (s *stack) repo2(r *tuftest.Repo) *tuftest.Repo {
	s.Helper()
	snapshot, timestamp := r.Root.Roles[tuf.RoleSnapshot].KeyIDs[0], r.Root.Roles[tuf.RoleTimestamp].KeyIDs[0]
	sk, tk := r.Root.Keys[snapshot], r.Root.Keys[timestamp]
	return tuftest.New(s, r.GUN, tuftest.Options{Now: s.clock.Now(), Snapshot: &sk, Timestamp: &tk})
}

// A signer that is wrong, slow or down: nothing is stored, the client is not
// to blame, and the next publish works.
func TestSignerFaults(t *testing.T) {
	t.Parallel()
	fail := func(err error) func(*signer) {
		return func(s *signer) { s.set(func(context.Context, string, tuf.RoleName) error { return err }) }
	}
	lie := func(f func(role tuf.RoleName, content, sig []byte) []byte) func(*signer) {
		return func(s *signer) { s.setLie(f) }
	}
	stranger := tuftest.NewKey(t, tuf.KeyECDSA)
	for name, c := range map[string]struct {
		set  func(*signer)
		want error // nil: an internal fault
	}{
		"down":    {fail(storage.ErrUnavailable), storage.ErrUnavailable},
		"sealed":  {fail(storage.ErrKeySealed), storage.ErrKeySealed},
		"broken":  {fail(errors.New("broken")), nil},
		"invalid": {fail(storage.ErrInvalid), storage.ErrInvalid},
		"hangs": {func(s *signer) {
			s.set(func(ctx context.Context, _ string, _ tuf.RoleName) error { <-ctx.Done(); return ctx.Err() })
		}, storage.ErrUnavailable},
		"flips a bit":      {lie(func(_ tuf.RoleName, _, sig []byte) []byte { sig[7] ^= 1; return sig }), nil},
		"signs nothing":    {lie(func(tuf.RoleName, []byte, []byte) []byte { return nil }), nil},
		"cuts it off":      {lie(func(_ tuf.RoleName, _, sig []byte) []byte { return sig[:len(sig)-1] }), nil},
		"signs by another": {lie(func(_ tuf.RoleName, content, _ []byte) []byte { return stranger.Sign(t, content).Sig }), nil},
		"swaps the halves": {lie(func(_ tuf.RoleName, _, sig []byte) []byte { return slices.Concat(sig[32:], sig[:32]) }), nil},
		"lies about the timestamp only": {lie(func(role tuf.RoleName, _, sig []byte) []byte {
			if role == tuf.RoleTimestamp {
				sig[0] ^= 1
			}
			return sig
		}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, func(c *publish.Config) { c.SignTimeout = 50 * time.Millisecond })
			r := s.repo(false)
			s.must(r, r.Upload())
			c.set(s.signer)
			up := r.Next(tuf.RoleTargets)
			err := s.publish(r.GUN, up)
			var rejection *publish.Rejection
			if err == nil || errors.As(err, &rejection) || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.want == nil && errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("got %v, which says that trying again helps", err)
			}
			s.signer.set(nil)
			s.signer.setLie(nil)
			s.must(r, up)
		})
	}
}

func TestClientGoesAway(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	s.must(r, r.Upload())
	ctx, cancel := context.WithCancel(t.Context())
	s.signer.set(func(ctx context.Context, _ string, _ tuf.RoleName) error { cancel(); return ctx.Err() })
	up := r.Next(tuf.RoleTargets)
	if err := s.Publish(ctx, r.GUN, upload(up)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.signer.set(nil)
	s.must(r, up)
	if err := s.Publish(ctx, r.GUN, upload(r.Next(tuf.RoleTargets))); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
}

// What is stored is not what was published: nobody may go on from it, and
// least of all install a root of his own.
func TestDamagedRepository(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(s *stack, r *tuftest.Repo){
		"root gone":            func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'root'`) },
		"snapshot gone":        func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'snapshot'`) },
		"targets gone":         func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'targets'`) },
		"root of another":      func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleRoot, s.repo2(r).File(tuf.RoleRoot)) },
		"root is no JSON":      func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleRoot, []byte("{")) },
		"targets of another":   func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleTargets, s.repo2(r).File(tuf.RoleTargets)) },
		"snapshot is no JSON":  func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleSnapshot, []byte("{")) },
		"timestamp is no JSON": func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleTimestamp, []byte("{")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			r := s.repo(false, "targets/a")
			s.must(r, r.Upload())
			r.Root.Version++
			up := r.Upload(tuf.RoleRoot)
			up["targets/a"] = r.Next("targets/a")["targets/a"]
			other := s.repo2(r)
			other.Root.Version = 2
			damage(s, r)
			for _, files := range []files{up, other.Upload()} {
				before := s.current(r.GUN)
				err := s.Publish(t.Context(), r.GUN, upload(files))
				var rejection *publish.Rejection
				if !errors.As(err, &rejection) || s.current(r.GUN) != before {
					t.Errorf("got %v, want a rejection that changes nothing", err)
				}
			}
			if name == "targets gone" || name == "targets of another" {
				return // of no concern to what follows
			}
			s.clock.Advance(15 * day)
			if _, err := s.Timestamp(t.Context(), r.GUN); err == nil || errors.Is(err, storage.ErrNotFound) {
				t.Errorf("timestamp: %v", err)
			}
			// The advice that the client gets.
			if _, err := s.store.Delete(t.Context(), r.GUN); err != nil {
				t.Fatal(err)
			}
			s.must(other, s.repo(false).Upload())
		})
	}
}

// swap puts other bytes in the place of a stored file, with a checksum that
// fits them, but nothing above.
func (s *stack) swap(role tuf.RoleName, data []byte) {
	s.Helper()
	s.exec(`update tuf_files set data = $1, sha256 = $2 where role = $3`, data, tuf.Sum(data).String(), string(role))
}

// Who can write to the database cannot have the server sign a snapshot of his
// choice: one is made, and the timestamp points to it, but nobody signed it.
func TestForgedSnapshotIsNotSigned(t *testing.T) {
	s := newStack(t)
	r := s.repo(false, "targets/a")
	s.must(r, r.Upload())
	old := tuf.MetaOf(r.File("targets/a"))
	s.must(r, r.Next("targets/a"))
	gen := s.generation(r.GUN, tuf.RoleSnapshot)
	forged := *gen.Snapshot
	forged.Meta["targets/a"] = old
	canonical, err := forged.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	file := tuftest.Sign(t, canonical, tuftest.NewKey(t, tuf.KeyECDSA))
	s.exec(`update tuf_files set data = $1, sha256 = $2 where role = 'snapshot' and version = 2`, file, tuf.Sum(file).String())
	timestamp := tuf.Timestamp{Version: 2, Expires: s.clock.Now().Add(time.Hour), Snapshot: tuf.MetaOf(file)}
	if canonical, err = timestamp.Canonical(); err != nil {
		t.Fatal(err)
	}
	file = tuftest.Sign(t, canonical, tuftest.NewKey(t, tuf.KeyECDSA))
	s.exec(`update tuf_files set data = $1, sha256 = $2 where role = 'timestamp' and version = 2`, file, tuf.Sum(file).String())

	signed := s.signer.count("sign")
	wantRejection(t, s.Publish(t.Context(), r.GUN, upload(r.Next(tuf.RoleTargets))), publish.KindValidation, "the repository stored on the server is damaged")
	s.clock.Advance(2 * time.Hour)
	if _, err := s.Timestamp(t.Context(), r.GUN); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("timestamp: got %v, want ErrDamaged", err)
	}
	if n := s.signer.count("sign") - signed; n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}

// A store that hands out other bytes than those which the snapshot names.
type altering struct {
	storage.MetadataStore
	role tuf.RoleName
	data []byte
}

func (a *altering) Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*storage.Generation, error) {
	gen, err := a.MetadataStore.Generation(ctx, gun, roles...)
	if err == nil && a.data != nil && gen.Files[a.role].Data != nil {
		gen.Files[a.role] = storage.NewMetadata(a.role, gen.Files[a.role].Version, a.data)
	}
	return gen, err
}

// What is named is checked again, whatever the store says: the owner of a
// delegation must not be able to have another's old file count.
func TestStoredFilesAreChecked(t *testing.T) {
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
		store := &altering{role: role}
		s := newStack(t, func(c *publish.Config) {
			store.MetadataStore = c.Store
			c.Store = store
		})
		r := s.repo(false, "targets/a")
		s.must(r, r.Upload())
		old := r.File(role)
		s.must(r, r.Next(role))
		up := r.Next("targets/a")
		store.data = old
		var rejection *publish.Rejection
		if err := s.Publish(t.Context(), r.GUN, upload(up)); !errors.As(err, &rejection) || !strings.Contains(rejection.Msg, "stored "+string(role)) {
			t.Errorf("%s: got %v", role, err)
		}
		store.data = nil
		s.must(r, up)
	}
}

// A stored root that its own certificates did not sign counts for nothing.
func TestForgedRootIsNotTrusted(t *testing.T) {
	s := newStack(t)
	r := s.repo(true, "targets/a")
	r.Keys[tuf.RoleRoot] = []*tuftest.Key{r.NewKey(tuf.RoleRoot)}
	k := tuftest.NewKey(t, tuf.KeyECDSA)
	s.signer.add(k, r.GUN, tuf.RoleTimestamp)
	r.SetKeys(tuf.RoleTimestamp, 1, k)
	s.force(r)
	r.Timestamp = nil
	wantRejection(t, s.Publish(t.Context(), r.GUN, upload(r.Next("targets/a"))), publish.KindValidation, "damaged")
	s.clock.Advance(15 * day)
	if _, err := s.Timestamp(t.Context(), r.GUN); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("timestamp: got %v, want ErrDamaged", err)
	}
}

// A row that no timestamp commits to is in the way of every next snapshot. That
// is not the client's fault, and no reason to try fifty times.
func TestBlockedByDebris(t *testing.T) {
	s := newStack(t)
	r := s.repo(false)
	s.must(r, r.Upload())
	s.exec(`insert into tuf_files (gun, role, version, sha256, data)
		select gun, role, version + 1, sha256, data from tuf_files where role = 'snapshot'`)
	signed := s.signer.count("sign")
	err := s.publish(r.GUN, r.Next(tuf.RoleTargets))
	if !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
	if n := s.signer.count("sign") - signed; n > 8 {
		t.Errorf("%d signatures in vain", n)
	}
}

func TestLastVersion(t *testing.T) {
	t.Run("timestamp", func(t *testing.T) {
		s := newStack(t)
		r := s.repo(false)
		s.must(r, r.Upload())
		s.exec(`update tuf_files set version = 2147483647 where role = 'timestamp'`)
		wantRejection(t, s.Publish(t.Context(), r.GUN, upload(r.Next(tuf.RoleTargets))), publish.KindValidation, "the timestamp has reached version 2147483647")
		s.clock.Advance(15 * day)
		if _, err := s.Timestamp(t.Context(), r.GUN); err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("renewing: %v", err)
		}
	})
	t.Run("snapshot", func(t *testing.T) {
		s := newStack(t)
		r := s.repo(true)
		r.Snapshot.Version = tuf.MaxVersion
		s.must(r, r.Upload())
		r.Manage(tuf.RoleSnapshot, *s.serverKey(r.GUN, tuf.RoleSnapshot))
		wantRejection(t, s.publish(r.GUN, r.Next(tuf.RoleRoot)), publish.KindValidation, "the snapshot has reached version 2147483647")
	})
	t.Run("delegation starts anew after its removal", func(t *testing.T) {
		s := newStack(t)
		r := s.repo(false, "targets/a")
		s.must(r, r.Upload())
		r.Targets["targets/a"].Version = tuf.MaxVersion
		s.must(r, r.Upload("targets/a"))
		r.RemoveDelegation("targets/a")
		s.must(r, r.Next(tuf.RoleTargets))
		r.AddDelegation("targets/a")
		r.Targets[tuf.RoleTargets].Version++
		s.must(r, r.Upload(tuf.RoleTargets, "targets/a"))
	})
}

// A snapshot that the signer would not take is refused before it is asked.
func TestSnapshotTooLarge(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.expiring(false)
	r.Snapshot.Version++
	r.Timestamp.Version++
	r.Edit[tuf.RoleSnapshot] = func(signed map[string]any) {
		meta := in(signed, "meta")
		for i := range 10_000 {
			meta[fmt.Sprintf("targets/%0240d", i)] = meta["targets"]
		}
	}
	s.force(r, tuf.RoleSnapshot, tuf.RoleTimestamp)
	signed := s.signer.count("sign")
	wantRejection(t, s.Publish(t.Context(), r.GUN, publish.Upload{}), publish.KindValidation, "too many delegations")
	if n := s.signer.count("sign") - signed; n != 0 {
		t.Errorf("the signer was asked %d times", n)
	}
}

// With AllowUnvouched, as with upstream: a delegation loses the key that signed
// its file, readers skip it, and its new owner witnesses it.
func TestAllowUnvouched(t *testing.T) {
	for _, client := range []bool{false, true} {
		s := newStack(t, func(c *publish.Config) { c.AllowUnvouched = true })
		r := s.repo(client, "targets/a")
		s.must(r, r.Upload())
		file := r.File("targets/a")
		r.Rotate("targets/a")
		r.Raw["targets/a"] = file
		if err := s.Publish(t.Context(), r.GUN, upload(r.Next(tuf.RoleTargets))); err != nil {
			t.Fatal(err)
		}
		err := publish.Fsck(t.Context(), s.store, r.GUN, s.clock.Now())
		if err == nil || !strings.Contains(err.Error(), "targets/a: valid signatures did not meet threshold") {
			t.Errorf("fsck says %v", err)
		}
		delete(r.Raw, "targets/a")
		s.must(r, r.Next("targets/a"))
	}
}

// Fsck finds what a client would stumble over.
func TestFsckFinds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(s *stack, r *tuftest.Repo)
		want   string
	}{
		"nothing":             {func(s *stack, r *tuftest.Repo) {}, ""},
		"targets gone":        {func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'targets'`) }, "targets: "},
		"delegation gone":     {func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'targets/a/b'`) }, "targets/a/b: "},
		"snapshot gone":       {func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'snapshot'`) }, "snapshot: "},
		"root gone":           {func(s *stack, r *tuftest.Repo) { s.exec(`delete from tuf_files where role = 'root' and version = 2`) }, "root: "},
		"older root gone":     {func(s *stack, r *tuftest.Repo) { s.swapVersion(tuf.RoleRoot, 1, []byte(`{}`)) }, "root: "},
		"foreign older root":  {func(s *stack, r *tuftest.Repo) { s.swapVersion(tuf.RoleRoot, 1, s.repo2(r).File(tuf.RoleRoot)) }, "root: version 1 does not lead to version 2"},
		"version":             {func(s *stack, r *tuftest.Repo) { s.exec(`update tuf_files set version = 9 where role = 'targets/a'`) }, "targets/a: stored as version 9, but is version 1"},
		"timestamp expired":   {func(s *stack, r *tuftest.Repo) { s.clock.Advance(15 * day) }, "timestamp expired at"},
		"all expired":         {func(s *stack, r *tuftest.Repo) { s.clock.Advance(5 * 365 * day) }, "targets/a/b expired at"},
		"certificate expired": {func(s *stack, r *tuftest.Repo) { s.clock.Advance(11 * 365 * day) }, "root: unable to retrieve valid leaf certificates"},
		"timestamp no JSON":   {func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleTimestamp, []byte("{")) }, "timestamp: "},
		"empty timestamp":     {func(s *stack, r *tuftest.Repo) { s.swap(tuf.RoleTimestamp, []byte("{}")) }, "timestamp: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			r := s.repo(false, "targets/a", "targets/a/b")
			s.must(r, r.Upload())
			s.must(r, r.Next(tuf.RoleRoot))
			c.damage(s, r)
			err := publish.Fsck(t.Context(), s.store, r.GUN, s.clock.Now())
			if (c.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("dead delegation", func(t *testing.T) {
		s := newStack(t)
		r := s.repo(true, "targets/dead", "targets/dead/child", "targets/live")
		s.storeDead(r)
		s.fsck(r.GUN) // nobody gets there
		s.exec(`delete from tuf_files where role = 'targets/dead/child'`)
		err := publish.Fsck(t.Context(), s.store, r.GUN, s.clock.Now())
		if err == nil || !strings.Contains(err.Error(), "targets/dead/child: ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		s := newStack(t)
		if err := publish.Fsck(t.Context(), s.store, "nobody", s.clock.Now()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
}

func (s *stack) swapVersion(role tuf.RoleName, version int, data []byte) {
	s.Helper()
	s.exec(`update tuf_files set data = $1, sha256 = $2 where role = $3 and version = $4`, data, tuf.Sum(data).String(), string(role), version)
}
