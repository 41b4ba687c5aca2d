package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

func newExport() *cobra.Command {
	var f siteFlags
	var c admin.ExportConfig
	cmd := &cobra.Command{
		Use:   "export {GUN… | --prefix P | --all} --to FILE",
		Short: "Write repositories to a file",
		Long: `Write repositories to a tar file, all versions, each as it was at one moment: the
files as their clients signed them, below the paths that clients ask for, and an
index. docs/archive.md describes it. The programs may go on running.

With --signer-config the sealed keys are taken along; without them an import is
readable until its timestamps expire, and its owners must rotate the server's keys.`,
		Example: `  trust-admin export --all --to all.tar --server-config server.json --signer-config signer.json
  trust-admin export registry.example.com/team/app --to app.tar --server-config server.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			guns, err := parseGUNs(args)
			if err != nil {
				return err
			}
			c.GUNs, c.Keys = guns, f.signer != ""
			c.Progress = progress(cmd, "exported")
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				out, err := s.Export(ctx, c)
				if c.Progress != nil {
					fmt.Fprint(cmd.ErrOrStderr(), clearLine)
				}
				if err != nil {
					return err
				}
				if f.output == "json" {
					return writeJSON(cmd.OutOrStdout(), out)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d repositories, %d files, %s, %d keys\ncontent SHA-256 %s\n",
					out.Path, out.Repositories, out.Files, size(out.Bytes), out.Keys, out.Digest)
				return err
			})
		},
	}
	f.add(cmd, needServer)
	f.addSigner(cmd, "to take the sealed keys along: configuration file of trust-signer (or notary-signer)")
	addSelection(cmd, &c.Selection)
	cmd.Flags().StringVar(&c.Path, "to", "", "the file to write; there must be none yet")
	cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the file's header")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// addSelection adds the flags that choose repositories, beside their names.
func addSelection(cmd *cobra.Command, sel *admin.Selection) {
	cmd.Flags().StringVar(&sel.Prefix, "prefix", "", "all repositories whose name begins so")
	cmd.Flags().BoolVar(&sel.All, "all", false, "all repositories")
}

// clearLine clears the line of a terminal.
const clearLine = "\r\x1b[K"

// progress tells on a terminal how far a long work is; elsewhere it says nothing.
func progress(cmd *cobra.Command, done string) func(int, tuf.GUN) {
	if info, err := os.Stderr.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return func(n int, gun tuf.GUN) {
		fmt.Fprintf(cmd.ErrOrStderr(), clearLine+"%s %d: %.60s", done, n, plainText(string(gun)))
	}
}

// size writes bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 3 {
		f, i = f/unit, i+1
	}
	return fmt.Sprintf("%.1f %s", f, []string{"KiB", "MiB", "GiB", "TiB"}[i])
}
