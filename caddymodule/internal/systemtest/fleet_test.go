package systemtest

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

const (
	keyA = "key a, which replicas have in common"
	keyB = "key b, which replicas have in common"

	clientSecret = "canary-client-secret-0123456789"
)

// fleet is replicas with the same configuration but for their addresses, logs and keys.
type fleet struct {
	t        *testing.T
	store    string // in a Caddyfile
	secret   string // file
	services []*service
	replicas []*replica
}

// service is an API with a token endpoint and a credential of its own. The tests of one fleet use different services, so that
// each of them begins without a token.
type service struct {
	name     string
	options  string // of the credential
	endpoint *devserver.TokenEndpoint
	api      *devserver.API
	tokenURL string
	apiURL   string

	troubled bool // replicas could not use their store while they got its requests, so that they may have several tokens

	mu    sync.Mutex
	shown map[string]bool // the tokens that reached the API
}

// newFleet makes replicas that have yet to start, with services of these names.
func newFleet(t *testing.T, replicas int, store string, services ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, store: store, secret: filepath.Join(t.TempDir(), "secret")}
	write(t, f.secret, clientSecret)
	for _, name := range services {
		f.services = append(f.services, newService(t, name))
	}
	for range replicas {
		r := newReplica(t)
		r.setKeys(keyA, keyB)
		f.replicas = append(f.replicas, r)
	}
	return f
}

func newService(t *testing.T, name string) *service {
	t.Helper()
	s := &service{name: name, shown: make(map[string]bool)}
	s.endpoint = &devserver.TokenEndpoint{
		Dialect: devserver.Optoro, ClientID: "canary-" + caddytest.NewClientID(), ClientSecret: clientSecret, Registry: devserver.NewRegistry(),
	}
	s.endpoint.SetFault(devserver.Fault{Latency: 300 * time.Millisecond})
	s.api = &devserver.API{Registry: s.endpoint.Registry}
	s.tokenURL = caddytest.ServeHTTP(t, s.endpoint).URL + "/oauth/token"
	s.apiURL = caddytest.ServeHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.shown[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] = true
		s.mu.Unlock()
		s.api.ServeHTTP(w, r)
	})).URL
	return s
}

// service returns the one with this name.
func (f *fleet) service(name string) *service {
	f.t.Helper()
	for _, s := range f.services {
		if s.name == name {
			return s
		}
	}
	f.t.Fatalf("no service %s", name)
	return nil
}

// start starts all replicas at the same time.
func (f *fleet) start() {
	f.t.Helper()
	f.each(func(r *replica) { r.start(f.config(r)) })
	if f.t.Failed() {
		f.t.FailNow()
	}
}

// each does something for all replicas at the same time.
func (f *fleet) each(do func(r *replica)) {
	f.t.Helper()
	var all sync.WaitGroup
	for _, r := range f.replicas {
		all.Go(func() { do(r) })
	}
	all.Wait()
}

