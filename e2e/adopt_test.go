package e2e_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"countersign/internal/pgtest"
)

const fieldGUN = "e2e.example/field/app"

// A donor is what a real pair of upstream's programs has left behind: the rows
// of its databases, as statements, and the trust directory of its publisher.
type donor struct {
	rows  map[string]string // by table
	trust string
}

// newDonor lets upstream's programs and client make a repository whose snapshot
// the server signs, so that both its keys are in the signer's database.
func newDonor(t *testing.T) donor {
	t.Helper()
	s := newStack(t, stackConfig{server: upstream, signer: upstream})
	n := newNotary(t, s, 0)
	n.run("init", fieldGUN, "-p")
	n.run("key", "rotate", fieldGUN, "snapshot", "-r")
	n.run("add", fieldGUN, "v1", n.file("v1", "one"), "-p")
	return donor{
		rows: map[string]string{
			"tuf_files": dump(t, s.serverDB, "tuf_files"), "changefeed": dump(t, s.serverDB, "changefeed"), "private_keys": dump(t, s.signerDB, "private_keys"),
		},
		trust: filepath.Join(n.home, "trust"),
	}
}

var dumpedID = regexp.MustCompile(`(?m)^(INSERT INTO )public\.(\w+ \()id, (.*? VALUES \()\d+, `)

// dump returns a table's rows as INSERT statements that leave the ID and the
// schema to the database they are run on.
func dump(t *testing.T, db, table string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "pg_dump", "-d", db, "--data-only", "--column-inserts", "-t", table).Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	var b strings.Builder
	for line := range strings.Lines(dumpedID.ReplaceAllString(string(out), "$1$2$3")) {
		if strings.HasPrefix(line, "INSERT INTO ") {
			b.WriteString(line)
		}
	}
	if b.Len() == 0 {
		t.Fatalf("the dump of %s holds no rows", table)
	}
	return b.String()
}

// fill makes a database of a shape in the field with the donor's rows.
func (d donor) fill(t *testing.T, db, shape string, tables ...string) {
	t.Helper()
	psql(t, db, "-f", filepath.Join("..", "migrations", "testdata", "shapes", shape+".sql"))
	var b strings.Builder
	for _, table := range tables {
		b.WriteString(d.rows[table])
	}
	file := filepath.Join(t.TempDir(), "rows.sql")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	psql(t, db, "-f", file)
}

// disown gives all tables to the superuser, and the programs' role upstream's
// rights at run time.
func disown(t *testing.T, db string) {
	t.Helper()
	u, err := url.Parse(db)
	if err != nil {
		t.Fatal(err)
	}
	role := u.User.Username()
	u.User = url.UserPassword("postgres", pgtest.Password)
	psql(t, u.String(), "-c", `do $$ declare t record; begin
		for t in select tablename from pg_tables where schemaname = 'public' loop
			execute format('alter table %I owner to postgres', t.tablename); end loop; end $$`,
		"-c", "grant select, insert, update, delete on all tables in schema public to "+role,
		"-c", "grant usage on all sequences in schema public to "+role)
}

// An adoption is one pair of databases as they are found in the field.
type adoption struct {
	server, signer string // shapes; the same one means one database for both
	owned          bool   // by another role than the programs'
}

var adoptions = []adoption{
	{server: "server-upstream", signer: "signer-upstream"},
	{server: "server-no-versions", signer: "signer-no-versions"},
	{server: "server-mattes", signer: "signer-mattes"},
	{server: "server-mattes-first", signer: "signer-dirty"},
	{server: "server-half-way", signer: "signer-empty"},
	{server: "server-dirty", signer: "signer-dirty"},
	{server: "server-emptied", signer: "signer-upstream"},
	{server: "server-harbor-mysql", signer: "signer-harbor-mysql"},
	{server: "server-harbor-mysql-first", signer: "signer-harbor-mysql"},
	{server: "server-harbor-patched", signer: "signer-harbor-patched"},
	{server: "server-harbor-patched-several", signer: "signer-harbor-patched"},
	{server: "server-harbor-fixed", signer: "signer-harbor-fixed"},
	{server: "server-pgloader", signer: "signer-pgloader"},
	{server: "server-empty", signer: "signer-empty"},
	{server: "both-upstream", signer: "both-upstream"},
	{server: "both-one-table", signer: "both-one-table"},
	{server: "server-upstream", signer: "signer-upstream", owned: true},
}

