package launch

import (
	"os"
	"syscall"
)

// handled returns the events of the console: Ctrl-C, Ctrl-Break, and the closing of its window. exec outlives them, so that it
// can end the sidecar after the application.
func handled() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// handOn does nothing, because the console sends its events to the application as well.
func handOn(*os.Process, os.Signal) {}

// askToEnd kills the application, because Windows knows no way to ask a process without a window.
func askToEnd(application *os.Process) { _ = application.Kill() }

// detached keeps Ctrl-C from ending the sidecar before the application.
func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func statusOf(state *os.ProcessState) int { return state.ExitCode() }

// statusOfSignal returns the exit status for a process that the event ends: 130 for Ctrl-C, as on other systems.
func statusOfSignal(sig os.Signal) (status int, ends bool) {
	if number, ok := sig.(syscall.Signal); ok {
		return statusSignalled + int(number), true
	}
	return StatusFailed, true
}
