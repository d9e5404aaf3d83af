package redis

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

func TestValues(t *testing.T) {
	server := redistest.Start(t)
	e := open(t, at(server.Addr))

	load(t, e, "")
	save(t, e, "one")
	save(t, e, "two")
	load(t, e, "two")
	for range 2 {
		if err := e.Delete(patiently(t), name); err != nil {
			t.Fatal(err)
		}
		load(t, e, "")
	}

	binary := string([]byte{0, '\r', '\n', 0xff, '$'})
	save(t, e, binary)
	load(t, e, binary)

	largest := strings.Repeat("x", maxValue)
	save(t, e, largest)
	load(t, e, largest)
	save(t, e, largest+"x")
	_, err := e.Load(within(t), name)
	wantError(t, err, "64 KiB")
	_, err = e.Claim(within(t), name, []byte("me"), time.Minute)
	wantError(t, err, "64 KiB")

	server.Do("DEL", name)
	server.Do("LPUSH", name, "value")
	_, err = e.Load(within(t), name)
	wantError(t, err, "WRONGTYPE")
}

// Nothing stays for ever, not even if the life has no time left.
func TestValuesExpire(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := open(t, at(server.Addr))
	for _, life := range []time.Duration{-time.Second, 0, time.Microsecond, 20 * time.Millisecond, time.Second} {
		if err := e.Save(patiently(t), name, []byte("value"), life); err != nil {
			t.Fatal(err)
		}
		server.Await("0", "EXISTS", name)
		if claim, err := e.Claim(patiently(t), name, []byte("me"), life); err != nil || string(claim) != "me" {
			t.Fatalf("%q, %v", claim, err)
		}
		server.Await("0", "EXISTS", name)
		save(t, e, "claim")
		if done, err := e.Replace(patiently(t), name, []byte("claim"), []byte("next"), life); err != nil || !done {
			t.Fatalf("%v, %v", done, err)
		}
		server.Await("0", "EXISTS", name)
	}
	save(t, e, "value")
	if left := server.Do("PTTL", name); len(left) != 5 { // 59 seconds and more
		t.Errorf("a life of a minute has become %s ms", left)
	}
}

func TestClaims(t *testing.T) {
	server := redistest.Start(t)
	e := open(t, at(server.Addr))
	me, you := []byte("me"), []byte("you")
	claim := func(claim []byte, want string) {
		t.Helper()
		if owner, err := e.Claim(patiently(t), name, claim, time.Minute); err != nil || string(owner) != want {
			t.Fatalf("%q, %v, want %q", owner, err, want)
		}
	}
	replace := func(claim, next []byte, want bool) {
		t.Helper()
		if done, err := e.Replace(patiently(t), name, claim, next, time.Minute); err != nil || done != want {
			t.Fatalf("%v, %v, want %v", done, err, want)
		}
	}

	replace(me, you, false) // none is there
	replace(me, nil, false)
	claim(me, "me")
	claim(you, "me")
	claim(me, "me") // again, as after an answer that was lost
	replace(you, []byte("mine"), false)
	replace(you, nil, false)
	load(t, e, "me")
	replace(me, []byte("held"), true)
	load(t, e, "held")
	replace(me, nil, false)
	replace([]byte("held"), nil, true)
	load(t, e, "")
	claim(you, "you")
}

