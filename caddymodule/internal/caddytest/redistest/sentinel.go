package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// StartReplica starts a replica of a server, and waits until it is in step.
func StartReplica(t *testing.T, primary *Server, options ...string) *Server {
	t.Helper()
	replica := Start(t, append([]string{"--replicaof", "127.0.0.1 " + portOf(primary.Addr)}, options...)...)
	replica.Await("master_link_status:up", "INFO", "replication")
	return replica
}

// StartSentinel starts a Sentinel that knows a primary server by a name, and decides alone after half a second. Further
// lines of its configuration can follow.
func StartSentinel(t *testing.T, name string, primary *Server, config ...string) *Server {
	t.Helper()
	Need(t)
	dir := t.TempDir()
	s := &Server{Addr: caddytest.FreeAddr(t), Socket: filepath.Join(dir, "s"), t: t}
	lines := append([]string{
		"bind 127.0.0.1",
		"port " + portOf(s.Addr),
		"dir " + dir,
		"unixsocket " + s.Socket,
		"user " + adminRights,
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %s 1", name, portOf(primary.Addr)),
		fmt.Sprintf("sentinel down-after-milliseconds %s 500", name),
		fmt.Sprintf("sentinel failover-timeout %s 5000", name),
	}, config...)
	file := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{file, "--sentinel"}
	s.Restart()
	// Sentinel looks every 10 seconds which servers there are, and waits for 8 until it makes an old primary a replica. Redis 7.0
	// and later can do it sooner.
	s.try("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "200")
	t.Cleanup(s.Kill)
	return s
}
