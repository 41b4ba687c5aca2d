package program

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"

	"countersign/internal/buildinfo"
	"countersign/internal/config"
)

// Flags are the command line of both programs. One dash and two, "=" and a
// blank before a value are the same.
type Flags struct {
	// Config is the path of the configuration file.
	Config string
	// Debug adds a listener on localhost:8080 with pprof, expvar, metrics and health.
	Debug bool
	// LogFormat is "json", "logfmt" or "text"; "" leaves it to logging.format.
	LogFormat string
	// Bootstrap is upstream's, for RethinkDB alone.
	Bootstrap bool
	// Version prints the version and ends.
	Version bool
	// CheckConfig checks the configuration and ends.
	CheckConfig bool
}

var (
	// ErrUsage: the command line makes no sense; what is wrong has been printed.
	ErrUsage = errors.New("wrong command line")
	// ErrDone: the command line asked for an answer, which has been printed.
	ErrDone = errors.New("nothing more to do")
)

// errNoBootstrap is the answer to -bootstrap, in upstream's words.
var errNoBootstrap = errors.New("store does not support bootstrapping")

// ParseFlags reads the arguments of a program, its name not among them. It
// answers -help and -version on stdout, with ErrDone; faults go to stderr, with
// ErrUsage.
func ParseFlags(program string, args []string, stdout, stderr io.Writer) (Flags, error) {
	var f Flags
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&f.Config, "config", "", "read the configuration from the JSON file `PATH`")
	fs.BoolVar(&f.CheckConfig, "check-config", false, "check the configuration, say all that is wrong with it, and end")
	fs.StringVar(&f.LogFormat, "logf", "", "log in `FORMAT`: json, logfmt or text (default: logging.format, or else json)")
	fs.BoolVar(&f.Debug, "debug", false, "listen on localhost:8080 too, with pprof, expvar, metrics and health")
	fs.BoolVar(&f.Bootstrap, "bootstrap", false, "only upstream's RethinkDB needed this; fails")
	fs.BoolVar(&f.Version, "version", false, "print the version and end")
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err == nil && f.LogFormat != "" && !slices.Contains(config.LogFormats, f.LogFormat) {
		err = fmt.Errorf("invalid value %q for flag -logf: want json, logfmt or text", f.LogFormat)
	}
	switch {
	case err == nil && f.Version:
		fmt.Fprintln(stdout, buildinfo.String(program))
		return f, ErrDone
	case err == nil:
		return f, nil
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "usage: %s -config=PATH [flags]\n\n", program)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return f, ErrDone
	default:
		fmt.Fprintf(stderr, "%s: %v\nTry %s -help.\n", program, err, program)
		return f, ErrUsage
	}
}
