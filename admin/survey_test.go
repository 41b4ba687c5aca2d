package admin_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const day = 24 * time.Hour

// A fault is a repository with one thing wrong.
type fault struct {
	name  string
	state string
	role  tuf.RoleName // that is said to have it; "" for the whole
	says  []string     // in what is wrong or what to do
	note  bool         // it is a note, and clients are well
	make  func(l *looker, r *tuftest.Repo)
}

func stored(change func(r *tuftest.Repo)) func(*looker, *tuftest.Repo) {
	return func(l *looker, r *tuftest.Repo) {
		change(r)
		l.put(r)
	}
}

// typedAfter stores a sound repository and then changes rows by hand.
func typedAfter(query string) func(*looker, *tuftest.Repo) {
	return func(l *looker, r *tuftest.Repo) {
		l.put(r)
		l.exec(query, string(r.GUN))
	}
}

const alice tuf.RoleName = "targets/alice"

var faults = []fault{
	{name: "none", state: admin.StateOK, make: stored(func(*tuftest.Repo) {})},
	{name: "signer's key purged", state: admin.StateUnverified, role: alice,
		says: []string{"it needs 1 signature, but targets lists no key for it: nobody can sign it", "which targets does not list (any more)", "Clients pass over",
			"notary delegation add", "notary delegation remove", "docker trust signer remove"},
		make: stored(func(r *tuftest.Repo) {
			old := r.Keys[alice]
			r.SetKeys(alice, 1)
			r.Keys[alice] = old
		})},
	{name: "signer's key replaced", state: admin.StateUnverified, role: alice,
		says: []string{"0 of 1 signature needed that are good", "which targets does not list", "notary witness"},
		make: stored(func(r *tuftest.Repo) {
			old := r.Keys[alice]
			r.SetKeys(alice, 1, r.NewKey(alice))
			r.Keys[alice] = old
		})},
	{name: "threshold above the keys", state: admin.StateUnverified, role: alice, says: []string{"it needs 2 signatures, but targets lists only 1 key for it: that can not be met"},
		make: stored(func(r *tuftest.Repo) { r.Delegation(alice).Threshold = 2 })},
	{name: "delegation not signed", state: admin.StateUnverified, role: alice, says: []string{"it is not signed at all", "Clients refuse the whole repository"},
		make: stored(func(r *tuftest.Repo) { r.Keys[alice] = nil })},
	{name: "targets by another key", state: admin.StateUnverified, role: "targets", says: []string{"which root does not list", "Clients refuse the whole repository", "notary witness"},
		make: stored(func(r *tuftest.Repo) { r.Keys["targets"] = []*tuftest.Key{r.NewKey("targets")} })},
	{name: "signature of other bytes", state: admin.StateUnverified, role: "targets", says: []string{"is not one of these bytes"},
		make: stored(func(r *tuftest.Repo) {
			first := r.File("targets")
			r.Targets["targets"].Version = 2
			second := r.File("targets")
			r.Raw["targets"] = slices.Concat(second[:signaturesAt(second)], first[signaturesAt(first):])
		})},
	{name: "targets expired", state: admin.StateExpired, role: "targets", says: []string{"it expired at 2026-11-21 15:00: clients refuse it", "notary witness"},
		make: stored(func(r *tuftest.Repo) { r.Targets["targets"].Expires = lookNow.Add(-time.Hour) })},
	{name: "root expired", state: admin.StateExpired, role: "root", says: []string{"it expired at", "notary key rotate"},
		make: stored(func(r *tuftest.Repo) { r.Root.Expires = lookNow.Add(-time.Hour) })},
	{name: "root certificate ended", state: admin.StateUnverified, role: "root", says: []string{"the certificate of key", "ended at 2026-11-20 16:00", "notary key rotate"},
		make: func(l *looker, r *tuftest.Repo) { certify(l, r, string(r.GUN), lookNow.Add(-day)) }},
	{name: "root certificate of another", state: admin.StateUnverified, role: "root", says: []string{`is for "example.org/other"`},
		make: func(l *looker, r *tuftest.Repo) { certify(l, r, "example.org/other", lookNow.Add(day)) }},
	{name: "root does not follow", state: admin.StateUnverified, role: "root", says: []string{"version 1 does not vouch for version 2", "clients that know version 1", "~/.docker/trust/tuf"},
		make: func(l *looker, r *tuftest.Repo) {
			l.row(r.GUN, "root", r.File("root"))
			r.SetKeys("root", 1, r.NewKey("root"))
			r.Root.Version = 2
			l.put(r)
		}},
	{name: "hole in root", state: admin.StateDamaged, role: "root", says: []string{"version 2 of it is not stored", "backup"},
		make: stored(func(r *tuftest.Repo) { r.Root.Version = 3 })},
	{name: "byte flipped", state: admin.StateDamaged, role: "targets", says: []string{"the right checksum, but other bytes", "backup"},
		make: func(l *looker, r *tuftest.Repo) {
			l.put(r)
			flipped := slices.Clone(r.File("targets"))
			flipped[20] ^= 1
			l.exec(`update tuf_files set data = $2 where gun = $1 and role = 'targets'`, string(r.GUN), flipped)
		}},
	{name: "row missing", state: admin.StateDamaged, role: alice, says: []string{"is not stored", "404"}, make: typedAfter(`delete from tuf_files where gun = $1 and role = 'targets/alice'`)},
	{name: "newer row", state: admin.StateOK, make: func(l *looker, r *tuftest.Repo) {
		l.put(r)
		l.exec(`insert into tuf_files (gun, role, version, data, sha256) values ($1, 'targets', 7, 'x', 'y')`, string(r.GUN))
	}},
	{name: "checksum column", state: admin.StateDamaged, role: "targets", says: []string{`the checksum "none"`}, make: typedAfter(`update tuf_files set sha256 = 'none' where gun = $1 and role = 'targets'`)},
	{name: "version column", state: admin.StateDamaged, role: alice, says: []string{"it is stored as version 9, but is version 1"}, make: typedAfter(`update tuf_files set version = 9 where gun = $1 and role = 'targets/alice'`)},
	{name: "timestamp no JSON", state: admin.StateDamaged, role: "timestamp", says: []string{"damaged"}, make: typedAfter(`update tuf_files set data = 'x' where gun = $1 and role = 'timestamp'`)},
	{name: "no timestamp", state: admin.StateNoTimestamp, says: []string{"there is no timestamp", "purge the name"}, make: typedAfter(`delete from tuf_files where gun = $1 and role = 'timestamp'`)},
	{name: "timestamp deleted softly", state: admin.StateNoTimestamp, says: []string{"there is no timestamp"}, make: typedAfter(`update tuf_files set deleted_at = '2026-01-01 00:00:00' where gun = $1 and role = 'timestamp'`)},
	{name: "not published yet", state: admin.StateOK, role: alice, note: true, says: []string{"nothing has been published by it yet"},
		make: stored(func(r *tuftest.Repo) { delete(r.Targets, alice) })},
	{name: "never to be published", state: admin.StateOK, role: alice, note: true, says: []string{"needs 1 signature, but targets lists 0 keys", "adds a key"},
		make: stored(func(r *tuftest.Repo) {
			r.SetKeys(alice, 1)
			delete(r.Targets, alice)
		})},
	{name: "stranger", state: admin.StateOK, role: alice, note: true, says: []string{"nothing delegates to it"},
		make: stored(func(r *tuftest.Repo) {
			keep := r.Targets[alice]
			keys := r.Keys[alice]
			r.RemoveDelegation(alice)
			r.Targets[alice], r.Keys[alice] = keep, keys
		})},
}

