package httpsproxy

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A tunnel that has carried nothing for this time counts as idle, and is closed when its configuration ends. The time is
// shorter before the process ends.
const (
	idleAtReload = time.Minute
	idleAtExit   = 5 * time.Second
)

// halfIdle is how long the rest of a tunnel may carry nothing after one direction has ended.
const halfIdle = 5 * time.Minute

// bufferSize is what a tunnel reads at once, in each direction.
const bufferSize = 16 << 10

// tunnel carries bytes between a client and a host.
type tunnel struct {
	rules     *tunnelRules // of its configuration
	near, far net.Conn
	used      atomic.Int64 // when it last carried bytes, in nanoseconds
	half      atomic.Bool  // one direction has ended
	done      chan struct{}
}

func startTunnel(rules *tunnelRules, near, far net.Conn) {
	t := &tunnel{rules: rules, near: near, far: far, done: make(chan struct{})}
	t.touch()
	open.add(t)
	go t.run()
}

// run carries bytes in both directions until both have ended. The end of one leaves the other open (RFC 9110 section 9.3.6
// lets a proxy end both, but some protocols rely on the half that is left).
func (t *tunnel) run() {
	var directions sync.WaitGroup
	directions.Go(func() { t.carry(t.far, t.near) })
	directions.Go(func() { t.carry(t.near, t.far) })
	directions.Wait()
	t.close()
	open.remove(t)
	close(t.done)
}

// carry carries the bytes of one direction. After its end, the other direction must not be silent for long, because the proxy
// cannot tell whether the peer has ended its half or has left.
func (t *tunnel) carry(to, from net.Conn) {
	_, err := io.CopyBuffer(onlyWriter{to}, noted{from, t}, make([]byte, bufferSize))
	half, ok := to.(halfCloser)
	if err != nil || !ok || half.CloseWrite() != nil {
		t.close()
		return
	}
	t.half.Store(true)
	_ = to.SetReadDeadline(time.Now().Add(halfIdle))
}

func (t *tunnel) touch() { t.used.Store(time.Now().UnixNano()) }

// quiet returns how long the tunnel has carried nothing.
func (t *tunnel) quiet() time.Duration { return time.Since(time.Unix(0, t.used.Load())) }

func (t *tunnel) close() {
	_ = t.near.Close()
	_ = t.far.Close()
}

// onlyWriter hides the method ReadFrom, with which a connection would read past noted.
type onlyWriter struct{ io.Writer }

// noted notes when bytes come in.
type noted struct {
	net.Conn
	tunnel *tunnel
}

// Read implements io.Reader.
func (n noted) Read(p []byte) (int, error) {
	if n.tunnel.half.Load() {
		_ = n.Conn.SetReadDeadline(time.Now().Add(halfIdle))
	}
	count, err := n.Conn.Read(p)
	n.tunnel.touch()
	return count, err
}

// open are the tunnels of the process. A tunnel outlives its configuration by the grace period.
var open tunnelSet

type tunnelSet struct {
	mu  sync.Mutex // guards all
	all map[*tunnel]bool
}

func (s *tunnelSet) add(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*tunnel]bool)
	}
	s.all[t] = true
}

func (s *tunnelSet) remove(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t)
}

func (s *tunnelSet) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// of returns the tunnels that these rules allowed, or all tunnels if rules is nil.
func (s *tunnelSet) of(rules *tunnelRules) []*tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*tunnel
	for t := range s.all {
		if rules == nil || t.rules == rules {
			found = append(found, t)
		}
	}
	return found
}

// drain waits until the tunnels that these rules allowed have ended, or all tunnels if rules is nil. It closes those that are
// idle, and all of them when the context ends.
func (s *tunnelSet) drain(ctx context.Context, rules *tunnelRules, idle time.Duration) {
	for {
		tunnels := s.of(rules)
		if len(tunnels) == 0 {
			return
		}
		next := idle
		for _, t := range tunnels {
			if left := idle - t.quiet(); left > 0 && ctx.Err() == nil {
				next = min(next, left)
			} else {
				t.close()
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-tunnels[0].done:
		case <-timer.C:
		case <-cancelled(ctx):
		}
		timer.Stop()
	}
}

// cancelled returns nil after the context has ended, because its tunnels are closed by then.
func cancelled(ctx context.Context) <-chan struct{} {
	if ctx.Err() != nil {
		return nil
	}
	return ctx.Done()
}
