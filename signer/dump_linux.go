package signer

import (
	"fmt"
	"syscall"
)

// DenyDump keeps the memory of this process, and so its opened keys, out of
// core files and away from debuggers of the same user. It cannot be undone by
// those. On systems other than Linux it does nothing.
func DenyDump() error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		return fmt.Errorf("making the process non-dumpable: %w", errno)
	}
	return nil
}