func certify(l *looker, r *tuftest.Repo, cn string, end time.Time) {
	k := tuftest.NewKey(l.t, tuf.KeyECDSA).Certify(l.t, tuftest.Cert{CN: cn, NotBefore: lookNow.Add(-10 * day), NotAfter: end})
	r.SetKeys("root", 1, k)
	l.put(r)
}

func signaturesAt(file []byte) int { return strings.Index(string(file), `,"signatures":`) }

// Each fault is named, by its role and with what mends it, and nothing else; and
// a repository is ok exactly if a client finds nothing wrong.
func TestShowExplains(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		for i, f := range faults {
			gun := tuf.GUN(fmt.Sprintf("example.org/fault/%d", i))
			repo := newRepo(l.t, gun)
			l.key(gun, "timestamp", repo.Keys["timestamp"][0].Key)
			f.make(l, repo)
			r := l.show(gun)
			if err := l.fsck(gun); (err == nil) != (r.State == admin.StateOK) && f.name != "checksum column" {
				l.t.Errorf("%s: it is %q, but a client finds: %v", f.name, r.State, err)
			}
			if r.State != f.state {
				l.t.Errorf("%s: state %q, want %q: %+v", f.name, r.State, f.state, troubles(r))
				continue
			}
			brief := listed(l, gun)
			if brief.State != r.State || brief.Tags != r.Tags || brief.Size != r.Size || brief.NextExpiry == nil != (r.NextExpiry == nil) {
				l.t.Errorf("%s: ls says %+v, show %+v", f.name, brief, r.Summary)
			}
			var text string
			for name, list := range troubles(r) {
				if below := strings.Contains(fmt.Sprint(list), "because targets above it does not verify"); name != f.role && !(below && f.role == "targets") {
					l.t.Errorf("%s: %s has %v", f.name, name, list)
				}
				for _, one := range list {
					text += one.What + " " + one.Do + "\n"
				}
			}
			if f.role != "" {
				if got := role(l.t, r, f.role); (len(got.Troubles) == 0) != f.note || got.Verifies && !f.note {
					l.t.Errorf("%s: %+v", f.name, got)
				}
			}
			for _, want := range f.says {
				if !strings.Contains(text, want) {
					l.t.Errorf("%s: does not say %q:\n%s", f.name, want, text)
				}
			}
			if strings.Contains(text, " GUN ") {
				l.t.Errorf("%s: a command without the name:\n%s", f.name, text)
			}
		}
	})
}

