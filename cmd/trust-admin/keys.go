package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

func newKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Look at the signer's keys, seal them anew, remove orphans",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newKeysDoctor(), newKeysLs(), newKeysRewrap(), newKeysOrphans())
	return cmd
}

// keysProgress tells on a terminal how far a long work is; nil elsewhere.
func keysProgress(cmd *cobra.Command, what string) func(done, total int64) {
	if progress(cmd, what) == nil {
		return nil
	}
	return func(done, total int64) {
		fmt.Fprintf(cmd.ErrOrStderr(), clearLine+"%s %d of %d keys", what, done, total)
	}
}

// endKeysProgress clears what keysProgress has written.
func endKeysProgress(cmd *cobra.Command, was bool) {
	if was {
		fmt.Fprint(cmd.ErrOrStderr(), clearLine)
	}
}

func newKeysLs() *cobra.Command {
	var f siteFlags
	var gun string
	var filter admin.KeyFilter
	cmd := &cobra.Command{
		Use:   "ls [--gun G] [--alias A]",
		Short: "List the keys",
		Long: `List the rows of the signer's table, in the order in which they were made. No key is
opened, and no passphrase is needed. ROUNDS is how often the passphrase is
stretched; USED is when the key last signed, at most a day behind. Keys are cut to
12 digits here; with --output json each key is a line of its own, whole.`,
		Example: `  trust-admin keys ls --signer-config signer.json --gun registry.example.com/team/app
  trust-admin keys ls --signer-config signer.json --alias old --output json | wc -l`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter.GUN = tuf.GUN(gun)
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				show := tableOfKeys(cmd.OutOrStdout())
				if f.output == "json" {
					enc := json.NewEncoder(cmd.OutOrStdout())
					show = func(k admin.KeyInfo) error { return enc.Encode(k) }
				}
				return s.ListKeys(ctx, filter, show)
			})
		},
	}
	f.add(cmd, needSigner)
	cmd.Flags().StringVar(&gun, "gun", "", "only keys of this repository")
	cmd.Flags().StringVar(&filter.Alias, "alias", "", "only keys sealed under this passphrase alias")
	return cmd
}

// tableOfKeys prints as it reads, in 80 columns: a line for each GUN, and its keys
// below it.
func tableOfKeys(w io.Writer) func(admin.KeyInfo) error {
	const form = "  %-9s  %-12s  %-7s  %-12s  %6s  %-10s  %s\n"
	day := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.Format(time.DateOnly)
	}
	first, gun := true, tuf.GUN("")
	return func(k admin.KeyInfo) error {
		var b strings.Builder
		if first {
			fmt.Fprintf(&b, form, "ROLE", "KEY", "TYPE", "ALIAS", "ROUNDS", "MADE", "USED")
		}
		if first || k.GUN != gun {
			name := plainText(string(k.GUN))
			if name == "" {
				name = "(no GUN)"
			}
			b.WriteString(name + "\n")
		}
		first, gun = false, k.GUN
		used, rounds := day(k.LastUsed), fmt.Sprint(k.Rounds)
		if k.Deleted != nil {
			used = "deleted " + day(k.Deleted)
		}
		if k.Rounds == 0 {
			rounds = "?"
		}
		fmt.Fprintf(&b, form, plainText(string(k.Role)), plainText(fmt.Sprintf("%.12s", k.ID)), plainText(k.Algorithm), plainText(k.Alias), rounds, day(k.Created), used)
		_, err := io.WriteString(w, b.String())
		return err
	}
}

