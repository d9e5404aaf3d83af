package systemtest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

// TestReloadInAFlight says that a reload that closes the store, and opens another, costs a flight that is under way at most
// one more call, and no request.
func TestReloadInAFlight(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs processes")
	}
	t.Parallel()
	server := redistest.Start(t)
	stores := []string{"redis {\n address " + server.Addr + "\n}", "redis {\n address unix/" + server.Socket + "\n}"}
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("flight", i))
	}
	f := newFleet(t, 2, stores[0], names...)
	f.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, s := range f.services {
		done := make(chan *outcome)
		go func() { done <- f.all(s) }()
		if err := s.endpoint.WaitCalls(ctx, 1); err != nil {
			t.Fatal(err)
		}
		f.store = stores[(i+1)%2]
		reloaded := f.replicas[i%2] // which may be the caller, or wait for it
		reloaded.reload(f.config(reloaded))
		f.want(t, <-done, s, 1, 2)
	}
	for _, r := range f.replicas {
		for line := range strings.Lines(r.logs()) { // on a busy machine, the store can be late, which is another failure
			if strings.Contains(line, storeDown) && !strings.Contains(line, `"failure":"timeout`) {
				t.Errorf("a replica has reported its store, because it was closed: %s", line)
			}
		}
	}
}
