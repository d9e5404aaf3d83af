package launch

import "golang.org/x/sys/unix"

// Conceal keeps other processes of the same user from reading the memory of this process and the environment that it started
// with. Processes with the capability CAP_SYS_PTRACE can still read them.
func Conceal() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
