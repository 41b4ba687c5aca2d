package admin_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/admin/archive"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const aDay = 24 * time.Hour

// longLife makes a repository that was published to each tenth day of 400, by
// turns to targets, targets/a and root; the last time a day ago.
func (v *vault) longLife(gun tuf.GUN) *tuftest.Repo {
	v.Helper()
	end := time.Now().UTC()
	v.now = end.Add(-401 * aDay)
	r := v.begin(gun)
	for i := range 40 {
		v.now = end.Add(-401*aDay + time.Duration(i+1)*10*aDay)
		switch {
		case i == 20:
			r.Rotate(tuf.RoleTargets)
			v.publish(r, r.Next(tuf.RoleRoot, tuf.RoleTargets))
		case i%4 == 3:
			v.publish(r, r.Next("targets/a"))
		default:
			v.publish(r, r.Next(tuf.RoleTargets))
		}
	}
	v.now = end
	return r
}

// rows lists "role version" of gun.
func (v *vault) rows(gun tuf.GUN) (list []string) {
	v.Helper()
	files, err := v.store.Files(v.Context(), gun)
	if err != nil {
		v.Fatal(err)
	}
	for _, f := range files {
		list = append(list, fmt.Sprintf("%s %d", f.Role, f.Version))
	}
	slices.Sort(list)
	return list
}

func (v *vault) prune(c admin.PruneConfig, change ...func(*admin.SiteConfig)) []admin.Pruned {
	v.Helper()
	var all []admin.Pruned
	if err := v.site(change...).Prune(v.Context(), c, func(p admin.Pruned) error { all = append(all, p); return nil }); err != nil {
		v.Fatal(err)
	}
	return all
}

func everything(c admin.PruneConfig) admin.PruneConfig {
	c.Selection = admin.Selection{All: true}
	return c
}

// What goes is old by count and by the time of its replacement, and nothing that
// a kept generation consists of.
func TestPruneKeeps(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		const gun = "x.example/long"
		v.longLife(gun)
		before := v.rows(gun)
		// 41 generations, one each 10 days. Replaced within 100 days: 10, and those
		// that were replaced up to 14 hours before; and the one that is current.
		c := everything(admin.PruneConfig{KeepVersions: 3, KeepDays: 100, Reason: "a test"})
		planned := v.prune(c)
		if diff := cmp.Diff(before, v.rows(gun)); diff != "" {
			t.Fatalf("a dry run has changed something:\n%s", diff)
		}
		c.Act = true
		done := v.prune(c)
		if diff := cmp.Diff(planned, done); diff != "" {
			t.Errorf("planned -, done +:\n%s", diff)
		}
		after := v.rows(gun)
		if done[0].RowsBefore != int64(len(before)) || done[0].RowsAfter != int64(len(after)) || done[0].BytesAfter >= done[0].BytesBefore {
			t.Errorf("said %+v; there were %d rows and are %d", done[0], len(before), len(after))
		}
		for role, want := range map[string]string{
			"root": "1-2", "timestamp": "31-41", "snapshot": "31-41", "targets": "24-31", "targets/a": "8-11", "targets/a/b": "1",
		} {
			if got := versions(after, role); got != want {
				t.Errorf("%s: left %s, want %s", role, got, want)
			}
		}
		if !strings.Contains(done[0].Removed, "snapshot 1-30") || !strings.Contains(done[0].Removed, "timestamp 1-30") {
			t.Errorf("removed %q", done[0].Removed)
		}
		v.clean()
		events, err := v.store.Events(t.Context(), storage.EventQuery{GUN: gun, Newest: true, Limit: 1})
		if err != nil || len(events) != 1 || events[0].Action != storage.ActionPrune || events[0].Actor != "operator test" || events[0].Reason != "a test" {
			t.Errorf("recorded %+v, %v", events, err)
		}
		changes, err := v.store.Changes(t.Context(), storage.ChangeQuery{GUN: gun, Limit: 100})
		if err != nil || len(changes) != 41 {
			t.Errorf("%d entries of the changefeed, %v", len(changes), err)
		}
		if again := v.prune(c); again[0].RowsAfter != again[0].RowsBefore {
			t.Errorf("again: %+v", again[0])
		}
	})
}

