package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// busyEndpoint is a token endpoint for any client. It counts the calls that it serves at the same time.
type busyEndpoint struct {
	mu               sync.Mutex
	now, most, calls int
}

func (b *busyEndpoint) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	b.now++
	b.calls++
	b.most = max(b.most, b.now)
	n := b.calls
	b.mu.Unlock()
	time.Sleep(10 * time.Millisecond) // what a call takes
	b.mu.Lock()
	b.now--
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"access_token": "token-%d", "token_type": "Bearer", "expires_in": 3600}`, n)
}

func (b *busyEndpoint) counts() (most, calls int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most, b.calls
}

// Several hundred credentials with prefetch do not all call at the start: a few at a time, until each has its token. The
// same goes for what a readiness probe begins.
func TestManyCredentialsTakeTurns(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const many, atOnce = 300, 4
	for name, option := range map[string]string{"prefetch": "prefetch on", "probes": ""} {
		t.Run(name, func(t *testing.T) {
			endpoint := new(busyEndpoint)
			url := serveHTTP(t, endpoint).URL + "/oauth/token"
			var credentials []string
			for n := range many {
				credentials = append(credentials, credentialConfig(fmt.Sprint("tenant-", n), url, newClientID(), option))
			}
			addr := freeAddr(t)
			config := globalOptions(strings.Join(credentials, "")) + siteConfig(addr, "token_proxy_ready")
			s := startCaddy(t, config)
			began := time.Now()
			reloaded := false
			poll(t, "each credential to have its token", func() bool {
				if name == "probes" {
					probe(t, "http://"+addr)
				}
				ready := 0
				for _, c := range runningApp().clients {
					if c.source.Status().State == token.StateFresh {
						ready++
					}
				}
				if ready > many/3 && !reloaded { // a reload changes nothing
					reloaded = true
					if err := s.load(config); err != nil {
						t.Fatal(err)
					}
				}
				return ready == many
			})
			if most, calls := endpoint.counts(); most > atOnce || calls != many {
				t.Errorf("%d calls for %d credentials, and %d at the same time, want %d at most (in %v)", calls, many, most, atOnce, time.Since(began))
			}
		})
	}
}

// With prefetch, the token call runs beside Caddy's own start, which does not wait for it. A request that comes meanwhile waits
// for the rest of that call. Provisioning alone, as `caddy validate` does it, calls nothing.
func TestPrefetchOverlapsTheStart(t *testing.T) {
	answer := make(chan struct{})
	release := sync.OnceFunc(func() { close(answer) })
	defer release() // before the endpoint closes, which waits for its calls
	var calls atomic.Int64
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token": "token-1", "token_type": "Bearer", "expires_in": 3600}`)
	}))
	api := newRecordingAPI(t, nil)
	addr := freeAddr(t)
	config := globalOptions(credentialConfig("api", endpoint.URL+"/oauth/token", newClientID(), "prefetch on")) +
		siteConfig(addr, "token_proxy api "+api.URL)
	adapted, err := caddytest.Adapt(config)
	if err == nil {
		err = validateJSON(string(adapted))
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d token calls before the start", n)
	}
	startCaddy(t, config)
	eventually(t, "the token call, without a request", func() bool { return calls.Load() == 1 })
	served := make(chan int)
	go func() {
		a, err := tryAsk(testClient(t), newRequest(t, http.MethodGet, "http://"+addr, nil))
		if err != nil {
			t.Error(err)
		}
		served <- a.StatusCode
	}()
	release()
	if status := wantReceived(t, "the answer", served); status != http.StatusOK || calls.Load() != 1 {
		t.Errorf("got %d after %d token calls", status, calls.Load())
	}
}
