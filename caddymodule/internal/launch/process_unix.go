//go:build unix

package launch

import (
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// handled returns the signals that exec hands on to the application. A signal that was ignored when exec started, as SIGHUP is
// under nohup, stays ignored, for the application too.
func handled() []os.Signal {
	signals := []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}
	return slices.DeleteFunc(signals, signal.Ignored)
}

// handOn sends the signal to the application, unless the terminal has done so.
func handOn(application *os.Process, sig os.Signal) {
	if !fromTerminal(sig) {
		_ = application.Signal(sig) // fails only if the application has ended
	}
}

// fromTerminal reports whether a key of the terminal can have caused the signal. The terminal sends SIGINT and SIGQUIT to all
// processes of the group in the foreground. If exec is one of them, so is the application. A second SIGINT would make many
// programs give up their orderly end.
func fromTerminal(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
		return false
	}
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func askToEnd(application *os.Process) { _ = application.Signal(syscall.SIGTERM) }

// detached keeps the keys of the terminal from ending the sidecar before the application.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// statusOf returns the exit status of a process, as a shell reports it.
func statusOf(state *os.ProcessState) int {
	if wait, ok := state.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		return statusSignalled + int(wait.Signal())
	}
	return state.ExitCode()
}

// statusOfSignal returns the exit status of a process that this signal ends, and reports whether it means that a program
// should end.
func statusOfSignal(sig os.Signal) (status int, ends bool) {
	if sig == syscall.SIGUSR1 || sig == syscall.SIGUSR2 {
		return 0, false
	}
	return statusSignalled + int(sig.(syscall.Signal)), true
}
