package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// child is a process that serves.
type child struct {
	addr   string
	admin  string // the address of Caddy's admin API
	cmd    *exec.Cmd
	began  time.Time
	ended  chan struct{} // closed once the process has ended
	cancel context.CancelFunc
	output tail
}

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second
)

// start starts a process. The process has ended once stop returns, and ends at most stopTimeout after ctx.
func start(ctx context.Context, addr string, command func(context.Context) (*exec.Cmd, error)) (*child, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd, err := command(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &child{addr: addr, cmd: cmd, cancel: cancel, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.output, &c.output
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = stopTimeout
	cmd.SysProcAttr = childAttributes()
	c.began = time.Now()
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// terminate interrupts a process, or kills it on a system that has no interrupts.
func terminate(p *os.Process) error {
	if err := p.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return p.Kill()
	}
	return nil
}

func (c *child) stop() {
	c.cancel()
	<-c.ended
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// served waits until the process serves a request, and returns the time from its start until then.
func (c *child) served(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if servedOnce(ctx, c.addr) {
			return time.Since(c.began), nil
		}
		select {
		case <-c.ended:
			return 0, fmt.Errorf("%s has ended:\n%s", c.cmd.Path, c.output.String())
		case <-ctx.Done():
			return 0, fmt.Errorf("%s serves no request:\n%s", c.cmd.Path, c.output.String())
		case <-time.After(time.Millisecond):
		}
	}
}

func servedOnce(ctx context.Context, addr string) bool {
	c, err := dial(ctx, addr)
	if err != nil {
		return false
	}
	defer c.close()
	return c.send(requestFor(addr, apiPath, 0)) == nil
}

// tail keeps the end of the output of a process.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if excess := len(t.text) - tailSize; excess > 0 {
		t.text = append([]byte(nil), t.text[excess:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// freeAddr returns a loopback address that no process listens on. Its port is below the range that systems take for
// outgoing connections, so that none of those occupies it before the child listens.
func freeAddr() (string, error) {
	const attempts, lowest, count = 1000, 10_000, 20_000
	for range attempts {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", lowest+rand.IntN(count)))
		if err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	return "", fmt.Errorf("found no free port in %d attempts", attempts)
}

// environment returns the environment of this process without the variables that tune Go's runtime, because each
// contender runs with its own defaults.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"}, name)
	})
}
