package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// observedCredential is a credential whose log is in the buffer. Nobody subscribes to its events.
func observedCredential(t *testing.T) (*client, *bytes.Buffer) {
	t.Helper()
	logger, log := caddytest.BufferedLogger()
	name := "observed-" + newClientID()
	c := &client{caller: caller{Credential: new(Credential)}, name: name, status: status.New(name, nil, logger), logger: logger}
	c.status.Provider, c.status.Endpoint = "optoro", "login.example.com:8443"
	return c, log
}

// failingFetcher fails until it is told to stop.
type failingFetcher struct {
	mu    sync.Mutex
	calls int
	err   error
}

func (f *failingFetcher) Fetch(context.Context) (token.Issued, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return token.Issued{Token: token.NewSecret("good"), Lifetime: time.Hour}, nil
	}
	f.calls++
	return token.Issued{}, f.err
}

func (f *failingFetcher) Prepare() token.Call {
	return token.Call{Proof: token.NewSecret(f.Proof()), Fetch: f.Fetch}
}

func (f *failingFetcher) Proof() string { return "" }

func TestRepeatedFailuresAreSummarised(t *testing.T) {
	for name, failure := range map[string]*token.Error{
		"down":    {Kind: token.Unavailable, Status: 503, Reason: "it is down"},
		"refused": {Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "it says no"},
		"limited": {Kind: token.Unavailable, Status: 429, Reason: "later", RetryAfter: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c, log := observedCredential(t)
			synctest.Test(t, func(t *testing.T) {
				f := &failingFetcher{err: failure}
				s := token.NewSource(token.Config{Fetcher: f, Observer: c.status})
				began := time.Now()
				for f.calls < 1000 {
					_ = s.Refresh(t.Context()) // far more often than it would call by itself
					<-time.After(100 * time.Millisecond)
				}
				minutes := int(time.Since(began) / time.Minute)
				lines := caddytest.LogLines(t, log)
				if len(lines) == 0 || len(lines) > minutes+1 {
					t.Errorf("%d lines for 1000 failures in %d minutes", len(lines), minutes)
				}
				told := 0
				for i, line := range lines {
					repeated, _ := line["repeated"].(float64)
					told += 1 + int(repeated)
					if i > 0 && repeated == 0 {
						t.Errorf("line %d does not say how many there were: %v", i, line)
					}
				}
				f.mu.Lock()
				f.err = nil
				f.mu.Unlock()
				if err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.Rest()
				last := caddytest.LogLines(t, log)
				if len(last) != 1 || last[0]["recovered"] != true || last[0]["failures"] != float64(f.calls) {
					t.Errorf("the recovery says %v, want %d failures", last, f.calls)
				}
				if told > f.calls || f.calls-told > int(time.Minute/(100*time.Millisecond))*3 {
					t.Errorf("the lines tell of %d failures, there were %d", told, f.calls)
				}
			})
		})
	}
}

// accessLog returns the objects that access log entries have, in order.
func (s *caddyServer) accessLog() []any {
	var found []any
	for _, entry := range s.logged("handled request") {
		found = append(found, entry["token_proxy"])
	}
	return found
}

