package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"countersign/admin"
	"countersign/internal/buildinfo"
	"countersign/tuf"
)

// siteFlags are the flags of all commands that work on the databases.
type siteFlags struct {
	server, signer string
	output         string
	more           string // a form of output beside table and json; may be ""
}

// Which of the two configuration files a command needs.
const (
	needServer = 1 << iota
	needSigner
)

func (f *siteFlags) add(cmd *cobra.Command, need int, more ...string) {
	f.more = strings.Join(more, "")
	if need&needServer != 0 {
		f.addServer(cmd, "configuration file of trust-server (or notary-server)")
		_ = cmd.MarkFlagRequired("server-config")
	}
	if need&needSigner != 0 {
		f.addSigner(cmd, "configuration file of trust-signer (or notary-signer)")
		_ = cmd.MarkFlagRequired("signer-config")
	}
	f.addOutput(cmd)
}

func (f *siteFlags) addOutput(cmd *cobra.Command) {
	forms := []string{"table", "json"}
	if f.more != "" {
		forms = append(forms, f.more)
	}
	cmd.Flags().StringVar(&f.output, "output", "table", strings.Join(forms, " or "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

// addServer adds the server's configuration where it is optional.
func (f *siteFlags) addServer(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.server, "server-config", "", usage)
	_ = cmd.MarkFlagFilename("server-config", "json")
}

// addSigner adds the signer's configuration where it is optional.
func (f *siteFlags) addSigner(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.signer, "signer-config", "", usage)
	_ = cmd.MarkFlagFilename("signer-config", "json")
}

// with opens the site, runs work, and closes the site.
func (f *siteFlags) with(cmd *cobra.Command, work func(ctx context.Context, s *admin.Site) error) error {
	if f.output != "table" && f.output != "json" && (f.output != f.more || f.more == "") {
		return fmt.Errorf("--output is %s, not %q%w", cmd.Flag("output").Usage, f.output, silent{errUsage})
	}
	site, err := admin.OpenSite(cmd.Context(), admin.SiteConfig{
		ServerConfig: f.server, SignerConfig: f.signer, Environ: os.Environ(), Actor: "operator " + operator(), Tool: buildinfo.String(name),
		Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return errors.Join(work(cmd.Context(), site), site.Close())
}

// operator is who runs this program, behind sudo too. It is a claim of the
// machine on which the program runs, and no more.
func operator() string {
	name := "uid " + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" {
		name = by + " as " + name
	}
	return name
}

// writeJSON prints v for other programs, and so that a terminal stays as it is.
func writeJSON(w io.Writer, v any) error { return lines{w}.write(v, true) }

// parseGUNs takes the names of repositories from the command line.
func parseGUNs(args []string) ([]tuf.GUN, error) {
	guns, err := admin.ParseGUNs(args)
	if err != nil {
		return nil, fmt.Errorf("%w%w", err, silent{errUsage})
	}
	return guns, nil
}
