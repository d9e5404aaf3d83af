package caddymodule

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// A token that another replica has left serves, and is not counted as a call.
func TestAdoptedTokenIsReported(t *testing.T) {
	recordEvents(t, nil)
	tokens := newTokenServer(t)
	name, memory, addr := "shared-"+newClientID(), newMemory(t), freeAddr(t)
	api := newRecordingAPI(t, func(http.ResponseWriter, *http.Request) {})
	config := globalOptions(sharedThrough(t, memory), tokens.credential(name, "api_hosts "+api.addr())) +
		siteConfig(addr, "token_proxy "+name+" "+api.URL)
	s := startOperated(t, config, subscription())
	leaveToken(t, otherReplica(t, name), "a-token-of-another-replica")
	storeWorks(t)

	get(t, "http://"+addr).wantStatus(t, 200)
	if got := api.only(t).Header.Get("Authorization"); got != "Bearer a-token-of-another-replica" || tokens.Calls() != 0 {
		t.Fatalf("the API got %q after %d calls", got, tokens.Calls())
	}
	c := s.credential(name)
	if c.Share == nil || !c.Share.On || !c.Share.Up || c.Share.From != "another replica" || c.Share.Claim != "free" || c.Share.Adopted != 1 ||
		!strings.HasPrefix(c.Share.Record, "token_proxy/v1/") || c.Share.LastError != "" {
		t.Errorf("share is %+v", c.Share)
	}
	if c.Health != "ok" || c.Counters.Calls.Obtained != 0 || c.LastSuccess == nil || len(c.Recent) != 1 || c.Recent[0].Outcome != "adopted" ||
		c.Recent[0].Fingerprint != c.Fingerprint || c.Recent[0].Lifetime != 3600 || c.Recent[0].Duration != 0 {
		t.Errorf("the report is %+v", c)
	}
	if c.Counters.Requests.Waited != 1 { // as for a call of its own
		t.Errorf("the requests are %+v", c.Counters.Requests)
	}
	metrics := s.readMetrics()
	metrics.want(t, 0, "calls_total", "code", "", "credential", name, "outcome", "obtained")
	if n, _ := metrics.of("call_duration_seconds_count", "credential", name); n != 0 {
		t.Errorf("%v calls have a duration", n)
	}
	metrics.want(t, 1, "share_adopted_total", "credential", name)
	metrics.want(t, 1, "share_up")
	metrics.wantBetween(t, 1, 100, "share_operations_total", "operation", "load", "outcome", "ok")
	if len(s.logged("token obtained")) != 0 {
		t.Error("the log has a line for a token call")
	}
	eventually(t, "the event", func() bool {
		for _, e := range eventsRecorded() {
			if e.Name() == "token_adopted" && e.Data["credential"] == name && e.Data["fingerprint"] == c.Fingerprint && e.Data["duration"] == nil {
				return true
			}
		}
		return false
	})

	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/refresh").wantStatus(t, 200)
	if c := s.credential(name); c.Share.From != "here" || c.Counters.Calls.Obtained != 1 || tokens.Calls() != 1 {
		t.Errorf("after a call of this replica: %+v", c.Share)
	}
}

// Another replica has a token while this one is refused: that is no failure, but no good state either.
func TestAdoptedTokenEndsAFailure(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens := newTokenServer(t)
	tokens.SetFault(devserver.Fault{Error: "invalid_client"})
	name, memory, addr := "refused-"+newClientID(), newMemory(t), freeAddr(t)
	api := newRecordingAPI(t, func(http.ResponseWriter, *http.Request) {})
	s := startOperated(t, globalOptions(sharedThrough(t, memory), tokens.credential(name, "api_hosts "+api.addr()))+
		siteConfig(addr, "token_proxy "+name+" "+api.URL), nil)
	get(t, "http://"+addr).wantStatus(t, 502)
	if c := s.credential(name); c.Health != "failing" || !strings.HasPrefix(c.Share.Claim, "held") || c.Share.ClaimUntil == nil {
		t.Errorf("while the call is refused: %s, %+v", c.Health, c.Share)
	}
	leaveToken(t, otherReplica(t, name), "a-token-of-another-replica")
	eventually(t, "a request with the other replica's token", func() bool { return get(t, "http://"+addr).StatusCode == 200 })
	c := s.credential(name)
	if c.Health != "degraded" || c.Cause != "configuration" || c.NextTry != nil {
		t.Errorf("afterwards: %+v", c)
	}
	wantText(t, c.Summary, "invalid_client", "another replica obtained")
	wantText(t, c.Advice, "client_secret")
	if lines := s.logged("adopted a token from another replica"); len(lines) != 1 || lines[0]["recovered"] != true || lines[0]["level"] != "info" {
		t.Errorf("logged %v", lines)
	}
}