func TestAccessLog(t *testing.T) {
	good, bad := newTokenServer(t), newTokenServer(t)
	bad.SetFault(devserver.Fault{Error: "invalid_client"})
	addr, quiet := freeAddr(t), freeAddr(t)
	api := serveHTTP(t, good.api()).URL
	s := startCaddy(t, globalOptions(good.credential("good"), bad.credential("bad"))+
		siteConfig(addr, "log\ntoken_proxy /bad bad "+api+"\ntoken_proxy /keep good "+api+" {\n client_authorization keep\n}\ntoken_proxy good "+api)+
		siteConfig(quiet, "token_proxy good "+api))
	get(t, "http://"+addr)        // waited
	get(t, "http://"+addr)        // fresh
	get(t, "http://"+addr+"/bad") // failed
	good.revokeAll()
	get(t, "http://"+addr)                                     // fresh, replayed
	get(t, "http://"+addr+"/keep", "Authorization", "Basic x") // without a token of ours
	get(t, "http://"+quiet)                                    // no access log
	eventually(t, "the access log", func() bool { return len(s.accessLog()) == 5 })
	want := []struct {
		credential, served string
		replayed           bool
	}{{"good", "waited", false}, {"good", "fresh", false}, {"bad", "failed", false}, {"good", "fresh", true}}
	got := s.accessLog()
	for i, w := range want {
		fields, ok := got[i].(map[string]any)
		if !ok || len(fields) != 4 || fields["credential"] != w.credential || fields["served"] != w.served || fields["replayed"] != w.replayed {
			t.Errorf("entry %d has %v, want %v", i, got[i], w)
			continue
		}
		if waited, ok := fields["waited"].(float64); !ok || (waited > 0) != (w.served != "fresh") {
			t.Errorf("entry %d, %s: waited %v", i, w.served, fields["waited"])
		}
	}
	if got[4] != nil {
		t.Errorf("a request with its own credentials has %v", got[4])
	}
}

func init() { caddy.RegisterModule(new(eventRecorder)) }

// eventRecorder is a handler of Caddy's events.
type eventRecorder struct{}

// recordedEvents are those of the test that runs: Caddy makes the handlers.
var recordedEvents struct {
	sync.Mutex
	events []caddy.Event
	block  chan struct{} // if not nil, handlers wait for it
}

func recordEvents(t *testing.T, block chan struct{}) {
	set := func(block chan struct{}) {
		recordedEvents.Lock()
		defer recordedEvents.Unlock()
		recordedEvents.events, recordedEvents.block = nil, block
	}
	set(block)
	t.Cleanup(func() { set(nil) })
}

func eventsRecorded() []caddy.Event {
	recordedEvents.Lock()
	defer recordedEvents.Unlock()
	return slices.Clone(recordedEvents.events)
}

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.token_proxy_recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recordedEvents.Lock()
	recordedEvents.events = append(recordedEvents.events, e)
	block := recordedEvents.block
	recordedEvents.Unlock()
	if block != nil {
		<-block
	}
	return nil
}

var _ caddyevents.Handler = (*eventRecorder)(nil)

// subscription is a configuration of the events app that has the recorder told of our events.
func subscription() map[string]any {
	return map[string]any{"events": map[string]any{"subscriptions": []any{map[string]any{
		"events":   []any{"token_obtained", "token_adopted", "token_failed", "token_rejected"},
		"handlers": []any{map[string]any{"handler": "token_proxy_recorder"}},
	}}}}
}

