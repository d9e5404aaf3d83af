package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	const rights = "--user app on >" + password + " ~token_proxy/* -@all +getrange +get +set +del +eval +cluster|slots +asking"
	servers := redistest.StartCluster(t, 3, rights)
	o := options{"username": "app", "password": password}
	e := open(t, o.with("addresses", []string{servers[0].Addr, servers[1].Addr})) // the third is found
	for i := range 30 {
		each := fmt.Sprint("token_proxy/", i)
		if err := e.Save(patiently(t), each, []byte(each), time.Minute); err != nil {
			t.Fatal(err)
		}
		if value, err := e.Load(patiently(t), each); err != nil || string(value) != each {
			t.Fatalf("%q, %v", value, err)
		}
	}
	for _, server := range servers {
		if server.Do("DBSIZE") == "0" {
			t.Error("a server has nothing")
		}
	}
	exercise(t, e)
	exercise(t, open(t, o.with("addresses", []string{servers[2].Addr}).with("cluster", true)))

	// A slot moves with its key. In between, the old owner asks for the new one to be asked.
	save(t, e, "value")
	slot := servers[0].Do("CLUSTER", "KEYSLOT", name)
	from, to := owners(t, servers)
	end := redistest.MoveSlot(t, servers, slot, from, to)
	load(t, e, "value")
	exercise(t, e)
	save(t, e, "value")
	end()
	load(t, e, "value")
	exercise(t, e)
}

// owners returns the server that has the key, and another one.
func owners(t *testing.T, servers []*redistest.Server) (owner, other *redistest.Server) {
	t.Helper()
	slot := servers[0].Do("CLUSTER", "KEYSLOT", name)
	for i, server := range servers {
		if server.Do("CLUSTER", "COUNTKEYSINSLOT", slot) == "1" {
			return server, servers[(i+1)%len(servers)]
		}
	}
	t.Fatal("no server has the key")
	return nil, nil
}

// What is not configured as it is, is reported as such.
func TestClusterIsMistaken(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t, 2)
	for _, server := range servers {
		if _, err := open(t, at(server.Addr)).Load(patiently(t), name); err != nil {
			wantError(t, err, "set the option cluster")
		}
	}
	_, err := open(t, at(servers[0].Addr).with("database", 1)).Load(within(t), name)
	wantError(t, err, "database 0 only")
	_, err = open(t, at(redistest.Start(t).Addr).with("cluster", true)).Load(within(t), name)
	wantError(t, err, "does not belong to a cluster")
}
