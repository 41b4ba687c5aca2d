package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/admin"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// stock puts repositories into a shop: healthy, faulty (bytes of its targets) and
// expired (its targets), each of three generations.
func stock(t *testing.T) (s *shop, server []string) {
	t.Helper()
	s = newShop(t, "sqlite3")
	for _, gun := range []tuf.GUN{"shop.example/healthy", "shop.example/faulty", "shop.example/expired"} {
		r := tuftest.New(t, gun, tuftest.Options{Delegations: []tuf.RoleName{"targets/releases"}})
		s.files(r, r.Files())
		for i := range 2 {
			if i == 1 && gun == "shop.example/expired" {
				r.Targets[tuf.RoleTargets].Expires = time.Now().AddDate(0, -1, 0)
			}
			files := r.Next(tuf.RoleTargets)
			files[tuf.RoleTimestamp] = r.File(tuf.RoleTimestamp)
			s.files(r, files)
		}
	}
	s.sql(`insert into changefeed (gun, version, sha256, created_at) select gun, version, sha256, created_at from tuf_files where role = 'timestamp' order by id`)
	return s, s.flags[:2]
}

// files stores files of r as the versions that they are, in the usual order.
func (s *shop) files(r *tuftest.Repo, files map[tuf.RoleName][]byte) {
	s.t.Helper()
	for _, role := range r.Roles() {
		data, ok := files[role]
		if !ok {
			continue
		}
		env, err := tuf.ParseEnvelope(data)
		if err != nil {
			s.t.Fatal(err)
		}
		s.sql(`insert into tuf_files (created_at, gun, role, version, data, sha256) values ($1, $2, $3, $4, $5, $6)`,
			time.Now().UTC().Format("2006-01-02 15:04:05"), string(r.GUN), string(role), env.Version, data, tuf.Sum(data).String())
	}
}

func (s *shop) sql(statement string, args ...any) {
	s.t.Helper()
	if _, err := s.db.ExecContext(s.t.Context(), statement, args...); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

func TestFsckCommand(t *testing.T) {
	s, server := stock(t)
	fsck := func(args ...string) (int, string, string) {
		return runAdmin(t, append(append([]string{"fsck"}, server...), args...)...)
	}
	if code, out, errs := fsck("shop.example/healthy"); code != 0 || errs != "" {
		t.Errorf("healthy: %d\n%s%s", code, out, errs)
	} else {
		says(t, out, "1 repositories, 11 rows, ", ": 0 faults, 0 notes")
	}
	code, out, errs := fsck("--prefix", "shop.example/e")
	if code != 3 {
		t.Errorf("notes only: code %d\n%s", code, out)
	}
	says(t, out+errs, "shop.example/expired\n", "note   expired  targets 3 (row ", "there are notes, and no faults")
	if strings.Contains(out, "row 0") {
		t.Errorf("a row that is none:\n%s", out)
	}

	s.sql(`update tuf_files set data = substr(data, 1, length(data) - 20) where gun = 'shop.example/faulty' and role = 'targets' and version = 2`)
	code, out, errs = fsck()
	if code != 1 {
		t.Errorf("a fault: code %d\n%s", code, out)
	}
	says(t, out+errs, "FAULT  bytes  targets 2 (row ", "-> restore this row", "1 faults, 1 notes", "there are faults")
	within80(t, out)
	tame(t, out)

	code, out, _ = fsck("--output", "json")
	rows := strings.Split(strings.TrimSpace(out), "\n")
	if code != 1 || len(rows) != 3 {
		t.Fatalf("as JSON: %d\n%s", code, out)
	}
	var f admin.Finding
	var last struct{ Totals admin.FsckTotals }
	for _, row := range rows[:2] {
		if err := json.Unmarshal([]byte(row), &f); err != nil {
			t.Fatal(err)
		}
		if f.GUN == "shop.example/faulty" && (f.Class != admin.ClassBytes || !f.Fault || f.Role != tuf.RoleTargets || f.Version != 2 || f.Row == 0) {
			t.Errorf("finding %s", row)
		}
	}
	if err := json.Unmarshal([]byte(rows[2]), &last); err != nil || last.Totals.Faults != 1 || last.Totals.Notes != 1 || last.Totals.Repositories != 3 {
		t.Errorf("totals %s, %v", rows[2], err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"shop.example/nobody"}, 1, `"shop.example/nobody" has no rows`},
		{[]string{"shop.example/healthy", "--prefix", "x"}, 2, "not both"},
		{[]string{"--jobs", "-1"}, 2, "--jobs is 1 to 64"},
		{[]string{"--output", "xml"}, 2, "xml"},
	} {
		if code, out, errs := fsck(c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%q: %d\n%s%s", c.args, code, out, errs)
		}
	}
}

func TestPruneCommand(t *testing.T) {
	s, server := stock(t)
	prune := func(args ...string) (int, string, string) {
		return runAdmin(t, append(append([]string{"prune"}, server...), args...)...)
	}
	s.sql(`update tuf_files set created_at = '2024-01-01 00:00:00'`)
	s.sql(`update tuf_files set data = substr(data, 1, length(data) - 20) where gun = 'shop.example/faulty' and role = 'targets' and version = 3`)
	keep := []string{"--all", "--keep-versions", "1", "--keep-days", "10"}
	code, out, errs := prune(keep...)
	if code != 3 {
		t.Errorf("a dry run: %d\n%s%s", code, out, errs)
	}
	says(t, out, "REPOSITORY", "       11          5", "shop.example/healthy", "skipped: a client cannot read it", "12 of 33 rows would go", "3 repositories, 1 skipped")
	within80(t, out)
	file := filepath.Join(t.TempDir(), "old.tar")
	code, out, errs = prune(append(keep, "--yes", "--archive", file)...)
	if code != 0 {
		t.Errorf("pruning: %d\n%s%s", code, out, errs)
	}
	says(t, out, "12 of 22 rows have gone")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	if code, out, errs := prune(append(keep, "--output", "json")...); code != 0 || !strings.Contains(out, `"skipped":1`) || !strings.Contains(out, `"rows_after":21`) {
		t.Errorf("again: %d\n%s%s", code, out, errs)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--all"}, 2, "keep-days"},
		{[]string{"--keep-versions", "1", "--keep-days", "1"}, 1, "say which repositories"},
		{append(keep, "--keep-versions", "0"), 2, "--keep-versions is at least 1"},
		{append(keep, "--keep-days", "-1"), 2, "--keep-days is 0 to 36500"},
		{append(keep, "--archive", "x"), 2, "with --yes only"},
		{[]string{"nobody", "--keep-versions", "1", "--keep-days", "1"}, 1, `"nobody" has no rows`},
	} {
		if code, out, errs := prune(c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%q: %d, want %d with %q\n%s%s", c.args, code, c.code, c.want, out, errs)
		}
	}
}