// A store that fails costs no request, and everything that operators look at shows it, in words that name no detail.
func TestStoreThatFailsIsReported(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens := newTokenServer(t)
	name, memory, addr := "store-down-"+newClientID(), newMemory(t), freeAddr(t)
	memory.fail(&share.Error{Reason: "the server does not accept the password", Err: errors.New(canary)})
	s := startOperated(t, globalOptions(sharedThrough(t, memory), tokens.credential(name))+
		siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL), nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	c := s.credential(name)
	if c.Health != "degraded" || c.Cause != "store" || c.Share.Up || c.Share.From != "here" || c.Share.Claim != "unknown" {
		t.Errorf("the report is %+v, share %+v", c, c.Share)
	}
	wantText(t, c.Summary, "The server does not accept the password.", "fetches its own tokens")
	wantText(t, c.Advice, "No request fails", "tokens check")
	if c.Share.LastError != "the server does not accept the password" {
		t.Errorf("last_error is %q", c.Share.LastError)
	}
	var list contractList
	decodeStrictly(t, s.ask(http.MethodGet, "/token_proxy/credentials").body, &list)
	if list.Store == nil || list.Store.Up || list.Store.Name != "memory_of_test" || list.Store.LastError != c.Share.LastError {
		t.Errorf("the store is %+v", list.Store)
	}
	s.readMetrics().want(t, 0, "share_up")
	out, err := runCommand(listCommand(), "--address", s.admin)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, out, "SHARE", "store down", "does not accept the password")
	wantNowhere(t, "the store's text", canary, map[string]string{"the list": out, "the log": s.logs(), "the report": c.Summary + c.Advice + c.Share.LastError})

	memory.fail(nil)
	eventually(t, "the store to work again", func() bool { return s.credential(name).Share.Up })
	if c := s.credential(name); c.Health != "ok" {
		t.Errorf("afterwards: %s %s", c.Health, c.Summary)
	}
	down, up := s.logged("the store of shared tokens does not work, so this replica makes its own token calls"), s.logged("the store of shared tokens works again")
	if len(down) != 1 || len(up) != 1 {
		t.Errorf("%d lines for the failure, %d for its end", len(down), len(up))
	}
}

// A replica with another key, or another configuration, shares with nobody, and learns why.
func TestUnopenedIsReported(t *testing.T) {
	for reason, tc := range map[string]struct {
		change  func(*share.Spec, *share.Share)
		summary string
		advice  string
	}{
		"key":    {func(_ *share.Spec, s *share.Share) { s.Ring = ringOf(t, strings.Repeat("x", 32)) }, "a key that this replica does not have", "the same keys"},
		"forged": {func(s *share.Spec, _ *share.Share) { s.Identity = token.NewSecret("another") }, "configures the credential differently", "Configure the credential alike"},
	} {
		t.Run(reason, func(t *testing.T) {
			tokens := newTokenServer(t)
			name, memory, addr := reason+"-"+newClientID(), newMemory(t), freeAddr(t)
			s := startOperated(t, globalOptions(sharedThrough(t, memory), tokens.credential(name))+
				siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL), nil)
			other := otherReplica(t, name, tc.change)
			if got := other.Claim(t.Context(), func() token.Secret { return token.Secret{} }); got != token.ClaimWon {
				t.Fatalf("the other replica's claim: %d", got)
			}
			get(t, "http://"+addr).wantStatus(t, 200)
			c := s.credential(name)
			if c.Health != "degraded" || c.Cause != "configuration" || c.Share.Unopened != reason {
				t.Errorf("the report is %+v, share %+v", c, c.Share)
			}
			wantText(t, c.Summary, tc.summary, "fetches its own tokens")
			wantText(t, c.Advice, tc.advice)
			s.readMetrics().wantBetween(t, 1, 2, "share_unopened_total", "credential", name, "reason", reason)
			if lines := s.logged("this replica cannot open what another replica has left in the store, so it makes its own token calls"); len(lines) != 1 {
				t.Errorf("%d lines are logged", len(lines))
			}
		})
	}
}

