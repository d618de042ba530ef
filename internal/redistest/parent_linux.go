package redistest

import "syscall"

// dieWithParent has the kernel end a server whose starter is gone. To the kernel
// that is a thread: a goroutine that is locked to its thread and ends with it
// must not start servers.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
