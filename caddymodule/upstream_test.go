package caddymodule

import (
	"net/http"
	"sync"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// A sidecar keeps the connections of a burst for the next one, unless it is told how many to keep.
func TestConnectionsAreKept(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const burst, kept = 300, 256
	for name, tc := range map[string]struct {
		transport string
		opened    int
	}{
		"by default":      {"", 2*burst - kept},
		"with a protocol": {"transport http {\nversions 1.1\n}", 2*burst - kept},
		"as configured":   {"transport http {\nkeepalive_idle_conns_per_host 40\n}", 2*burst - 40},
		"none":            {"transport http {\nkeepalive off\n}", 2 * burst},
	} {
		t.Run(name, func(t *testing.T) {
			var together sync.WaitGroup // all requests of a burst, which so have a connection each
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, tokens.guarded(func(http.ResponseWriter, *http.Request) {
				together.Done()
				together.Wait()
			}))
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n"+tc.transport+"\n}")
			for range 2 {
				together.Add(burst)
				outcomes := exchanges(testClient(t), base, burst)
				for range burst {
					if x := wantReceived(t, "an answer", outcomes); x.err != nil || x.answer.StatusCode != http.StatusOK {
						t.Fatalf("got %+v", x)
					}
				}
			}
			if n := api.connectionCount(); n != tc.opened {
				t.Errorf("%d connections were opened, want %d", n, tc.opened)
			}
		})
	}
}
