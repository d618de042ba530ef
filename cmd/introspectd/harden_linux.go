package main

import "golang.org/x/sys/unix"

// hardenProcess keeps tokens and secrets in memory out of core files and away
// from other processes of the same user. Where the kernel refuses, the
// process is as exposed as it was.
func hardenProcess() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
