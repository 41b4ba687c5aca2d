package signer_test

import (
	"syscall"
	"testing"

	"countersign/signer"
)

func TestDenyDump(t *testing.T) {
	dumpable := func() uintptr {
		t.Helper()
		v, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_DUMPABLE, 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		return v
	}
	before := dumpable()
	if err := signer.DenyDump(); err != nil {
		t.Fatal(err)
	}
	if got := dumpable(); got != 0 {
		t.Errorf("dumpable is %d", got)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, before, 0); errno != 0 {
		t.Fatal(errno)
	}
}
