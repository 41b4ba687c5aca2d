package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDev is the first hour of a newcomer: trust-admin dev, then what it says to
// type next, literally, for notary and for docker; Ctrl-C; and a second start
// that finds everything again.
func TestDev(t *testing.T) {
	t.Parallel()
	d := &dev{t: t, cwd: t.TempDir(), addr: "localhost:" + strconv.Itoa(port(t)), home: t.TempDir()}
	d.start()
	ca, err := os.ReadFile(filepath.Join(d.cwd, "state", "certs", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t)
	ref := e.registry + "/team/dev:1"
	env := []string{"HOME=" + d.home, "DOCKER_HOST=unix://" + e.socket,
		"NOTARY_ROOT_PASSPHRASE=root passphrase", "NOTARY_TARGETS_PASSPHRASE=targets passphrase", "NOTARY_SNAPSHOT_PASSPHRASE=snapshot passphrase",
		"DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE=root passphrase", "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE=repository passphrase"}
	image := &docker{shell: &shell{t: t, home: d.home, env: env}, path: "docker"}
	image.image(ref, "dev")

	script := strings.ReplaceAll(strings.Join(d.commands(), "\n"), "REGISTRY/REPOSITORY:TAG", ref)
	for _, must := range []string{"notary ", "docker push " + ref, "export DOCKER_CONTENT_TRUST=1"} {
		if !strings.Contains(script, must) {
			t.Fatalf("trust-admin dev does not print a command with %q, only:\n%s", must, script)
		}
	}
	out := d.sh(env, script)
	for _, must := range []string{"Successfully published changes", "Successfully signed " + ref} {
		if !strings.Contains(out, must) {
			t.Fatalf("the printed commands do not lead to %q:\n%s\n%s", must, script, out)
		}
	}

	children := d.children()
	if len(children) != 2 {
		t.Errorf("trust-admin dev runs %d processes, want a signer and a server", len(children))
	}
	d.interrupt(children)
	d.start()
	again, err := os.ReadFile(filepath.Join(d.cwd, "state", "certs", "ca.crt"))
	if err != nil || !bytes.Equal(ca, again) {
		t.Errorf("the second start has another CA: %v", err)
	}
	// The same commands lead on from where the first run ended.
	out = d.sh(env, strings.Replace(script, " init -p ", " list ", 1)+"\ndocker image rm --force "+ref+"\ndocker pull "+ref)
	for _, must := range []string{"No targets present", "Successfully signed " + ref, ref + "@" + e.digest(t, "team/dev", "1")} {
		if !strings.Contains(out, must) {
			t.Errorf("after the second start the commands do not lead to %q:\n%s", must, out)
		}
	}
	children = d.children()
	if err := d.p.end(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Error(err)
	}
	d.gone(children)
}

// A dev is a run of trust-admin dev in its own directory.
type dev struct {
	t    *testing.T
	cwd  string
	addr string
	home string
	p    *process
	runs int
}

// start runs the command until it says that it is ready.
func (d *dev) start() {
	d.t.Helper()
	d.runs++
	cmd := exec.Command(program(d.t, "trust-admin"), "dev", "--dir", "state", "--addr", d.addr)
	cmd.Dir = d.cwd
	cmd.Env = append(os.Environ(), "HOME="+d.home)
	p, err := start("trust-admin", filepath.Join(d.t.TempDir(), fmt.Sprintf("dev%d.log", d.runs)), cmd)
	if err != nil {
		d.t.Fatal(err)
	}
	d.p = p
	d.t.Cleanup(func() {
		if d.t.Failed() {
			d.t.Logf("end of trust-admin dev:\n%s", p.tail(40))
		}
		if err := p.end(syscall.SIGTERM, 30*time.Second); err != nil {
			d.t.Error(err)
		}
	})
	err = waitFor(60*time.Second, "trust-admin dev", func() error {
		if !p.running() {
			return fmt.Errorf("it has ended: %v\n%s", p.cmd.ProcessState, p.tail(30))
		}
		last := p.tail(1)
		if !strings.HasPrefix(last, "ready") {
			return fmt.Errorf("it says %q", last)
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// commands are the indented lines that start with the name of a command.
func (d *dev) commands() []string {
	d.t.Helper()
	raw, err := os.ReadFile(d.p.log)
	if err != nil {
		d.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			continue
		}
		line = strings.TrimSpace(line)
		switch word, _, _ := strings.Cut(line, " "); word {
		case "mkdir", "cp", "export", "docker", "notary":
			found = append(found, line)
		}
	}
	return found
}

// sh runs commands as a user would type them, beside the running pair.
func (d *dev) sh(env []string, script string) string {
	d.t.Helper()
	sh := &shell{t: d.t, home: d.cwd, env: env}
	out, err := sh.try("", "sh", "-e", "-c", script)
	if err != nil {
		d.t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

// children are the processes that trust-admin runs.
func (d *dev) children() []int {
	d.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.p.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	var pids []int
	for _, task := range tasks {
		raw, err := os.ReadFile(task)
		if err != nil {
			continue // that thread has ended
		}
		for _, word := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// interrupt is Ctrl-C: the terminal sends it to the whole process group.
func (d *dev) interrupt(children []int) {
	d.t.Helper()
	if err := syscall.Kill(-d.p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.p.done:
	case <-time.After(30 * time.Second):
		d.t.Fatal("trust-admin dev does not end on Ctrl-C")
	}
	if code := d.p.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("after Ctrl-C trust-admin dev ends with %d, want 0", code)
	}
	d.gone(children)
}

// gone holds that nothing was left running.
func (d *dev) gone(children []int) {
	d.t.Helper()
	for _, pid := range children {
		if syscall.Kill(pid, 0) == nil {
			d.t.Errorf("process %d outlives trust-admin dev", pid)
		}
	}
	if conn, err := net.Dial("tcp", d.addr); err == nil {
		conn.Close()
		d.t.Errorf("something still listens at %s", d.addr)
	}
}
