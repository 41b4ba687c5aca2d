package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

// shownTags bounds the tags and keys of a role that a table names.
const shownTags = 10

type purgeFlags struct {
	siteFlags
	yes            bool
	prefix         string
	count          int
	reason         string
	dir            string
	card, cardPage string
	url            string
}

func newPurge() *cobra.Command {
	var f purgeFlags
	cmd := &cobra.Command{
		Use:   "purge {GUN… | --prefix P}",
		Short: "Remove repositories from both databases, into archives",
		Long: `Remove all of a repository, so that it can be begun anew: for those who have lost
its root key. The programs may go on running.

Without --yes nothing is done but shown. With it, for each repository: all rows of
both databases are written to an archive and read again; the server's rows go in
one transaction; the signer's keys go, and sign nothing from then on, on any
replica. If it is killed, the same command (or purge resume) finishes the work;
trust-admin restore takes all of it back. Printed at the end is the recovery card:
what to do now on the clients.

A GUN is meant exactly. --prefix means all that begin so, and asks for their number.

Exit code: 0 if it was purged, 3 if it was only shown, 1 for a fault, 2 for a wrong
command line.`,
		Example: `  trust-admin purge registry.example.com/team/app --server-config server.json --signer-config signer.json
  trust-admin purge registry.example.com/team/app --yes --reason "laptop lost, ticket 4711" \
      --archive-dir /var/backups/notary --card app.html --server-url https://notary.example.com:4443 \
      --server-config server.json --signer-config signer.json
  trust-admin purge --prefix registry.example.com/old/ --count 12 --yes \
      --server-config server.json --signer-config signer.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.add(cmd, needServer|needSigner)
	fs := cmd.Flags()
	fs.BoolVar(&f.yes, "yes", false, "do it")
	fs.StringVar(&f.prefix, "prefix", "", "purge all repositories whose name begins so")
	fs.IntVar(&f.count, "count", 0, "with --prefix: how many these are, instead of being asked")
	fs.StringVar(&f.reason, "reason", "", "why, for the audit log and the archive")
	fs.StringVar(&f.dir, "archive-dir", ".", "where the archives are put")
	fs.StringVar(&f.card, "card", "", "write the recovery card there, too; as a page if the name ends in .html")
	fs.StringVar(&f.url, "server-url", "", "for the card: the URL by which clients know the trust server")
	_ = cmd.MarkFlagDirname("archive-dir")
	cmd.AddCommand(newPurgeList(), newPurgeResume())
	return cmd
}

func (f *purgeFlags) run(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 && f.prefix == "":
		return fmt.Errorf("name repositories, or give --prefix%w", silent{errUsage})
	case len(args) > 0 && f.prefix != "":
		return fmt.Errorf("name repositories, or give --prefix, not both%w", silent{errUsage})
	case f.count != 0 && f.prefix == "":
		return fmt.Errorf("--count goes with --prefix%w", silent{errUsage})
	}
	guns, err := admin.ParseGUNs(args)
	if err != nil {
		return fmt.Errorf("%w%w", err, silent{errUsage})
	}
	return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
		if f.prefix != "" {
			if guns, err = s.WithPrefix(ctx, f.prefix); err != nil {
				return err
			}
		}
		if !f.yes {
			return f.show(ctx, cmd, s, guns)
		}
		if f.prefix != "" {
			if err := f.confirm(cmd, len(guns)); err != nil {
				return err
			}
		}
		return f.purge(ctx, cmd, s, guns)
	})
}

// show is the dry run. One plan is held at a time.
func (f *purgeFlags) show(ctx context.Context, cmd *cobra.Command, s *admin.Site, guns []tuf.GUN) error {
	plans := []*admin.PurgePlan{}
	for _, gun := range guns {
		p, err := s.PlanPurge(ctx, gun)
		if err != nil {
			return err
		}
		if f.output == "json" {
			plans = append(plans, p)
		} else if err := printPlan(cmd.OutOrStdout(), p); err != nil {
			return err
		}
	}
	if f.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), map[string]any{"repositories": plans}); err != nil {
			return err
		}
	}
	return fmt.Errorf("nothing was done; to purge %s, add --yes%w", plural(len(guns), "repository", "repositories"), silent{errToDo})
}

// confirm has the operator type how many repositories he means.
func (f *purgeFlags) confirm(cmd *cobra.Command, n int) error {
	typed := f.count
	if !cmd.Flags().Changed("count") {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s begin with %s. Type the number to purge them: ", plural(n, "repository", "repositories"), plainText(f.prefix))
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 100)).ReadString('\n')
		if err != nil && line == "" {
			return fmt.Errorf("nothing was done: no number was typed; scripts give --count")
		}
		if typed, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			return errors.New("nothing was done: that is no number")
		}
	}
	if typed != n {
		return fmt.Errorf("nothing was done: %s begin with %q, not %d", plural(n, "repository", "repositories"), f.prefix, typed)
	}
	return nil
}

func (f *purgeFlags) purge(ctx context.Context, cmd *cobra.Command, s *admin.Site, guns []tuf.GUN) error {
	// All names are looked at first: a slip in the last one must not be found when
	// the others are gone.
	if f.prefix == "" {
		for _, gun := range guns {
			if _, err := s.PlanPurge(ctx, gun); err != nil {
				return err
			}
		}
	}
	done := []admin.PurgeRecord{}
	for i, gun := range guns {
		if len(guns) > 1 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d: %s\n", i+1, len(guns), plainText(string(gun)))
		}
		r, err := f.one(ctx, cmd, s, gun)
		if err != nil {
			if len(guns) > 1 {
				err = fmt.Errorf("%w\n%s were purged, and %d were not, from %s on", err, plural(i, "repository", "repositories"), len(guns)-i, gun)
			}
			return errors.Join(err, f.printDone(cmd, done))
		}
		done = append(done, r)
	}
	return f.printDone(cmd, done)
}

func (f *purgeFlags) printDone(cmd *cobra.Command, done []admin.PurgeRecord) error {
	if f.output != "json" {
		return nil
	}
	return writeJSON(cmd.OutOrStdout(), map[string]any{"purged": done})
}

func (f *purgeFlags) one(ctx context.Context, cmd *cobra.Command, s *admin.Site, gun tuf.GUN) (admin.PurgeRecord, error) {
	plan, err := s.PlanPurge(ctx, gun)
	if err != nil {
		return admin.PurgeRecord{}, err
	}
	r, err := s.Purge(ctx, admin.PurgeConfig{GUN: gun, Dir: f.dir, Reason: f.reason})
	if err != nil {
		return r, err
	}
	card := admin.NewCard(r, plan, f.url)
	if f.output == "table" {
		if err := printPurged(cmd.OutOrStdout(), r, plan, card); err != nil {
			return r, err
		}
	}
	if err := f.writeCard(card); err != nil {
		return r, fmt.Errorf("%s is purged (archive %s), but its card was not written: %w", gun, r.Archive, err)
	}
	return r, nil
}

func printPurged(w io.Writer, r admin.PurgeRecord, plan *admin.PurgePlan, card admin.Card) error {
	var b bytes.Buffer
	switch {
	case plan.Unfinished != nil:
		fmt.Fprintf(&b, "The purge of %s that was begun at %s is finished.\n", plainText(string(r.GUN)), minute(r.At))
	default:
		fmt.Fprintf(&b, "%s is purged: %d files and %d keys.\n", plainText(string(r.GUN)), plan.Files, len(r.Keys))
	}
	fmt.Fprintf(&b, "archive  %s\ncontent  SHA-256 %s\n", r.Archive, r.Digest)
	if r.Again {
		fmt.Fprintf(&b, "It has been begun anew since. What is there now was left alone.\n")
	}
	fmt.Fprintf(&b, "\n")
	if err := card.Text(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n")
	_, err := w.Write(b.Bytes())
	return err
}

// writeCard writes the card where it was asked for; with several repositories
// each has its own, with the name of the repository in that of the file.
func (f *purgeFlags) writeCard(card admin.Card) error {
	if f.card == "" {
		return nil
	}
	path := f.card
	if f.cardPage != "" && f.cardPage != card.GUN { // not the first one
		ext := filepath.Ext(path)
		path = strings.TrimSuffix(path, ext) + "-" + strings.NewReplacer("/", "_", ":", "_").Replace(card.GUN) + ext
	} else {
		f.cardPage = card.GUN
	}
	return card.WriteFile(path)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

func printPlan(w io.Writer, p *admin.PurgePlan) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", plainText(string(p.GUN)))
	if p.Unfinished != nil {
		fmt.Fprintf(&b, "  A purge of it was begun at %s and has not ended. The same command ends it,\n  and leaves alone what is there by now.\n", minute(p.Unfinished.At))
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "  ROLE\tVERSIONS\tNEWEST\tSIZE\n")
	for _, r := range p.Roles {
		fmt.Fprintf(tw, "  %s\t%d\t%d\t%s\n", plainText(string(r.Role)), r.Versions, r.Newest, size(r.Bytes))
	}
	_ = tw.Flush()
	for _, k := range p.Keys {
		used := "last used " + minute(k.LastUsed)
		switch {
		case k.Deleted:
			used = "marked as deleted"
		case k.LastUsed.IsZero():
			used = "never used"
		}
		fmt.Fprintf(&b, "  signer's key for %s, %s\n    %s\n", plainText(string(k.Role)), used, plainText(string(k.ID)))
	}
	for _, o := range p.Owners {
		fmt.Fprintf(&b, "  owner's %s for %s\n", plural(len(o.IDs), "key", "keys"), o.Role)
		for _, id := range o.IDs[:min(len(o.IDs), shownTags)] {
			fmt.Fprintf(&b, "    %s\n", plainText(string(id)))
		}
	}
	var names []string
	for _, t := range p.Tags[:min(len(p.Tags), shownTags)] {
		names = append(names, plainText(t.Name))
	}
	tags := strings.Join(names, ", ")
	if more := p.TagCount - len(names); more > 0 && len(names) > 0 {
		tags += fmt.Sprintf(" and %d more", more)
	}
	fmt.Fprintf(&b, "  %s\n", strings.TrimSuffix(plural(p.TagCount, "tag", "tags")+": "+tags, ": "))
	if len(p.Signers) > 0 {
		fmt.Fprintf(&b, "  signers: %s\n", plainText(strings.Join(p.Signers, ", ")))
	}
	for _, fault := range p.Faults {
		fmt.Fprintf(&b, "  cannot be read: %s\n", plainText(fault))
	}
	fmt.Fprintf(&b, "  last publish %s; %s, %s in all\n\n", minute(p.LastPublish), plural(p.Files, "file", "files"), size(p.Bytes))
	_, err := w.Write(b.Bytes())
	return err
}

func newPurgeList() *cobra.Command {
	var f siteFlags
	var open bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List purges, and those that have not ended",
		Example: `  trust-admin purge list --server-config server.json
  trust-admin purge list --unfinished --output json --server-config server.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				return listPurges(ctx, cmd.OutOrStdout(), s, open, f.output)
			})
		},
	}
	f.add(cmd, needServer)
	cmd.Flags().BoolVar(&open, "unfinished", false, "only those that have not ended")
	return cmd
}