// TestAdoption: databases of every shape, with what upstream's programs have
// really stored, are taken over by ours as they start: a client of old goes on
// with its repository, whose keys were sealed by upstream, and begins another.
// The operator's command then sets the rest right under the running programs,
// and upstream's programs go on where ours have ended.
func TestAdoption(t *testing.T) {
	d := newDonor(t)
	for _, a := range adoptions {
		t.Run(fmt.Sprintf("%s_%s_%v", a.server, a.signer, a.owned), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, stackConfig{server: ours, signer: ours, databases: func() (string, string) { return a.databases(t, d) }})
			n := newNotary(t, s, 0)
			old := a.signer != "signer-empty" // else there are no keys to go on with
			if old {
				if err := os.CopyFS(filepath.Join(n.home, "trust"), os.DirFS(d.trust)); err != nil {
					t.Fatal(err)
				}
				n.run("add", fieldGUN, "v2", n.file("v2", "two"), "-p")
			}
			const newGUN = "e2e.example/field/new"
			n.run("init", newGUN, "-p")
			a.operate(t, s)
			s.swapTo(pair{upstream, upstream})
			if old {
				n.run("add", fieldGUN, "v3", n.file("v3", "three"), "-p")
				wantTargets(t, n, fieldGUN, "v1", "v2", "v3")
			}
			n.says([]string{"list", newGUN}, "No targets present")
		})
	}
}

func (a adoption) databases(t *testing.T, d donor) (server, signer string) {
	t.Helper()
	files := []string{"tuf_files"}
	switch a.server {
	case "server-empty":
		files = nil
	case "server-mattes-first", "server-half-way", "server-harbor-mysql-first":
		// They are older than the changefeed.
	default:
		files = append(files, "changefeed")
	}
	server = newDatabase(t, nil)
	if a.server == a.signer {
		d.fill(t, server, a.server, append(files, "private_keys")...)
		return server, server
	}
	d.fill(t, server, a.server, files...)
	signer = newDatabase(t, nil)
	if a.signer == "signer-empty" {
		d.fill(t, signer, a.signer)
	} else {
		d.fill(t, signer, a.signer, "private_keys")
	}
	if a.owned {
		disown(t, server)
		disown(t, signer)
	}
	return server, signer
}

func wantTargets(t *testing.T, n *notary, gun string, names ...string) {
	t.Helper()
	found := n.targets(gun)
	for _, name := range names {
		if found[name] != "targets" {
			t.Errorf("%s is not a target of %s: %v", name, gun, found)
		}
	}
}

// operate runs the operator's commands on the databases of running programs.
func (a adoption) operate(t *testing.T, s *stack) {
	t.Helper()
	admin := func(command string, want int) string {
		cmd := exec.CommandContext(t.Context(), program(t, "trust-admin"), "db", command,
			"--server-config", filepath.Join(s.dir, serverConfigName(0)), "--signer-config", filepath.Join(s.dir, "signer.json"))
		cmd.Env = append(os.Environ(), "NOTARY_SIGNER_"+strings.ToUpper(signerAlias)+"="+signerPassphrase)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("trust-admin db %s ended with %d, want %d:\n%s", command, got, want, out)
		}
		if strings.Contains(string(out), pgtest.Password) || strings.Contains(string(out), url.QueryEscape(pgtest.Password)) {
			t.Errorf("trust-admin db %s shows the password", command)
		}
		return string(out)
	}
	if a.owned {
		if out := admin("migrate", 3); !strings.Contains(out, "--sql | psql -U postgres") {
			t.Errorf("the owner is not told what to run:\n%s", out)
		}
		log, err := os.ReadFile(s.servers[0].log)
		if err != nil || !strings.Contains(string(log), "countersign_changefeed_order is not on table changefeed") {
			t.Errorf("the log does not say what is missing: %v\n%s", err, log)
		}
		return
	}
	admin("migrate", 0)
	admin("check", 0)
	for _, db := range []struct{ url, shape, want string }{{s.serverDB, a.server, "2|f"}, {s.signerDB, a.signer, "1|f"}} {
		if a.server == a.signer {
			db.want = "2|f" // of the one table, which can only be right for one
		}
		if got := sql(t, db.url, "select version, dirty from schema_migrations"); got != db.want {
			t.Errorf("%s: schema_migrations holds %q, want %q", db.shape, got, db.want)
		}
	}
}
