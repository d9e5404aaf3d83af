package httpsproxy

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a connection in memory whose halves can be closed.
type pipe struct {
	net.Conn
	halfClosed chan struct{} // closed by CloseWrite
	eof        chan struct{} // what ends the reads from the peer, as its half-close does on a socket
}

// Read implements net.Conn.
func (p *pipe) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := p.Conn.Read(b)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-p.eof:
		return 0, io.EOF
	}
}

func (p *pipe) CloseWrite() error {
	close(p.halfClosed)
	return nil
}

func newPipe(c net.Conn) *pipe { return &pipe{c, make(chan struct{}), make(chan struct{})} }

// newTunnel opens a tunnel in memory, and returns its outer ends.
func newTunnel(rules *tunnelRules) (client, host net.Conn, near, far *pipe) {
	client, nearInner := net.Pipe()
	host, farInner := net.Pipe()
	near, far = newPipe(nearInner), newPipe(farInner)
	startTunnel(rules, near, far)
	return client, host, near, far
}

func ended(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now())
	_, err := c.Read(make([]byte, 1))
	return err == io.EOF
}

// An idle tunnel ends soon after its configuration, and one that carries bytes as long as it does so.
func TestDrainClosesIdleTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := new(tunnelRules)
		idle, _, _, _ := newTunnel(rules)
		client, host, _, _ := newTunnel(rules)
		other, _, _, _ := newTunnel(new(tunnelRules))
		start, done := time.Now(), make(chan time.Duration)
		go func() {
			open.drain(t.Context(), rules, idleAtExit)
			done <- time.Since(start)
		}()
		for range 10 { // seconds
			time.Sleep(time.Second)
			go func() { _, _ = client.Write([]byte("x")) }()
			if _, err := io.ReadFull(host, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if !ended(idle) || ended(client) || ended(other) {
			t.Errorf("after 10 s the idle tunnel has ended: %t, the busy one: %t, that of another configuration: %t", ended(idle), ended(client), ended(other))
		}
		if took := <-done; took < 15*time.Second || took > 16*time.Second {
			t.Errorf("the drain took %s", took)
		}
		if !ended(client) {
			t.Error("the tunnel that has become idle is open")
		}
		drainNow(open.of(nil))
	})
}

// drainNow closes tunnels, and waits until they have ended.
func drainNow(tunnels []*tunnel) {
	for _, t := range tunnels {
		t.close()
		<-t.done
	}
}

// The end of the grace period closes all tunnels of all configurations. A drain without tunnels is over at once.
func TestDrainEndsWithTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := new(tunnelRules)
		var clients []net.Conn
		for range 3 {
			client, _, _, _ := newTunnel(rules)
			clients = append(clients, client)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		open.drain(ctx, nil, idleAtReload)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("the drain took %s", took)
		}
		for _, client := range clients {
			if !ended(client) {
				t.Error("a tunnel is open")
			}
		}
		open.drain(context.Background(), nil, idleAtReload)
		if time.Since(start) != 2*time.Second || open.count() != 0 {
			t.Errorf("%d tunnels are open", open.count())
		}
	})
}

// A drain ends as soon as the last tunnel does.
func TestDrainEndsWithTheLastTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, host, _, _ := newTunnel(nil)
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			client.Close()
			host.Close()
		}()
		open.drain(t.Context(), nil, idleAtReload)
		if took := time.Since(start); took != time.Second {
			t.Errorf("the drain took %s", took)
		}
	})
}

// A tunnel whose client has left ends although the host stays silent, and not while the host sends.
func TestHalfATunnelEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, host, near, far := newTunnel(nil)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		close(near.eof)
		<-far.halfClosed
		for range 3 {
			time.Sleep(halfIdle - time.Second)
			if _, err := host.Write([]byte("x")); err != nil {
				t.Fatalf("the host still sends: %v", err)
			}
		}
		start := time.Now()
		if _, err := host.Read(make([]byte, 1)); err == nil {
			t.Error("the tunnel carries on")
		}
		if took := time.Since(start); took != halfIdle {
			t.Errorf("it ended after %s", took)
		}
		synctest.Wait()
		if open.count() != 0 {
			t.Error("the tunnel is open")
		}
	})
}

// The same holds if the host is silent from the beginning.
func TestHalfATunnelOfASilentHostEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, host, near, far := newTunnel(nil)
		synctest.Wait() // both directions wait for bytes
		start := time.Now()
		close(near.eof)
		<-far.halfClosed
		if _, err := host.Read(make([]byte, 1)); err == nil {
			t.Error("the tunnel carries on")
		}
		if took := time.Since(start); took != halfIdle {
			t.Errorf("it ended after %s", took)
		}
		synctest.Wait()
		if open.count() != 0 {
			t.Error("the tunnel is open")
		}
	})
}

// The log has each line once in an interval, and no more lines than the limit.
func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s seldom
		for range 2 {
			if !s.allow("a") || s.allow("a") || !s.allow("b") {
				t.Error("a line is logged twice, or not at all")
			}
			n := 2
			for i := range 1000 {
				if s.allow(string(rune('c' + i))) {
					n++
				}
			}
			if n != logLines {
				t.Errorf("%d lines, want %d", n, logLines)
			}
			time.Sleep(logInterval)
		}
	})
}
