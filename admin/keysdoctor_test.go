package admin_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/signer/seal"
	"countersign/signer/sealtest"
	"countersign/storage"
	"countersign/tuf"
)

// today is how a key is sealed today, but for the one salt: few such keys are
// made here.
var today = sealtest.Form{Passphrase: mainPass, Iterations: seal.DefaultIterations}

// upstreams is how upstream seals.
var upstreams = sealtest.Form{Passphrase: mainPass}

// A plant is one fault, put into a GUN of its own that is in order otherwise: what
// must be told of it, and of nothing else.
type plant struct {
	name  string
	plant func(r *keyring, g *keptGUN)
	want  []string // "class role", of that GUN
	says  string   // a part of the text of the last of want
}

// set changes the row of the timestamp's key.
func set(what string, args ...any) func(*keyring, *keptGUN) {
	return func(r *keyring, g *keptGUN) {
		r.onSigner(`update private_keys set `+what+` where key_id = $1`, append([]any{string(g.timestamp.ID())}, args...)...)
	}
}

// sealed seals the timestamp's key in another way.
func sealed(alias string, f sealtest.Form) func(*keyring, *keptGUN) {
	return func(r *keyring, g *keptGUN) {
		set(`private = $2, passphrase_alias = $3`, sealtest.Seal(r.t, f, g.timestamp.private), alias)(r, g)
	}
}

// damaged changes the sealed key.
func damaged(change func(t *keyring, sealed []byte) []byte) func(*keyring, *keptGUN) {
	return func(r *keyring, g *keptGUN) {
		set(`private = $2`, change(r, sealtest.Seal(r.t, upstreams, g.timestamp.private)))(r, g)
	}
}

func flipped(part int) func(*keyring, *keptGUN) {
	return damaged(func(r *keyring, sealed []byte) []byte { return sealtest.Flip(r.t, sealed, part) })
}

// stray stores one more key for the GUN, or for one that does not exist.
func stray(elsewhere bool, form string, made, used time.Duration) func(*keyring, *keptGUN) {
	return func(r *keyring, g *keptGUN) {
		gun := g.gun
		if elsewhere {
			gun += "/no"
		}
		k := newRawKey(r.t, tuf.KeyECDSA)
		r.row(gun, tuf.RoleTimestamp, k, "main", upstreams)
		r.onSigner(`update private_keys set created_at = $2 where key_id = $1`, string(k.ID()), r.now.Add(-made).Format(time.DateTime))
		if used == 0 {
			r.onSigner(`update private_keys set last_used = null where key_id = $1`, string(k.ID()))
		} else {
			r.onSigner(`update private_keys set last_used = $2 where key_id = $1`, string(k.ID()), r.now.Add(-used).Format(time.DateTime))
		}
		if form != "" {
			r.onSigner(`update private_keys set deleted_at = $2 where key_id = $1`, string(k.ID()), form)
		}
	}
}

const (
	hours = time.Hour
	days  = 24 * time.Hour
)

