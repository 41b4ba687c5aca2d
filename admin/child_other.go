//go:build !linux

package admin

import "syscall"

func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
