package admin_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/signer"
	"countersign/signer/seal"
	"countersign/signer/sealtest"
	"countersign/storage"
	"countersign/tuf"
)

// mixed stores keys of all kinds that open, and some that do not, whose IDs it
// returns.
func (r *keyring) mixed() (broken []tuf.KeyID) {
	r.t.Helper()
	g := r.gun("mixed", upstreams)
	for i, f := range []sealtest.Form{upstreams, {Passphrase: mainPass, Go115: true}, {Passphrase: mainPass, Iterations: 20_000}} {
		k := newRawKey(r.t, []string{tuf.KeyECDSA, tuf.KeyED25519}[i%2])
		r.row(g.gun, tuf.RoleName(fmt.Sprintf("of main %d", i)), k, "main", f)
	}
	r.row(g.gun, "of other", newRawKey(r.t, tuf.KeyECDSA), "other", sealtest.Form{Passphrase: otherPass})
	deleted := r.row(g.gun, "deleted", newRawKey(r.t, tuf.KeyECDSA), "main", upstreams)
	r.onSigner(`update private_keys set deleted_at = '2026-01-02 03:04:05' where key_id = $1`, string(deleted.ID))
	for _, alias := range []string{"main", "gone"} {
		k := r.row(g.gun, "broken", newRawKey(r.t, tuf.KeyECDSA), alias, sealtest.Form{Passphrase: "lost-Passphrase"})
		broken = append(broken, k.ID)
	}
	k := r.row(g.gun, "corrupt", newRawKey(r.t, tuf.KeyECDSA), "main", upstreams)
	r.onSigner(`update private_keys set public = $2 where key_id = $1`, string(k.ID), g.timestamp.Public)
	return append(broken, k.ID)
}

// sameKeys holds that nothing but the sealed form of the rows has changed, that
// those of broken have not changed at all, and that all others but deleted ones
// open, under alias with so many rounds.
func (r *keyring) sameKeys(before []storage.KeyRow, broken []tuf.KeyID, alias string, rounds int) {
	r.t.Helper()
	sealer, err := r.sealerOf()
	if err != nil {
		r.t.Fatal(err)
	}
	after := r.rows()
	if len(after) != len(before) {
		r.t.Fatalf("%d rows, were %d", len(after), len(before))
	}
	for i, k := range after {
		old := before[i]
		if slices.Contains(broken, k.ID) || !k.Deleted.IsZero() {
			if diff := cmp.Diff(old, k); diff != "" {
				r.t.Errorf("%s changed: %s", old.Role, diff)
			}
			continue
		}
		if form, err := signer.Examine(sealer, k.Key); err != nil || form != (seal.Form{Rounds: rounds}) || k.Alias != alias {
			r.t.Errorf("%s: %+v under %q, %v", k.Role, form, k.Alias, err)
		}
		one, err1 := sealer.Open(old.Alias, old.Sealed)
		two, err2 := sealer.Open(k.Alias, k.Sealed)
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			r.t.Errorf("%s is another key: %v, %v", k.Role, err1, err2)
		}
		k.Sealed, k.Alias, k.Updated = old.Sealed, old.Alias, old.Updated
		if diff := cmp.Diff(old, k); diff != "" {
			r.t.Errorf("%s: more than its form has changed: %s", old.Role, diff)
		}
	}
}

