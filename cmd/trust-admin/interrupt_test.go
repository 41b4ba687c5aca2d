package main_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"countersign/internal/proctest"
)

// beginDev starts a pair and does not wait for it.
func beginDev(t *testing.T) *pair {
	t.Helper()
	p := &pair{dir: filepath.Join(t.TempDir(), "dev"), addr: localAddr(t)}
	p.Process = proctest.Start(t, path(), nil, "dev", "--dir", p.dir, "--addr", p.addr)
	return p
}

func (p *pair) exists(name string) error {
	_, err := os.Stat(filepath.Join(p.dir, name))
	return err
}

func connects(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// wantQuietEnd: Ctrl-C is no fault, whenever it comes.
func (p *pair) wantQuietEnd(t *testing.T) {
	t.Helper()
	if code := p.Wait(t); code != 0 || p.Stderr.String() != "" {
		t.Errorf("exit code %d: %s", code, p.Stderr.String())
	}
	p.wantNoChildren(t)
}

func TestInterruptedStart(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]func(*testing.T, *pair) error{
		"the folder is marked":      func(_ *testing.T, p *pair) error { return p.exists("countersign-dev") },
		"the configuration is made": func(_ *testing.T, p *pair) error { return p.exists("server.json") },
		"the signer is started":     func(_ *testing.T, p *pair) error { return p.exists("signer.log") },
		"the signer listens": func(t *testing.T, p *pair) error {
			if err := p.exists("server.json"); err != nil {
				return err
			}
			return connects(readJSON(t, filepath.Join(p.dir, "signer.json"))["server"]["grpc_addr"].(string))
		},
		"the server is started":           func(_ *testing.T, p *pair) error { return p.exists("server.log") },
		"the server has opened its files": func(_ *testing.T, p *pair) error { return p.exists("server.db") },
		"the server listens":              func(_ *testing.T, p *pair) error { return connects(p.addr) },
	} {
		t.Run(name, func(t *testing.T) {
			p := beginDev(t)
			p.Await(t, name, func() error { return reached(t, p) })
			p.Signal(t, os.Interrupt)
			p.wantQuietEnd(t)
		})
	}
}

// TestInterruptedBeforeServer holds the signer before it listens, so that
// Ctrl-C comes while it is waited for: the server must not be started then.
func TestInterruptedBeforeServer(t *testing.T) {
	t.Parallel()
	p := beginDev(t)
	signer := 0
	p.Await(t, "the signer to be started", func() error {
		signer = p.children(t)["trust-signer"]
		if signer == 0 {
			return errors.New("it is not there")
		}
		return syscall.Kill(signer, syscall.SIGSTOP)
	})
	t.Cleanup(func() { _ = syscall.Kill(signer, syscall.SIGCONT) }) // it may have ended
	p.Await(t, "the signer to stand still", func() error {
		raw, err := os.ReadFile("/proc/" + strconv.Itoa(signer) + "/stat")
		if err == nil && !strings.Contains(string(raw), ") T ") {
			err = errors.New("it runs")
		}
		return err
	})
	if p.exists("server.log") == nil {
		t.Fatal("the signer was held too late for this test")
	}
	p.Signal(t, os.Interrupt)
	// trust-admin has asked the signer to end once it has caught its own signal.
	p.Await(t, "the signer to be told to end", func() error { return pending(signer, syscall.SIGTERM) })
	if err := syscall.Kill(signer, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.wantQuietEnd(t)
	if p.exists("server.log") == nil {
		t.Error("the server was started nevertheless")
	}
}

// pending returns nil if the signal waits for the process.
func pending(pid int, s syscall.Signal) error {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		if set, ok := strings.CutPrefix(line, "ShdPnd:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			if err == nil && bits&(1<<(s-1)) == 0 {
				err = errors.New("it is not pending")
			}
			return err
		}
	}
	return errors.New("its signals are not told")
}
