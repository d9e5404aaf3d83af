package caddytest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// lastPort is the port that FreeAddr tried last. It begins anywhere below the ports that the system gives to outgoing
// connections, since one of those could be taken between FreeAddr and its use.
var lastPort atomic.Int32

func init() { lastPort.Store(lowestPort + rand.Int32N(portRange)) }

const (
	lowestPort = 10_000
	portRange  = 20_000
)

// FreeAddr returns a loopback address that nobody listens on, another one each time. No other process of the tests gets it
// until the test ends.
func FreeAddr(t *testing.T) string {
	t.Helper()
	for range portRange {
		port := lowestPort + lastPort.Add(1)%portRange
		if addr := fmt.Sprint("127.0.0.1:", port); reserve(t, port) && isFree(addr) {
			return addr
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// reserve keeps a port from the other processes of the tests until the test ends, and reports whether none of them has it. A
// UDP socket stands for the port: the system closes it with the process, and no test listens on its port.
func reserve(t *testing.T, port int32) bool {
	reservation, err := net.ListenPacket("udp", fmt.Sprint("127.0.0.1:", port+portRange))
	if err != nil {
		return false
	}
	t.Cleanup(func() { _ = reservation.Close() })
	return true
}

func isFree(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// Client is an application's HTTP client: it neither follows redirects nor keeps connections after the test.
func Client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ServeHTTP runs a server on loopback. When the test ends, handlers that wait for their request's context are let go.
func ServeHTTP(t *testing.T, h http.Handler, configure ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := httptest.NewUnstartedServer(h)
	srv.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	for _, f := range configure {
		f(srv)
	}
	if srv.TLS != nil {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		cancel()
		srv.Close()
	})
	return srv
}

// Eventually polls what only a real socket can bring about. It polls seldom if that takes long, because a condition may start a
// process.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for pause := 2 * time.Millisecond; !condition(); pause = min(pause+pause/4, 20*time.Millisecond) {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-time.After(pause):
		}
	}
}
