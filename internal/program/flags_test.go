package program_test

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/program"
)

func TestFlags(t *testing.T) {
	for args, want := range map[string]program.Flags{
		"":                                  {},
		"-config=/a/b.json -logf=logfmt":    {Config: "/a/b.json", LogFormat: "logfmt"},
		"-config /a/b.json -logf json":      {Config: "/a/b.json", LogFormat: "json"},
		"--config=x --debug --check-config": {Config: "x", Debug: true, CheckConfig: true},
		"-bootstrap -logf text":             {Bootstrap: true, LogFormat: "text"},
		"-debug=false":                      {},
	} {
		var out, errs bytes.Buffer
		got, err := program.ParseFlags("trust-x", strings.Fields(args), &out, &errs)
		if err != nil || out.Len()+errs.Len() > 0 {
			t.Errorf("%s: %v, printed %q %q", args, err, &out, &errs)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", args, diff)
		}
	}
}

func TestWrongFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-confg=x":       "flag provided but not defined: -confg",
		"-config":        "flag needs an argument: -config",
		"-logf=xml":      `invalid value "xml" for flag -logf`,
		"-debug=maybe":   `invalid boolean value "maybe"`,
		"config.json":    `unexpected argument "config.json"`,
		"-debug x -logf": `unexpected argument "x"`,
	} {
		var out, errs bytes.Buffer
		_, err := program.ParseFlags("trust-x", strings.Fields(args), &out, &errs)
		if !errors.Is(err, program.ErrUsage) || program.ExitCode("trust-x", err, &errs) != 2 {
			t.Errorf("%s: %v", args, err)
		}
		if got := errs.String(); !strings.HasPrefix(got, "trust-x: "+want) || !strings.HasSuffix(got, "\nTry trust-x -help.\n") || out.Len() > 0 {
			t.Errorf("%s: printed %q %q, want %q", args, &out, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, arg := range []string{"-h", "-help", "--help"} {
		var out, errs bytes.Buffer
		_, err := program.ParseFlags("trust-x", []string{arg}, &out, &errs)
		if !errors.Is(err, program.ErrDone) || program.ExitCode("trust-x", err, &errs) != 0 || errs.Len() > 0 {
			t.Errorf("%s: %v, %q", arg, err, &errs)
		}
		for _, want := range []string{"usage: trust-x -config=PATH", "-config PATH", "-check-config", "-logf FORMAT", "-debug", "-bootstrap", "-version"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is missing from\n%s", arg, want, &out)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	_, err := program.ParseFlags("trust-x", []string{"--version", "-config=no.json"}, &out, &errs)
	if !errors.Is(err, program.ErrDone) || program.ExitCode("trust-x", err, &errs) != 0 || errs.Len() > 0 {
		t.Errorf("%v, %q", err, &errs)
	}
	if !regexp.MustCompile(`^trust-x Version: .+, Git commit: .+, Go version: go1\..+\n$`).Match(out.Bytes()) {
		t.Errorf("printed %q", &out)
	}
}
