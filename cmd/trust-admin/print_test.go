package main

import (
	"bytes"
	"strings"
	"testing"

	"countersign/admin"
)

// TestPrintsWhoCanConnect: only of a server that others can reach.
func TestPrintsWhoCanConnect(t *testing.T) {
	local := admin.DevInfo{URL: "https://localhost:4443", Host: "localhost:4443", CA: "/dev/ca.crt"}
	all := local
	all.Open, all.Elsewhere = true, []string{"https://box:4443", "https://192.0.2.1:4443"}
	one := local
	one.Open = true
	for name, c := range map[string]struct {
		info        admin.DevInfo
		warns, urls bool
	}{"loopback": {local, false, false}, "all addresses": {all, true, true}, "one address": {one, true, false}} {
		var out bytes.Buffer
		if err := printDev(&out, c.info); err != nil {
			t.Fatal(err)
		}
		got := out.String()
		if strings.Contains(got, "\nWARNING: clients are not authenticated: ") != c.warns {
			t.Errorf("%s: warning or none:\n%s", name, got)
		}
		if strings.Contains(got, " /dev/ca.crt too, and one of these instead of localhost:\n https://box:4443 https://192.0.2.1:4443\n") != c.urls {
			t.Errorf("%s: other URLs or none:\n%s", name, got)
		}
		if !strings.HasSuffix(got, "\n\nready: https://localhost:4443, until Ctrl-C\n") {
			t.Errorf("%s: the last line is another one:\n%s", name, got)
		}
	}
}