func plants() []plant {
	count := func(p2c string) func(*keyring, *keptGUN) {
		return sealed("main", sealtest.Form{Passphrase: mainPass, P2C: p2c})
	}
	return []plant{
		{name: "sound", plant: func(*keyring, *keptGUN) {}},
		{name: "another alias", plant: sealed("other", sealtest.Form{Passphrase: otherPass})},
		{name: "older", plant: sealed("main", sealtest.Form{Passphrase: mainPass, Go115: true}), want: []string{"older-derivation timestamp"}},
		{name: "older, another alias", plant: sealed("other", sealtest.Form{Passphrase: otherPass, Go115: true}), want: []string{"older-derivation timestamp"}},

		{name: "alias of another", plant: sealed("main", sealtest.Form{Passphrase: otherPass}), want: []string{"wrong-alias timestamp"}, says: `alias "other"`},
		{name: "alias of another, older", plant: sealed("main", sealtest.Form{Passphrase: otherPass, Go115: true}), want: []string{"wrong-alias timestamp"}},
		{name: "alias misspelt", plant: sealed("mian", upstreams), want: []string{"wrong-alias timestamp"}, says: `alias "main"`},
		{name: "alias gone", plant: sealed("gone", sealtest.Form{Passphrase: "lost-Passphrase"}), want: []string{"no-passphrase timestamp"}, says: "NOTARY_SIGNER_GONE"},
		{name: "passphrase changed", plant: sealed("main", sealtest.Form{Passphrase: "lost-Passphrase"}), want: []string{"wrong-passphrase timestamp"}},
		{name: "passphrase changed, older", plant: sealed("main", sealtest.Form{Passphrase: "lost-Passphrase", Go115: true}), want: []string{"wrong-passphrase timestamp"}},
		{name: "salt", plant: flipped(0), want: []string{"wrong-passphrase timestamp"}},
		{name: "wrapped key", plant: flipped(1), want: []string{"wrong-passphrase timestamp"}},
		{name: "nonce", plant: flipped(2), want: []string{"corrupt timestamp"}, says: "does not authenticate"},
		{name: "content", plant: flipped(3), want: []string{"corrupt timestamp"}, says: "does not authenticate"},
		{name: "tag", plant: flipped(4), want: []string{"corrupt timestamp"}, says: "does not authenticate"},
		{name: "cut", plant: damaged(func(_ *keyring, s []byte) []byte { return s[:len(s)/2] }), want: []string{"corrupt timestamp"}},
		{name: "empty", plant: set(`private = $2`, []byte{}), want: []string{"corrupt timestamp"}, says: "not a JWE"},
		{name: "no JWE", plant: set(`private = $2`, []byte("-----BEGIN")), want: []string{"corrupt timestamp"}, says: "not a JWE"},
		{name: "no rounds", plant: count("0"), want: []string{"corrupt timestamp"}, says: "0 iterations"},
		{name: "endless rounds", plant: count("2147483647"), want: []string{"corrupt timestamp"}, says: "2147483647 iterations"},
		{name: "no key in it", plant: damaged(func(r *keyring, _ []byte) []byte { return sealtest.Seal(r.t, upstreams, []byte("x")) }), want: []string{"corrupt timestamp"}, says: "no private key"},
		{name: "public of another", plant: func(r *keyring, g *keptGUN) {
			set(`public = $2`, newRawKey(r.t, tuf.KeyECDSA).Public)(r, g)
		}, want: []string{"corrupt timestamp"}, says: "column public"},
		{name: "public empty", plant: set(`public = $2`, []byte{}), want: []string{"corrupt timestamp"}, says: "column public"},
		{name: "private of the snapshot", plant: damaged(func(r *keyring, _ []byte) []byte {
			return sealtest.Seal(r.t, upstreams, newRawKey(r.t, tuf.KeyECDSA).private)
		}), want: []string{"corrupt timestamp"}, says: "is another one"},
		{name: "algorithm", plant: set(`algorithm = 'rsa'`), want: []string{"corrupt timestamp"}, says: "the key is ecdsa"},
		{name: "algorithm swapped", plant: set(`algorithm = 'ed25519'`), want: []string{"corrupt timestamp"}, says: "the key is ecdsa"},
		{name: "key ID", plant: set(`key_id = 'abc'`), want: []string{"corrupt timestamp"}, says: "column key_id"},

		{name: "row missing", plant: func(r *keyring, g *keptGUN) {
			r.onSigner(`delete from private_keys where key_id = $1`, string(g.timestamp.ID()))
		}, want: []string{"missing-key timestamp"}},
		{name: "row deleted", plant: set(`deleted_at = '2026-01-02 03:04:05'`), want: []string{"deleted timestamp", "missing-key timestamp"}, says: "since 2026-01-02T03:04:05Z"},
		{name: "snapshot deleted", plant: func(r *keyring, g *keptGUN) {
			r.onSigner(`update private_keys set deleted_at = '2026-01-02 03:04:05' where key_id = $1`, string(g.snapshot.ID()))
		}, want: []string{"deleted snapshot", "missing-key snapshot"}},
		{name: "owner's snapshot", plant: func(r *keyring, g *keptGUN) {
			r.onSigner(`delete from private_keys where key_id = $1`, string(g.snapshot.ID()))
		}, want: []string{"client-snapshot snapshot"}},
		{name: "rotated snapshot missing", plant: func(r *keyring, g *keptGUN) {
			r.rotated(g, tuf.RoleSnapshot, r.now.Add(-10*days))
			r.root(g, 2, r.now.Add(-9*days))
		}, want: []string{"missing-key snapshot"}},
		{name: "rotated to its owner", plant: func(r *keyring, g *keptGUN) {
			r.rotated(g, tuf.RoleSnapshot, r.now.Add(-20*days))
			r.root(g, 2, r.now.Add(-19*days))
			g.repo.Rotate(tuf.RoleSnapshot)
			r.root(g, 3, r.now.Add(-9*days))
		}, want: []string{"client-snapshot snapshot"}},
		{name: "GUN changed", plant: set(`gun = 'example.org/sound'`), want: []string{"wrong-owner timestamp"}, says: "example.org/sound"},
		{name: "GUN of nobody", plant: set(`gun = 'nobody'`), want: []string{"wrong-owner timestamp"}, says: "nobody"},
		{name: "role changed", plant: set(`role = 'targets'`), want: []string{"wrong-owner timestamp"}, says: "targets"},
		{name: "nameless", plant: set(`gun = '', role = ''`), want: []string{"nameless "}},

		{name: "orphan", plant: stray(true, "", 300*days, 100*days), want: []string{"no-gun timestamp"}},
		{name: "orphan, never used", plant: stray(true, "", 300*days, 0), want: []string{"no-gun timestamp"}},
		{name: "handed out", plant: stray(true, "", 5*hours, 0), want: []string{"pending timestamp"}},
		{name: "used of late", plant: stray(true, "", 300*days, 30*hours), want: []string{"pending timestamp"}},
		{name: "rotated away", plant: stray(false, "", 300*days, 100*days), want: []string{"unlisted timestamp"}},
		{name: "rotated of late", plant: stray(false, "", 300*days, 30*hours), want: []string{"pending timestamp"}},
		{name: "waiting", plant: stray(false, "", 300*days, 0), want: []string{"pending timestamp"}},
		{name: "deleted stray", plant: stray(true, "2026-01-02 03:04:05", 300*days, 100*days), want: []string{"deleted timestamp"}},
		{name: "older root lists it", plant: func(r *keyring, g *keptGUN) {
			g.repo.Rotate(tuf.RoleTimestamp)
			g.repo.Manage(tuf.RoleTimestamp, g.timestamp.Key)
			g.repo.Rotate(tuf.RoleSnapshot)
			r.root(g, 2, r.now.Add(-9*days))
		}, want: []string{"client-snapshot snapshot"}},
	}
}

