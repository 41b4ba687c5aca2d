package admin_test

import (
	"encoding/json"
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

// A planting puts one fault into a repository.
type planting struct {
	name string
	do   func(v *vault, gun tuf.GUN)
	want []string // "role version class"
}

const (
	rTargets   = tuf.RoleTargets
	rRoot      = tuf.RoleRoot
	rSnapshot  = tuf.RoleSnapshot
	rTimestamp = tuf.RoleTimestamp
)

func drop(role tuf.RoleName, version int) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) { v.exec(`delete from tuf_files`+one, string(gun), string(role), version) }
}

func flip(role tuf.RoleName, version tuf.Version) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) { v.flip(gun, role, version) }
}

// update sets columns of one row.
func update(columns string, role tuf.RoleName, version int) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) {
		v.exec(`update tuf_files set `+columns+one, string(gun), string(role), version)
	}
}

func feed(statement string) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) { v.exec(statement, string(gun)) }
}

func forged(sigs []any) []any {
	sig := sigs[0].(map[string]any)
	s := []byte(sig["sig"].(string))
	slices.Reverse(s[4:20])
	sig["sig"] = string(s)
	return sigs
}

func resign(role tuf.RoleName, version tuf.Version, change func([]any) []any) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) { v.resign(gun, role, version, change) }
}

// foreign puts the same file of another repository there.
func foreign(role tuf.RoleName, version tuf.Version) func(*vault, tuf.GUN) {
	return func(v *vault, gun tuf.GUN) { v.set(gun, role, version, v.file("healthy.example/1", role, version)) }
}

// next publishes a sixth generation of which the repository's owner is to blame.
func next(change func(r *tuftest.Repo), roles ...tuf.RoleName) func(*vault, *tuftest.Repo) {
	return func(v *vault, r *tuftest.Repo) {
		change(r)
		v.publish(r, r.Next(roles...))
	}
}

var zeros = strings.Repeat("0", 64)

