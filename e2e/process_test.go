package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A process is a program that runs beside the tests, with its output in a file.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// start runs cmd in a process group of its own and appends its output to the
// file log. The kernel ends it should the tests die first.
func start(name, log string, cmd *exec.Cmd) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended is read from cmd.ProcessState
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends s to the process alone.
func (p *process) signal(s syscall.Signal) {
	if p.running() {
		_ = p.cmd.Process.Signal(s) // it may have ended just now
	}
}

// kill ends the process without a chance to tidy up.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// end sends s and waits for the process. It is killed, and that is an error,
// when it does not follow within the limit.
func (p *process) end(s syscall.Signal, limit time.Duration) error {
	p.signal(s)
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s did not end within %v of %v", p.name, limit, s)
	}
}

// status reads a line such as VmHWM, in bytes, from the kernel's account of the process.
func (p *process) status(t testing.TB, field string) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return kb << 10
	}
	t.Fatalf("%s: the kernel says nothing of %s", p.name, field)
	return 0
}

// tail is the end of the log, in lines of bounded length.
func (p *process) tail(lines int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), 600)]
	}
	return strings.Join(all, "\n")
}

// waitFor polls until ready returns nil, and gives up after the limit.
func waitFor(limit time.Duration, what string, ready func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting %v for %s: %w", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// waitForPort waits until something accepts connections, or until p has ended.
func waitForPort(p *process, addr string, limit time.Duration) error {
	return waitFor(limit, p.name+" at "+addr, func() error {
		if !p.running() {
			return fmt.Errorf("it has ended: %v\n%s", p.cmd.ProcessState, p.tail(30))
		}
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// nextPort starts at random, so that two runs on one machine rarely meet.
var nextPort = func() *atomic.Int32 {
	n := new(atomic.Int32)
	n.Store(rand.Int32N(12000))
	return n
}()

// freePort finds a port below the range that the kernel takes the ends of
// outgoing connections from, which would make a later bind fail.
func freePort() (int, error) {
	for range 1000 {
		port := 16000 + int(nextPort.Add(1))%16000
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port between 16000 and 32000")
}