// versions writes which versions of a role are in rows.
func versions(rows []string, role string) string {
	lowest, highest, n := 1<<31, 0, 0
	for _, r := range rows {
		var v int
		name, number, _ := strings.Cut(r, " ")
		if _, err := fmt.Sscan(number, &v); name == role && err == nil {
			lowest, highest, n = min(lowest, v), max(highest, v), n+1
		}
	}
	if n != highest-lowest+1 {
		return "with holes"
	}
	if n == 1 {
		return fmt.Sprint(lowest)
	}
	return fmt.Sprintf("%d-%d", lowest, highest)
}

// A file may be a year old and have been current a moment ago.
func TestPruneCountsFromTheReplacement(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		const gun = "x.example/slow"
		end := v.now
		v.now = end.Add(-380 * aDay)
		r := v.begin(gun)
		v.publish(r, r.Next(tuf.RoleTargets)) // at once replaced by
		v.publish(r, r.Next(tuf.RoleTargets)) // what is current for a year
		v.now = end.Add(-31 * aDay)
		v.publish(r, r.Next(tuf.RoleTargets))
		v.now = end
		c := everything(admin.PruneConfig{KeepVersions: 1, KeepDays: 40, Act: true})
		v.prune(c)
		if got := versions(v.rows(gun), "targets"); got != "3-4" {
			t.Errorf("left targets %s, want 3-4", got)
		}
		// Without days the caches' time counts: 30 days, and some hours of doubt.
		c.KeepDays = 0
		v.prune(c)
		if got := versions(v.rows(gun), "targets"); got != "4" {
			t.Errorf("left targets %s, want 4", got)
		}
		// Unless they are told to keep it for longer.
		v.publish(r, r.Next(tuf.RoleTargets))
		v.exec(`update tuf_files set created_at = '2024-01-01' where gun = $1`, gun)
		v.configure(map[string]any{"caching": map[string]any{"max_age": map[string]any{"current_metadata": 31536000, "consistent_metadata": 0}}})
		v.exec(`update tuf_files set created_at = $1 where version = (select max(version) from tuf_files where role = 'timestamp') and role = 'timestamp'`, end.Add(-350*aDay).Format(time.DateTime))
		v.prune(c)
		if got := versions(v.rows(gun), "targets"); got != "4-5" {
			t.Errorf("with caches of a year left targets %s, want 4-5", got)
		}
		v.clean()
	})
}