// The counters of a credential continue across reloads, also if a reload changes the store.
func TestShareCountersContinueAcrossReloads(t *testing.T) {
	tokens := newTokenServer(t)
	name, addr := "counted-"+newClientID(), freeAddr(t)
	site := siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL)
	first := globalOptions(sharedThrough(t, newMemory(t)), tokens.credential(name)) + site
	s := startOperated(t, first, nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	before := s.readMetrics()
	before.want(t, 1, "share_claims_total", "credential", name, "outcome", "won")
	before.want(t, 0, "share_skew_seconds", "credential", name)
	saved, _ := before.of("share_operations_total", "operation", "save", "outcome", "ok")
	if saved < 1 {
		t.Errorf("%v tokens are saved", saved)
	}
	for range 2 {
		if err := s.load(globalOptions(sharedThrough(t, newMemory(t)), tokens.credential(name)) + site); err != nil {
			t.Fatal(err)
		}
		after := s.readMetrics()
		after.wantNoDecreaseSince(t, before)
		after.want(t, 1, "share_claims_total", "credential", name, "outcome", "won")
		before = after
	}
	// without sharing, no series
	if err := s.load(globalOptions(tokens.credential(name)) + site); err != nil {
		t.Fatal(err)
	}
	for series := range s.readMetrics().series {
		if strings.Contains(series, "_share_") {
			t.Errorf("%s is there", series)
		}
	}
	if c := s.credential(name); c.Share != nil {
		t.Errorf("share is %+v", c.Share)
	}
	// a credential that is excluded has none either
	other := "alone-" + newClientID()
	if err := s.load(globalOptions(sharedThrough(t, newMemory(t)), tokens.credential(name), tokens.credential(other, "share off")) + site); err != nil {
		t.Fatal(err)
	}
	s.readMetrics().wantNone(t, "share_", other)
	if c := s.credential(other); c.Share == nil || c.Share.On || c.Share.Record != "" {
		t.Errorf("share is %+v", c.Share)
	}
}

// A clock that is ahead is reported until a record shows that it is right.
func TestSkewIsReported(t *testing.T) {
	tokens := newTokenServer(t)
	name, addr := "skewed-"+newClientID(), freeAddr(t)
	s := startOperated(t, globalOptions(sharedThrough(t, newMemory(t)), tokens.credential(name, "api_hosts 127.0.0.1"))+
		siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL), nil)
	ahead := otherReplica(t, name)
	ahead.Save(t.Context(), token.Found{ // asked in the future
		Issued: token.Issued{Token: token.NewSecret("a-token-of-the-future")}, Age: -time.Minute, Lifetime: time.Hour, RefreshIn: 50 * time.Minute,
	})
	get(t, "http://"+addr)
	c := s.credential(name)
	if c.Health != "degraded" && c.Health != "failing" || c.Share.Skew < 50 || c.Share.Skew > 61 {
		t.Errorf("the report is %+v, share %+v", c, c.Share)
	}
	s.readMetrics().wantBetween(t, 50, 61, "share_skew_seconds", "credential", name)
	if lines := s.logged("the clock of another replica is ahead of this clock; set the clocks by NTP, or this replica refreshes tokens too late"); len(lines) != 1 {
		t.Errorf("%d lines are logged", len(lines))
	}
}