// rowPlants break rows.
var rowPlants = []planting{
	{"flipped root", flip(rRoot, 2), []string{"root 2 bytes"}},
	{"flipped older root", flip(rRoot, 1), []string{"root 1 bytes"}},
	{"flipped targets", flip(rTargets, 3), []string{"targets 3 bytes"}},
	{"flipped delegation", flip("targets/a", 2), []string{"targets/a 2 bytes"}},
	{"flipped child", flip("targets/a/b", 2), []string{"targets/a/b 2 bytes"}},
	{"flipped snapshot", flip(rSnapshot, 5), []string{"snapshot 5 bytes"}},
	{"flipped timestamp", flip(rTimestamp, 5), []string{"timestamp 5 bytes"}},
	{"flipped older targets", flip(rTargets, 1), []string{"targets 1 bytes"}},
	{"flipped older timestamp", flip(rTimestamp, 2), []string{"timestamp 2 bytes"}},
	{"missing root", drop(rRoot, 2), []string{"root 0 missing"}},
	{"missing targets", drop(rTargets, 3), []string{"targets 0 missing"}},
	{"missing delegation", drop("targets/a", 2), []string{"targets/a 0 missing"}},
	{"missing child", drop("targets/a/b", 2), []string{"targets/a/b 0 missing"}},
	{"missing snapshot", drop(rSnapshot, 5), []string{"snapshot 0 missing"}},
	{"missing timestamp", drop(rTimestamp, 5), []string{"timestamp 5 rolled-back"}},
	{"missing first root", drop(rRoot, 1), []string{"root 1 root-hole"}},
	{"missing older targets", drop(rTargets, 2), []string{"targets 0 old-missing"}},
	{"missing older delegation", drop("targets/a", 1), []string{"targets/a 0 old-missing"}},
	{"missing older snapshot", drop(rSnapshot, 2), []string{"snapshot 0 old-missing"}},
	{"missing older timestamp", drop(rTimestamp, 2), []string{"timestamp 2 timestamp-gap"}},
	{"wrong checksum", update(`sha256 = '`+zeros+`'`, rTargets, 1), []string{"targets 1 checksum"}},
	{"wrong checksum of current", update(`sha256 = '`+zeros+`'`, rTargets, 3), []string{"targets 3 checksum"}},
	{"no checksum", update(`sha256 = null`, rSnapshot, 2), []string{"snapshot 2 checksum"}},
	{"checksum in capitals", update(`sha256 = upper(sha256)`, rTargets, 2), []string{"targets 2 checksum"}},
	{"wrong checksum of timestamp", update(`sha256 = '`+zeros+`'`, rTimestamp, 5), []string{"timestamp 5 checksum"}},
	{"swapped checksums", func(v *vault, gun tuf.GUN) {
		x, y := tuf.Sum(v.file(gun, rTargets, 1)), tuf.Sum(v.file(gun, rTargets, 2))
		update(`sha256 = '`+y.String()+`'`, rTargets, 1)(v, gun)
		update(`sha256 = '`+x.String()+`'`, rTargets, 2)(v, gun)
	}, []string{"targets 1 checksum", "targets 2 checksum"}},
	{"forged timestamp", resign(rTimestamp, 5, forged), []string{"timestamp 5 signature"}},
	{"forged older snapshot", resign(rSnapshot, 2, forged), []string{"snapshot 2 signature"}},
	{"forged root", resign(rRoot, 1, forged), []string{"root 1 signature"}},
	{"unsigned delegation", resign("targets/a", 2, func([]any) []any { return []any{} }), []string{"targets/a 2 unsigned"}},
	{"unsigned older root", resign(rRoot, 1, func([]any) []any { return nil }), []string{"root 1 unsigned"}},
	{"root of another", foreign(rRoot, 1), []string{"root 1 gun"}},
	{"targets of another", foreign(rTargets, 2), []string{"targets 2 foreign"}},
	{"delegation of another", foreign("targets/a", 2), []string{"targets/a 2 foreign"}},
	{"snapshot of another", foreign(rSnapshot, 5), []string{"snapshot 5 foreign"}},
	{"timestamp of another", foreign(rTimestamp, 5), []string{"timestamp 5 foreign"}},
	{"version of timestamp", update(`version = 9`, rTimestamp, 5), []string{"timestamp 9 version"}},
	{"version of older targets", update(`version = 7`, rTargets, 2), []string{"targets 7 version"}},
	{"version of root", update(`version = 3`, rRoot, 2), []string{"root 3 version"}},
	{"delegation renamed", update(`role = 'targets/x'`, "targets/a", 2), []string{"targets/x 2 role"}},
	{"snapshot as targets", update(`role = 'targets'`, rSnapshot, 5), []string{"targets 5 role"}},
	{"root as what is no role", update(`role = 'rooot'`, rRoot, 1), []string{"rooot 1 role"}},
	{"current hidden", update(`deleted_at = created_at`, rTargets, 3), []string{"targets 3 hidden"}},
	{"timestamp hidden", update(`deleted_at = created_at`, rTimestamp, 5), []string{"timestamp 5 hidden"}},
	{"older marked as deleted", update(`deleted_at = created_at`, rTargets, 1), []string{"targets 1 soft-deleted"}},
	{"empty", func(v *vault, gun tuf.GUN) { v.bytes(gun, "targets/a", 2, []byte{}) }, []string{"targets/a 2 empty"}},
	{"cut", func(v *vault, gun tuf.GUN) {
		data := v.file(gun, rTargets, 2)
		v.set(gun, rTargets, 2, data[:len(data)-9])
	}, []string{"targets 2 malformed"}},
	{"no timestamp", func(v *vault, gun tuf.GUN) {
		v.exec(`delete from tuf_files where gun = $1 and role = 'timestamp'`, string(gun))
	}, []string{"timestamp 0 no-timestamp"}},
	{"debris", func(v *vault, gun tuf.GUN) {
		v.exec(`delete from tuf_files where gun = $1 and role not like 'targets/%'`, string(gun))
	}, []string{" 0 debris"}},
	{"gone", func(v *vault, gun tuf.GUN) { v.exec(`delete from tuf_files where gun = $1`, string(gun)) }, []string{" 0 gone"}},
}

// feedPlants break the changefeed, and what lies between the databases.
var feedPlants = []planting{
	{"no entry", feed(`delete from changefeed where gun = $1 and version = 3`), []string{"timestamp 3 feed-missing"}},
	{"no newest entry", feed(`delete from changefeed where gun = $1 and version = 5`), []string{"timestamp 5 feed-missing"}},
	{"sha256 of entry", feed(`update changefeed set sha256 = '` + zeros + `' where gun = $1 and version = 3`), []string{"timestamp 3 feed-sha256"}},
	{"version of entry", feed(`update changefeed set version = 30 where gun = $1 and version = 3`), []string{"timestamp 3 feed-version"}},
	{"entry twice", feed(`insert into changefeed (created_at, gun, version, sha256, category)
		select created_at, gun, version, sha256, category from changefeed where gun = $1 and version = 3`), []string{"timestamp 3 feed-twice"}},
	{"order", func(v *vault, gun tuf.GUN) {
		two, three := tuf.Sum(v.file(gun, rTimestamp, 2)), tuf.Sum(v.file(gun, rTimestamp, 3))
		v.exec(`update changefeed set version = 99, sha256 = $2 where gun = $1 and version = 2`, string(gun), three.String())
		v.exec(`update changefeed set version = 2, sha256 = $2 where gun = $1 and version = 3`, string(gun), two.String())
		v.exec(`update changefeed set version = 3 where gun = $1 and version = 99`, string(gun))
	}, []string{"timestamp 2 feed-order"}},
	{"entry without row", feed(`insert into changefeed (created_at, gun, version, sha256) values ('2026-01-01', $1, 3, '` + zeros + `')`), []string{"timestamp 3 feed-orphan"}},
	{"entry ahead", feed(`insert into changefeed (created_at, gun, version, sha256) values ('2026-01-01', $1, 12, '` + zeros + `')`), []string{"timestamp 12 rolled-back"}},
	{"deletion", feed(`insert into changefeed (created_at, gun, version, sha256, category) values ('2026-01-01', $1, 0, '', 'deletion')`), []string{"timestamp 5 feed-deleted"}},
	{"key of a deleted repository", feed(`insert into countersign_doomed_key (key_id, gun, role) values ('abc', $1, 'timestamp')`), []string{"timestamp 0 key-doomed"}},
	{"purge", feed(`insert into countersign_purge (gun, at, archive, digest, actor, reason, key_ids) values ($1, '2026-01-01', 'x.tar', '', '', '', '')`), []string{" 0 purge-open"}},
}