// What is damaged is left alone, and what makes no sense is refused.
func TestPruneRefuses(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		v.longLife("x.example/bad")
		v.longLife("x.example/headless")
		v.longLife("x.example/good")
		v.flip("x.example/bad", "targets/a/b", 1)
		v.exec(`delete from tuf_files where gun = 'x.example/headless' and role = 'timestamp'`)
		bad, headless := v.rows("x.example/bad"), v.rows("x.example/headless")
		done := v.prune(everything(admin.PruneConfig{KeepVersions: 1, Act: true}))
		if len(done) != 3 || !strings.Contains(done[0].Skipped, "targets/a/b") || done[1].Skipped != "" || done[1].RowsAfter >= done[1].RowsBefore || !strings.Contains(done[2].Skipped, "no timestamp") {
			t.Errorf("got %+v", done)
		}
		if !slices.Equal(bad, v.rows("x.example/bad")) || !slices.Equal(headless, v.rows("x.example/headless")) {
			t.Error("rows of a damaged repository are gone")
		}
		none := func(admin.Pruned) error { return nil }
		for name, c := range map[string]admin.PruneConfig{
			"no selection": {KeepVersions: 1},
			"two":          {KeepVersions: 1, Selection: admin.Selection{All: true, Prefix: "x"}},
			"no version":   everything(admin.PruneConfig{}),
			"negative":     everything(admin.PruneConfig{KeepVersions: 1, KeepDays: -1}),
			"nobody":       {KeepVersions: 1, Selection: admin.Selection{GUNs: []tuf.GUN{"nobody"}}},
		} {
			if err := v.site().Prune(t.Context(), c, none); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
}

func TestPruneArchives(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		const gun = "x.example/long"
		r := v.longLife(gun)
		before := v.rows(gun)
		file := filepath.Join(t.TempDir(), "pruned.tar")
		c := everything(admin.PruneConfig{KeepVersions: 2, KeepDays: 50, Act: true, Archive: file, Reason: "full"})
		v.prune(c)
		left := v.rows(gun)
		a, err := archive.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if a.Header.Kind != "prune" || a.Header.By != "operator test" || a.Header.Reason != "full" {
			t.Errorf("header %+v", a.Header)
		}
		all := slices.Clone(left)
		if err := a.Each(func(repo *archive.Repository, files archive.Files) error {
			return files(func(f storage.FileRow) error {
				if tuf.Sum(f.Data).String() != f.SHA256 {
					t.Errorf("%s %d has other bytes", f.Role, f.Version)
				}
				all = append(all, fmt.Sprintf("%s %d", f.Role, f.Version))
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		if diff := cmp.Diff(before, all); diff != "" || len(left) == len(before) {
			t.Errorf("what was there -, archived and left +:\n%s", diff)
		}
		// The same file once more does not hold what has become old since.
		v.now = time.Now().Add(-60 * aDay)
		v.publish(r, r.Next(tuf.RoleTargets))
		v.exec(`update tuf_files set created_at = $1 where gun = $2`, v.now.Add(-300*aDay).Format(time.DateTime), gun)
		rows := v.rows(gun)
		err = v.site().Prune(t.Context(), c, func(admin.Pruned) error { return nil })
		if !errors.Is(err, admin.ErrArchiveHolds) || !slices.Equal(rows, v.rows(gun)) {
			t.Errorf("got %v; rows changed: %v", err, !slices.Equal(rows, v.rows(gun)))
		}
		// No archive, no prune.
		c.Archive = filepath.Join(t.TempDir(), "no", "such", "folder.tar")
		if err := v.site().Prune(t.Context(), c, func(admin.Pruned) error { return nil }); !errors.Is(err, fs.ErrNotExist) || !slices.Equal(rows, v.rows(gun)) {
			t.Errorf("got %v; rows changed: %v", err, !slices.Equal(rows, v.rows(gun)))
		}
	})
}

// While publishers work, a prune never takes what they build on.
func TestPruneBesidePublishes(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		const gun = "x.example/busy"
		r := v.longLife(gun)
		v.configure(map[string]any{"caching": map[string]any{"max_age": map[string]any{"current_metadata": 0, "consistent_metadata": 0}}})
		site := v.site(func(c *admin.SiteConfig) { c.Now = func() time.Time { return time.Now().Add(30 * aDay) } })
		stop, done := make(chan struct{}), make(chan error, 1)
		var rounds atomic.Int32 // in which something was removed
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				err := site.Prune(t.Context(), everything(admin.PruneConfig{KeepVersions: 1, Act: true}), func(p admin.Pruned) error {
					if p.RowsAfter < p.RowsBefore {
						rounds.Add(1)
					}
					return nil
				})
				if err != nil {
					done <- err
					return
				}
			}
		}()
		for range 30 {
			v.publish(r, r.Next(tuf.RoleTargets))
		}
		// A repository that is published to without a pause is skipped; after it
		// there is a round that removes what is left to remove.
		for deadline := time.Now().Add(20 * time.Second); rounds.Load() < 1 && time.Now().Before(deadline) && len(done) == 0; {
			<-time.After(10 * time.Millisecond)
		}
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rounds.Load() < 1 {
			t.Error("no round has removed anything")
		}
		v.clean()
	})
}

