// Package program is how both daemons start: command line, configuration with
// all its faults, log, certificates, and a database that may not be there yet.
// What they then serve is their own affair.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"countersign/certs"
	"countersign/internal/buildinfo"
	"countersign/internal/config"
	"countersign/internal/service"
)

// A Program is a daemon that starts.
type Program struct {
	Name  string
	Flags Flags
	// Log is the log that the configuration asks for, once UseLogging has run.
	Log *slog.Logger

	level          *slog.LevelVar
	tell           *slog.Logger // like Log, but warnings are never too quiet for it
	stdout, stderr io.Writer
}

// Begin reads the command line. The error is ErrUsage or ErrDone.
func Begin(name string, args []string, stdout, stderr io.Writer) (*Program, error) {
	flags, err := ParseFlags(name, args, stdout, stderr)
	if err != nil {
		return nil, err
	}
	p := &Program{Name: name, Flags: flags, level: new(slog.LevelVar), stdout: stdout, stderr: stderr}
	p.UseLogging(config.Logging{Level: "error", Format: "json"})
	return p, nil
}

// UseLogging makes the log. Settings that are at fault count as the default.
func (p *Program) UseLogging(l config.Logging) {
	level, err := service.ParseLevel(l.Level)
	if err != nil {
		level = slog.LevelError
	}
	p.level.Set(level)
	format := l.Format
	if p.Flags.LogFormat != "" {
		format = p.Flags.LogFormat
	}
	p.Log = service.NewLogger(p.stderr, format, p.level)
	p.tell = service.NewLogger(p.stderr, format, min(level, slog.LevelWarn))
}

// Warn logs what the operator must know, even if the log is set to errors only.
func (p *Program) Warn(ctx context.Context, msg string, attrs ...any) {
	p.tell.WarnContext(ctx, msg, attrs...)
}

// CertKeys are the settings that name the files of a certs.Store.
type CertKeys struct{ Cert, Key, CA string }

// Certificates loads files. What is wrong with them is added to the report,
// unless it has been told already; the store is then nil.
func (p *Program) Certificates(report *config.Report, keys CertKeys, files certs.Files) *certs.Store {
	if slices.ContainsFunc(report.Faults, func(f config.Fault) bool {
		return f.Key != "" && (f.Key == keys.Cert || f.Key == keys.Key || f.Key == keys.CA)
	}) {
		return nil
	}
	store, err := certs.Load(certs.Config{Files: files, Log: p.Log})
	if err == nil {
		return store
	}
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, err := range faults {
		report.Faults = append(report.Faults, config.Fault{Key: keys.Cert, Problem: err.Error()})
	}
	return nil
}

// Settle ends what the command line and the configuration decide. The error is
// nil if the program shall run, ErrDone if it was only to check, or all faults.
// Warnings are told in any case.
func (p *Program) Settle(ctx context.Context, report *config.Report) error {
	if p.Flags.CheckConfig {
		for _, w := range report.Warnings {
			fmt.Fprintf(p.stdout, "warning: %s\n", w)
		}
		if err := report.Err(); err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "config ok: %s\n", report.File)
		return ErrDone
	}
	for _, w := range report.Warnings {
		p.Warn(ctx, "configuration: "+w)
	}
	if err := report.Err(); err != nil {
		return err
	}
	if p.Flags.Bootstrap {
		return errNoBootstrap
	}
	p.Log.InfoContext(ctx, buildinfo.String(p.Name), "config", report.File)
	return nil
}

// WatchLevel lets SIGUSR1 and SIGUSR2 change the level of the log from now on.
func (p *Program) WatchLevel() {
	service.WatchLevel(p.level, p.stdout)
}

// ExitCode is upstream's: 0, 1 for any fault, 2 for a wrong command line. Faults
// are printed on stderr.
func ExitCode(program string, err error, stderr io.Writer) int {
	switch {
	case err == nil, errors.Is(err, ErrDone):
		return 0
	case errors.Is(err, ErrUsage):
		return 2
	}
	fmt.Fprintf(stderr, "%s: %v\n", program, err)
	return 1
}

// Main is the body of a daemon's main function: it runs run and ends the
// process. The first SIGTERM or SIGINT ends the context; a second one ends the
// process as if nobody had caught it.
func Main(name string, run func(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error) {
	ctx, stop := service.UntilSignal(context.Background())
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(ExitCode(name, err, os.Stderr))
}
