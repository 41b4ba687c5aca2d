package config

import (
	"fmt"
	"strings"
)

// A Fault is one thing in a configuration that must change before the program
// can start.
type Fault struct {
	// Key is the dotted path of the setting, "" if the fault is not about one.
	Key string
	// Value is what was given; never that of a secret.
	Value string
	// From names the environment variable that the value came from; "" if it
	// came from the file or was not given.
	From string
	// Problem says what is wrong, Remedy what to do about it.
	Problem string
	Remedy  string
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.Key)
	if f.Value != "" {
		fmt.Fprintf(&b, " = %q", f.Value)
	}
	if f.From != "" {
		fmt.Fprintf(&b, " (from %s)", f.From)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(f.Problem)
	if f.Remedy != "" {
		b.WriteString("\n      ")
		b.WriteString(f.Remedy)
	}
	return b.String()
}

// Faults are all that is wrong with a configuration.
type Faults []Fault

func (fs Faults) Error() string {
	var b strings.Builder
	if len(fs) == 1 {
		b.WriteString("the configuration has a fault:")
	} else {
		fmt.Fprintf(&b, "the configuration has %d faults:", len(fs))
	}
	for _, f := range fs {
		b.WriteString("\n  - ")
		b.WriteString(f.String())
	}
	return b.String()
}

// A Report is what loading a configuration found.
type Report struct {
	// File is the file that was read, which need not be the one that was named.
	File string
	// Warnings are settings that are ignored or will not work as hoped.
	Warnings []string
	Faults   Faults
}

// Err returns the faults as one error, or nil.
func (r *Report) Err() error {
	if len(r.Faults) == 0 {
		return nil
	}
	return r.Faults
}
