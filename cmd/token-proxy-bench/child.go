package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"
)

// child is a process that serves.
type child struct {
	addr   string
	admin  string // where Caddy's admin API is
	cmd    *exec.Cmd
	began  time.Time
	ended  chan struct{} // closed once the process is gone
	cancel context.CancelFunc
	said   tail
}

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second
)

// start starts a process. It is gone once stop has returned, or some seconds after ctx has ended.
func start(ctx context.Context, addr string, command func(context.Context) (*exec.Cmd, error)) (*child, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd, err := command(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &child{addr: addr, cmd: cmd, cancel: cancel, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.said, &c.said
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

// terminate asks a process to end, or ends it where one cannot ask.
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

// served waits for the first request that is served, and says how long that took from the start.
func (c *child) served(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if servedOnce(ctx, c.addr) {
			return time.Since(c.began), nil
		}
		select {
		case <-c.ended:
			return 0, fmt.Errorf("%s has ended:\n%s", c.cmd.Path, c.said.String())
		case <-ctx.Done():
			return 0, fmt.Errorf("%s serves nothing:\n%s", c.cmd.Path, c.said.String())
		case <-time.After(time.Millisecond):
		}
	}
}

func servedOnce(ctx context.Context, addr string) bool {
	c, err := dial(ctx, addr, apiPath)
	if err != nil {
		return false
	}
	defer c.close()
	return c.get() == nil
}

// tail keeps the end of what a process says.
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

// freeAddr returns a loopback address that nobody listens on, below the ports that systems give to outgoing
// connections.
func freeAddr() (string, error) {
	const attempts, lowest, count = 1000, 10_000, 20_000
	for range attempts {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", lowest+rand.IntN(count)))
		if err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	return "", errors.New("there is no free port")
}
