package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	maxLog    = 10 << 20 // after which a log is set aside, when a program starts
	lastLines = 15
)

// A child is one of the programs of a development pair. Its methods may be
// called on nil, which stands for a program that was never started.
type child struct {
	name, path, config, log string

	cmd   *exec.Cmd
	begin int64         // where its part of the log begins
	done  chan struct{} // closed when it has ended
	err   error         // how; to be read after done
}

// start starts the program with its output in the log.
func (c *child) start() error {
	if info, err := os.Stat(c.log); err == nil && info.Size() > maxLog {
		if err := os.Rename(c.log, c.log+".1"); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if c.begin, err = out.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	c.cmd = exec.Command(c.path, "-config="+c.config)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.Env = ownEnv(os.Environ())
	c.cmd.SysProcAttr = endWithParent()
	c.done = make(chan struct{})
	started := make(chan error)
	go func() {
		// On Linux the child gets its signal when the thread that made it
		// ends, so the thread is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		close(c.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", c.name, err)
	}
	return nil
}

// ownEnv strips what would override the configuration of the pair.
func ownEnv(environ []string) []string {
	var env []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "NOTARY_") && !strings.HasPrefix(kv, "DB_URL=") {
			env = append(env, kv)
		}
	}
	return env
}

// ended is closed when the program has ended; never for nil.
func (c *child) ended() <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.done
}

// stop asks the program to end, and kills it if it does not.
func (c *child) stop() error {
	if c == nil || c.cmd.Process == nil {
		return nil
	}
	select {
	case <-c.done:
		return nil // told by obituary
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending %s: %w", c.name, err)
	}
	late := time.NewTimer(devStop)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		_ = c.cmd.Process.Kill() // it may have ended just now
		<-c.done
		return fmt.Errorf("%s did not end within %v and was killed", c.name, devStop)
	}
	if ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
		return nil // told to end before it had got so far as to listen to signals
	}
	if c.err != nil {
		return fmt.Errorf("ending %s: %w", c.name, c.err)
	}
	return nil
}

// obituary is the error for a program that has ended by itself.
func (c *child) obituary() error {
	how := "with exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s ended by itself (%s); the end of its log, %s:\n%s", c.name, how, c.log, c.tail())
}

// tail is the end of what the program has logged since it was started.
func (c *child) tail() string {
	f, err := os.Open(c.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	raw, err := io.ReadAll(io.NewSectionReader(f, c.begin, maxLog))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimRight(raw, "\n"), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-lastLines):], []byte("\n")))
}
