package redis

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

// A server that is stopped holds no call longer than its context.
func TestServerIsStopped(t *testing.T) {
	server := redistest.Start(t)
	for name, e := range map[string]*engine{"with a connection": open(t, at(server.Addr)), "without": open(t, at(server.Addr))} {
		t.Run(name, func(t *testing.T) {
			if name == "with a connection" {
				exercise(t, e)
			}
			server.Pause()
			defer server.Resume()
			began := time.Now()
			_, err := e.Load(within(t), "name")
			if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
				t.Errorf("the error is not that of a timeout: %v", err)
			}
			if took := time.Since(began); took >= callTimeout {
				t.Errorf("a call of 300 ms took %s", took)
			}
		})
		caddytest.Eventually(t, "it works again", func() bool { return works(t, e) })
	}
}

// A server that was killed and is back is used at once: the call that finds a dead connection makes another one.
func TestServerIsKilled(t *testing.T) {
	server := redistest.Start(t)
	e := open(t, at(server.Addr))
	for range 3 {
		save(t, e, "value")
		server.Kill()
		server.Restart()
		load(t, e, "") // it kept nothing
		exercise(t, e)
	}
	server.Kill()
	for range 2 * connections { // more failures than go-redis counts before it stops to dial
		began := time.Now()
		_, err := e.Load(within(t), name)
		wantError(t, err, "connection refused")
		if took := time.Since(began); took >= callTimeout {
			t.Errorf("an error after %s", took)
		}
	}
	server.Restart()
	caddytest.Eventually(t, "it works again", func() bool { return works(t, e) })
}

// Nothing waits for a server that is not there at the start.
func TestServerComesLate(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	e := open(t, at(server.Addr))
	wantError(t, e.Save(within(t), name, []byte("value"), time.Minute), "SET", "connection refused")
	server.Restart()
	caddytest.Eventually(t, "it works", func() bool { return works(t, e) })
}

// A full server answers with an error to what it does not do.
func TestServerIsFull(t *testing.T) {
	server := redistest.Start(t)
	e := open(t, at(server.Addr))
	save(t, e, "value")
	server.Do("CONFIG", "SET", "maxmemory", "1")
	wantError(t, e.Save(within(t), name, []byte("next"), time.Minute), "SET", "OOM")
	_, err := e.Claim(within(t), "token_proxy/claim", []byte("me"), time.Minute)
	wantError(t, err, "EVAL", "OOM")
	_, err = e.Replace(within(t), name, []byte("value"), []byte("next"), time.Minute)
	wantError(t, err, "EVAL", "OOM")
	load(t, e, "value")
	if done, err := e.Replace(patiently(t), name, []byte("value"), nil, 0); err != nil || !done {
		t.Errorf("a claim could not be given back: %v, %v", done, err)
	}
	server.Do("CONFIG", "SET", "maxmemory", "0")
	exercise(t, e)
}