// The environment of a child that is to be killed.
const (
	pruneChild = "COUNTERSIGN_TEST_PRUNE_CONFIG"
	pruneStep  = "COUNTERSIGN_TEST_PRUNE_STEP"
	pruneFile  = "COUNTERSIGN_TEST_PRUNE_ARCHIVE"
)

// TestPruneChild is what runs in a child: a prune that ends at one of its steps.
func TestPruneChild(t *testing.T) {
	config, at := os.Getenv(pruneChild), os.Getenv(pruneStep)
	if config == "" {
		return // not a child
	}
	site, err := admin.OpenSite(t.Context(), admin.SiteConfig{ServerConfig: config, Actor: "operator test", Tool: "test", Step: func(name string) {
		if name == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := everything(admin.PruneConfig{KeepVersions: 2, KeepDays: 50, Act: true, Archive: os.Getenv(pruneFile)})
	t.Errorf("it was not killed at %q: %v", at, site.Prune(t.Context(), c, func(admin.Pruned) error { return nil }))
}

// Killed at each step, and run again, it ends where an undisturbed one does.
func TestPruneKilled(t *testing.T) {
	onBothVaults(t, func(t *testing.T, v *vault) {
		guns := []tuf.GUN{"x.example/1", "x.example/2"}
		for _, gun := range guns {
			v.longLife(gun)
		}
		v.exec(`create table kept as select * from tuf_files`)
		for _, archived := range []bool{true, false} {
			dir := t.TempDir()
			start := func() {
				v.exec(`delete from tuf_files`)
				v.exec(`insert into tuf_files select * from kept`)
			}
			end := func() (rows []string) {
				for _, gun := range guns {
					rows = append(rows, v.rows(gun)...)
				}
				return rows
			}
			config := func(name string) admin.PruneConfig {
				c := everything(admin.PruneConfig{KeepVersions: 2, KeepDays: 50, Act: true})
				if archived {
					c.Archive = filepath.Join(dir, name+".tar")
				}
				return c
			}
			var steps []string
			start()
			v.prune(config("undisturbed"), func(c *admin.SiteConfig) { c.Step = func(name string) { steps = append(steps, name) } })
			want := end()
			if len(steps) < 2 || archived && len(steps) < 4 {
				t.Fatalf("steps %q", steps)
			}
			for i, step := range steps {
				start()
				v.killedAt(step, config(fmt.Sprint(i)).Archive)
				v.prune(config(fmt.Sprint(i)))
				if diff := cmp.Diff(want, end()); diff != "" {
					t.Errorf("killed at %q, undisturbed -, rerun +:\n%s", step, diff)
				}
				v.fsckRows(guns)
			}
		}
	})
}

// fsckRows makes sure that the repositories are whole. (The feed of this test has
// several lives without deletions.)
func (v *vault) fsckRows(guns []tuf.GUN) {
	v.Helper()
	v.exec(`delete from changefeed where id not in (select max(id) from changefeed where category = 'update' group by gun, version)`)
	found, _ := v.fsck(admin.FsckConfig{GUNs: guns})
	if len(found) > 0 {
		v.Errorf("found %v", found)
	}
}

// killedAt runs a prune in a process of its own, which ends itself with SIGKILL.
func (v *vault) killedAt(step, file string) {
	v.Helper()
	cmd := exec.CommandContext(v.Context(), os.Args[0], "-test.run", "^TestPruneChild$")
	cmd.Env = append(os.Environ(), pruneChild+"="+v.config, pruneStep+"="+step, pruneFile+"="+file)
	out, err := cmd.CombinedOutput()
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		v.Fatalf("killed at %q: %v\n%s", step, err, out)
	}
}