func TestEvents(t *testing.T) {
	recordEvents(t, nil)
	good, bad := newTokenServer(t), newTokenServer(t)
	bad.SetFault(devserver.Fault{Error: "invalid_scope"})
	one, two := "a-"+newClientID(), "b-"+newClientID()
	addr := freeAddr(t)
	api := serveHTTP(t, good.api()).URL
	s := startOperated(t, globalOptions(good.credential(one, "prefetch on"), bad.credential(two))+
		siteConfig(addr, "token_proxy /bad "+two+" "+api+"\ntoken_proxy "+one+" "+api), subscription())
	next := func(n int, name string) map[string]any {
		t.Helper()
		eventually(t, name, func() bool { return len(eventsRecorded()) >= n })
		for _, e := range eventsRecorded() {
			if e.Name() == name {
				recordEvents(t, nil)
				if e.Origin() == nil || e.Origin().CaddyModule().ID != appName {
					t.Errorf("%s has the origin %v", name, e.Origin())
				}
				text := fmt.Sprintf("%+v", e.CloudEvent())
				wantNowhere(t, "the secret", devserver.DefaultClientSecret, map[string]string{"an event": text})
				return e.Data
			}
		}
		t.Fatalf("no %s in %v", name, eventsRecorded())
		return nil
	}
	data := next(1, "token_obtained") // prefetched while the configuration was being started
	if data["credential"] != one || data["provider"] != "optoro" || data["endpoint"] == "" || data["fingerprint"] == "" ||
		data["lifetime"] != 25*time.Hour || data["duration"].(time.Duration) <= 0 || len(data) != 6 {
		t.Errorf("token_obtained: %v", data)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
	get(t, "http://"+addr+"/bad").wantStatus(t, 502)
	data = next(1, "token_failed")
	if data["credential"] != two || data["kind"] != "refused" || data["status"] != 400 || data["error_code"] != "invalid_scope" ||
		data["reason"] == "" || data["duration"] == nil || len(data) != 8 {
		t.Errorf("token_failed: %v", data)
	}
	fingerprint := s.credential(one).Fingerprint
	good.revokeAll()
	get(t, "http://"+addr).wantStatus(t, 200)
	data = next(2, "token_rejected")
	if data["credential"] != one || data["fingerprint"] != fingerprint || len(data) != 4 {
		t.Errorf("token_rejected: %v", data)
	}
}

// A handler takes as long as it wants: neither requests nor token calls wait for it.
func TestEventHandlersDelayNobody(t *testing.T) {
	block := make(chan struct{})
	recordEvents(t, block)
	good := newTokenServer(t)
	name, addr := "a-"+newClientID(), freeAddr(t)
	s := startOperated(t, globalOptions(good.credential(name))+siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, good.api()).URL), subscription())
	defer close(block)
	get(t, "http://"+addr).wantStatus(t, 200)
	good.revokeAll()
	get(t, "http://"+addr).wantStatus(t, 200)
	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/refresh").wantStatus(t, 200)
	eventually(t, "the events", func() bool { return len(eventsRecorded()) == 4 })
}

// tracedHandler is a handler of a credential, and what it adds to traces.
func tracedHandler(t *testing.T, f token.Fetcher) (*Handler, *sdktrace.TracerProvider, *tracetest.InMemoryExporter) {
	t.Helper()
	c, _ := observedCredential(t)
	c.source = token.NewSource(token.Config{Fetcher: f, Observer: c.status})
	t.Cleanup(c.source.Rest)
	exporter := tracetest.NewInMemoryExporter()
	return &Handler{Credential: c.name, credential: c}, sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)), exporter
}

func attributesOf(span tracetest.SpanStub) map[attribute.Key]string {
	all := make(map[attribute.Key]string)
	for _, kv := range span.Attributes {
		all[kv.Key] = kv.Value.String()
	}
	return all
}

