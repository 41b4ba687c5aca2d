package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"countersign/admin"
)

// errToDo is no fault: there is something to do, and the exit code is 3.
var errToDo = errors.New("there is something to do")

func newDB() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Look at the databases and bring them up to date",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newDBCheck(), newDBMigrate())
	return cmd
}

type dbFlags struct {
	cfg    admin.DBConfig
	output string
}

func (f *dbFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cfg.ServerConfig, "server-config", "", "configuration file of trust-server (or notary-server)")
	cmd.Flags().StringVar(&f.cfg.SignerConfig, "signer-config", "", "configuration file of trust-signer (or notary-signer)")
	cmd.Flags().StringVar(&f.output, "output", "table", "table or json")
}

// check makes sure that the flags make sense.
func (f *dbFlags) check() error {
	switch {
	case f.cfg.ServerConfig == "" && f.cfg.SignerConfig == "":
		return fmt.Errorf("name at least one of --server-config and --signer-config%w", silent{errUsage})
	case f.output != "table" && f.output != "json":
		return fmt.Errorf("--output is table or json, not %q%w", f.output, silent{errUsage})
	}
	f.cfg.Environ = os.Environ()
	return nil
}

func newDBCheck() *cobra.Command {
	var f dbFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what the databases hold and what they lack",
		Long: `Say which tables are there, which tool has made them, what schema_migrations says
and means, and what is missing. Nothing is changed: all is read in a read-only
transaction, also from a standby. The databases are those that the configuration
files of the programs name, with the same environment variables.

Exit code: 0 if there is nothing to do, 3 if there is, 1 for a fault.`,
		Example: `  trust-admin db check --server-config /etc/notary/server-config.json --signer-config /etc/notary/signer-config.json
  trust-admin db check --server-config server.json --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			states, err := admin.CheckDB(cmd.Context(), f.cfg)
			return f.finish(cmd.OutOrStdout(), states, err)
		},
	}
	f.add(cmd)
	return cmd
}

func newDBMigrate() *cobra.Command {
	var f dbFlags
	var script bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create what the databases lack and set schema_migrations right",
		Long: `Create missing tables, mend what keeps them from being used, make the additions
of this project, and set schema_migrations right, so that upstream's migration
tool finds nothing to do. New tables are made in one transaction; what changes a
table that is in use follows, each in its own, and waits for the table a fraction of
a second at a time, so that nobody who publishes waits longer. Where somebody keeps
a table locked (VACUUM) it tries for a minute, and then says who. The programs, and
upstream's, may go on running; upstream's migration tool must not.
What was done is said, and what is left to the owner of the tables.

With --sql nothing is changed: the statements are printed, for psql and a role
that may run them.

Exit code: 0 if all is done, 3 if something is left to do, 1 for a fault.`,
		Example: `  trust-admin db migrate --server-config server.json --signer-config signer.json
  trust-admin db migrate --server-config server.json --sql | psql -U postgres -d notaryserver`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if script {
				return f.script(cmd)
			}
			states, err := admin.MigrateDB(cmd.Context(), f.cfg)
			return f.finish(cmd.OutOrStdout(), states, err)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&script, "sql", false, "print the statements for psql instead; one database at a time")
	return cmd
}

func (f *dbFlags) script(cmd *cobra.Command) error {
	if f.cfg.ServerConfig != "" && f.cfg.SignerConfig != "" {
		return fmt.Errorf("--sql is for one database: name one configuration file%w", silent{errUsage})
	}
	states, err := admin.CheckDB(cmd.Context(), f.cfg)
	if err != nil {
		return err
	}
	for _, st := range states {
		if st.Fault != "" {
			return fmt.Errorf("%s: %s", st.Program, st.Fault)
		}
	}
	_, err = io.WriteString(cmd.OutOrStdout(), admin.DBScript(states))
	return err
}

// finish prints the states and turns them into the error that main reports.
func (f *dbFlags) finish(w io.Writer, states []admin.DBState, err error) error {
	if err != nil {
		return err
	}
	if f.output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		err = enc.Encode(map[string]any{"databases": states})
	} else {
		for _, st := range states {
			err = errors.Join(err, printDB(w, st))
		}
	}
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	var faults []error
	toDo := false
	for _, st := range states {
		if st.Fault != "" {
			faults = append(faults, fmt.Errorf("%s: %s", st.Program, st.Fault))
		}
		toDo = toDo || st.ToDo
	}
	if len(faults) == 0 && toDo {
		return errToDo
	}
	return errors.Join(faults...)
}

func printDB(w io.Writer, st admin.DBState) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(tw, "  %s\t%s\n", key, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(tw, "%s (%s)\n", st.Program, st.Config)
	line("backend", "%s", st.Backend)
	if st.Where != "" {
		line("where", "%s", st.Where)
	}
	for _, warning := range st.Warnings {
		line("warning", "%s", warning)
	}
	if st.Note != "" {
		line("note", "%s", st.Note)
	}
	if st.Finding != nil && st.Finding.Server != "" {
		printFinding(line, st)
	}
	for _, d := range st.Did {
		line("did", "%s", d)
	}
	switch {
	case st.Fault != "":
		line("FAULT", "%s", st.Fault)
	case !st.ToDo && st.Note == "":
		line("to do", "nothing")
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}

func printFinding(line func(key, format string, args ...any), st admin.DBState) {
	f := st.Finding
	line("version", "%s", f.Server)
	if f.ReadOnly {
		line("read-only", "a standby, or made read-only: nothing can be stored here")
	}
	line("found", "%s", f.Shape)
	for _, t := range f.Tables {
		switch {
		case !t.Present:
			line("table", "%s: missing", t.Name)
		case t.Schema == "":
			line("table", "%s: %d rows", t.Name, t.Rows)
		case t.Rows < 0:
			line("table", "%s.%s, owner %s", t.Schema, t.Name, t.Owner)
		default:
			line("table", "%s.%s, owner %s, about %d rows", t.Schema, t.Name, t.Owner, t.Rows)
		}
	}
	if v := f.Versions; v != nil {
		rows := ""
		if v.Present {
			rows = "rows: " + strings.Join(v.Rows, ", ") + "; "
		}
		line("schema_migrations", "%s%s", rows, v.Meaning)
	}
	for _, n := range f.Notes {
		line("note", "%s", n)
	}
	for _, g := range f.Gaps {
		line("to do", "%s", g.What)
		line("", "%s", g.Means)
		if g.Owner != "" {
			line("", "role %s has no right to mend it; role %s has: %s", f.Role, g.Owner, f.Command(g))
		} else {
			line("", "%s", f.Command(g))
		}
	}
}