func newKeysDoctor() *cobra.Command {
	var f siteFlags
	var c admin.DoctorConfig
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Open every key, and say what is wrong with those that do not open",
		Long: `Open every key with the passphrases of the signer's configuration, and tell of each
that is not in order: what it is, and what to do. Nothing is changed, and no
private key is shown or kept. Give the environment, or the passphrase files, that
the signer has.

With --server-config roots are read too: a key that root lists and that has no row,
a row of another repository, a key that nobody can want any more. That root's
timestamp key has no row is always a fault. The snapshot's key may be its owner's:
without a trace of it in the signer's table or the audit log it is taken for that.
Docker's clients leave the snapshot to the server: --server-snapshots says that all
do, and then such a key is missing.

With --output json each finding is a line, and the last line sums up.

Exit code: 0 if there is nothing to do, 3 if there is, 1 for a fault of the work
itself.`,
		Example: `  trust-admin keys doctor --signer-config signer.json --server-config server.json
  trust-admin keys doctor --signer-config signer.json --all --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Progress = keysProgress(cmd, "opened")
			show := func(k admin.KeyFinding) error { return printKeyFinding(cmd, k, c.Progress != nil) }
			if f.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				show = func(k admin.KeyFinding) error { return enc.Encode(k) }
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				r, err := s.DoctorKeys(ctx, c, func(k admin.KeyFinding) error {
					if k.Fault || all || k.Class == admin.KeyOlder {
						return show(k)
					}
					return nil
				})
				endKeysProgress(cmd, c.Progress != nil)
				if err != nil {
					return err
				}
				if f.output == "json" {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
						*admin.KeyReport `json:"summary"`
					}{r})
				} else {
					err = printKeyReport(cmd.OutOrStdout(), r)
				}
				if err == nil && r.Faults > 0 {
					err = errToDo
				}
				return err
			})
		},
	}
	f.add(cmd, needSigner)
	f.addServer(cmd, "to look at roots too: configuration file of trust-server (or notary-server)")
	cmd.Flags().BoolVar(&c.ServerSnapshots, "server-snapshots", false, "the server makes the snapshots of all repositories")
	cmd.Flags().BoolVar(&all, "all", false, "tell of keys that are in order, too")
	return cmd
}

func printKeyFinding(cmd *cobra.Command, k admin.KeyFinding, terminal bool) error {
	endKeysProgress(cmd, terminal)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", k.Class)
	switch {
	case k.ID == "":
		fmt.Fprintf(&b, "alias %q\n", k.Alias)
	default:
		fmt.Fprintf(&b, "%s of %s\n    key %s\n", plainText(string(k.Role)), plainText(string(k.GUN)), plainText(string(k.ID)))
	}
	if k.Text != "" {
		b.WriteString(keysIndented(k.Text))
	}
	_, err := io.WriteString(cmd.OutOrStdout(), b.String())
	return err
}

// keysIndented breaks a text into lines for a terminal of 80 columns.
func keysIndented(text string) string {
	var b strings.Builder
	column := 80
	for _, word := range strings.Fields(plainText(text)) {
		if column+1+len(word) > 78 {
			if b.Len() > 0 {
				b.WriteString("\n")
			}
			b.WriteString("    " + word)
			column = 4 + len(word)
			continue
		}
		b.WriteString(" " + word)
		column += 1 + len(word)
	}
	return b.String() + "\n"
}

func printKeyReport(w io.Writer, r *admin.KeyReport) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d keys\n", r.Rows)
	for _, c := range r.Classes {
		fmt.Fprintf(&b, "%8d  %s\n", c.Count, c.Class)
		if c.Meaning != "" {
			b.WriteString(keysIndented(c.Meaning))
		}
		if c.Do != "" {
			b.WriteString(keysIndented("→ " + c.Do))
		}
	}
	for i, a := range r.Aliases {
		if i == 0 {
			fmt.Fprintf(&b, "\n%-30s  %-10s  %8s  %8s\n", "ALIAS", "PASSPHRASE", "OPENED", "FAILED")
		}
		has := "yes"
		if !a.Passphrase {
			has = "none"
		}
		fmt.Fprintf(&b, "%-30s  %-10s  %8d  %8d\n", plainText(a.Alias), has, a.Opened, a.Failed)
	}
	if r.NoRoots {
		b.WriteString("\nRoots were not looked at: that needs --server-config.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newKeysRewrap() *cobra.Command {
	var f siteFlags
	var c admin.RewrapConfig
	cmd := &cobra.Command{
		Use:   "rewrap --to ALIAS [--from ALIAS]… [--rounds N]",
		Short: "Seal keys anew, under another passphrase",
		Long: `Seal keys anew under the passphrase of an alias: the same keys, so nothing changes
for anybody. Without --yes every key is opened and nothing is written.

Keys that are in the form that is asked for already are left. So a run that was
interrupted, or killed, is finished by another. Keys that do not open stay as they
are, and are told of. Each key is opened again from its new form before it is
stored. Signers may go on running; each must have the passphrase of the alias
BEFORE this: what is stored in the new form is of no use to one that does not.

--rounds 8192 is for going back to upstream's signer, which stretches the
passphrase anew for every key: with today's 600000 that takes it a tenth of a
second and more for each key that it uses for the first time.

Exit code: 0 if all that is meant is in the form that is asked for, 3 if keys are
left that are not, 1 for a fault.`,
		Example: `  trust-admin keys rewrap --to k2026 --signer-config signer.json --server-config server.json
  trust-admin keys rewrap --to k2026 --from defaultalias --yes --signer-config signer.json --server-config server.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Progress = keysProgress(cmd, "looked at")
			failed := func(k admin.KeyFinding) error { return printKeyFinding(cmd, k, c.Progress != nil) }
			if f.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				failed = func(k admin.KeyFinding) error { return enc.Encode(k) }
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				r, err := s.RewrapKeys(ctx, c, failed)
				endKeysProgress(cmd, c.Progress != nil)
				if r == nil {
					return err
				}
				return errors.Join(err, printRewrap(cmd.OutOrStdout(), f.output, r, err == nil))
			})
		},
	}
	f.add(cmd, needSigner)
	f.addServer(cmd, "for the audit log: configuration file of trust-server (or notary-server)")
	cmd.Flags().StringVar(&c.To, "to", "", "the alias to seal under")
	cmd.Flags().StringSliceVar(&c.From, "from", nil, "only keys sealed under this alias; may be given several times")
	cmd.Flags().IntVar(&c.Rounds, "rounds", 0, "how often the passphrase is stretched, 8192 to 1000000 (default 600000, or what a key has, if it is more)")
	cmd.Flags().BoolVar(&c.Act, "yes", false, "do it")
	cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the audit log")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// printRewrap returns errToDo if keys are left that are meant.