func TestSpans(t *testing.T) {
	fails := &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "it says no"}
	for name, tc := range map[string]struct {
		fetcher func() token.Fetcher
		served  string
		calls   int
		status  string
		kind    string
	}{
		"waited":      {func() token.Fetcher { return new(numberedTokens) }, "waited", 1, "", ""},
		"failed":      {func() token.Fetcher { return &failingFetcher{err: fails} }, "failed", 1, "401", "refused"},
		"unavailable": {func() token.Fetcher { return &failingFetcher{err: &token.Error{Kind: token.Unavailable, Reason: "x"}} }, "failed", 3, "", "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			fetcher := tc.fetcher()
			h, provider, exporter := tracedHandler(t, fetcher)
			ctx, parent := provider.Tracer("test").Start(t.Context(), "request")
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
			before := time.Now()
			_, a, err := h.credential.serve(r)
			after := time.Now()
			if a.served.String() != tc.served || (err != nil) != (tc.served == "failed") {
				t.Fatalf("served %s: %v", a.served, err)
			}
			spans := exporter.GetSpans()
			if len(spans) != tc.calls+1 {
				t.Fatalf("%d spans, want %d", len(spans), tc.calls+1)
			}
			wait := spans[len(spans)-1]
			if wait.Name != "token_proxy wait" || wait.Parent.SpanID() != parent.SpanContext().SpanID() || wait.SpanKind != trace.SpanKindInternal {
				t.Errorf("the wait is %+v", wait)
			}
			if got := attributesOf(wait); !maps.Equal(got, map[attribute.Key]string{
				"token_proxy.credential": h.Credential, "token_proxy.served": tc.served}) {
				t.Errorf("the wait has %v", got)
			}
			if (wait.Status.Code == codes.Error) != (err != nil) || wait.Status.Description != "" {
				t.Errorf("the wait has the status %v", wait.Status)
			}
			if wait.StartTime.Before(before) || wait.EndTime.After(after) {
				t.Errorf("the wait is from %s to %s", wait.StartTime, wait.EndTime)
			}
			for _, call := range spans[:tc.calls] {
				if call.Name != "token_proxy fetch" || call.Parent.SpanID() != wait.SpanContext.SpanID() || call.SpanKind != trace.SpanKindClient {
					t.Errorf("the call is %+v", call)
				}
				want := map[attribute.Key]string{
					"token_proxy.credential": h.Credential, "token_proxy.provider": "optoro",
					"server.address": "login.example.com", "server.port": "8443",
				}
				if tc.status != "" {
					want["http.response.status_code"] = tc.status
				}
				if tc.kind != "" {
					want["error.type"] = tc.kind
				}
				if got := attributesOf(call); !maps.Equal(got, want) {
					t.Errorf("the call has %v, want %v", got, want)
				}
				if (call.Status.Code == codes.Error) != (err != nil) {
					t.Errorf("the call has the status %v", call.Status)
				}
				if call.StartTime.Before(before.Add(-time.Millisecond)) || call.EndTime.After(after) || !call.EndTime.After(call.StartTime) {
					t.Errorf("the call is from %s to %s, the wait from %s to %s", call.StartTime, call.EndTime, before, after)
				}
			}

			exporter.Reset()
			if tc.served == "waited" { // a fresh token takes no time, and makes no span
				if _, a, _ := h.credential.serve(r); a.served != status.ServedFresh || len(exporter.GetSpans()) != 0 {
					t.Errorf("served %s with %d spans", a.served, len(exporter.GetSpans()))
				}
				return
			}
			_, _, err = h.credential.serve(r) // it waits for no call, unless the pause has already ended
			if more := fetcher.(*failingFetcher).calls - tc.calls; err == nil || len(exporter.GetSpans()) != 1+more {
				t.Errorf("%v, with %d spans after %d more calls", err, len(exporter.GetSpans()), more)
			}
		})
	}
}

func TestSpansNeedATrace(t *testing.T) {
	h, _, exporter := tracedHandler(t, new(numberedTokens))
	if _, _, err := h.credential.serve(httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
		t.Fatal(err)
	}
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithSyncer(exporter))
	ctx, _ := never.Tracer("test").Start(t.Context(), "request")
	h.credential.source.Purge()
	if _, _, err := h.credential.serve(httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	if n := len(exporter.GetSpans()); n != 0 {
		t.Errorf("%d spans without a trace", n)
	}
}

// A client that leaves is no failure of the credential's.
func TestClientThatLeavesIsNoFailure(t *testing.T) {
	gate := make(chan struct{})
	h, _, _ := tracedHandler(t, waitingFetcher(gate))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, a, err := h.credential.serve(httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	close(gate)
	if !errors.Is(err, context.Canceled) || a.served != status.ServedLeft || h.credential.status.CountServed(status.ServedFailed) != 0 {
		t.Errorf("served %s: %v", a.served, err)
	}
}

type waitingFetcher chan struct{}

func (f waitingFetcher) Fetch(context.Context) (token.Issued, error) {
	<-f
	return token.Issued{Token: token.NewSecret("a"), Lifetime: time.Hour}, nil
}

func (f waitingFetcher) Prepare() token.Call {
	return token.Call{Proof: token.NewSecret(f.Proof()), Fetch: f.Fetch}
}

func (waitingFetcher) Proof() string { return "" }
