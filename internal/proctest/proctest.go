// Package proctest builds and runs the programs for tests.
package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Limit is how long anything here waits before the test fails.
const Limit = 60 * time.Second

// Main is the body of a TestMain: it builds the programs ("trust-server", …)
// as users get them, into a folder that Path knows, runs the tests, and removes
// it.
func Main(m *testing.M, programs ...string) {
	code, err := runMain(m, programs)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var bin string // set once, before the tests run

func runMain(m *testing.M, programs []string) (int, error) {
	dir, err := os.MkdirTemp("", "countersign-bin-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = dir
	args := []string{"build", "-trimpath", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, "countersign/cmd/"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building %v: %w\n%s", programs, err, out)
	}
	return m.Run(), nil
}

// Path is where Main has put a program.
func Path(program string) string { return filepath.Join(bin, program) }

// A Process is a program that runs beside a test. It is killed when the test
// ends, and its output shown if the test has failed.
type Process struct {
	Cmd            *exec.Cmd
	Stdout, Stderr Output
	done           chan struct{}
}

// Start runs the program at path with args. Its environment is this process's
// without what configures our programs, and with env.
func Start(t testing.TB, path string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Stdout, &p.Stderr
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Cmd.Dir = t.TempDir()
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "NOTARY_") && !strings.HasPrefix(kv, "DB_URL=") && !strings.HasPrefix(kv, "PG") {
			p.Cmd.Env = append(p.Cmd.Env, kv)
		}
	}
	p.Cmd.Env = append(p.Cmd.Env, env...)
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.Cmd.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill() // it may have ended long ago
		<-p.done
		if t.Failed() {
			t.Logf("%s %q\nstdout:\n%s\nstderr:\n%s", filepath.Base(path), args, tail(p.Stdout.String()), tail(p.Stderr.String()))
		}
	})
	return p
}

// tail is the last lines of text.
func tail(text string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "")
}

// Run runs the program to its end and returns its exit code.
func Run(t testing.TB, path string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := Start(t, path, env, args...)
	code = p.Wait(t)
	return code, p.Stdout.String(), p.Stderr.String()
}

// Signal sends s to the process.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the process and returns its exit code, or minus the
// number of the signal that killed it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(Limit):
		t.Fatal("the process does not end")
	}
	if ws := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return -int(ws.Signal())
	}
	return p.Cmd.ProcessState.ExitCode()
}

// Await polls until ok returns nil. It fails the test at once if the process
// ends before that.
func (p *Process) Await(t testing.TB, what string, ok func() error) {
	t.Helper()
	Eventually(t, what, func() error {
		running := p.Running()
		err := ok()
		if err != nil && !running {
			t.Fatalf("%s: the process has ended: %v", what, p.Cmd.ProcessState)
		}
		return err
	})
}

// AwaitText polls until the process has written text to either stream.
func (p *Process) AwaitText(t testing.TB, text string) {
	t.Helper()
	p.Await(t, fmt.Sprintf("the output %q", text), func() error {
		if strings.Contains(p.Stdout.String()+p.Stderr.String(), text) {
			return nil
		}
		return errors.New("it was not written")
	})
}

// Eventually polls until ok returns nil.
func Eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(Limit); ; time.Sleep(10 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

// FreeAddr is a loopback address on which nobody listens right now.
func FreeAddr(t testing.TB) string {
	t.Helper()
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// Ports are taken from below those that the system gives to connections that go
// out: one of these could be opened between the look and the use. Processes that
// test at the same time begin in different places.
const firstPort, portCount = 8000, 8000

var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(portCount)) }

// FreePort is a port of 127.0.0.1 on which nobody listens right now.
func FreePort() (int, error) {
	for range portCount {
		port := firstPort + int(nextPort.Add(1)%portCount)
		lis, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, lis.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, firstPort+portCount)
}

// Output is what a process has written so far.
type Output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
