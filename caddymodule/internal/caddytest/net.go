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

// FreeAddr returns a loopback address that nobody listens on, another one each time.
func FreeAddr(t *testing.T) string {
	t.Helper()
	for range portRange {
		port := lowestPort + lastPort.Add(1)%portRange
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("there is no free port")
	return ""
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

// Eventually polls what only a real socket can bring about.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}
