package tenants

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The memory of unknown tenants has a limit, and forgets them in time.
func TestUnknownTenantsAreBounded(t *testing.T) {
	var u unknownTenants
	now := time.Now()
	for i := range mostUnknown + 100 {
		u.add(fmt.Sprint(i), UnknownMemory, now)
	}
	if len(u.until) != mostUnknown || len(u.oldest) != mostUnknown || !u.has("0", now) || u.has(fmt.Sprint(mostUnknown), now) {
		t.Errorf("%d are remembered", len(u.until))
	}
	u.add("new", UnknownMemory, now.Add(UnknownMemory))
	if len(u.until) != 1 || len(u.oldest) != 1 || !u.has("new", now.Add(UnknownMemory)) {
		t.Errorf("%d are remembered after the time, want the new one", len(u.until))
	}
}

// A flood of random names costs no token call and little memory, and 200 look-ups a second at most. It does not touch a
// tenant that has a token.
func TestTenantFlood(t *testing.T) {
	inBubble(t, config{tenants: []string{"known"}}, func(t *testing.T, ts *testSet) {
		if _, err := ts.lease("known"); err != nil {
			t.Fatal(err)
		}
		reasons := make(map[string]int)
		for i := range 100_000 {
			_, err := ts.lease(fmt.Sprintf("nobody-%d", i))
			reasons[denialOf(err)]++
			if i%1000 == 0 {
				time.Sleep(10 * time.Millisecond)
				if _, err := ts.lease("known"); err != nil {
					t.Fatalf("the known tenant: %v", err)
				}
			}
		}
		if looked := reasons["unknown"]; looked > LookupRate+LookupRate || looked < LookupRate || looked+reasons["limited"] != 100_000 {
			t.Errorf("got %v, want at most %d look-ups", reasons, 2*LookupRate)
		}
		if ts.calls.Load() != 1 || ts.Count() != 1 {
			t.Errorf("%d token calls, and %d tenants have a place; want those of the known one", ts.calls.Load(), ts.Count())
		}
		if n := len(ts.unknown.until); n > 2*LookupRate {
			t.Errorf("%d unknown tenants are remembered", n)
		}
	})
}

func numbered(i int) string { return fmt.Sprintf("shop-%d", i) }

// A walk through the tenants ends and shows none twice, while tenants come and go.
func TestTenantPages(t *testing.T) {
	ts := newTestSet(t, config{})
	add := func(i int) {
		ts.all.Store(numbered(i), &Tenant{of: ts.Set, Name: numbered(i), Source: token.NewSource(token.Config{})})
		ts.places.Add(1)
	}
	for i := range 1000 {
		add(i)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for i := 1000; ; i++ {
			select {
			case <-stop:
				return
			default:
				add(i)
				if of, ok := ts.Find(numbered(i - 500)); ok && i > 1600 {
					ts.Remove(of)
				}
			}
		}
	})
	seen := make(map[string]bool)
	pages := 0
	for after := ""; ; pages++ {
		page := ts.After(after, 100)
		if len(page) == 0 || after > "shop-4" { // those that come meanwhile have no end
			break
		}
		for _, of := range page {
			if seen[of.Name] || of.Name <= after {
				t.Fatalf("%s comes twice, or after %s", of.Name, after)
			}
			seen[of.Name], after = true, of.Name
		}
	}
	close(stop)
	group.Wait()
	for i := range 300 {
		if !seen[numbered(i)] && numbered(i) <= "shop-4" {
			t.Errorf("%s was always there, and no page had it", numbered(i))
		}
	}
}
