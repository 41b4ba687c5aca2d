package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

func newTags() *cobra.Command {
	var f siteFlags
	var c admin.TagsConfig
	var role string
	cmd := &cobra.Command{
		Use:   "tags GUN",
		Short: "List the signed tags of a repository",
		Long: `List the tags of a repository, sorted: the SHA-256 that each stands for, the
size of that manifest, and the roles that sign it. A tag that two roles sign
with different checksums has a line for each.

Only what verifies is listed, as a client would see it. With --all the rest is
listed too, marked with an exclamation mark and the reason. With --output json
each tag is a line of its own.

Exit code: 0, or 3 if tags were left out because they do not verify.`,
		Example: `  trust-admin tags registry.example.com/team/app --server-config server.json
  trust-admin tags registry.example.com/team/app --role targets/releases --server-config server.json --output json`,
		Args: exactGUN,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.GUN, c.Role = tuf.GUN(args[0]), tuf.RoleName(role)
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				show := tableOfTags(cmd.OutOrStdout())
				if f.output == "json" {
					out := lines{cmd.OutOrStdout()}
					show = func(t admin.Tag) error { return out.write(t, false) }
				}
				left, err := s.Tags(ctx, c, show)
				if err == nil && left > 0 {
					err = fmt.Errorf("%w: %d tags do not verify and are not listed; --all lists them, and trust-admin show says why", errToDo, left)
				}
				return err
			})
		},
	}
	f.add(cmd, needServer)
	cmd.Flags().StringVar(&role, "role", "", "only what this role signs: targets, or a delegation")
	cmd.Flags().BoolVar(&c.All, "all", false, "list what does not verify, too")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"targets", "targets/releases"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// exactGUN wants one name, and says so where cobra would speak of arguments.
func exactGUN(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s needs the name of one repository, such as registry.example.com/team/app%w", cmd.CommandPath(), silent{errUsage})
	}
	return nil
}

// tableOfTags prints as it goes: the tag comes last, so that the columns stand.
func tableOfTags(w io.Writer) func(admin.Tag) error {
	first := true
	return func(t admin.Tag) error {
		if first {
			first = false
			if _, err := fmt.Fprintf(w, "%-64s  %8s  %s\n", "SHA256", "SIZE", "TAG (SIGNED BY)"); err != nil {
				return err
			}
		}
		sum := t.SHA256
		if sum == "" {
			sum = "-"
		}
		var roles []string
		for _, r := range t.SignedBy {
			roles = append(roles, printable(string(r), 100))
		}
		text := fmt.Sprintf("%-64s  %8s  %s (%s)", printable(sum, 64), humanSize(t.Size), printable(t.Tag, 300), strings.Join(roles, ", "))
		if !t.Verifies {
			text += " ! " + printable(t.Why, 300)
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
}
