package systemtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// fleetSize is how many processes the fleet of TestRedisFleet has. With -v, the test logs how long requests have waited.
var fleetSize = flag.Int("fleet", 10, "the number of `processes` of TestRedisFleet")

// TestRedisFleet is a day in the life of a fleet: its tests follow each other, so that the processes start only once.
func TestRedisFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs processes")
	}
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, *fleetSize, "redis {\n address "+server.Addr+"\n}",
		"prefetch", "cold", "wave", "refresh", "revokes", "rotation", "dies", "paused", "full", "killed", "back")
	f.service("prefetch").options = "prefetch on"
	f.service("refresh").endpoint.Lifetime = 10 * time.Second
	f.service("revokes").endpoint.Lifetime = 10 * time.Second
	f.service("revokes").endpoint.Mode = devserver.ModeRevokePrevious
	f.service("rotation").endpoint.Lifetime = 10 * time.Second
	f.start()

	t.Run("prefetch", func(t *testing.T) {
		s := f.service("prefetch")
		f.want(t, f.all(s), s, 1, 1)
	})
	t.Run("cold start", func(t *testing.T) {
		s := f.service("cold")
		f.want(t, f.all(s), s, 1, 1)
	})
	t.Run("401 wave", func(t *testing.T) {
		s := f.service("wave")
		f.want(t, f.all(s), s, 1, 1)
		s.endpoint.Registry.RevokeAll(s.endpoint.ClientID)
		f.want(t, f.all(s), s, 2, 2)
	})
	t.Run("under load", func(t *testing.T) {
		refresh, revokes, rotation := f.service("refresh"), f.service("revokes"), f.service("rotation")
		ends := map[*service]func() *outcome{refresh: f.load(refresh), revokes: f.load(revokes), rotation: f.load(rotation)}
		// The files change one after the other, as in a rollout. A reload reads them again.
		for _, keys := range [][2]string{{keyA, keyB}, {keyB, keyA}} {
			for _, r := range f.replicas {
				time.Sleep(10 * time.Second / time.Duration(*fleetSize))
				r.setKeys(keys[0], keys[1])
				r.reload(f.config(r))
			}
		}
		outcomes := make(map[*service]*outcome)
		for s, end := range ends {
			outcomes[s] = end()
		}
		f.wantEach(t, outcomes, 2, 6)
	})
	t.Run("caller is killed in its call", func(t *testing.T) {
		s := f.service("dies")
		s.endpoint.SetFault(devserver.Fault{Latency: 8 * time.Second, Count: 1})
		f.killCaller(t, s)
		f.want(t, f.all(s), s, 2, 2)
	})
	canaries(t, f, server)

	others := f.load(f.service("cold"))
	n := len(f.replicas)
	t.Run("Redis hangs", func(t *testing.T) {
		s, recovered := f.service("paused"), f.awaitRecovery()
		server.Pause()
		f.want(t, f.all(s), s, n, n)
		server.Resume()
		recovered()
	})
	t.Run("Redis is full", func(t *testing.T) {
		s, recovered := f.service("full"), f.awaitRecovery()
		server.Do("CONFIG", "SET", "maxmemory", "1")
		f.want(t, f.all(s), s, 1, n)
		server.Do("CONFIG", "SET", "maxmemory", "0")
		recovered()
	})
	t.Run("Redis is killed", func(t *testing.T) {
		s, recovered := f.service("killed"), f.awaitRecovery()
		server.Kill()
		f.want(t, f.all(s), s, n, n)
		server.Restart()
		recovered()
	})
	t.Run("Redis is back", func(t *testing.T) {
		s := f.service("back")
		f.want(t, f.all(s), s, 1, 1)
	})
	f.want(t, others(), f.service("cold"), 1, 1)
}

// canaries fails the test if a store, a log or a metric shows what is to be kept secret.
func canaries(t *testing.T, f *fleet, server *redistest.Server) {
	t.Helper()
	server.Do("SAVE")
	path := filepath.Join(filepath.Dir(server.Socket), "dump.rdb")
	dump, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // so that a restarted server has nothing
		t.Fatal(err)
	}
	places := map[string]string{"the store": string(dump)}
	for i, r := range f.replicas {
		places[fmt.Sprint("the log of replica ", i)] = r.logs() + r.output.String()
		places[fmt.Sprint("the metrics of replica ", i)] = r.page(t, "/metrics")
	}
	wantNoCanary(t, f, places)
}

// TestRedisIsAbsentAtFirst says that replicas start without their store, and share when it is there.
func TestRedisIsAbsentAtFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs processes")
	}
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	f := newFleet(t, 3, "redis {\n address "+server.Addr+"\n}", "before", "after")
	f.start()
	before, after := f.service("before"), f.service("after")
	f.want(t, f.all(before), before, 3, 3)
	server.Restart()
	f.await(storeUp, 1)
	f.want(t, f.all(after), after, 1, 1)
}

// TestRedisPasswordIsWrongAtFirst says that replicas share as soon as the file has the password that the server accepts.
func TestRedisPasswordIsWrongAtFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs processes")
	}
	t.Parallel()
	server := redistest.Start(t, "--requirepass right")
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, "wrong")
	f := newFleet(t, 3, "redis {\n address "+server.Addr+"\n password {file."+password+"}\n}", "before", "after")
	f.start()
	before, after := f.service("before"), f.service("after")
	f.want(t, f.all(before), before, 3, 3)
	write(t, password, "right")
	f.await(storeUp, 1)
	f.want(t, f.all(after), after, 1, 1)
}
