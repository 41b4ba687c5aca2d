package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"countersign/admin"
)

const optionalSigner = "configuration file of trust-signer (or notary-signer), to tell who holds which key"

func newList() *cobra.Command {
	var f siteFlags
	var sel admin.Selection
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List all repositories, one line each",
		Long: `List the repositories of the server, one line each: whether a client can use it,
tags, signers (delegations as docker makes them for people), the size and the
number of all stored files, the last publish, the next expiry and the role that
expires, and who holds the snapshot key (with --signer-config).

STATE is ok; expired (clients refuse something for its age); does not verify;
damaged (a file is missing or changed); or no timestamp. "show" says why.

Lines are printed as they are made, however many there are, so the columns have
fixed widths, and the name comes last. With --output json each repository is a
line of its own.`,
		Example: `  trust-admin ls --server-config /etc/notary/server-config.json
  trust-admin ls --prefix registry.example.com/team/ --server-config server.json --signer-config signer.json
  trust-admin ls --server-config server.json --output json | jq -r 'select(.state != "ok") | .gun'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sel.All = sel.Prefix == ""
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				show := tableOfRepositories(cmd.OutOrStdout())
				if f.output == "json" {
					out := lines{cmd.OutOrStdout()}
					show = func(r admin.Summary) error { return out.write(r, false) }
				}
				return s.List(ctx, sel, show)
			})
		},
	}
	f.add(cmd, needServer)
	f.addSigner(cmd, optionalSigner)
	cmd.Flags().StringVar(&sel.Prefix, "prefix", "", "only repositories whose name begins so")
	return cmd
}

// tableOfRepositories prints the head with the first line.
func tableOfRepositories(w io.Writer) func(admin.Summary) error {
	const format = "%-15s %6s %7s %7s %5s  %-10s  %-10s %-9s  %-8s  %s\n"
	first := true
	return func(r admin.Summary) error {
		if first {
			first = false
			if _, err := fmt.Fprintf(w, format, "STATE", "TAGS", "SIGNERS", "SIZE", "FILES", "PUBLISHED", "EXPIRES", "ROLE", "SNAPSHOT", "NAME"); err != nil {
				return err
			}
		}
		published, expires, role := "-", "-", "-"
		if !r.LastPublish.IsZero() {
			published = r.LastPublish.UTC().Format("2006-01-02")
		}
		if r.NextExpiry != nil {
			expires, role = r.NextExpiry.Expires.UTC().Format("2006-01-02"), printable(string(r.NextExpiry.Role), 9)
		}
		held := r.SnapshotKey
		if held == admin.HeldByUnknown {
			held = "?"
		}
		_, err := fmt.Fprintf(w, format, r.State, fmt.Sprint(r.Tags), fmt.Sprint(len(r.Signers)), humanSize(r.Size), fmt.Sprint(r.Versions),
			published, expires, role, held, printable(string(r.GUN), 300))
		return err
	}
}
