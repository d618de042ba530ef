package redistest

import "syscall"

// dieWithParent has the kernel end a server whose starter is gone.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