// Of many replicas that want a claim, one has it; of many that replace it, one does.
func TestClaimRaces(t *testing.T) {
	server := redistest.Start(t)
	const replicas = 10
	engines := make([]*engine, replicas)
	for i := range engines {
		engines[i] = open(t, at(server.Addr))
	}
	for range 20 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		owners, replaced := make(map[string]int), 0
		for i, e := range engines {
			wg.Go(func() {
				me := fmt.Append(nil, "replica ", i)
				owner, err := e.Claim(t.Context(), name, me, time.Minute)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				owners[string(owner)]++
				mu.Unlock()
				done, err := e.Replace(t.Context(), name, owner, bytes.ToUpper(me), time.Minute)
				if err != nil {
					t.Error(err)
				}
				if done {
					mu.Lock()
					replaced++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		claimed := 0
		for owner := range owners {
			if owner == strings.ToLower(owner) {
				claimed++
			}
		}
		if claimed != 1 || replaced < 1 {
			t.Fatalf("%d claimed, %d replaced: %v", claimed, replaced, owners)
		}
		server.Do("DEL", name)
	}
}

// The rights in the doc comment of Store are enough, and no others are used.
func TestLeastRights(t *testing.T) {
	server := redistest.Start(t, "--user app on >"+password+" ~token_proxy/* -@all +getrange +get +set +del +eval")
	e := open(t, at(server.Addr).with("username", "app").with("password", password))
	exercise(t, e)
	_, err := e.Load(within(t), "elsewhere")
	wantError(t, err, "GETRANGE", "NOPERM")

	server.Do("ACL", "SETUSER", "app", "-eval", "+select")
	_, err = e.Claim(within(t), name, []byte("me"), time.Minute)
	wantError(t, err, "EVAL", "NOPERM")

	server.Do("ACL", "SETUSER", "app", "+eval")
	exercise(t, open(t, at(server.Addr).with("username", "app").with("password", password).with("database", 3)))
}

// exercise calls every method once.
func exercise(t *testing.T, e *engine) {
	t.Helper()
	save(t, e, "value")
	load(t, e, "value")
	if err := e.Delete(patiently(t), name); err != nil {
		t.Fatal(err)
	}
	if owner, err := e.Claim(patiently(t), name, []byte("me"), time.Minute); err != nil || string(owner) != "me" {
		t.Fatalf("%q, %v", owner, err)
	}
	if done, err := e.Replace(patiently(t), name, []byte("me"), []byte("held"), time.Minute); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	if done, err := e.Replace(patiently(t), name, []byte("held"), nil, 0); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
}

func TestDatabase(t *testing.T) {
	server := redistest.Start(t)
	save(t, open(t, at(server.Addr).with("database", 5)), "in 5")
	load(t, open(t, at(server.Addr)), "")
	load(t, open(t, at(server.Addr).with("database", 5)), "in 5")
	if got := server.Do("-n", "5", "GET", name); got != "in 5" {
		t.Errorf("database 5 has %q", got)
	}
	_, err := open(t, at(server.Addr).with("database", 99)).Load(within(t), name)
	wantError(t, err, "no database of this number")
}

func TestSocket(t *testing.T) {
	server := redistest.Start(t)
	exercise(t, open(t, at("unix/"+server.Socket)))
}

// A store makes few connections, and keeps fewer.
func TestConnections(t *testing.T) {
	server := redistest.Start(t)
	e := open(t, at(server.Addr))
	exercise(t, e)
	server.Do("CLIENT", "PAUSE", "60000", "WRITE") // so that calls are at work at the same time
	var wg sync.WaitGroup
	for range 3 * connections {
		wg.Go(func() { _ = e.Save(t.Context(), name, []byte("value"), time.Minute) })
	}
	clients := func() int { return strings.Count(server.Do("CLIENT", "LIST"), " addr=127.0.0.1:") } // not redis-cli itself
	caddytest.Eventually(t, "all connections are in use", func() bool { return clients() >= connections })
	if n := clients(); n != connections {
		t.Errorf("%d connections", n)
	}
	server.Do("CLIENT", "UNPAUSE")
	wg.Wait()
	// go-redis counts the idle ones and adds to them in two steps, so that it can be one or two more.
	caddytest.Eventually(t, "few connections stay", func() bool { return clients() <= connections/2 })
}

// With its context, a store ends its connections.
func TestContextEnds(t *testing.T) {
	server := redistest.Start(t)
	s, err := provision(t, at(server.Addr))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened, err := s.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := opened.(*engine)
	exercise(t, e)
	cancel()
	caddytest.Eventually(t, "the connection has ended", func() bool { return !strings.Contains(server.Do("CLIENT", "LIST"), " addr=127.0.0.1:") })
	_, err = e.Load(within(t), name)
	wantError(t, err, "closed")
}