func (f *fleet) config(r *replica) string {
	var credentials, routes strings.Builder
	for _, s := range f.services {
		fmt.Fprintf(&credentials, "credential %s {\n provider optoro {\n token_url %s\n }\n client_id %s\n client_secret {file.%s}\n %s\n}\n",
			s.name, s.tokenURL, s.endpoint.ClientID, f.secret, s.options)
		fmt.Fprintf(&routes, "token_proxy /%[1]s %[1]s %[2]s\n", s.name, s.apiURL)
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	metrics
	log {
		level DEBUG
		output file %s
	}
	token_proxy {
		share {
			store %s
			key {file.%s} {file.%s}
		}
		%s
	}
}
`, r.admin, r.logFile(), f.store, r.keys[0], r.keys[1], credentials.String()) + caddytest.SiteConfig(r.addr, routes.String())
}

// outcome is what came of the requests of applications.
type outcome struct {
	mu       sync.Mutex
	requests int
	failed   map[string]int // by status or error
	longest  time.Duration
}

func (o *outcome) add(result string, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests++
	o.longest = max(o.longest, took)
	if result != "200 OK" {
		if o.failed == nil {
			o.failed = make(map[string]int)
		}
		o.failed[result]++
	}
}

// request sends one request for the service through the replica.
func (o *outcome) request(r *replica, s *service) {
	begun := time.Now()
	o.add(r.get("/"+s.name), time.Since(begun))
}

// want fails the test if a request has failed, or if the token endpoint was called more or less often.
func (f *fleet) want(t *testing.T, o *outcome, s *service, least, most int) {
	t.Helper()
	f.wantEach(t, map[*service]*outcome{s: o}, least, most)
}

// wantEach is want for services whose requests were sent at the same time.
func (f *fleet) wantEach(t *testing.T, outcomes map[*service]*outcome, least, most int) {
	t.Helper()
	troubled := f.troubled()
	for s, o := range outcomes {
		s.want(t, o, least, most, troubled)
	}
}

// want judges an outcome. Without their store, replicas call more often, and revoke each other's tokens if the token endpoint
// revokes the one before.
func (s *service) want(t *testing.T, o *outcome, least, most int, troubled bool) {
	t.Helper()
	s.troubled = s.troubled || troubled
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := s.endpoint.Calls()
	t.Logf("%s: %d token calls, %d requests, failed: %v, %d answers 401, longest wait %v",
		s.name, calls, o.requests, o.failed, s.api.Unauthorized(), o.longest.Round(time.Millisecond))
	if s.troubled && s.endpoint.Mode == devserver.ModeRevokePrevious {
		delete(o.failed, "401 Unauthorized")
	}
	if o.requests == 0 || len(o.failed) > 0 {
		t.Errorf("%s: of %d requests, these failed: %v", s.name, o.requests, o.failed)
	}
	switch {
	case calls > most && s.troubled:
		t.Logf("%s: this machine is too busy for the store to answer within its time, so that the number of calls shows nothing", s.name)
	case calls < least || calls > most:
		t.Errorf("%s: %d token calls, want %d to %d", s.name, calls, least, most)
	}
}

// troubled reports whether a replica cannot use its store, or could not at a time since the last call of troubled, which the
// waits for a message about the store call, too.
func (f *fleet) troubled() (troubled bool) {
	for _, r := range f.replicas {
		logs := r.logs()
		downs := strings.Count(logs, storeDown)
		down := downs > strings.Count(logs, storeUp)
		troubled = troubled || down || r.down || downs > r.downs
		r.downs, r.down = downs, down
	}
	return troubled
}

// all sends a request through each replica at the same time.
func (f *fleet) all(s *service) *outcome {
	f.t.Helper()
	o := new(outcome)
	f.each(func(r *replica) { o.request(r, s) })
	return o
}

// load sends requests through all replicas until the returned function is called.
func (f *fleet) load(s *service) (end func() *outcome) {
	o, stop := new(outcome), make(chan struct{})
	var all sync.WaitGroup
	for _, r := range f.replicas {
		all.Go(func() {
			for {
				o.request(r, s)
				select {
				case <-time.After(100 * time.Millisecond):
				case <-stop:
					return
				}
			}
		})
	}
	return func() *outcome {
		close(stop)
		all.Wait()
		return o
	}
}

// killCaller lets the last replica call the token endpoint, and kills it in its call while the others ask for the service.
func (f *fleet) killCaller(t *testing.T, s *service) {
	t.Helper()
	last := len(f.replicas) - 1
	caller := f.replicas[last]
	go caller.get("/" + s.name)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.endpoint.WaitCalls(ctx, 1); err != nil {
		t.Fatal(err)
	}
	f.replicas = f.replicas[:last]
	time.AfterFunc(200*time.Millisecond, caller.kill)
}

// The messages of a replica about its store.
const (
	storeDown = "the store of shared tokens does not work"
	storeUp   = "the store of shared tokens works again"
)

// await waits until each replica has logged a message that often.
func (f *fleet) await(message string, times int) {
	f.t.Helper()
	f.each(func(r *replica) {
		caddytest.Eventually(f.t, message, func() bool { return strings.Count(r.logs(), message) >= times })
	})
	f.troubled()
}

// awaitRecovery returns a function that waits until each replica has logged that its store works again, since awaitRecovery was
// called. On a busy machine, a replica logs that at other times, too.
func (f *fleet) awaitRecovery() (await func()) {
	f.t.Helper()
	before := make(map[*replica]int)
	for _, r := range f.replicas {
		before[r] = strings.Count(r.logs(), storeUp)
	}
	return func() {
		f.t.Helper()
		f.each(func(r *replica) {
			caddytest.Eventually(f.t, storeUp, func() bool {
				logs := r.logs()
				return strings.Count(logs, storeUp) > before[r] && strings.LastIndex(logs, storeUp) > strings.LastIndex(logs, storeDown)
			})
		})
		f.troubled()
	}
}

// wantNoCanary fails the test if a place shows a token, a secret, a key or a client id. A client id in a log is no secret.
func wantNoCanary(t *testing.T, f *fleet, places map[string]string) {
	t.Helper()
	secrets := map[string]string{"the client secret": clientSecret, "key a": keyA, "key b": keyB}
	for _, s := range f.services {
		s.mu.Lock()
		for value := range s.shown {
			secrets["a token of "+s.name] = value
		}
		s.mu.Unlock()
	}
	if len(secrets) < 4 {
		t.Error("no token has reached an API")
	}
	for place, content := range places {
		if content == "" {
			t.Errorf("%s is empty", place)
		}
		for what, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("%s shows %s", place, what)
			}
		}
		for _, s := range f.services {
			if place == "the store" && strings.Contains(content, s.endpoint.ClientID) {
				t.Errorf("%s shows the client id of %s", place, s.name)
			}
		}
	}
}
