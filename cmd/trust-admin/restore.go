package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/tuf"
)

// newRestore is the way back.
func newRestore() *cobra.Command {
	var f siteFlags
	var c admin.RestoreConfig
	var version int32
	cmd := &cobra.Command{
		Use:   "restore ARCHIVE",
		Short: "Bring back what was purged",
		Long: `Bring back what trust-admin purge has archived: every file and key byte for byte,
and the changefeed. The archive is read to its end before anything is written. A
repository that was published anew meanwhile is left alone, unless --replace is
given: then it is purged first, into an archive of its own. If it is killed, the
same command finishes the work. The programs may go on running.

Of an archive of trust-admin prune, the old versions that are missing are put back
beside what has been published since.

Clients refuse a timestamp with a lower version than they have seen. For a
repository that has gone on elsewhere since the archive was made, --as-new-timestamp
has the running signer sign one with a version above all that are on record;
--timestamp-version makes it higher still.`,
		Example: `  trust-admin restore registry.example.com_team_app-20261121T160400.000000Z.purge.tar \
      --server-config server.json --signer-config signer.json
  trust-admin restore app.purge.tar --as-new-timestamp --timestamp-version 500 \
      --server-config server.json --signer-config signer.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Path, c.Version = args[0], tuf.Version(version)
			if version < 0 || version > 0 && !c.NewTimestamp {
				return fmt.Errorf("--timestamp-version is a positive number, beside --as-new-timestamp%w", silent{errUsage})
			}
			return f.with(cmd, func(ctx context.Context, s *admin.Site) error {
				return restore(ctx, cmd, s, c, f.output)
			})
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"tar"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	f.add(cmd, needServer|needSigner)
	fs := cmd.Flags()
	fs.BoolVar(&c.Replace, "replace", false, "purge a repository that has the name by now")
	fs.BoolVar(&c.NewTimestamp, "as-new-timestamp", false, "have the signer sign a newer timestamp")
	fs.Int32Var(&version, "timestamp-version", 0, "with --as-new-timestamp: its version, at least")
	fs.StringVar(&c.Reason, "reason", "", "why, for the audit log")
	fs.StringVar(&c.Dir, "archive-dir", ".", "with --replace: where the archive of what is replaced is put")
	fs.BoolVar(&c.KeysElsewhere, "keys-elsewhere", false, "with --replace: although the signer's keys do not fit what is replaced")
	_ = cmd.MarkFlagDirname("archive-dir")
	return cmd
}

func restore(ctx context.Context, cmd *cobra.Command, s *admin.Site, c admin.RestoreConfig, output string) error {
	done := []admin.Restored{}
	err := s.Restore(ctx, c, func(r admin.Restored) error {
		done = append(done, r)
		if output == "json" {
			return nil
		}
		return printRestored(cmd.OutOrStdout(), r)
	})
	if output == "json" {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), map[string]any{"restored": done}))
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w (trust-admin purge list says where archives were put)", err)
	}
	return err
}

func printRestored(w io.Writer, r admin.Restored) error {
	var b bytes.Buffer
	if r.Replaced != nil {
		fmt.Fprintf(&b, "what had the name is purged: %s\n", plainText(r.Replaced.Archive))
	}
	fmt.Fprintf(&b, "%s is restored: %d files, %d keys\n", plainText(string(r.GUN)), r.Files, r.Keys)
	if r.Already {
		fmt.Fprintf(&b, "  its files were there already\n")
	}
	for _, id := range r.OtherForm {
		fmt.Fprintf(&b, "  key %s has been sealed anew since, and stays so\n", plainText(string(id)))
	}
	if r.Timestamp > 0 {
		fmt.Fprintf(&b, "  its timestamp was signed anew, as version %d\n", r.Timestamp)
	}
	_, err := w.Write(b.Bytes())
	return err
}
