// Package buildinfo says which version of the programs this is.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker in releases (-X countersign/internal/buildinfo.version=…).
// Otherwise the go command's own stamp tells.
var version, commit string

// String is the line that "PROGRAM -version" prints, in upstream's form.
func String(program string) string {
	v, c := read()
	return fmt.Sprintf("%s Version: %s, Git commit: %s, Go version: %s", program, v, c, runtime.Version())
}

func read() (v, c string) {
	v, c = version, commit
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if v == "" {
		v = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && commit == "":
			c = s.Value
		case s.Key == "vcs.modified" && s.Value == "true" && commit == "":
			dirty = "+changes"
		}
	}
	if v == "" {
		v = "unknown"
	}
	if c == "" {
		c = "unknown"
	} else {
		c += dirty
	}
	return v, c
}
