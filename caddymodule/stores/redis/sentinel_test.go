package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

// A failover takes as long as Sentinel takes; no call takes longer than its time, and no reload is needed.
func TestFailover(t *testing.T) {
	t.Parallel()
	const rights = "--user app on >" + password + " ~token_proxy/* -@all +getrange +get +set +del +eval"
	primary := redistest.Start(t, rights)
	replica := redistest.StartReplica(t, primary, rights)
	sentinel := redistest.StartSentinel(t, "main", primary,
		"user watcher on >"+otherPassword+" resetchannels -@all +sentinel|get-master-addr-by-name")
	sentinel.Await("127.0.0.1", "SENTINEL", "REPLICAS", "main")
	e := open(t, options{
		"addresses": []string{sentinel.Addr}, "master_name": "main", "username": "app", "password": password,
		"sentinel_username": "watcher", "sentinel_password": otherPassword,
	})
	exercise(t, e)
	save(t, e, "value")
	replica.Await("value", "GET", name)

	primary.Kill()
	began := time.Now()
	for !works(t, e) {
		if time.Since(began) > 90*time.Second {
			t.Fatal("no failover")
		}
	}
	t.Logf("after %s", time.Since(began))
	exercise(t, e)
	replica.Await("role:master", "INFO", "replication")

	primary.Restart() // with nothing in it, and as a primary until Sentinel makes it a replica
	exercise(t, e)
}

// An open connection to a server that is not the primary any more is not kept.
func TestPlannedFailover(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t)
	replica := redistest.StartReplica(t, primary)
	sentinel := redistest.StartSentinel(t, "main", primary)
	sentinel.Await("127.0.0.1", "SENTINEL", "REPLICAS", "main")
	e := open(t, at(sentinel.Addr).with("master_name", "main"))
	exercise(t, e)
	replica.Await("0", "EXISTS", name)
	sentinel.Await("OK", "SENTINEL", "FAILOVER", "main")
	replica.Await("role:master", "INFO", "replication")
	caddytest.Eventually(t, "it works with the new primary", func() bool {
		return works(t, e) && replica.Do("GET", name) == "value"
	})
}

// A Sentinel that does not answer keeps nobody from another one.
func TestSentinelIsStopped(t *testing.T) {
	server := redistest.Start(t)
	stopped, works := redistest.StartSentinel(t, "main", server), redistest.StartSentinel(t, "main", server)
	stopped.Pause()
	exercise(t, open(t, at(stopped.Addr, works.Addr).with("master_name", "main")))
	if clients := works.Do("CLIENT", "LIST"); strings.Contains(clients, "laddr="+works.Addr) {
		t.Errorf("a connection to the Sentinel stays: %s", clients)
	}
}

func TestPasswordOfSentinelIsReplaced(t *testing.T) {
	server := redistest.Start(t)
	sentinel := redistest.StartSentinel(t, "main", server, "requirepass "+password)
	path, placeholder := file(t, otherPassword)
	e := open(t, at(sentinel.Addr).with("master_name", "main").with("sentinel_password", placeholder))
	_, err := e.Load(within(t), name)
	wantError(t, err, "Sentinel", "WRONGPASS")
	write(t, path, password)
	exercise(t, e)
	write(t, path, "")
	exercise(t, e) // the connection stays
	server.Do("CLIENT", "KILL", "TYPE", "normal")
	_, err = e.Load(within(t), name)
	wantError(t, err, "sentinel_password: the file "+path, "empty")
}

func TestSentinelWithTLS(t *testing.T) {
	a := newAuthority(t)
	server := startTLS(t, a, "--tls-auth-clients no")
	o := at(server.Addr).with("master_name", "main").with("tls", options{"ca": a.pem})
	_, err := open(t, o).Load(within(t), name) // a server that is no Sentinel
	wantError(t, err, "Sentinel", "ERR")
}

func TestSentinelFails(t *testing.T) {
	server := redistest.Start(t)
	sentinel := redistest.StartSentinel(t, "main", server)
	_, err := open(t, at(sentinel.Addr).with("master_name", "other")).Load(within(t), name)
	wantError(t, err, "Sentinel", "master_name") // and it is not taken for a value that is not there

	sentinel.Kill()
	_, err = open(t, at(sentinel.Addr).with("master_name", "main").with("sentinel_password", password)).Load(within(t), name)
	wantError(t, err, "connection refused")
}
