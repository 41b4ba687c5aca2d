package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"countersign/admin"
)

func newFsck() *cobra.Command {
	var f siteFlags
	var c admin.FsckConfig
	cmd := &cobra.Command{
		Use:   "fsck [GUN…]",
		Short: "Check that what is stored is whole and genuine",
		Long: `Walk each repository as a client does that knows nothing of it, and check every
row besides: that the checksum is that of the bytes, that role and version are those
inside, that every version that is stored is signed by keys that were in force, that
no root is missing between two others, and that the changefeed agrees. Without names,
all repositories. The programs, and upstream's, may go on running: what changes
while it is read is read again before it is called faulty.

A fault is something that was damaged, lost or forged. A note is something to know:
what has expired, rows marked as deleted, keys that wait to be deleted. The signer's
database is the affair of trust-admin keys doctor.

What signatures of old versions prove: they are compared with every list of keys
that a stored root, or parent, has ever had for the role. Where a list may have been
pruned, or is damaged itself, nothing is said; the last line counts these.

With --output json each finding is a line of its own, and the last line the totals.
Exit code: 0 if nothing is found, 3 if there are notes only, 1 for faults.`,
		Example: `  trust-admin fsck --server-config /etc/notary/server-config.json
  trust-admin fsck registry.example.com/team/app --server-config server.json
  trust-admin fsck --prefix registry.example.com/team/ --output json --server-config server.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			guns, err := parseGUNs(args)
			switch {
			case err != nil:
				return err
			case len(guns) > 0 && c.Prefix != "":
				return fmt.Errorf("name repositories, or give --prefix, and not both%w", silent{errUsage})
			case c.Jobs < 0 || c.Jobs > 64:
				return fmt.Errorf("--jobs is 1 to 64, not %d%w", c.Jobs, silent{errUsage})
			}
			c.GUNs = guns
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error { return runFsck(ctx, cmd, s, c, f.output) })
		},
	}
	f.add(cmd, needServer)
	cmd.Flags().StringVar(&c.Prefix, "prefix", "", "all repositories whose name begins so")
	cmd.Flags().IntVar(&c.Jobs, "jobs", 0, "how many repositories to check at once; 0: as many as there are CPUs")
	return cmd
}

// errDamage ends the program with 1 after the findings have said why.
var errDamage = errors.New("there are faults")

func runFsck(ctx context.Context, cmd *cobra.Command, s *admin.Site, c admin.FsckConfig, output string) error {
	show, done := fsckLines(cmd.OutOrStdout()), progress(cmd, "checked")
	wipe := func() {}
	if output == "table" {
		show = fsckText(cmd.OutOrStdout())
	}
	if done != nil {
		wipe = func() { fmt.Fprint(cmd.ErrOrStderr(), clearLine) }
	}
	n := 0
	totals, err := s.Fsck(ctx, c, func(o admin.Inspected) error {
		if len(o.Findings) > 0 {
			wipe()
			if err := show(o); err != nil {
				return fmt.Errorf("printing: %w", err)
			}
		}
		if n++; done != nil {
			done(n, o.GUN)
		}
		return nil
	})
	wipe()
	if err != nil {
		return err
	}
	if output == "json" {
		err = lines{cmd.OutOrStdout()}.write(map[string]any{"totals": totals}, false)
	} else {
		err = fsckTotals(cmd.OutOrStdout(), totals)
	}
	switch {
	case err != nil:
		return fmt.Errorf("printing: %w", err)
	case totals.Faults > 0:
		return errDamage
	case totals.Notes > 0:
		return fmt.Errorf("there are notes, and no faults%w", silent{errToDo})
	}
	return nil
}

func fsckLines(w io.Writer) func(admin.Inspected) error {
	return func(o admin.Inspected) error {
		for _, f := range o.Findings {
			if err := (lines{w}).write(f, false); err != nil {
				return err
			}
		}
		return nil
	}
}

// fsckText prints the findings of a repository below its name, for a terminal of
// 80 columns.
func fsckText(w io.Writer) func(admin.Inspected) error {
	return func(o admin.Inspected) error {
		var b strings.Builder
		gun := o.GUN
		if gun != "" {
			fmt.Fprintln(&b, plainText(string(gun)))
		}
		for _, f := range o.Findings {
			if f.GUN != gun {
				gun = f.GUN
				fmt.Fprintln(&b, plainText(string(gun)))
			}
			kind := "note "
			if f.Fault {
				kind = "FAULT"
			}
			what := plainText(string(f.Role))
			if f.Version > 0 {
				what += fmt.Sprintf(" %d", f.Version)
			}
			if f.Row > 0 {
				what += fmt.Sprintf(" (row %d)", f.Row)
			}
			fmt.Fprintf(&b, "  %s  %s\n", kind, strings.TrimSpace(string(f.Class)+"  "+what))
			fold(&b, "         ", plainText(f.Text))
			fold(&b, "      -> ", f.Do)
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
}

// fold writes text in lines of at most 80 characters, the first behind prefix and
// the others below it.
func fold(b *strings.Builder, prefix, text string) {
	_ = paragraph(b, 80, prefix, strings.Repeat(" ", len(prefix)), text) // a Builder takes all
}

func fsckTotals(w io.Writer, t admin.FsckTotals) error {
	text := fmt.Sprintf("%d repositories, %d rows, %s: %d faults, %d notes", t.Repositories, t.Rows, size(t.Bytes), t.Faults, t.Notes)
	if t.Undecided > 0 {
		text += fmt.Sprintf("; of %d old files nobody can say any more whose signatures they should have", t.Undecided)
	}
	var b strings.Builder
	fold(&b, "", text)
	_, err := io.WriteString(w, b.String())
	return err
}
