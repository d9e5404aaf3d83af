package redistest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// slots is how many hash slots a cluster has.
const slots = 16384

// StartCluster starts a cluster of primary servers, each with its part of the slots.
func StartCluster(t *testing.T, size int, options ...string) []*Server {
	t.Helper()
	Need(t)
	servers := make([]*Server, size)
	for i := range servers {
		servers[i] = Start(t, append([]string{"--cluster-enabled", "yes", "--cluster-port", portOf(caddytest.FreeAddr(t))}, options...)...)
	}
	for i, s := range servers {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		s.Do("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(slots*i/size), fmt.Sprint(slots*(i+1)/size-1))
		first := servers[0]
		s.Do("CLUSTER", "MEET", "127.0.0.1", portOf(first.Addr), busPort(first))
	}
	for _, s := range servers {
		s.Await("cluster_state:ok", "CLUSTER", "INFO")
		s.Await(fmt.Sprintf("cluster_known_nodes:%d", size), "CLUSTER", "INFO")
	}
	return servers
}

func busPort(s *Server) string {
	answer := strings.Fields(s.Do("CONFIG", "GET", "cluster-port"))
	return answer[len(answer)-1]
}

// MoveSlot moves a slot from one server of a cluster to another, key by key. The slot is then with both: the old owner
// answers for what has moved with ASK. The function that is returned ends the move.
func MoveSlot(t *testing.T, servers []*Server, slot string, from, to *Server) (end func()) {
	t.Helper()
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do("CLUSTER", "MYID"))
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.Do("CLUSTER", "MYID"))
	for _, key := range strings.Fields(from.Do("CLUSTER", "GETKEYSINSLOT", slot, "100")) {
		if answer := from.Do("MIGRATE", "127.0.0.1", portOf(to.Addr), key, "0", "5000"); answer != "OK" {
			t.Fatal(answer)
		}
	}
	return func() {
		id := to.Do("CLUSTER", "MYID")
		to.Do("CLUSTER", "SETSLOT", slot, "NODE", id)
		for _, s := range servers {
			s.Do("CLUSTER", "SETSLOT", slot, "NODE", id)
		}
	}
}
