package main

import (
	"io"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"countersign/admin"
)

func newDev() *cobra.Command {
	cfg := admin.DevConfig{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a server and a signer for development",
		Long: `Run a trust server and its signer for development, on SQLite, with certificates
from a CA of their own. All state is in one folder: started again, the pair goes
on where it was. Ctrl-C ends both programs.

Clients need not authenticate. Do not use it where strangers can connect.`,
		Example: `  trust-admin dev
  trust-admin dev --dir /tmp/try --addr localhost:5443
  trust-admin dev --addr 0.0.0.0:4443     for docker on other machines, too`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var printed error
			err := admin.RunDev(cmd.Context(), cfg, func(info admin.DevInfo) {
				printed = printDev(cmd.OutOrStdout(), info)
			})
			if err == nil {
				err = printed
			}
			return err
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "dev", "folder of certificates, keys, databases and logs")
	cmd.Flags().StringVar(&cfg.Addr, "addr", "localhost:4443", "where the server listens")
	return cmd
}

// nextSteps ends with the line that scripts wait for.
var nextSteps = template.Must(template.New("").Funcs(template.FuncMap{"quote": quote}).Parse(`trust-server  {{.URL}}  (log: {{.ServerLog}})
trust-signer  {{.SignerAddr}}  (log: {{.SignerLog}})

With docker (up to version 28; later ones do not sign on push):

    mkdir -p ~/.docker/tls/{{.Host}}
    cp {{quote .CA}} ~/.docker/tls/{{.Host}}/ca.crt
    export DOCKER_CONTENT_TRUST=1 DOCKER_CONTENT_TRUST_SERVER={{.URL}}
    docker push REGISTRY/REPOSITORY:TAG

With the notary CLI:

    notary -s {{.URL}} --tlscacert {{quote .CA}} -d ~/.docker/trust init -p example.com/hello

{{if .Elsewhere}}Other machines need {{quote .CA}} too, and one of these instead of localhost:
{{range .Elsewhere}} {{.}}{{end}}

{{end}}{{if .Open}}WARNING: clients are not authenticated: whoever can connect from another machine can publish and delete.

{{end}}ready: {{.URL}}, until Ctrl-C
`))

// quote writes a path for a shell.
func quote(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plain = regexp.MustCompile(`^[\w./:@%+=,-]+$`)

func printDev(w io.Writer, info admin.DevInfo) error { return nextSteps.Execute(w, info) }
