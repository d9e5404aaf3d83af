package tenants

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// A secret that brings a token uses up no attempt, and neither does one that the limits kept from being tried.
func TestBasicAttemptsAreForgiven(t *testing.T) {
	right := base64.StdEncoding.EncodeToString([]byte("a:right"))
	inBubble(t, config{basic: true, rate: 1}, func(t *testing.T, ts *testSet) {
		for range 2 { // the burst
			if _, err := ts.leaseAs(right); err != nil {
				t.Fatal(err)
			}
			ts.Purge(t.Context(), false)
			for of := range ts.All {
				ts.Remove(of)
			}
		}
		for range 3 * BasicAttempts {
			if _, err := ts.leaseAs(right); denialOf(err) != "limited" || time.Until(err.(*Denial).RetryAt) > time.Second {
				t.Fatalf("got %v, want a limit of new_rate", err)
			}
		}
		if n := ts.Count(); n != 0 {
			t.Errorf("%d clients without a token have a place", n)
		}
		time.Sleep(time.Second)
		if _, err := ts.leaseAs(right); err != nil {
			t.Error(err)
		}
		if n := len(ts.attempts.of); n != 0 {
			t.Errorf("%d clients have attempts", n)
		}
	})
}

// Only a refusal of the client by the token endpoint is remembered, and takes its place. After all other failures, its source
// decides about the next call.
func TestBasicFailures(t *testing.T) {
	right := base64.StdEncoding.EncodeToString([]byte("a:right"))
	refused := func(status int, code string) *token.Error {
		return &token.Error{Kind: token.Refused, Status: status, Code: code, Reason: "refused"}
	}
	for name, tc := range map[string]struct {
		failure  *token.Error
		refuses  bool
		recovery time.Duration
	}{
		"invalid_client":        {refused(401, "invalid_client"), true, RefusedMemory},
		"unauthorized_client":   {refused(400, "unauthorized_client"), true, RefusedMemory},
		"invalid_grant":         {refused(400, "invalid_grant"), true, RefusedMemory},
		"401 without a code":    {refused(401, ""), true, RefusedMemory},
		"400 of its own format": {refused(400, ""), true, RefusedMemory},
		"a code of its own":     {refused(200, "40125"), true, RefusedMemory},
		"invalid_scope":         {refused(400, "invalid_scope"), false, RefusedMemory},
		"invalid_request":       {refused(400, "invalid_request"), false, RefusedMemory},
		"404":                   {&token.Error{Kind: token.Refused, Status: 404, Cause: token.CauseNoEndpoint, Passing: true}, false, time.Second},
		"403 of a firewall":     {&token.Error{Kind: token.Refused, Status: 403, Passing: true}, false, time.Second},
		"redirect":              {&token.Error{Kind: token.Refused, Status: 302, Cause: token.CauseRedirect, Passing: true}, false, time.Second},
		"token type":            {&token.Error{Kind: token.Refused, Status: 200, Cause: token.CauseTokenType}, false, RefusedMemory},
		"a file is away":        {provider.Misconfigured(os.ErrNotExist), false, RefusedMemory}, // earlier, if the proof changes
		"the provider's code":   {&token.Error{Kind: token.Refused, Cause: token.CauseProvider}, false, RefusedMemory},
		"503":                   {&token.Error{Kind: token.Unavailable, Status: 503}, false, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, config{basic: true}, func(t *testing.T, ts *testSet) {
				ts.fails.Store(tc.failure)
				_, err := ts.leaseAs(right)
				if e, ok := errors.AsType[*token.Error](err); !ok || e.Kind != tc.failure.Kind || RefusesClient(e) != tc.refuses {
					t.Errorf("got %v", err)
				}
				places := 1
				if tc.refuses {
					places = 0
				}
				if n := ts.Count(); n != places {
					t.Errorf("%d clients have a place, want %d", n, places)
				}
				calls := ts.calls.Load()
				for range 100 {
					if _, err = ts.leaseAs(right); (denialOf(err) == "unknown") != tc.refuses {
						t.Fatalf("the next request: %v", err)
					}
				}
				if n := ts.calls.Load(); n != calls {
					t.Errorf("%d calls for the next requests", n-calls)
				}
				ts.fails.Store(nil)
				time.Sleep(tc.recovery)
				if _, err := ts.leaseAs(right); err != nil {
					t.Errorf("%s after the failure: %v", tc.recovery, err)
				}
			})
		})
	}
}

// A failure that is not about the client opens no way to try secrets.
func TestBasicAttemptsWhileTheEndpointFails(t *testing.T) {
	inBubble(t, config{basic: true, rate: 1000}, func(t *testing.T, ts *testSet) {
		ts.fails.Store(&token.Error{Kind: token.Refused, Status: 404, Cause: token.CauseNoEndpoint, Passing: true})
		tried := make(map[string]bool)
		for i := range 10 * BasicAttempts {
			secret := fmt.Sprint(i)
			if _, err := ts.leaseAs(base64.StdEncoding.EncodeToString([]byte("a:" + secret))); denialOf(err) == "" {
				tried[secret] = true
			}
		}
		if len(tried) != BasicAttempts {
			t.Errorf("%d secrets of one client were tried, want %d", len(tried), BasicAttempts)
		}
	})
}

// The name by which operators see a client shows nothing of it, and pairs that look alike have different names.
func TestBasicName(t *testing.T) {
	seen := make(map[string]string)
	for _, pair := range []string{"a:bc", "ab:c", "a:b", "a:b:c", "A:bc"} {
		encoded := base64.StdEncoding.EncodeToString([]byte(pair))
		name := BasicName(encoded)
		if name != BasicName(encoded) || !ValidName(name) || len(name) != 32 {
			t.Errorf("the name of %s is %s", pair, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s have one name", pair, other)
		}
		seen[name] = pair
	}
	b, ok := parseBasic(base64.StdEncoding.EncodeToString([]byte("a b:c:d é")))
	if !ok || b.id.Reveal() != "a b" || b.secret.Reveal() != "c:d é" {
		t.Errorf("got %v, %t", b, ok)
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, pair := range []string{"a:b", ":", "a", "a:b:c", "{env.HOME}:x", "\xff:\xff"} {
		f.Add(base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	f.Add("Xzp\r0") // package base64 reads it as Xzp0
	f.Fuzz(func(t *testing.T, encoded string) {
		if b, ok := parseBasic(encoded); ok && base64.StdEncoding.EncodeToString([]byte(b.id.Reveal()+":"+b.secret.Reveal())) != encoded {
			t.Errorf("%q was read as something else", encoded)
		}
	})
}
