package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
)

func newLog() *cobra.Command {
	var f siteFlags
	var c admin.LogConfig
	cmd := &cobra.Command{
		Use:   "log [GUN]",
		Short: "Show who published, rotated, deleted, purged what",
		Long: `Show the audit log, oldest entry first: who published, had keys rotated, deleted,
purged, restored, what and when. The server writes an entry with the change itself,
and a trigger refuses to change or remove one. It stops accidents, and whoever has no
more than the rights to write; the owner of the table can drop it: docs/operations.md
says how to give the table another owner than the server's role.

BY is "client:" and the subject of a token or a name of the password file, or
"operator" and whom trust-admin was run by; text that is not ASCII is escaped. request
is what stands in the server's log as request_id, and what the client got as
X-Request-Id.

With --output json each entry is a line of its own.`,
		Example: `  trust-admin log --server-config server.json --last 20
  trust-admin log registry.example.com/team/app --server-config server.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.Last < 0 {
				return fmt.Errorf("--last is a number of entries, not %d%w", c.Last, silent{errUsage})
			}
			if len(args) > 0 {
				c.GUN = tuf.GUN(args[0])
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				show := tableOfEvents(cmd.OutOrStdout())
				if f.output == "json" {
					show = linesOfEvents(cmd.OutOrStdout())
				}
				return s.Log(ctx, c, show)
			})
		},
	}
	f.add(cmd, needServer)
	cmd.Flags().IntVar(&c.Last, "last", 0, "show only the newest so many entries; 0 shows all")
	return cmd
}

func linesOfEvents(w io.Writer) func(storage.Event) error {
	enc := json.NewEncoder(w)
	return func(e storage.Event) error {
		return enc.Encode(struct {
			ID        int64     `json:"id"`
			At        time.Time `json:"at"`
			Action    string    `json:"action"`
			GUN       tuf.GUN   `json:"gun"`
			Actor     string    `json:"actor"`
			RequestID string    `json:"request_id"`
			Roles     string    `json:"roles"`
			Reason    string    `json:"reason"`
		}{e.ID, e.At, e.Action, e.GUN, e.Actor, e.RequestID, e.Roles, e.Reason})
	}
}

// tableOfEvents prints as it reads: the log may be long. Only the first columns
// are aligned. What others have chosen is quoted where it could steer a terminal.
func tableOfEvents(w io.Writer) func(storage.Event) error {
	first := true
	return func(e storage.Event) error {
		if first {
			first = false
			if _, err := fmt.Fprintf(w, "%-19s  %-11s  %-20s  %s\n", "AT (UTC)", "ACTION", "BY", "WHAT"); err != nil {
				return err
			}
		}
		what := plainText(string(e.GUN))
		for _, more := range []struct{ before, text, after string }{{": ", e.Roles, ""}, {" (", e.Reason, ")"}, {" [request ", e.RequestID, "]"}} {
			if more.text != "" {
				what += more.before + plainText(more.text) + more.after
			}
		}
		actor := plainText(e.Actor)
		if actor == "" {
			actor = "-"
		}
		_, err := fmt.Fprintf(w, "%-19s  %-11s  %-20s  %s\n", e.At.UTC().Format(time.DateTime), plainText(e.Action), actor, what)
		return err
	}
}

// plainText is s, or s quoted if it holds anything that a terminal does not
// simply print.
func plainText(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
