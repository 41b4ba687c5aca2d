// Trust-admin is the operator's tool: it shows what the two databases hold, recovers
// repositories whose keys are lost, keeps keys and tables in order, and runs a pair
// for development. docs/operations.md tells how it is used.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"countersign/internal/buildinfo"
	"countersign/internal/service"
)

const name = "trust-admin"

func main() {
	ctx, stop := service.UntilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errUsage marks a command line that makes no sense.
var errUsage = errors.New("wrong command line")

// run returns the exit code: 0, 1 for a fault, 2 for a wrong command line, 3 if a
// command that looks has found something to do.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, onTerminal(err.Error()))
	if errors.Is(err, errToDo) {
		return 3
	}
	if errors.Is(err, errUsage) || isUsage(err.Error()) {
		fmt.Fprintf(stderr, "Try %s --help.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// isUsage knows cobra's own errors, which have no type.
func isUsage(text string) bool {
	for _, prefix := range []string{"unknown command", "required flag(s)", "accepts ", "requires at least"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// The groups of commands, as the help shows them.
const (
	groupLook    = "look"
	groupRecover = "recover"
	groupKeep    = "keep"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   name,
		Short: "Operate the trust server and its signer",
		Long: `Operate the trust server and its signer: see what is there, recover repositories
whose root keys are lost, keep keys and databases in order.

The commands read the configuration files of the programs, and work on their
databases while the programs run. Nothing is removed without --yes.

Exit code: 0 done, 1 a fault, 2 a wrong command line, 3 there is something to do.`,
		Example: `  trust-admin dev                         a working pair on https://localhost:4443
  trust-admin dev --dir /tmp/try --addr localhost:5443
  trust-admin check --server-config server.json --signer-config signer.json
  trust-admin purge registry.example.com/team/app --server-config server.json --signer-config signer.json`,
		Version:       buildinfo.String(name),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w%w", err, silent{errUsage}) })
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "To see what is there, and whether it is well:"},
		&cobra.Group{ID: groupRecover, Title: "To recover and to move:"},
		&cobra.Group{ID: groupKeep, Title: "To keep in order:"},
	)
	for group, list := range map[string][]*cobra.Command{
		groupLook:    {newCheck(), newList(), newShow(), newTags(), newExpiry(), newFsck(), newLog(), newAuth()},
		groupRecover: {newPurge(), newRestore(), newExport(), newImport()},
		groupKeep:    {newKeys(), newPrune(), newDB()},
	} {
		for _, cmd := range list {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(newDev(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), buildinfo.String(name))
		},
	})
	finish(root)
	return root
}

// silent is an error without a text of its own.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }
