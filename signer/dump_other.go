//go:build !linux

package signer

// DenyDump keeps the memory of this process out of core files on Linux. Here
// it does nothing.
func DenyDump() error { return nil }
