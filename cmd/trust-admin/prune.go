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

func newPrune() *cobra.Command {
	var f siteFlags
	var c admin.PruneConfig
	cmd := &cobra.Command{
		Use:   "prune {GUN… | --prefix P | --all} [--yes]",
		Short: "Remove old versions that no client asks for any more",
		Long: `Every publish stores its files whole, and upstream's server removes none, ever. This
removes what is old by count and by age: beyond the newest --keep-versions of its
role, and part of no generation that was current within the last --keep-days. Age
counts from when a file was replaced, not from when it was made, and is at least as
long as the server lets HTTP caches keep what it sends (caching.max_age).

No root goes, ever, nor what the current generation consists of, so that every
client gets on from what it knows. Rows marked as deleted stay, and the changefeed,
which is small, and which others mirror by. A repository that a client could not
read to its end is skipped. The programs may go on running.

Nothing is done without --yes; it is said what would go. With --archive all that
goes is written to a file first, in the form that docs/archive.md describes. If the
command is interrupted, run it again, with the same file.

The database gives the space back to later rows by itself, and to the disk when it
is told to: vacuum full tuf_files (PostgreSQL; it locks the table) or vacuum (SQLite).

Exit code: 0 if it is done or nothing is to be removed, 3 if without --yes something
would be, 1 for a fault.`,
		Example: `  trust-admin prune --all --keep-versions 20 --keep-days 90 --server-config server.json
  trust-admin prune --all --keep-versions 20 --keep-days 90 --archive old.tar --yes --server-config server.json
  trust-admin prune registry.example.com/team/app --keep-versions 5 --keep-days 0 --server-config server.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			guns, err := parseGUNs(args)
			switch {
			case err != nil:
				return err
			case c.KeepVersions < 1:
				return fmt.Errorf("--keep-versions is at least 1, not %d%w", c.KeepVersions, silent{errUsage})
			case c.KeepDays < 0 || c.KeepDays > 36500:
				return fmt.Errorf("--keep-days is 0 to 36500, not %d%w", c.KeepDays, silent{errUsage})
			case c.Archive != "" && !c.Act:
				return fmt.Errorf("--archive is written with --yes only%w", silent{errUsage})
			}
			c.GUNs = guns
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error { return runPrune(ctx, cmd, s, c, f.output) })
		},
	}
	f.add(cmd, needServer)
	addSelection(cmd, &c.Selection)
	fs := cmd.Flags()
	fs.IntVar(&c.KeepVersions, "keep-versions", 0, "how many of the newest versions of each role stay")
	fs.IntVar(&c.KeepDays, "keep-days", 0, "for how many days what was current stays")
	fs.BoolVar(&c.Act, "yes", false, "remove it; without, it is only said what would go")
	fs.StringVar(&c.Archive, "archive", "", "write what goes to this file first")
	fs.StringVar(&c.Reason, "reason", "", "why, for the audit log")
	_ = cmd.MarkFlagRequired("keep-versions")
	_ = cmd.MarkFlagRequired("keep-days")
	_ = cmd.MarkFlagFilename("archive", "tar")
	return cmd
}

func runPrune(ctx context.Context, cmd *cobra.Command, s *admin.Site, c admin.PruneConfig, output string) error {
	t := pruneTable{w: cmd.OutOrStdout(), json: output == "json", act: c.Act}
	done, n := progress(cmd, "pruned"), 0
	err := s.Prune(ctx, c, func(p admin.Pruned) error {
		if n++; done != nil {
			done(n, p.GUN)
		}
		if p.RowsAfter == p.RowsBefore && p.Skipped == "" {
			t.total(p)
			return nil
		}
		if done != nil {
			fmt.Fprint(cmd.ErrOrStderr(), clearLine)
		}
		return t.row(p)
	})
	if done != nil {
		fmt.Fprint(cmd.ErrOrStderr(), clearLine)
	}
	if err := errors.Join(err, t.end()); err != nil {
		return err
	}
	if !c.Act && t.sum.RowsAfter < t.sum.RowsBefore {
		return errToDo
	}
	return nil
}

// A pruneTable prints as it is done: there may be thousands of repositories.
type pruneTable struct {
	w         io.Writer
	json, act bool
	begun     bool
	guns      int
	skipped   int
	sum       admin.Pruned
}

const pruneLine = "%9s  %9s  %10s  %10s  %s\n"

func (t *pruneTable) total(p admin.Pruned) {
	t.guns++
	if p.Skipped != "" {
		t.skipped++
	}
	t.sum.RowsBefore += p.RowsBefore
	t.sum.RowsAfter += p.RowsAfter
	t.sum.BytesBefore += p.BytesBefore
	t.sum.BytesAfter += p.BytesAfter
}

func (t *pruneTable) row(p admin.Pruned) error {
	t.total(p)
	if t.json {
		return lines{t.w}.write(p, false)
	}
	var b strings.Builder
	if !t.begun {
		t.begun = true
		fmt.Fprintf(&b, pruneLine, "ROWS", "LEFT", "SIZE", "LEFT", "REPOSITORY")
	}
	fmt.Fprintf(&b, pruneLine, fmt.Sprint(p.RowsBefore), fmt.Sprint(p.RowsAfter), size(p.BytesBefore), size(p.BytesAfter), plainText(string(p.GUN)))
	if p.Skipped != "" {
		fold(&b, "           skipped: ", plainText(p.Skipped))
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

func (t *pruneTable) end() error {
	if t.json {
		return lines{t.w}.write(map[string]any{"totals": map[string]any{
			"repositories": t.guns, "skipped": t.skipped, "removed": t.act,
			"rows_before": t.sum.RowsBefore, "rows_after": t.sum.RowsAfter, "bytes_before": t.sum.BytesBefore, "bytes_after": t.sum.BytesAfter,
		}}, false)
	}
	verb := "would go"
	if t.act {
		verb = "have gone"
	}
	_, err := fmt.Fprintf(t.w, "%d of %d rows %s, %s of %s; %d repositories, %d skipped\n", t.sum.RowsBefore-t.sum.RowsAfter, t.sum.RowsBefore, verb,
		size(t.sum.BytesBefore-t.sum.BytesAfter), size(t.sum.BytesBefore), t.guns, t.skipped)
	return err
}