// rotated gives the role a key of which there is no row, as the audit log has it.
func (r *keyring) rotated(g *keptGUN, role tuf.RoleName, at time.Time) {
	r.t.Helper()
	g.repo.Manage(role, newRawKey(r.t, tuf.KeyECDSA).Key)
	err := r.plain.Metadata.Record(r.t.Context(), storage.Event{At: at, Action: storage.ActionRotate, GUN: g.gun, Roles: string(role)})
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestKeysDoctor plants each fault into a GUN of its own. Each is told of as what
// it is, once, and nothing else is.
func TestKeysDoctor(t *testing.T) {
	t.Parallel()
	bothKeyrings(t, func(t *testing.T, r *keyring) {
		var want []string
		says := map[string]string{}
		for _, p := range plants() {
			g := r.gun(p.name, upstreams)
			p.plant(r, g)
			for i, w := range p.want {
				gun := string(g.gun)
				switch {
				case strings.HasPrefix(w, "nameless"):
					gun = ""
				case strings.HasPrefix(p.name, "orphan"), p.name == "handed out", p.name == "used of late", p.name == "deleted stray":
					gun += "/no"
				}
				want = append(want, strings.TrimSpace(w+" "+gun))
				if i == len(p.want)-1 {
					says[strings.TrimSpace(w+" "+gun)] = p.says
				}
			}
		}
		sound := r.gun("today", today)
		_ = sound
		r.onSigner(`update private_keys set passphrase_alias = 'weak', private = $2 where key_id = $1`, string(sound.snapshot.ID()),
			sealtest.Seal(t, sealtest.Form{Passphrase: weakPass, Iterations: seal.DefaultIterations}, sound.snapshot.private))
		want = append(want, "weak-passphrase  weak")

		var got []string
		var rows int64
		report, err := r.plain.DoctorKeys(t.Context(), admin.DoctorConfig{}, func(f admin.KeyFinding) error {
			wantNoSecrets(t, string(f.Class), f)
			if f.Class == admin.KeyOpens || f.Class == admin.KeyFewRounds {
				return nil
			}
			name := strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Class, f.Role, f.GUN))
			if f.Class == admin.KeyWeakPassphrase {
				name = fmt.Sprintf("%s  %s", f.Class, f.Alias)
			}
			got = append(got, name)
			if !strings.Contains(f.Text, says[name]) {
				t.Errorf("%s: it says %q, not %q", name, f.Text, says[name])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
		for _, a := range report.Aliases {
			rows += a.Opened + a.Failed
		}
		if all := int64(len(r.rows())); report.Rows != all || rows != all-3 || report.Faults == 0 || report.NoRoots {
			t.Errorf("%d rows: %+v", all, report)
		}
	})
}

// TestKeysDoctorSound: a healthy installation has nothing to do; with the word of
// the operator a snapshot without a row is one; without the server's database
// roots are not looked at, and that is told.
func TestKeysDoctorSound(t *testing.T) {
	t.Parallel()
	r := newKeyring(t, "sqlite3")
	g := r.gun("app", today)
	r.onSigner(`delete from private_keys where key_id = $1`, string(g.snapshot.ID()))
	classes := func(s *admin.Site, c admin.DoctorConfig) (list []admin.KeyClass, report *admin.KeyReport) {
		t.Helper()
		report, err := s.DoctorKeys(t.Context(), c, func(f admin.KeyFinding) error { list = append(list, f.Class); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return list, report
	}
	got, report := classes(r.site(nil), admin.DoctorConfig{})
	if want := []admin.KeyClass{admin.KeyOpens, admin.KeyClientSnapshot}; !slices.Equal(got, want) || report.Faults != 0 {
		t.Errorf("%v, %+v", got, report)
	}
	got, report = classes(r.site(nil), admin.DoctorConfig{ServerSnapshots: true})
	if want := []admin.KeyClass{admin.KeyOpens, admin.KeyMissing}; !slices.Equal(got, want) || report.Faults != 1 {
		t.Errorf("with snapshots by the server: %v, %+v", got, report)
	}
	got, report = classes(r.site(func(c *admin.SiteConfig) { c.ServerConfig = "" }), admin.DoctorConfig{})
	if want := []admin.KeyClass{admin.KeyOpens}; !slices.Equal(got, want) || !report.NoRoots {
		t.Errorf("without the server: %v, %+v", got, report)
	}
	// No row has the alias of this passphrase; the environment does.
	sealed("main", sealtest.Form{Passphrase: newPass})(r, g)
	got, report = classes(r.plain, admin.DoctorConfig{})
	if want := []admin.KeyClass{admin.KeyWrongAlias, admin.KeyClientSnapshot}; !slices.Equal(got, want) || len(report.Aliases) != 1 {
		t.Errorf("of an alias that no row has: %v, %+v", got, report)
	}
}
