//go:build unix

package admin

import "syscall"

// disk tells how much room a SQLite file has to grow.
func (k *checkup) disk(program, dir string) {
	about := program + ": disk"
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		k.fault(about, "", err)
		return
	}
	free := int64(s.Bavail) * int64(s.Bsize)
	if free < lowDisk {
		k.warn(about, "make room: without it nothing can be published", "%s has %d MiB left", dir, free>>20)
		return
	}
	k.ok(about, "%s has %d GiB left", dir, free>>30)
}
