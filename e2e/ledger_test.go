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

// checkLedger holds the whole database of the servers to be sound: no version
// twice, each publish there with all its files or not at all, and the changefeed
// telling of each publish once and in order. Then each GUN is walked and verified.
func (s *stack) checkLedger(t testing.TB) map[string]ledger {
	t.Helper()
	all := s.ledgers(t)
	for gun, l := range all {
		if err := l.check(); err != nil {
			t.Errorf("%s: %v", gun, err)
		}
		for i := range s.servers {
			s.mustVerify(t, i, gun, "targets")
		}
	}
	for what, query := range map[string]string{
		"versions stored twice": `select gun, role, version from tuf_files group by 1, 2, 3 having count(*) > 1`,
		"publishes that the changefeed does not tell of just once": `select f.gun, f.version, count(c.id)
			from tuf_files f left join changefeed c using (gun, version, sha256)
			where f.role = 'timestamp' group by f.id having count(c.id) <> 1`,
		"changes out of order": `select * from (select gun, category, version,
				lag(version) over (partition by gun order by id) as last,
				lag(category) over (partition by gun order by id) as lastkind from changefeed) c
			where category = 'update' and lastkind = 'update' and version <> last + 1`,
		"changes that nothing was stored for": `select c.gun, c.version from changefeed c
			where category = 'update'
			and not exists (select from changefeed d where d.gun = c.gun and d.category = 'deletion' and d.id > c.id)
			and not exists (select from tuf_files f where f.gun = c.gun and f.role = 'timestamp' and f.version = c.version and f.sha256 = c.sha256)`,
	} {
		if out := sql(t, s.serverDB, "%s", query); out != "" {
			t.Errorf("%s:\n%s", what, out)
		}
	}
	return all
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
