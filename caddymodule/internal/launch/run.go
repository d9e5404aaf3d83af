package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"time"
)

// The exit statuses of exec for failures of its own, as those of env, timeout and nohup.
const (
	StatusFailed        = 125
	statusNotExecutable = 126
	statusNotFound      = 127
	statusSignalled     = 128 // and the number of the signal
)

// Program is what Run runs.
type Program struct {
	// Sidecar is the command of the sidecar. Run adds the address for its readiness as a last argument.
	Sidecar []string

	// Application is the command of the application, and Environment its environment.
	Application []string
	Environment []string

	// Wait is how long the sidecar may take to get ready.
	Wait time.Duration

	// Grace is how long the sidecar and the application may take to end before Run kills them.
	Grace time.Duration
}

// Run runs the sidecar and, once it is ready, the application. It hands signals on to the application, and returns its exit
// status: 128 and the number of the signal if a signal ended it. It ends the sidecar after the application. If the sidecar
// ends first, Run ends the application and returns an error.
func (p Program) Run() (status int, err error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, handled()...)
	defer signal.Stop(signals)
	s, err := startSidecar(p.Sidecar)
	if err != nil {
		return StatusFailed, fmt.Errorf("starting the sidecar: %w", err)
	}
	defer s.stop(p.Grace)
	if status, err := p.awaitReady(s, signals); status != 0 || err != nil {
		return status, err
	}
	return p.runApplication(s, signals)
}

// awaitReady returns 0 once the sidecar is ready, otherwise the status to end with.
func (p Program) awaitReady(s *sidecar, signals <-chan os.Signal) (int, error) {
	timer := time.NewTimer(p.Wait)
	defer timer.Stop()
	for {
		select {
		case <-s.ready.ready:
			return 0, nil
		case <-s.ended:
			return StatusFailed, s.failure()
		case <-timer.C:
			return StatusFailed, fmt.Errorf("the sidecar has no token after %s; its log has the reason", p.Wait)
		case sig := <-signals:
			if status, ends := statusOfSignal(sig); ends {
				return status, nil
			}
		}
	}
}

func (p Program) runApplication(s *sidecar, signals <-chan os.Signal) (int, error) {
	application := exec.Command(p.Application[0], p.Application[1:]...)
	application.Env = p.Environment
	application.Stdin, application.Stdout, application.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := application.Start(); err != nil {
		return statusOfStart(err), fmt.Errorf("starting the application: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- application.Wait() }()
	for {
		select {
		case err := <-ended:
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				return StatusFailed, fmt.Errorf("waiting for the application: %w", err)
			}
			return statusOf(application.ProcessState), nil
		case <-s.ended:
			end(application.Process, ended, p.Grace)
			return StatusFailed, fmt.Errorf("%w, so exec has ended the application", s.failure())
		case sig := <-signals:
			handOn(application.Process, sig)
		}
	}
}

// end asks the application to end, and kills it after the grace period.
func end(application *os.Process, ended <-chan error, grace time.Duration) {
	askToEnd(application)
	select {
	case <-ended:
	case <-time.After(grace):
		_ = application.Kill()
		<-ended
	}
}

func statusOfStart(err error) int {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return statusNotFound
	}
	return statusNotExecutable
}
