package migrations

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"countersign/storage/sqldb"
)

// A Finding is what a database holds of one program's tables, and what it lacks.
type Finding struct {
	Schema Schema `json:"schema"`
	// Server is the database's own version, for example "15.6".
	Server string `json:"database_version"`
	// Database, Role and Home are the database's name, the role that asked, and
	// the database schema where the tables are, or will be. PostgreSQL only.
	Database string `json:"database,omitempty"`
	Role     string `json:"role,omitempty"`
	Home     string `json:"database_schema,omitempty"`
	// ReadOnly: a standby, or a database that was made read-only.
	ReadOnly bool `json:"read_only"`
	// Shape says in words which state of which tool this is.
	Shape string `json:"shape"`
	// Fault is why the programs cannot work with these tables, and nothing here
	// can mend them; "" if they can.
	Fault  string  `json:"fault,omitempty"`
	Tables []Table `json:"tables"`
	// Versions is schema_migrations; nil on SQLite.
	Versions *Versions `json:"schema_migrations,omitempty"`
	// Gaps are what there is to do.
	Gaps []Gap `json:"to_do"`
	// Notes are worth knowing, and nothing has to be done about them.
	Notes []string `json:"notes,omitempty"`
	// Audit: the tables of the audit log are there and may be used.
	Audit bool `json:"audit_log"`

	where string // the flags by which psql finds the server; "" if it is this machine's own
}

// A Table is one of the tables, as it was found.
type Table struct {
	Name    string `json:"name"`
	Present bool   `json:"present"`
	Schema  string `json:"database_schema,omitempty"`
	Owner   string `json:"owner,omitempty"`
	// Rows is PostgreSQL's estimate, or the exact number for SQLite; -1 if unknown.
	Rows int64 `json:"rows"`
}

// A Gap is one thing that a database lacks.
type Gap struct {
	// What it is, and what follows as long as it is so.
	What  string `json:"what"`
	Means string `json:"means"`
	// SQL mends it, statement by statement.
	SQL []string `json:"sql"`
	// Owner is the role that may run SQL, if ours may not; else "".
	Owner string `json:"owner,omitempty"`
	// Required: without it a program cannot even serve what is stored, and so
	// does not start.
	Required bool `json:"required"`

	// Tried says why it could not be mended just now, if that was tried.
	Tried string `json:"tried,omitempty"`

	// alone is the table whose writers wait while the gap is closed; "" if none do.
	alone string
	// repair: only Migrate mends it, never a program that starts.
	repair bool
	// table is set if the gap is that a table is missing.
	table string
}

// Done reports whether there is nothing to do.
func (f *Finding) Done() bool { return f.Fault == "" && len(f.Gaps) == 0 }

// blocked returns the first gap that keeps the programs from working and that
// we may not close, or nil.
func (f *Finding) blocked() *Gap {
	for i, g := range f.Gaps {
		if g.Required && (g.Owner != "" || f.ReadOnly) {
			return &f.Gaps[i]
		}
	}
	return nil
}

// Command is what the operator runs to close a gap.
func (f *Finding) Command(g Gap) string {
	migrate := fmt.Sprintf("trust-admin db migrate --%s-config FILE", f.Schema)
	if g.Owner == "" {
		return migrate
	}
	return fmt.Sprintf("%s --sql | psql -U %s -d %s%s", migrate, shell(g.Owner), shell(f.Database), f.where)
}

// shell quotes a name for a shell where that is needed.
func shell(name string) string {
	if strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789_-.") == "" && name != "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// Warnings are what an operator must be told when a program has started on
// these tables: what is missing, what that means, what to run.
func (f *Finding) Warnings() []string {
	var list []string
	for _, g := range f.Gaps {
		who := ""
		if g.Owner != "" {
			who = fmt.Sprintf(", as role %s, with its rights as owner", g.Owner)
		}
		tried := ""
		if g.Tried != "" {
			tried = " (" + g.Tried + ")"
		}
		list = append(list, fmt.Sprintf("%s: %s%s; to mend it run%s: %s", g.What, g.Means, tried, who, f.Command(g)))
	}
	if f.ReadOnly {
		list = append(list, "the database is read-only, perhaps a standby: nothing can be stored until it is promoted or storage.db_url names its primary")
	}
	return list
}

// Script is what psql needs to close all gaps. It is cut into parts: by the role
// that may run them, and, as locks on tables must be held only briefly, into
// transactions. psql leaves out the parts of roles that the one who runs it
// does not belong to, and says so.
func (f *Finding) Script() string {
	if len(f.Gaps) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\\set ON_ERROR_STOP on\n" +
		"-- If a table is in use, this ends with a lock timeout. Make it anew then and run it\n-- again: what is done is not in it any more.\n")
	var roles []string
	for _, g := range f.Gaps {
		if role := cmp.Or(g.Owner, f.Role); !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	for _, role := range roles {
		fmt.Fprintf(&b, "\n-- As role %s\nselect pg_has_role(%s, 'MEMBER') as may \\gset\n\\if :may\nset role %s;\n", clean(role), literal(role), quote(role))
		var together, alone []Gap
		for _, g := range f.Gaps {
			switch {
			case cmp.Or(g.Owner, f.Role) != role:
			case g.alone == "":
				together = append(together, g)
			default:
				alone = append(alone, g)
			}
		}
		if len(together) > 0 {
			f.part(&b, sqldb.LockTimeout, together...)
		}
		for _, g := range alone {
			f.part(&b, scriptSlice, g)
		}
		fmt.Fprintf(&b, "reset role;\n\\else\n\\echo %s\n\\endif\n", literal("left out: what only role "+clean(role)+" may run; run this again as that one"))
	}
	return b.String()
}

// scriptSlice is how long psql, which does not try again by itself, waits for a table.
const scriptSlice = "1s"

// part is one transaction.
func (f *Finding) part(b *strings.Builder, timeout string, gaps ...Gap) {
	fmt.Fprintf(b, "begin;\nselect pg_advisory_xact_lock(%d);\nset local lock_timeout = '%s';\n", int64(lockKey), timeout)
	fmt.Fprintf(b, "set local search_path = %s;\n", quote(f.Home))
	for _, g := range gaps {
		fmt.Fprintf(b, "\n-- %s\n", clean(g.What))
		for _, s := range g.SQL {
			b.WriteString(strings.TrimRight(strings.TrimSpace(s), ";") + ";\n")
		}
	}
	b.WriteString("\ncommit;\n")
}

// clean takes out what would end a line, or worse.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}
