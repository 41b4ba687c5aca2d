package admin

import "syscall"

// endWithParent has the kernel tell the child when this process dies, however
// it does. In a process group of its own the child does not get the terminal's
// Ctrl-C: the order in which the programs end is decided here.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