func troubles(r *admin.Repository) map[tuf.RoleName][]admin.Trouble {
	m := map[tuf.RoleName][]admin.Trouble{}
	if len(r.Troubles) > 0 {
		m[""] = r.Troubles
	}
	for _, role := range r.Roles {
		if list := slices.Concat(role.Troubles, role.Notes); len(list) > 0 {
			m[role.Role] = list
		}
	}
	return m
}

func listed(l *looker, gun tuf.GUN) admin.Summary {
	l.t.Helper()
	var got []admin.Summary
	err := l.List(l.t.Context(), admin.Selection{GUNs: []tuf.GUN{gun}}, func(s admin.Summary) error { got = append(got, s); return nil })
	if err != nil || len(got) != 1 {
		l.t.Fatalf("%v, %v", got, err)
	}
	return got[0]
}

// Who holds which key, and what it means that the signer has lost one.
func TestKeyCustody(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		for _, c := range []struct {
			gun                 tuf.GUN
			snapshot, timestamp bool
			expires             time.Time
			state, note         string
		}{
			{gun: "example.org/both", snapshot: true, timestamp: true, state: admin.StateOK},
			{gun: "example.org/ts", timestamp: true, state: admin.StateOK},
			{gun: "example.org/none", state: admin.StateOK, note: "the signer has none of the keys that root lists for it"},
			{gun: "example.org/late", expires: lookNow.Add(-day), state: admin.StateExpired, note: "it cannot be renewed, and it expired"},
			{gun: "example.org/slow", timestamp: true, expires: lookNow.Add(-day), state: admin.StateOK, note: "the server renews it when it is next read"},
		} {
			r := newRepo(l.t, c.gun)
			if !c.expires.IsZero() {
				r.Timestamp.Expires = c.expires
			}
			l.put(r)
			if c.snapshot {
				l.key(c.gun, "snapshot", r.Keys["snapshot"][0].Key)
			}
			if c.timestamp {
				l.key(c.gun, "timestamp", r.Keys["timestamp"][0].Key)
			}
			got := l.show(c.gun)
			want := map[bool]string{true: admin.HeldByServer, false: admin.HeldByClient}
			if got.State != c.state || got.SnapshotKey != want[c.snapshot] || listed(l, c.gun).SnapshotKey != want[c.snapshot] ||
				role(l.t, got, "timestamp").Keys[0].Holder != want[c.timestamp] || role(l.t, got, "targets").Keys[0].Holder != admin.HeldByClient {
				l.t.Errorf("%s: %+v", c.gun, got.Summary)
			}
			text := fmt.Sprint(troubles(got)["timestamp"])
			if (c.note == "") != (text == "[]") || !strings.Contains(text, c.note) {
				l.t.Errorf("%s: %s", c.gun, text)
			}
		}
		l.Keys = nil
		if got := l.show("example.org/both"); got.SnapshotKey != admin.HeldByUnknown || got.State != admin.StateOK {
			l.t.Errorf("without the signer: %+v", got.Summary)
		}
	})
}

func TestSummary(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		r := newRepo(l.t, "example.org/a")
		r.Targets["targets/releases"].Expires = lookNow.Add(5 * day)
		l.put(r)
		size := int64(10)
		for _, f := range r.Files() {
			size += int64(len(f))
		}
		// An old file counts for its size alone; what the server makes is no publish.
		l.exec(`insert into tuf_files (created_at, gun, role, version, data) values ('2020-01-02 00:00:00', 'example.org/a', 'targets', 0, '0123456789')`)
		l.exec(`update tuf_files set created_at = '2026-11-21 15:59:00' where role = 'timestamp' or role = 'snapshot'`)
		want := admin.Summary{
			GUN: "example.org/a", State: admin.StateOK, Tags: 2, Signers: []tuf.RoleName{alice}, Versions: 7, Size: size,
			LastPublish: lookNow.Add(-time.Hour), NextExpiry: &admin.Deadline{Role: "targets/releases", Expires: lookNow.Add(5 * day)}, SnapshotKey: admin.HeldByClient,
		}
		if diff := cmp.Diff(want, listed(l, "example.org/a")); diff != "" {
			l.t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A wrong name is an error that offers the right one.
func TestUnknownGUN(t *testing.T) {
	t.Parallel()
	l := sqliteLooker(t)
	for _, gun := range []tuf.GUN{"registry.example.com/team/app", "registry.example.com/team/api", "other.example.com/tools/x", "docker.io/library/alpine"} {
		l.put(newRepo(t, gun))
	}
	for wrong, want := range map[tuf.GUN]string{
		"registry.example.com/team/aap":          `"registry.example.com/team/app"`,
		"Registry.Example.com/team/app":          `"registry.example.com/team/app"`,
		"library/alpine":                         `"docker.io/library/alpine"`,
		"registry.example.com:5000/team/app":     `"registry.example.com/team/app"`,
		"totally/different":                      `no repository is named "totally/different"`,
		"\x1b[31mregistry.example.com/team/app1": `\x1b[31m`,
	} {
		_, err := l.Show(t.Context(), wrong)
		if !errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