// ownerPlants are faults that were signed.
var ownerPlants = []struct {
	name string
	do   func(v *vault, r *tuftest.Repo)
	want []string
}{
	{"delegation key removed", next(func(r *tuftest.Repo) {
		old := r.Keys["targets/a"]
		r.SetKeys("targets/a", 1, r.NewKey("targets/a"))
		r.Keys["targets/a"] = old // whose file stays as it is
	}, rTargets), []string{"targets/a 2 signature"}},
	{"length", next(editMeta(func(meta map[string]any) {
		m := meta["targets"].(map[string]any)
		n, _ := m["length"].(json.Number).Int64()
		m["length"] = n + 1
	}), rTargets), []string{"targets 4 mismatch"}},
	{"unknown file named", next(editMeta(func(meta map[string]any) { meta["targets/ghost"] = meta["targets"] }), rTargets), []string{"targets/ghost 0 missing"}},
	{"no role named", next(editMeta(func(meta map[string]any) { meta["ghost"] = meta["targets"] }), rTargets), []string{"ghost 0 stray-name"}},
	{"root chain", func(v *vault, r *tuftest.Repo) {
		k := r.NewKey(rRoot)
		r.SetKeys(rRoot, 1, k)
		v.publish(r, r.Next(rRoot))
	}, []string{"root 2 root-chain"}},
	{"expired targets", next(func(r *tuftest.Repo) { r.Targets[rTargets].Expires = r.Now.AddDate(-2, 0, 0) }, rTargets), []string{"targets 4 expired"}},
}

func editMeta(change func(meta map[string]any)) func(r *tuftest.Repo) {
	return func(r *tuftest.Repo) {
		r.Edit[rSnapshot] = func(signed map[string]any) { change(signed["meta"].(map[string]any)) }
	}
}

// Each of the planted faults is named, by repository, role, version and class,
// and nothing else is.
func TestFsckNamesEachFault(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		want := map[tuf.GUN][]string{}
		gunOf := func(name string) tuf.GUN {
			return tuf.GUN("faulty.example/" + strings.ReplaceAll(strings.ToLower(name), " ", "-"))
		}
		for i := range 12 {
			v.repo(tuf.GUN(fmt.Sprintf("healthy.example/%d", i)))
		}
		for _, p := range slices.Concat(rowPlants, feedPlants) {
			gun := gunOf(p.name)
			v.repo(gun)
			p.do(v, gun)
			want[gun] = p.want
		}
		for _, p := range ownerPlants {
			r := v.repo(gunOf(p.name))
			p.do(v, r)
			want[r.GUN] = p.want
		}
		// One row that has gone to another repository, which is two findings.
		v.repo("faulty.example/from")
		v.begin("faulty.example/to")
		v.exec(`update tuf_files set gun = 'faulty.example/to' where gun = 'faulty.example/from' and role = 'targets' and version = 3`)
		want["faulty.example/from"], want["faulty.example/to"] = []string{"targets 0 missing"}, []string{"targets 3 foreign"}
		if len(want) < 60 {
			t.Fatalf("only %d faults were planted", len(want))
		}
		found, totals := v.fsck(admin.FsckConfig{})
		for gun, list := range found {
			slices.Sort(list)
			found[gun] = list
		}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("planted -, found +:\n%s", diff)
		}
		if totals.Faults < 50 || totals.Notes == 0 || totals.Repositories < 70 {
			t.Errorf("totals %+v", totals)
		}
	})
}

