package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
)

// shownTags bounds the tags and keys of a role that a table names.
const shownTags = 10

type purgeFlags struct {
	siteFlags
	yes       bool
	prefix    string
	count     int
	reason    string
	dir       string
	card      string
	url       string
	elsewhere bool
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
If the signer does not have the keys that the repository's root lists, or has used
others, the two configurations may be those of two installations, and nothing is
done; --keys-elsewhere says that they are not.

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
	fs.BoolVar(&f.elsewhere, "keys-elsewhere", false, "purge although the signer's keys do not fit the repository")
	_ = cmd.MarkFlagDirname("archive-dir")
	cmd.AddCommand(newPurgeList(), newPurgeResume(), newPurgeCard())
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
	guns, err := parseGUNs(args)
	if err != nil {
		return fmt.Errorf("%w%w", err, silent{errUsage})
	}
	guns = distinct(guns)
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

// distinct drops what is named twice.
func distinct(guns []tuf.GUN) (once []tuf.GUN) {
	seen := map[tuf.GUN]bool{}
	for _, gun := range guns {
		if !seen[gun] {
			seen[gun], once = true, append(once, gun)
		}
	}
	return once
}

func (f *purgeFlags) purge(ctx context.Context, cmd *cobra.Command, s *admin.Site, guns []tuf.GUN) error {
	// All is looked at first: a slip in the last name, or in that of the card, must
	// not be found when the others are gone.
	done := purgedOutput{Purged: []admin.PurgeRecord{}, Already: []admin.PurgeRecord{}}
	var todo []tuf.GUN
	for _, gun := range guns {
		plan, err := s.PlanPurge(ctx, gun)
		if err == nil && len(plan.Unmatched) > 0 && !f.elsewhere {
			err = fmt.Errorf("nothing was done: %w", admin.Unmatched(gun, plan.Unmatched))
		}
		if err == nil {
			todo = append(todo, gun)
			continue
		}
		last, err2 := s.LastPurge(ctx, gun)
		if !errors.Is(err, storage.ErrNotFound) || err2 != nil || last == nil {
			return errors.Join(err, err2)
		}
		done.Already = append(done.Already, *last)
		if f.output != "json" {
			fmt.Fprintf(cmd.OutOrStdout(), "%s was purged already, at %s: see trust-admin purge list\narchive  %s\n\n", plainText(string(gun)), minute(last.At), plainText(last.Archive))
		}
	}
	cards := cardPaths(f.card, todo)
	for _, path := range cards {
		if err := admin.CheckCardFile(path); err != nil {
			return fmt.Errorf("nothing was done: the card cannot be written: %w", err)
		}
	}
	for i, gun := range todo {
		if len(todo) > 1 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d: %s\n", i+1, len(todo), plainText(string(gun)))
		}
		r, err := f.one(ctx, cmd, s, gun, cards[gun])
		if r.Archive != "" { // its files have gone, whatever failed then
			done.Purged = append(done.Purged, r)
		}
		if err != nil {
			if n := len(done.Purged); len(todo) > 1 {
				err = fmt.Errorf("%w\n%s gone, and %d not looked at", err, plural(n, "repository has", "repositories have"), len(todo)-i-1)
			}
			return errors.Join(err, f.printDone(cmd, done))
		}
	}
	return f.printDone(cmd, done)
}

// purgedOutput is the output for programs.
type purgedOutput struct {
	Purged  []admin.PurgeRecord `json:"purged"`
	Already []admin.PurgeRecord `json:"already_purged"`
}

func (f *purgeFlags) printDone(cmd *cobra.Command, done purgedOutput) error {
	if f.output != "json" {
		return nil
	}
	return writeJSON(cmd.OutOrStdout(), done)
}

