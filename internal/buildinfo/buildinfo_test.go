package buildinfo_test

import (
	"regexp"
	"runtime"
	"testing"

	"countersign/internal/buildinfo"
)

func TestString(t *testing.T) {
	got := buildinfo.String("trust-server")
	want := regexp.MustCompile(`^trust-server Version: \S+, Git commit: \S+, Go version: ` + regexp.QuoteMeta(runtime.Version()) + `$`)
	if !want.MatchString(got) {
		t.Errorf("got %q", got)
	}
}