func listPurges(ctx context.Context, w io.Writer, s *admin.Site, open bool, output string) error {
	list := []admin.PurgeRecord{}
	if err := s.Purges(ctx, open, func(r admin.PurgeRecord) error { list = append(list, r); return nil }); err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(w, map[string]any{"purges": list})
	}
	var b bytes.Buffer
	for _, r := range list {
		state := "ended " + minute(r.Ended)
		if r.Ended.IsZero() {
			state = "NOT ENDED: trust-admin purge resume"
		}
		fmt.Fprintf(&b, "%s  %s\n  %s\n  by %s%s\n  archive %s\n", minute(r.At), plainText(string(r.GUN)), state, plainText(r.Actor), because(r.Reason), plainText(r.Archive))
	}
	_, err := w.Write(b.Bytes())
	return err
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + plainText(reason)
}

func newPurgeResume() *cobra.Command {
	var f siteFlags
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Finish purges that were cut off",
		Long: `Finish all purges of which the server's rows have gone and the signer's keys have
not. A purge that was cut off before that has removed no file: repeat its command.`,
		Example: `  trust-admin purge resume --server-config server.json --signer-config signer.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				done := []admin.PurgeRecord{}
				err := s.ResumePurges(ctx, func(r admin.PurgeRecord) error {
					done = append(done, r)
					if f.output == "json" {
						return nil
					}
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "finished: %s, begun at %s, archive %s\n", plainText(string(r.GUN)), minute(r.At), plainText(r.Archive))
					return err
				})
				if f.output == "json" {
					err = errors.Join(err, writeJSON(cmd.OutOrStdout(), map[string]any{"finished": done}))
				} else if len(done) == 0 && err == nil {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), "every purge has ended")
				}
				return err
			})
		},
	}
	f.add(cmd, needServer|needSigner)
	return cmd
}

// newRestore is the way back.
func newRestore() *cobra.Command {
	var f siteFlags
	var c admin.RestoreConfig
	var version int32
	cmd := &cobra.Command{
		Use:   "restore ARCHIVE",
		Short: "Bring back what was purged",
		Long: `Bring back what trust-admin purge has archived: every file and key byte for byte,
and the changefeed. The archive is read to its end before anything is written. A
repository that was published anew meanwhile is left alone, unless --replace is
given: then it is purged first, into an archive of its own. If it is killed, the
same command finishes the work. The programs may go on running.

Clients refuse a timestamp with a lower version than they have seen. For a
repository that has gone on elsewhere since the archive was made, --as-new-timestamp
has the running signer sign one with a version above all that are on record;
--timestamp-version makes it higher still.`,
		Example: `  trust-admin restore registry.example.com_team_app-20261121T160400.000000Z.purge.tar \
      --server-config server.json --signer-config signer.json
  trust-admin restore app.purge.tar --as-new-timestamp --timestamp-version 500 \
      --server-config server.json --signer-config signer.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Path, c.Version = args[0], tuf.Version(version)
			if version < 0 || version > 0 && !c.NewTimestamp {
				return fmt.Errorf("--timestamp-version is a positive number, beside --as-new-timestamp%w", silent{errUsage})
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				return restore(ctx, cmd, s, c, f.output)
			})
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"tar"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	f.add(cmd, needServer|needSigner)
	fs := cmd.Flags()
	fs.BoolVar(&c.Replace, "replace", false, "purge a repository that has the name by now")
	fs.BoolVar(&c.NewTimestamp, "as-new-timestamp", false, "have the signer sign a newer timestamp")
	fs.Int32Var(&version, "timestamp-version", 0, "with --as-new-timestamp: its version, at least")
	fs.StringVar(&c.Reason, "reason", "", "why, for the audit log")
	fs.StringVar(&c.Dir, "archive-dir", ".", "with --replace: where the archive of what is replaced is put")
	_ = cmd.MarkFlagDirname("archive-dir")
	return cmd
}