func TestFsckOneRepository(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		v.repo("a.example/good")
		v.repo("a.example/bad")
		v.repo("b.example/bad")
		v.flip("a.example/bad", rTargets, 3)
		v.flip("b.example/bad", rTargets, 3)
		for _, c := range []struct {
			cfg  admin.FsckConfig
			want int
		}{
			{admin.FsckConfig{GUNs: []tuf.GUN{"a.example/good"}}, 0},
			{admin.FsckConfig{GUNs: []tuf.GUN{"a.example/bad", "a.example/good"}}, 1},
			{admin.FsckConfig{Prefix: "a."}, 1},
			{admin.FsckConfig{}, 2},
		} {
			if found, _ := v.fsck(c.cfg); len(found) != c.want {
				t.Errorf("%+v: %v", c.cfg, found)
			}
		}
		_, err := v.site().Fsck(t.Context(), admin.FsckConfig{GUNs: []tuf.GUN{"a.example/good", "nobody"}}, func(admin.Inspected) error { return nil })
		if !errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), `"nobody"`) {
			t.Errorf("of a repository that is not there: %v", err)
		}
		stop := errors.New("the reader has gone")
		if _, err := v.site().Fsck(t.Context(), admin.FsckConfig{}, func(admin.Inspected) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v, want the error of report", err)
		}
	})
}

// What upstream's server, restorations, renewals, prunes by hand and long lives
// leave behind is no fault.
func TestFsckRaisesNoFalseAlarm(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		// A delegation that was removed, with what stood below it, and came back.
		r := v.repo("x.example/revived")
		r.RemoveDelegation("targets/a/b")
		r.RemoveDelegation("targets/a")
		v.publish(r, r.Next(rTargets))
		r.AddDelegation("targets/a")
		files := r.Next(rTargets)
		files["targets/a"] = r.File("targets/a") // version 1
		v.publish(r, files, "targets/a")
		v.publish(r, r.Next("targets/a"))

		// Roots rotated many times, all server keys too.
		r = v.repo("x.example/rotated")
		for range 4 {
			r.Rotate(rRoot)
			r.Rotate(rTargets)
			r.Rotate(rSnapshot)
			r.Rotate(rTimestamp)
			v.publish(r, r.Next(rRoot, rTargets))
			r.Keys[rRoot] = r.Keys[rRoot][len(r.Keys[rRoot])-1:]
		}

		// The first root has version 2.
		r = tuftest.New(t, "x.example/second", tuftest.Options{})
		r.Root.Version = 2
		v.publish(r, r.Upload())

		// Old versions removed by hand.
		v.repo("x.example/cut")
		v.exec(`delete from tuf_files where gun = 'x.example/cut' and role in ('snapshot', 'timestamp', 'targets') and created_at <
			(select max(created_at) from tuf_files where gun = 'x.example/cut')`)

		// Entries that were made by upstream's migration, in the order of local times.
		v.repo("x.example/backfilled")
		v.exec(`update tuf_files set created_at = '2020-10-25 01:30:00' where gun = 'x.example/backfilled' and role = 'timestamp' and version = 3`)
		v.exec(`delete from changefeed where gun = 'x.example/backfilled'`)
		v.exec(`insert into changefeed (gun, version, sha256, created_at) select gun, version, sha256, created_at
			from tuf_files where gun = 'x.example/backfilled' and role = 'timestamp' order by created_at`)

		// Deleted and begun anew.
		v.repo("x.example/again")
		if _, err := v.store.Delete(t.Context(), "x.example/again"); err != nil {
			t.Fatal(err)
		}
		v.exec(`delete from countersign_doomed_key`)
		delete(v.base, "x.example/again")
		v.repo("x.example/again")
		// Deleted, and nothing since.
		v.repo("x.example/deleted")
		if _, err := v.store.Delete(t.Context(), "x.example/deleted"); err != nil {
			t.Fatal(err)
		}
		v.exec(`delete from countersign_doomed_key`)

		// The owner lets others sign with new keys, and old files stay.
		r = v.repo("x.example/rekeyed")
		r.SetKeys("targets/a", 1, r.NewKey("targets/a"))
		v.publish(r, r.Next(rTargets, "targets/a"))

		v.clean()
	})
}

// A repository that changes while it is read is not called faulty.
func TestFsckBesidePublishes(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		r := v.repo("x.example/busy")
		v.flip("x.example/busy", rTargets, 1)
		stop, done := make(chan struct{}), make(chan error, 1)
		site := v.site(func(c *admin.SiteConfig) { c.Now = func() time.Time { return r.Now } })
		go func() {
			var err error
			for err == nil {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				_, err = site.Fsck(t.Context(), admin.FsckConfig{}, func(o admin.Inspected) error {
					for _, f := range o.Findings {
						if f.Class != admin.ClassUnsettled && short(f) != "targets 1 bytes" {
							return fmt.Errorf("found %+v", f)
						}
					}
					return nil
				})
			}
			done <- err
		}()
		for range 40 {
			v.publish(r, r.Next(rTargets))
		}
		close(stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
