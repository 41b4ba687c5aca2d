package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"countersign/internal/config"
	"countersign/internal/program"
)

// elsewhere is a listener that others can reach, without being one.
type elsewhere struct{ net.Listener }

func (elsewhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7899} }

// TestLoudWarning: who serves keys to everybody is told, however quiet the log.
func TestLoudWarning(t *testing.T) {
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for name, c := range map[string]struct {
		lis  net.Listener
		ca   string
		want bool
	}{
		"reachable, open":        {elsewhere{}, "", true},
		"reachable, with a CA":   {elsewhere{}, "ca.crt", false},
		"on this machine only":   {local, "", false},
		"both, which is no harm": {local, "ca.crt", false},
	} {
		var out bytes.Buffer
		p, err := program.Begin(name, nil, &out, &out)
		if err != nil {
			t.Fatal(err)
		}
		p.UseLogging(config.Logging{Level: "panic", Format: "json"})
		d := &daemon{Program: p, cfg: &config.Signer{Server: config.GRPC{ClientCAFile: c.ca}}}
		d.announce(t.Context(), c.lis)
		if got := strings.Contains(out.String(), "whoever can connect can have anything signed"); got != c.want {
			t.Errorf("%s: warned %v, want %v: %s", name, got, c.want, &out)
		}
	}
}