// one purges gun. A purge that an earlier call has begun is ended: what it took
// away is told from its archive.
func (f *purgeFlags) one(ctx context.Context, cmd *cobra.Command, s *admin.Site, gun tuf.GUN, cardPath string) (admin.PurgeRecord, error) {
	plan, err := s.PlanPurge(ctx, gun)
	if err != nil {
		return admin.PurgeRecord{}, err
	}
	r, err := s.Purge(ctx, admin.PurgeConfig{GUN: gun, Dir: f.dir, Reason: f.reason, KeysElsewhere: f.elsewhere})
	if err != nil {
		return r, err
	}
	finished := plan.Unfinished != nil
	if finished {
		if plan, err = archivedPlan(r.Archive, gun); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "the card does not name what was signed, since the archive cannot be read: %v\n", err)
		}
	}
	card := admin.NewCard(r, plan, f.url)
	if f.output == "table" {
		if err := printPurged(cmd.OutOrStdout(), r, plan, finished, card); err != nil {
			return r, err
		}
	}
	if cardPath == "" {
		return r, nil
	}
	if err := card.WriteFile(cardPath); err != nil {
		return r, fmt.Errorf("%s is purged, but its card was not written; trust-admin purge card %s prints it: %w", gun, r.Archive, err)
	}
	return r, nil
}

func archivedPlan(path string, gun tuf.GUN) (*admin.PurgePlan, error) {
	a, err := admin.ReadPurge(path)
	if err != nil {
		return nil, err
	}
	for _, p := range a.Plans {
		if p.GUN == gun {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: it has no repository %q", storage.ErrNotFound, gun)
}

func printPurged(w io.Writer, r admin.PurgeRecord, plan *admin.PurgePlan, finished bool, card admin.Card) error {
	var b bytes.Buffer
	switch {
	case finished:
		fmt.Fprintf(&b, "The purge of %s that was begun at %s is finished.\n", plainText(string(r.GUN)), minute(r.At))
	default:
		fmt.Fprintf(&b, "%s is purged: %d files and %d keys.\n", plainText(string(r.GUN)), plan.Files, len(r.Keys))
	}
	fmt.Fprintf(&b, "archive  %s\ncontent  SHA-256 %s\n", plainText(r.Archive), plainText(r.Digest))
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

// cardPaths are where the cards go: the first as it was asked for, each other with
// the name of its repository in that of the file.
func cardPaths(path string, guns []tuf.GUN) map[tuf.GUN]string {
	paths := map[tuf.GUN]string{}
	if path == "" {
		return paths
	}
	taken := map[string]bool{}
	ext := filepath.Ext(path)
	for i, gun := range guns {
		name := path
		if i > 0 {
			name = strings.TrimSuffix(path, ext) + "-" + admin.FileName(gun) + ext
		}
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%s-%d%s", strings.TrimSuffix(path, ext), admin.FileName(gun), n, ext)
		}
		taken[name], paths[gun] = true, name
	}
	return paths
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
	for _, why := range p.Unmatched {
		column := 0
		for _, word := range strings.Fields("  not purged without --keys-elsewhere: " + plainText(why)) {
			if column == 0 || column+1+len(word) > 76 {
				fmt.Fprintf(&b, "%s ", strings.Repeat("\n", min(column, 1)))
				column = 0
			}
			fmt.Fprintf(&b, " %s", word)
			column += 1 + len(word)
		}
		fmt.Fprintf(&b, "\n")
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

func newPurgeCard() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:     "card ARCHIVE",
		Short:   "Print the recovery card of a purge again",
		Long:    `Print the recovery card of each repository in an archive of trust-admin purge.`,
		Example: `  trust-admin purge card app.purge.tar --server-url https://notary.example.com:4443`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := admin.ReadPurge(args[0])
			if err != nil {
				return err
			}
			for i, p := range a.Plans {
				if err := admin.NewCard(a.Records[i], p, url).Text(cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"tar"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	cmd.Flags().StringVar(&url, "server-url", "", "the URL by which clients know the trust server")
	return cmd
}
