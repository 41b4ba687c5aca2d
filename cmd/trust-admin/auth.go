package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/server/auth"
	"countersign/tuf"
)

// maxToken is more than any HTTP header holds.
const maxToken = 1 << 20

func newAuth() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Find out why a client may or may not do something",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newExplain())
	return cmd
}

func newExplain() *cobra.Command {
	var (
		c      admin.ExplainConfig
		gun    string
		output string
	)
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say of a bearer token which check passes and which fails",
		Long: `Say of a bearer token which of the server's checks passes and which fails.

The token is read from standard input, so that it stands in no process list and in
no history. The checks are made here, by the server's configuration: nothing is sent.
The exit code is 0 if the server would accept the token, and 1 if not.`,
		Example: `  trust-admin auth explain --server-config /etc/notary/server-config.json < token.txt
  trust-admin auth explain --server-config server.json --gun registry.example.com/team/app --action push --action pull < token.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxToken+1))
			if err != nil {
				return fmt.Errorf("reading the token: %w", err)
			}
			if len(raw) > maxToken {
				return fmt.Errorf("the token has more than %d bytes", maxToken)
			}
			c.Token, c.GUN, c.Environ = string(raw), tuf.GUN(gun), os.Environ()
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			checks, err := admin.ExplainToken(c)
			if err != nil {
				return err
			}
			return printChecks(cmd.OutOrStdout(), output, checks)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.ServerConfig, "server-config", "", "configuration file of trust-server")
	f.StringVar(&gun, "gun", "", "repository that the token is to be used on")
	f.StringArrayVar(&c.Actions, "action", []string{"pull"}, "what is to be done there: pull, push or *; may be repeated")
	f.StringVar(&output, "output", "table", "table or json")
	_ = cmd.MarkFlagRequired("server-config")
	return cmd
}

// errNotAccepted ends the program with 1 after the checks have said why.
var errNotAccepted = errors.New("the server would refuse this token")

func printChecks(w io.Writer, output string, checks []auth.Check) error {
	accepted := true
	for _, c := range checks {
		accepted = accepted && c.OK
	}
	var err error
	switch output {
	case "json":
		type row struct {
			Check string `json:"check"`
			OK    bool   `json:"ok"`
			Text  string `json:"text"`
		}
		rows := []row{}
		for _, c := range checks {
			rows = append(rows, row{c.Name, c.OK, c.Text})
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		err = e.Encode(map[string]any{"accepted": accepted, "checks": rows})
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, c := range checks {
			verdict := "ok"
			if !c.OK {
				verdict = "FAILS"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", verdict, c.Name, c.Text)
		}
		err = t.Flush()
	default:
		return fmt.Errorf("%w: --output is table or json, not %q", errUsage, output)
	}
	if err == nil && !accepted {
		err = errNotAccepted
	}
	return err
}