func restore(ctx context.Context, cmd *cobra.Command, s *admin.Site, c admin.RestoreConfig, output string) error {
	done := []admin.Restored{}
	err := s.Restore(ctx, c, func(r admin.Restored) error {
		done = append(done, r)
		if output == "json" {
			return nil
		}
		return printRestored(cmd.OutOrStdout(), r)
	})
	if output == "json" {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), map[string]any{"restored": done}))
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w (trust-admin purge list says where archives were put)", err)
	}
	return err
}

func printRestored(w io.Writer, r admin.Restored) error {
	var b bytes.Buffer
	if r.Replaced != nil {
		fmt.Fprintf(&b, "what had the name is purged: %s\n", plainText(r.Replaced.Archive))
	}
	fmt.Fprintf(&b, "%s is restored: %d files, %d keys\n", plainText(string(r.GUN)), r.Files, r.Keys)
	if r.Already {
		fmt.Fprintf(&b, "  its files were there already\n")
	}
	for _, id := range r.OtherForm {
		fmt.Fprintf(&b, "  key %s has been sealed anew since, and stays so\n", plainText(string(id)))
	}
	if r.Timestamp > 0 {
		fmt.Fprintf(&b, "  its timestamp was signed anew, as version %d\n", r.Timestamp)
	}
	_, err := w.Write(b.Bytes())
	return err
}
