//go:build unix

package filestore

import (
	"errors"
	"os"
	"syscall"
)

// ours tells whether a file belongs to us or to root: another owner can write
// it whatever its mode says.
func ours(info os.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && (s.Uid == 0 || int(s.Uid) == os.Geteuid())
}

// fromSystem tells an error of the system, such as a full disk, from one of
// the file's content.
func fromSystem(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}

// unlock ends bbolt's lock. To close the file is not enough while it is
// mapped.
func unlock(file *os.File) { _ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN) }
