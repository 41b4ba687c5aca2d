package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"countersign/admin"
)

func newImport() *cobra.Command {
	var f siteFlags
	var c admin.ImportConfig
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Read repositories from a file that export has written",
		Long: `Read repositories from a file that "trust-admin export" has written, into databases
that do not have them. The whole file is verified first. Each repository comes in
whole, byte for byte, with its keys if the file has them and --signer-config is
given. An import that was cut off goes on when it is started again. The programs
may be running.

The sealed keys open under the passphrases that they were sealed with: the signer
here needs those, under the same aliases.`,
		Example: `  trust-admin import all.tar --server-config server.json --signer-config signer.json
  trust-admin import app.tar --server-config server.json --output json`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"tar"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Path = args[0]
			report := progress(cmd, "imported")
			n, files, keys, already, left := 0, 0, 0, 0, 0
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				enc := json.NewEncoder(cmd.OutOrStdout())
				err := s.Import(ctx, c, func(i admin.Imported) error {
					n, files, keys, left = n+1, files+i.Files, keys+i.Keys, left+i.KeysLeft
					if i.Already {
						already++
					}
					if f.output == "json" {
						return enc.Encode(i)
					}
					if report != nil {
						report(n, i.GUN)
					}
					return nil
				})
				if report != nil {
					fmt.Fprint(cmd.ErrOrStderr(), clearLine)
				}
				if err != nil || f.output == "json" {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d repositories, %d files, %d keys; %d of them were there already\n", n, files, keys, already)
				if left > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%d keys stayed in the file: give --signer-config to take them along\n", left)
				}
				return nil
			})
		},
	}
	f.add(cmd, needServer)
	f.addSigner(cmd, "to take sealed keys along: configuration file of trust-signer (or notary-signer)")
	cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the audit log")
	return cmd
}