func (r *keyring) rewrap(s *admin.Site, c admin.RewrapConfig) (*admin.Rewrap, []tuf.KeyID) {
	r.t.Helper()
	var failed []tuf.KeyID
	out, err := s.RewrapKeys(r.t.Context(), c, func(f admin.KeyFinding) error {
		wantNoSecrets(r.t, "rewrap", f)
		failed = append(failed, f.ID)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out, failed
}

// TestKeysRewrap: all that opens is sealed anew, as the same keys; what does not
// open stays as it is, and is told of; a second run finds nothing to do.
func TestKeysRewrap(t *testing.T) {
	t.Parallel()
	bothKeyrings(t, func(t *testing.T, r *keyring) {
		broken := r.mixed()
		before := r.rows()
		dry, failed := r.rewrap(r.plain, admin.RewrapConfig{To: "new", Batch: 2})
		if diff := cmp.Diff(before, r.rows()); diff != "" {
			t.Errorf("a dry run has changed: %s", diff)
		}
		if !slices.Equal(failed, broken) || dry.Rows != 9 || dry.Meant != 9 || dry.Failed != 3 || dry.Done != 0 || dry.Acted || len(dry.Warnings) != 2 {
			t.Errorf("dry: %v, %+v", failed, dry)
		}
		did, failed := r.rewrap(r.plain, admin.RewrapConfig{To: "new", Batch: 2, Act: true, Reason: "yearly"})
		if !slices.Equal(failed, broken) || did.Done != 6 || did.Meant != 9 || did.Moved != 0 || !did.Recorded {
			t.Errorf("did: %v, %+v", failed, did)
		}
		r.sameKeys(before, broken, "new", seal.DefaultIterations)
		events, err := r.plain.Metadata.Events(t.Context(), storage.EventQuery{Limit: 10})
		if err != nil || len(events) != 2 || events[0].Action != storage.ActionRewrap || events[0].Actor != "operator test" ||
			!strings.HasPrefix(events[0].Reason, "begun: ") || events[1].Reason != "6 keys sealed anew under the alias new, with 600000 rounds: yearly" {
			t.Errorf("recorded %+v, %v", events, err)
		}
		done := r.rows()
		again, _ := r.rewrap(r.plain, admin.RewrapConfig{To: "new", Act: true})
		if diff := cmp.Diff(done, r.rows()); diff != "" || again.Meant != 3 || again.Done != 0 {
			t.Errorf("again: %+v, %s", again, diff)
		}
		// Back to upstream's rounds, under the old passphrase.
		back, _ := r.rewrap(r.plain, admin.RewrapConfig{To: "main", From: []string{"new"}, Rounds: seal.MinIterations, Act: true})
		if back.Meant != 6 || back.Done != 6 {
			t.Errorf("back: %+v", back)
		}
		r.sameKeys(before, broken, "main", seal.MinIterations)
	})
}

// TestKeysRewrapOlder: keys of the older derivation are meant, even if rounds and
// alias are those that are asked for; those that are in order are not.
func TestKeysRewrapOlder(t *testing.T) {
	t.Parallel()
	r := newKeyring(t, "sqlite3")
	r.row("g", "older", newRawKey(t, tuf.KeyECDSA), "main", sealtest.Form{Passphrase: mainPass, Go115: true})
	r.row("g", "fine", newRawKey(t, tuf.KeyECDSA), "main", upstreams)
	before := r.rows()
	out, _ := r.rewrap(r.plain, admin.RewrapConfig{To: "main", Rounds: seal.MinIterations, Act: true})
	if out.Meant != 1 || out.Done != 1 || !bytes.Equal(r.rows()[1].Sealed, before[1].Sealed) {
		t.Errorf("%+v", out)
	}
	r.sameKeys(before, nil, "main", seal.MinIterations)
}

func TestKeysRewrapRefuses(t *testing.T) {
	t.Parallel()
	r := newKeyring(t, "sqlite3")
	r.row("g", "fine", newRawKey(t, tuf.KeyECDSA), "main", upstreams)
	for name, c := range map[string]struct {
		c    admin.RewrapConfig
		want error
		says string
	}{
		"no passphrase":   {admin.RewrapConfig{To: "gone"}, storage.ErrNoPassphrase, "NOTARY_SIGNER_GONE"},
		"too few rounds":  {admin.RewrapConfig{To: "new", Rounds: 8191}, storage.ErrInvalid, "8191"},
		"too many rounds": {admin.RewrapConfig{To: "new", Rounds: 1_000_001}, storage.ErrInvalid, "1000001"},
		"unknown alias":   {admin.RewrapConfig{To: "new", From: []string{"main", "mian"}}, storage.ErrNotFound, `"mian"`},
	} {
		c.c.Act = true
		before := r.rows()
		_, err := r.plain.RewrapKeys(t.Context(), c.c, func(admin.KeyFinding) error { return nil })
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || !cmp.Equal(before, r.rows()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeysRewrapMoved: a row that somebody changes between its opening and its
// writing is left as he has made it.
func TestKeysRewrapMoved(t *testing.T) {
	t.Parallel()
	r := newKeyring(t, "postgres")
	r.row("g", "fine", newRawKey(t, tuf.KeyECDSA), "main", upstreams)
	mine := sealtest.Seal(t, upstreams, newRawKey(t, tuf.KeyECDSA).private)
	s := r.site(func(c *admin.SiteConfig) {
		c.Step = func(step string) {
			if step == "recorded" {
				r.onSigner(`update private_keys set private = $1`, mine)
			}
		}
	})
	if out, _ := r.rewrap(s, admin.RewrapConfig{To: "new", Act: true}); out.Moved != 1 || out.Done != 0 || !bytes.Equal(r.rows()[0].Sealed, mine) {
		t.Errorf("%+v", out)
	}
}

// keysCrash names the work, folder and step of a child process that is to die.
const keysCrash = "COUNTERSIGN_TEST_KEYS_CRASH"

// TestKeysCrashChild is no test: it is what crashed runs.
func TestKeysCrashChild(t *testing.T) {
	work, rest, _ := strings.Cut(os.Getenv(keysCrash), "\n")
	dir, step, _ := strings.Cut(rest, "\n")
	if work == "" {
		return
	}
	c := keyringConfig(dir, time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC))
	c.Step = func(name string) {
		if name == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	s, err := admin.OpenSite(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := keysWork[work](t, s); err != nil {
		t.Fatal(err)
	}
}

// keysWork is what can be killed.
var keysWork = map[string]func(t *testing.T, s *admin.Site) error{
	"rewrap": func(t *testing.T, s *admin.Site) error {
		_, err := s.RewrapKeys(t.Context(), admin.RewrapConfig{To: "new", Rounds: seal.MinIterations, Batch: 2, Act: true}, func(admin.KeyFinding) error { return nil })
		return err
	},
	"orphans": func(t *testing.T, s *admin.Site) error {
		_, err := s.OrphanKeys(t.Context(), admin.OrphansConfig{UnusedDays: 30, Delete: true, Archive: freeName(t, s)}, func(admin.Orphan) error { return nil })
		return err
	},
}

// crashed runs work in a process of its own, which kills itself at step.
func crashed(t *testing.T, r *keyring, work, step string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKeysCrashChild$")
	cmd.Env = append(os.Environ(), keysCrash+"="+work+"\n"+r.dir+"\n"+step)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s: %v\n%s", step, err, out)
	}
}

// steps runs work to its end, and returns the names of its steps.
func steps(t *testing.T, r *keyring, work string) (names []string) {
	t.Helper()
	s := r.site(func(c *admin.SiteConfig) { c.Step = func(name string) { names = append(names, name) } })
	if err := keysWork[work](t, s); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestKeysRewrapKilled: killed at any step, and run again, it ends as one that
// was not disturbed: every key is the same key, under the new alias.
func TestKeysRewrapKilled(t *testing.T) {
	t.Parallel()
	bothKeyrings(t, func(t *testing.T, r *keyring) {
		broken := r.mixed()
		before := r.rows()
		names := steps(t, r, "rewrap")
		if len(names) != 1+6+3 {
			t.Fatalf("steps %q", names)
		}
		r.sameKeys(before, broken, "new", seal.MinIterations)
		for _, step := range names {
			for _, k := range before {
				r.onSigner(`update private_keys set private = $2, passphrase_alias = $3 where key_id = $1`, string(k.ID), k.Sealed, k.Alias)
			}
			r.onSigner(`update private_keys set updated_at = $1`, r.now.Add(-longAgo).Format(time.DateTime))
			crashed(t, r, "rewrap", step)
			for _, k := range r.rows() { // whatever was killed, each key is whole
				if !slices.Contains(broken, k.ID) && k.Deleted.IsZero() {
					r.opens(k.Key)
				}
			}
			steps(t, r, "rewrap")
			r.sameKeys(before, broken, "new", seal.MinIterations)
		}
	})
}

func (r *keyring) opens(k storage.Key) {
	r.t.Helper()
	sealer, err := r.sealerOf()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := signer.Examine(sealer, k); err != nil {
		r.t.Errorf("%s: %v", k.Role, err)
	}
}
