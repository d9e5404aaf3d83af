package httpsproxy

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
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
	owner     *ListenerWrapper
	near, far net.Conn
	used      atomic.Int64 // when it last carried bytes, in nanoseconds
	half      atomic.Bool  // one direction has ended
	done      chan struct{}
}

func startTunnel(owner *ListenerWrapper, near, far net.Conn) {
	t := &tunnel{owner: owner, near: near, far: far, done: make(chan struct{})}
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

// of returns the tunnels of an owner, or all without one.
func (s *tunnelSet) of(owner *ListenerWrapper) []*tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*tunnel
	for t := range s.all {
		if owner == nil || t.owner == owner {
			found = append(found, t)
		}
	}
	return found
}

// drain waits until the tunnels of an owner have ended. It closes those that are idle, and all when the context ends.
func (s *tunnelSet) drain(ctx context.Context, owner *ListenerWrapper, idle time.Duration) {
	for {
		tunnels := s.of(owner)
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

// stop ends the proxy when its configuration ends. Caddy calls it when the servers begin to shut down for a reload, or have
// shut down before the process exits. It may keep only an exit waiting.
func (w *ListenerWrapper) stop(ctx context.Context) error {
	inForce.remove(w)
	if caddy.Exiting() {
		w.drain(ctx, nil, idleAtExit)
		return nil
	}
	// During a reload, Caddy cancels its context as soon as its own requests have finished.
	detached, cancel := context.WithoutCancel(ctx), context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		detached, cancel = context.WithDeadline(detached, deadline)
	}
	go func() {
		defer cancel()
		w.drain(detached, w, idleAtReload)
	}()
	return nil
}

// drain lets the requests and tunnels of the proxy end, within the grace period.
func (w *ListenerWrapper) drain(ctx context.Context, owner *ListenerWrapper, idle time.Duration) {
	if w.proxy != nil && w.proxy.Shutdown(ctx) != nil {
		_ = w.proxy.Close()
	}
	open.drain(ctx, owner, idle)
}
