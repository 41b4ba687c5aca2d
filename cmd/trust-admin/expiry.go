package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

func newExpiry() *cobra.Command {
	var f siteFlags
	var c admin.ExpiryConfig
	var within string
	cmd := &cobra.Command{
		Use:   "expiry [GUN…]",
		Short: "Say what expires, when, and who can renew it",
		Long: `List when the current files of repositories expire, and the certificates in
their root and delegations, the earliest first: of those named, of those with a
prefix, or of all. WHO is who can renew it: the server itself; the holder of the
keys named; "server?" if the server does in case it holds the key, which
--signer-config tells; nobody, if the server should but its signer has lost the
key.

A duration is a number of hours, days or weeks: 12h, 90d, 2w. What has expired
already is always listed. With --output ics the dates come as a calendar (RFC
5545), to be subscribed to; the identity of an entry stays the same from one run
to the next, until it is renewed.

Exit code: 0, or 3 if something has expired or does so within the time, and
somebody must see to it: what the server renews by itself does not count.`,
		Example: `  trust-admin expiry --server-config server.json --signer-config signer.json
  trust-admin expiry --within 26w --prefix registry.example.com/team/ --skip-server --server-config server.json
  trust-admin expiry --all --output ics --server-config server.json > trust.ics`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if c.Within, err = admin.ParseDays(within); err != nil {
				return fmt.Errorf("--within: %w%w", err, silent{errUsage})
			}
			if len(args) > 0 && c.Prefix != "" {
				return fmt.Errorf("name repositories, or give --prefix, and not both%w", silent{errUsage})
			}
			for _, a := range args {
				c.GUNs = append(c.GUNs, tuf.GUN(a))
			}
			c.Selection.All = len(args) == 0 && c.Prefix == ""
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				list, err := s.Expiries(ctx, c)
				if err != nil {
					return err
				}
				switch f.output {
				case "json":
					err = lines{cmd.OutOrStdout()}.write(map[string]any{"within": within, "expiries": list}, true)
				case "ics":
					err = writeCalendar(cmd.OutOrStdout(), list, s.Now())
				default:
					err = tableOfExpiries(cmd.OutOrStdout(), list)
				}
				return errors.Join(err, due(list, within))
			})
		},
	}
	f.add(cmd, needServer, "ics")
	f.addSigner(cmd, optionalSigner)
	cmd.Flags().StringVar(&within, "within", "90d", "how far ahead to look: 12h, 90d, 2w")
	cmd.Flags().StringVar(&c.Prefix, "prefix", "", "only repositories whose name begins so")
	cmd.Flags().BoolVar(&c.All, "all", false, "list later dates, too; the exit code still goes by --within")
	cmd.Flags().BoolVar(&c.SkipServer, "skip-server", false, "leave out what the server renews by itself")
	return cmd
}

func due(list []admin.Expiry, within string) error {
	n := 0
	for _, e := range list {
		if e.Due {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s within %s for somebody to renew", errToDo, counted(n, "date"), within)
}

// tableOfExpiries has fixed columns: the name comes last and is not cut.
func tableOfExpiries(w io.Writer, list []admin.Expiry) error {
	const format = "%-16s  %6s  %-11s  %-10s  %s\n"
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nothing expires within the time")
		return err
	}
	if _, err := fmt.Fprintf(w, format, "EXPIRES (UTC)", "DAYS", "WHAT", "WHO", "NAME, ROLE (KEYS)"); err != nil {
		return err
	}
	for _, e := range list {
		who := map[string]string{admin.RenewedByHolder: "key holder", admin.RenewedByEither: "server?"}[e.RenewedBy]
		if who == "" {
			who = e.RenewedBy
		}
		if _, err := fmt.Fprintf(w, format, clock(e.Expires), fmt.Sprint(e.DaysLeft), e.Kind, who, subject(e)); err != nil {
			return err
		}
	}
	return nil
}

// subject says of what a date is, and who holds its keys.
func subject(e admin.Expiry) string {
	text := printable(string(e.GUN), 300) + ", " + printable(string(e.Role), 255)
	if e.RenewedBy == admin.RenewedByServer {
		return text
	}
	var who []string
	for i, id := range e.Keys {
		if i == fewKeys && len(e.Keys) > fewKeys+1 {
			who = append(who, fmt.Sprintf("and %d more", len(e.Keys)-fewKeys))
			break
		}
		who = append(who, printable(admin.ShortID(id), 40))
	}
	for i, cn := range e.CommonNames {
		if i == fewKeys {
			break
		}
		if cn != string(e.GUN) {
			who = append(who, printable(cn, 120))
		}
	}
	if len(who) == 0 {
		return text
	}
	return text + " (" + strings.Join(who, ", ") + ")"
}
