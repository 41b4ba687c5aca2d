package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"countersign/admin"
)

// errFaults is the end of a check that has told what is wrong.
var errFaults = errors.New("something does not work")

func newCheck() *cobra.Command {
	var f siteFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at a whole installation and say what is wrong with it",
		Long: `Look at a whole installation: both configuration files, certificates (names, days
left, whether they fit each other), client authentication, databases and their
tables, clocks, passphrases, disks, the connection from the server to the signer,
and the server's own health. Each line says ok, or what is wrong and what to do.

Nothing is changed, and no key is used. The programs need not run, but the lines
about them are faults then. Where they are on two machines, run it on each with the
file that is there.

Exit code: 0 if all is well, 3 if there are warnings, 1 for a fault.`,
		Example: `  trust-admin check --server-config server.json --signer-config signer.json
  trust-admin check --server-config server.json --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.server == "" && f.signer == "":
				return fmt.Errorf("name at least one of --server-config and --signer-config%w", silent{errUsage})
			case f.output != "table" && f.output != "json":
				return fmt.Errorf("--output is table or json, not %q%w", f.output, silent{errUsage})
			}
			warnings, faults := 0, 0
			enc := json.NewEncoder(cmd.OutOrStdout())
			err := admin.Check(cmd.Context(), admin.CheckConfig{ServerConfig: f.server, SignerConfig: f.signer, Environ: os.Environ()}, func(v admin.Verdict) {
				switch v.Verdict {
				case admin.VerdictWarn:
					warnings++
				case admin.VerdictFault:
					faults++
				}
				if f.output == "json" {
					_ = enc.Encode(v)
					return
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-8s %s: %s\n", v.Verdict, v.About, v.Text)
				if v.ToDo != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%-8s   to do: %s\n", "", v.ToDo)
				}
			})
			switch {
			case err != nil:
				return err
			case faults > 0:
				return errFaults
			case warnings > 0:
				return errToDo
			}
			return nil
		},
	}
	f.addServer(cmd, "configuration file of trust-server (or notary-server)")
	f.addSigner(cmd, "configuration file of trust-signer (or notary-signer)")
	f.addOutput(cmd)
	return cmd
}
