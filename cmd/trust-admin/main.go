// Trust-admin is the operator's tool. Today it runs a pair for development.
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
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	if errors.Is(err, errToDo) {
		return 3
	}
	// cobra has no type for these.
	if errors.Is(err, errUsage) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(stderr, "Try %s --help.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   name,
		Short: "Operate the trust server and its signer",
		Example: `  trust-admin dev                         a working pair on https://localhost:4443
  trust-admin dev --dir /tmp/try --addr localhost:5443`,
		Version:       buildinfo.String(name),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w%w", err, silent{errUsage}) })
	root.AddCommand(newKeys())
	root.AddCommand(newAuth(), newCheck(), newDev(), newDB(), newExpiry(), newExport(), newFsck(), newImport(), newList(), newLog(), newPrune(), newPurge(), newRestore(), newShow(), newTags(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), buildinfo.String(name))
		},
	})
	return root
}

// silent is an error without a text of its own.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }
