// Package systemtest tests the product together with other programs: a browser, HTTP clients that run unchanged, and Redis
// with replicas that are processes of the product. They share a package because each test binary with Caddy takes seconds
// to link.
package systemtest

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// patience is the deadline of what must happen. No test waits for it to pass.
const patience = 2 * time.Minute

// reference is the reference of the product.
const reference = "../../README.md"

// TestMain also runs the product, for the tests that start it. So a process has the tests' own storage module as well.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_PROGRAM") != "" {
		caddy.CustomBinaryName = "token-proxy"
		caddycmd.Main()
		return
	}
	flag.Parse()
	apart.WaitTogether()
	status := m.Run()
	_ = os.RemoveAll(orderFolder)
	os.Exit(status)
}
