package migrations

import (
	"fmt"
	"strings"
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

	// repair: only Migrate mends it, never a program that starts.
	repair bool
	// table is set if the gap is that a table is missing.
	table string
}

// Done reports whether there is nothing to do.
func (f *Finding) Done() bool { return f.Fault == "" && len(f.Gaps) == 0 }

// starting are the gaps that a program closes when it starts.
func (f *Finding) starting() []Gap {
	var list []Gap
	for _, g := range f.Gaps {
		if !g.repair && g.Owner == "" {
			list = append(list, g)
		}
	}
	return list
}

// closable reports whether there is a gap that we may close.
func (f *Finding) closable() bool {
	for _, g := range f.Gaps {
		if g.Owner == "" {
			return true
		}
	}
	return false
}

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
	return fmt.Sprintf("%s --sql | psql -U %s -d %s", migrate, shell(g.Owner), shell(f.Database))
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
		list = append(list, fmt.Sprintf("%s: %s; to mend it run%s: %s", g.What, g.Means, who, f.Command(g)))
	}
	if f.ReadOnly {
		list = append(list, "the database is read-only, perhaps a standby: nothing can be stored until it is promoted or storage.db_url names its primary")
	}
	return list
}

// Script is what psql needs to close all gaps, in one transaction.
func (f *Finding) Script() string {
	if len(f.Gaps) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\\set ON_ERROR_STOP on\nbegin;\n")
	fmt.Fprintf(&b, "set local lock_timeout = '5s';\nselect pg_advisory_xact_lock(%d);\n", int64(lockKey))
	fmt.Fprintf(&b, "set local search_path = %s;\n", quote(f.Home))
	for _, g := range f.Gaps {
		fmt.Fprintf(&b, "\n-- %s\n", strings.ReplaceAll(g.What, "\n", " "))
		for _, s := range g.SQL {
			b.WriteString(strings.TrimRight(strings.TrimSpace(s), ";") + ";\n")
		}
	}
	b.WriteString("\ncommit;\n")
	return b.String()
}
