package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterNetwork("loopback", listenLoopback)
	caddyhttp.RegisterNetworkHTTP3("loopback", "udp")
}

// listenLoopback listens for `bind loopback/localhost` on all addresses that localhost stands for: 127.0.0.1 and ::1, as far as
// the machine has them. An application that asks for localhost may use either. `bind 127.0.0.1 [::1]` does the same on a
// machine with IPv6, but keeps Caddy from starting on a machine without IPv6, such as many containers. Every error but the lack
// of an address is reported, because another process on ::1 would answer a part of the requests. So would another sidecar of the
// same user on the same address: Caddy sets SO_REUSEPORT, with which the kernel deals the connections out to both.
func listenLoopback(ctx context.Context, _, host, port string, portOffset uint, config net.ListenConfig) (any, error) {
	if host != "localhost" {
		return nil, errors.New("the network loopback has one address, loopback/localhost")
	}
	var listeners []net.Listener
	var missing error
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, err := listenTCP(ctx, address, port, portOffset, config)
		switch {
		case err == nil:
			listeners = append(listeners, l)
		case isMissing(err):
			missing = err
		default:
			for _, l := range listeners {
				_ = l.Close()
			}
			return nil, err
		}
	}
	if len(listeners) == 0 {
		return nil, missing
	}
	return newJointListener(listeners), nil
}

func listenTCP(ctx context.Context, host, port string, portOffset uint, config net.ListenConfig) (net.Listener, error) {
	address, err := caddy.ParseNetworkAddress(caddy.JoinNetworkAddress("tcp", host, port))
	if err != nil {
		return nil, err
	}
	if err := checkUnshared(ctx, host, address.At(portOffset).StartPort); err != nil {
		return nil, err
	}
	l, err := address.Listen(ctx, portOffset, config)
	if err != nil {
		return nil, err
	}
	listener, ok := l.(net.Listener)
	if !ok {
		return nil, fmt.Errorf("listening on %s gives a %T", host, l)
	}
	return listener, nil
}

// probeTime is how long checkUnshared waits for an address. This process may be closing it, which Caddy does in the background.
const probeTime = time.Second

// checkUnshared returns an error if another process listens on the address. It binds the address for a moment without
// SO_REUSEPORT, which fails beside a listener with it. Two processes that do so in the same moment may not see each other. All
// other errors are left to Caddy, which can raise the capability for a port below 1024. A port that is 0 is never shared.
func checkUnshared(ctx context.Context, host string, port uint) error {
	for deadline := time.Now().Add(probeTime); port != 0 && !listensHere(host, port); time.Sleep(probeTime / 50) {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", joinHostPort(host, port))
		if err == nil {
			return l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w; end the other process, which would answer a part of the requests, or choose another port", err)
		}
	}
	return nil
}

// listensHere reports whether this process listens on the address, as it does during a reload. The running configuration may
// name the address in another way.
func listensHere(host string, port uint) bool {
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		for _, host := range []string{host, "localhost", "", "0.0.0.0", "::"} {
			if caddy.ListenerUsage(network, joinHostPort(host, port)) > 0 {
				return true
			}
		}
	}
	return false
}

func joinHostPort(host string, port uint) string {
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}

// isMissing reports whether the machine lacks an address or its whole family. syscall has no names for the numbers of Windows.
func isMissing(err error) bool {
	const wsaAddrNotAvail, wsaAFNoSupport = syscall.Errno(10049), syscall.Errno(10047)
	return slices.ContainsFunc([]error{syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, wsaAddrNotAvail, wsaAFNoSupport},
		func(lack error) bool { return errors.Is(err, lack) })
}

// jointListener accepts the connections of several listeners.
type jointListener struct {
	listeners []net.Listener
	accepted  chan acceptance
	closed    chan struct{}
	close     func() error
}

type acceptance struct {
	conn net.Conn
	err  error
}

func newJointListener(listeners []net.Listener) *jointListener {
	l := &jointListener{listeners: listeners, accepted: make(chan acceptance), closed: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		var errs []error
		for _, listener := range l.listeners {
			errs = append(errs, listener.Close())
		}
		return errors.Join(errs...)
	})
	for _, listener := range listeners {
		go l.acceptFrom(listener)
	}
	return l
}

// acceptFrom hands over the connections of a listener, and its errors, of which net/http knows the temporary ones.
func (l *jointListener) acceptFrom(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		select {
		case l.accepted <- acceptance{conn, err}:
		case <-l.closed:
			if err == nil {
				_ = conn.Close()
			}
			return
		}
	}
}

// Accept implements net.Listener.
func (l *jointListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener. It returns the first address.
func (l *jointListener) Addr() net.Addr { return l.listeners[0].Addr() }

// Close implements net.Listener.
func (l *jointListener) Close() error { return l.close() }
