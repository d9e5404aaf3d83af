package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// sidecar is the process of the sidecar, as exec sees it.
type sidecar struct {
	process *exec.Cmd
	in      io.Closer // the pipe whose end ends the sidecar
	ready   *readiness
	ended   chan struct{} // closed when the process has ended
	err     error         // how it ended; valid once ended is closed
}

// startSidecar runs the command with the address for its readiness as a last argument. It gets the environment of exec. What
// it writes goes to the standard error, because the standard output belongs to the application.
func startSidecar(command []string) (*sidecar, error) {
	ready, err := newReadiness()
	if err != nil {
		return nil, err
	}
	s := &sidecar{ready: ready, ended: make(chan struct{})}
	s.process = exec.Command(command[0], append(command[1:], ready.listener.Addr().String())...)
	s.process.Stdout, s.process.Stderr = os.Stderr, os.Stderr
	s.process.SysProcAttr = detached()
	in, err := s.process.StdinPipe()
	if err != nil {
		ready.close()
		return nil, err
	}
	s.in = in
	if err := s.process.Start(); err != nil {
		ready.close()
		return nil, err
	}
	go func() {
		s.err = s.process.Wait()
		close(s.ended)
	}()
	// The process may have ended at once; its end is reported then. The pipe takes the password without a reader.
	_, _ = io.WriteString(in, ready.password)
	return s, nil
}

// stop ends the sidecar. It kills the process if that has not ended within the grace period.
func (s *sidecar) stop(grace time.Duration) {
	s.ready.close()
	_ = s.in.Close()
	select {
	case <-s.ended:
	case <-time.After(grace):
		_ = s.process.Process.Kill()
		<-s.ended
	}
}

// failure describes how the sidecar ended.
func (s *sidecar) failure() error {
	if s.err == nil {
		return errors.New("the sidecar has ended")
	}
	return fmt.Errorf("the sidecar has ended: %w", s.err)
}