func printRewrap(w io.Writer, output string, r *admin.Rewrap, ended bool) error {
	var err error
	if output == "json" {
		err = json.NewEncoder(w).Encode(struct {
			*admin.Rewrap `json:"summary"`
		}{r})
	} else {
		var b strings.Builder
		for _, warning := range r.Warnings {
			b.WriteString("Note:\n" + keysIndented(warning))
		}
		fmt.Fprintf(&b, "%d keys, %d to be sealed anew under the alias %q with %d rounds\n", r.Rows, r.Meant, r.To, r.Rounds)
		if r.Acted {
			fmt.Fprintf(&b, "%d are, %d changed meanwhile, %d do not open and stay as they are\n", r.Done, r.Moved, r.Failed)
		} else {
			fmt.Fprintf(&b, "%d do not open and would stay as they are\n", r.Failed)
			if r.Meant > r.Failed {
				b.WriteString("Nothing is changed: say --yes to do it.\n")
			}
		}
		_, err = io.WriteString(w, b.String())
	}
	if err == nil && ended && r.Meant > r.Done {
		err = errToDo
	}
	return err
}

func newKeysOrphans() *cobra.Command {
	var f siteFlags
	var c admin.OrphansConfig
	var yes bool
	cmd := &cobra.Command{
		Use:   "orphans [--delete --archive FILE --yes]",
		Short: "Find, and remove, keys that nobody can want",
		Long: `Find keys that were used, but not in the last two days, and that no stored root of
their repository lists, in any version; keys that were never used, as old as
--unused-days, of a repository of which nothing is stored; and rows marked as
deleted that no root lists.

With --delete --yes they are removed, after they were written to an archive, from
which "trust-admin restore" brings them back. Signers and servers may run; if the
signer is upstream's, stop it for the time, since it signs on from its memory. Do
not run it beside a restore or an import.

With --output json each key is a line of its own, and the last line sums up.

Exit code: 0 if there are none, or none is left, 3 if there are, 1 for a fault.`,
		Example: `  trust-admin keys orphans --signer-config signer.json --server-config server.json
  trust-admin keys orphans --delete --archive orphans.tar --yes --signer-config signer.json --server-config server.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.Delete && c.Archive == "":
				return fmt.Errorf("--delete needs --archive FILE, where the keys are written to first%w", silent{errUsage})
			case !c.Delete && (yes || c.Archive != ""):
				return fmt.Errorf("--yes and --archive are for --delete%w", silent{errUsage})
			}
			doIt := c.Delete && yes
			asked := c
			asked.Delete = doIt
			if pages := keysProgress(cmd, "looked at"); pages != nil {
				asked.Progress = func(done int64) { pages(done, done) }
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				show := tableOfOrphans(cmd)
				if f.output == "json" {
					enc := json.NewEncoder(cmd.OutOrStdout())
					show = func(o admin.Orphan) error { return enc.Encode(o) }
				}
				out, err := s.OrphanKeys(ctx, asked, show)
				endKeysProgress(cmd, asked.Progress != nil)
				if err != nil {
					return err
				}
				return printOrphans(cmd.OutOrStdout(), f.output, out, doIt)
			})
		},
	}
	f.add(cmd, needServer|needSigner)
	cmd.Flags().IntVar(&c.UnusedDays, "unused-days", 30, "how old a key must be that was never used, at least 1")
	cmd.Flags().BoolVar(&c.Delete, "delete", false, "remove them; without --yes it is only said which")
	cmd.Flags().StringVar(&c.Archive, "archive", "", "the file to write them to first; there must be none yet")
	cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the archive and the audit log")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	_ = cmd.MarkFlagFilename("archive", "tar")
	return cmd
}

func tableOfOrphans(cmd *cobra.Command) func(admin.Orphan) error {
	return func(o admin.Orphan) error {
		outcome := ""
		if o.Outcome != "" {
			outcome = ": " + o.Outcome
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s%s: %s of %s\n    key %s\n", o.Why, outcome, plainText(string(o.Role)), plainText(string(o.GUN)), plainText(string(o.ID)))
		return err
	}
}

func printOrphans(w io.Writer, output string, out *admin.Orphans, did bool) error {
	var err error
	switch {
	case output == "json":
		err = json.NewEncoder(w).Encode(struct {
			*admin.Orphans `json:"summary"`
		}{out})
	case !did:
		_, err = fmt.Fprintf(w, "%d keys, %d orphans\n", out.Rows, out.Found)
		if out.Found > 0 && err == nil {
			_, err = fmt.Fprintln(w, "Nothing is changed: --delete --archive FILE --yes removes them.")
		}
	default:
		lines := []string{fmt.Sprintf("%d keys, %d orphans: %d deleted, %d kept", out.Rows, out.Found, out.Deleted, out.Kept)}
		if out.Archive != "" {
			lines = append(lines, "archive "+out.Archive, "content SHA-256 "+out.Digest)
		}
		_, err = fmt.Fprintln(w, strings.Join(lines, "\n"))
	}
	if err == nil && out.Found > out.Deleted {
		err = errToDo
	}
	return err
}
