package e2e_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A ledger is every file that the server's database holds of one GUN, in the
// order in which it was stored.
type ledger []stored

type stored struct {
	metaFile
	role    string
	version int
	sum     string          // SHA-256 of the bytes, as the table has it
	targets map[string]bool // names, of targets and delegations
}

// ledgers reads the database of the stack's servers: what is there, whatever the
// servers say. PostgreSQL only.
func (s *stack) ledgers(t testing.TB) map[string]ledger {
	t.Helper()
	out := map[string]ledger{}
	rows := sql(t, s.serverDB, "select gun, role, version, sha256, encode(data, 'hex') from tuf_files order by id")
	for line := range strings.Lines(rows) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 5 {
			t.Fatalf("psql says %.200q", line)
		}
		raw, err := hex.DecodeString(f[4])
		if err != nil {
			t.Fatal(err)
		}
		e := stored{role: f[1], sum: f[3], targets: map[string]bool{}}
		if e.version, err = strconv.Atoi(f[2]); err != nil {
			t.Fatal(err)
		}
		if e.metaFile, err = parse(raw); err != nil {
			t.Fatalf("%s %s %d: %v", f[0], e.role, e.version, err)
		}
		var named struct {
			Signed struct{ Targets map[string]any }
		}
		if err := json.Unmarshal(raw, &named); err != nil {
			t.Fatal(err)
		}
		for name := range named.Signed.Targets {
			e.targets[name] = true
		}
		out[f[0]] = append(out[f[0]], e)
	}
	return out
}

// ledgerQueries find what must not be in the server's database, and say so.
var ledgerQueries = []string{
	`select 'a version is stored twice', gun, role, version from tuf_files group by gun, role, version having count(*) > 1`,
	`select 'the changefeed does not tell of it just once', f.gun, f.version, count(c.id)
		from tuf_files f left join changefeed c using (gun, version, sha256)
		where f.role = 'timestamp' group by f.id having count(c.id) <> 1`,
	`select 'a change is out of order', * from (select gun, category, version,
			lag(version) over (partition by gun order by id) as last,
			lag(category) over (partition by gun order by id) as lastkind from changefeed) c
		where category = 'update' and lastkind = 'update' and version <> last + 1`,
	`select 'a change that nothing was stored for', c.gun, c.version from changefeed c
		where category = 'update'
		and not exists (select from changefeed d where d.gun = c.gun and d.category = 'deletion' and d.id > c.id)
		and not exists (select from tuf_files f where f.gun = c.gun and f.role = 'timestamp' and f.version = c.version and f.sha256 = c.sha256)`,
}

// ledgerFaults looks whether the whole database of the servers is sound: no
// version twice, each publish there with all its files or not at all, and the
// changefeed telling of each publish once and in order.
func (s *stack) ledgerFaults(t testing.TB) (all map[string]ledger, faults []string) {
	t.Helper()
	all = s.ledgers(t)
	for gun, l := range all {
		if err := l.check(); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", gun, err))
		}
	}
	var args []string
	for _, query := range ledgerQueries {
		args = append(args, "-c", query)
	}
	for line := range strings.Lines(psql(t, s.serverDB, args...)) {
		faults = append(faults, strings.TrimSpace(line))
	}
	return all, faults
}

// checkLedger wants no fault in the database, and every GUN in it to be whole for
// those who read it at each server.
func (s *stack) checkLedger(t testing.TB) map[string]ledger {
	t.Helper()
	all, faults := s.ledgerFaults(t)
	for _, fault := range faults {
		t.Error(fault)
	}
	for gun := range all {
		for i := range s.servers {
			s.mustVerify(t, i, gun, "targets")
		}
	}
	return all
}

// TestLedgerFaults shows that the check of the database finds what it is for.
func TestLedgerFaults(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours})
	p := s.newPublisher(t, 0, "e2e.example/ledger/app", newKeys())
	p.initialize(t, true)
	for _, name := range []string{"a", "b"} {
		p.add(t, "targets", name)
		p.must(t, "publish", p.Publish())
	}
	s.checkLedger(t)
	const file = "insert into tuf_files (created_at, updated_at, gun, role, version, data, sha256) select now(), now(), gun, role, version + 1, data, "
	for spoil, says := range map[string]string{
		"delete from tuf_files where role = 'timestamp' and version = 2":                                                                      "timestamp 3 follows 1",
		"delete from tuf_files where role = 'timestamp' and version = 3":                                                                      "belongs to no publish",
		"delete from tuf_files where role = 'snapshot' and version = 1":                                                                       "commits to snapshot",
		"delete from tuf_files where role = 'targets' and version = 3":                                                                        "targets 4 follows 2",
		file + "repeat('0', 64) from tuf_files where role = 'targets' order by version desc limit 1":                                          "belongs to no publish",
		"delete from changefeed where version = 2":                                                                                            "does not tell of it just once",
		"insert into changefeed (gun, version, sha256, category) select gun, version, sha256, category from changefeed where version = 2":     "a change is out of order",
		"insert into changefeed (gun, version, sha256, category) select gun, version + 1, sha256, category from changefeed where version = 3": "that nothing was stored for",
	} {
		out := psql(t, s.serverDB, "-c", "create table saved_files as table tuf_files", "-c", "create table saved_feed as table changefeed", "-c", spoil)
		if _, faults := s.ledgerFaults(t); !strings.Contains(strings.Join(faults, "\n"), says) {
			t.Errorf("after %q %s the check says %q, want %q", spoil, out, faults, says)
		}
		psql(t, s.serverDB, "-c", "delete from tuf_files", "-c", "insert into tuf_files table saved_files", "-c", "drop table saved_files",
			"-c", "delete from changefeed", "-c", "insert into changefeed table saved_feed", "-c", "drop table saved_feed")
	}
	s.checkLedger(t)
}

// check follows every stored timestamp to every file that it commits to, and
// finds every stored file on the way. Versions of each role go up one by one, as
// nothing in these tests has clients skip one but the first publish.
func (l ledger) check() error {
	bySum, reached, newest := map[string]stored{}, map[string]bool{}, map[string]int{}
	for _, e := range l {
		if last := newest[e.role]; last != 0 && e.version != last+1 {
			return fmt.Errorf("%s %d follows %d", e.role, e.version, last)
		}
		newest[e.role] = e.version
		bySum[e.role+" "+e.sum] = e
	}
	for _, e := range l {
		if e.role == "timestamp" {
			reached[e.role+" "+e.sum] = true
		} else if e.role != "snapshot" {
			continue
		}
		for child, meta := range e.Signed.Meta {
			name := fmt.Sprintf("%s %x", child, meta.Hashes["sha256"])
			if e.role == "timestamp" && child == "root" {
				continue // some clients' timestamps name it too
			}
			if _, ok := bySum[name]; !ok {
				return fmt.Errorf("%s %d commits to %s, which is not stored", e.role, e.version, name)
			}
			reached[name] = true
		}
	}
	for name, e := range bySum {
		if !reached[name] {
			return fmt.Errorf("%s %d belongs to no publish", e.role, e.version)
		}
	}
	return nil
}
