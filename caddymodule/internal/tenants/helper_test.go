package tenants

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// config is what a test sets of a Config.
type config struct {
	tenants []string // those that have a file
	basic   bool
	rate    int // NewRate; 0: 20
}

// testSet is a set whose tenants get all tokens that they ask for, unless their secret is "wrong".
type testSet struct {
	*Set
	calls atomic.Int64
	fails atomic.Pointer[token.Error] // nil: the token endpoint works
}

func newTestSet(t *testing.T, c config) *testSet {
	t.Helper()
	credential, folder := `{"tenant": {"name": "basic"}}`, t.TempDir()
	if !c.basic {
		credential = fmt.Sprintf(`{"client_id": "{file.%s/{tenant}}", "tenant": {"name": "{http.vars.tenant}"}}`, filepath.ToSlash(folder))
	}
	for _, name := range c.tenants {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	template, err := NewTemplate([]byte(credential), "test")
	if err != nil {
		t.Fatal(err)
	}
	if c.rate == 0 {
		c.rate = 20
	}
	ts := new(testSet)
	state := status.New("test", nil, zap.NewNop())
	t.Cleanup(state.Release)
	ts.Set = New(&Config{Credential: "test", Basic: c.basic, Max: 10_000, NewRate: c.rate, Burst: 2 * c.rate, Status: state, Template: template, Caller: ts})
	return ts
}

// inBubble runs a test on a virtual clock. At its end, the tenants fall asleep.
func inBubble(t *testing.T, c config, f func(t *testing.T, ts *testSet)) {
	t.Helper()
	if _, err := Vault(); err != nil { // its goroutines live as long as the process
		t.Fatal(err)
	}
	ts := newTestSet(t, c)
	synctest.Test(t, func(t *testing.T) {
		defer func() { // also if the test fails, or a timer of the bubble would be touched outside
			for of := range ts.All {
				ts.Remove(of)
			}
			time.Sleep(time.Minute) // until each flight has ended
			synctest.Wait()
		}()
		f(t, ts)
	})
}

// Prepare implements Caller.
func (ts *testSet) Prepare(of *Tenant) token.Call {
	return token.Call{Proof: provider.NewSecret(of.Name), Fetch: func(context.Context) (token.Issued, error) {
		ts.calls.Add(1)
		if failed := ts.fails.Load(); failed != nil {
			return token.Issued{}, failed
		}
		if _, secret, _ := of.Client(); secret.Reveal() == "wrong" {
			return token.Issued{}, &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
		}
		return token.Issued{Token: provider.NewSecret("token of " + of.Name), Lifetime: time.Hour}, nil
	}}
}

// Identify implements Caller. No vault remembers the tenants of tests.
func (ts *testSet) Identify(*Tenant) (token.Key, token.Secret, string, error) {
	return "", token.Secret{}, "", errors.New("not known")
}

// ReadCertificate implements Caller.
func (ts *testSet) ReadCertificate(*Tenant) {}

// Prover implements Caller.
func (*testSet) Prover(*Tenant) token.Prover { return nil }

// Ended implements Caller.
func (ts *testSet) Ended() Caller { return ts }

// lease gets a lease as a request of the tenant does.
func (ts *testSet) lease(name string) (token.Lease, error) { return leaseOf(ts.Get(name)) }

// leaseAs gets a lease as a request with these credentials does. They are encoded.
func (ts *testSet) leaseAs(encoded string) (token.Lease, error) { return leaseOf(ts.GetBasic(encoded)) }

func leaseOf(of *Tenant, err error) (token.Lease, error) {
	if err != nil {
		return token.Lease{}, err
	}
	lease, err := of.Source.AcquireWithin(context.Background(), token.DefaultMaxWait)
	return lease, of.Failed(err)
}

// denialOf returns why a tenant was denied, in the word of the metric, or "".
func denialOf(err error) string {
	if d, ok := errors.AsType[*Denial](err); ok {
		return d.Why.String()
	}
	return ""
}
