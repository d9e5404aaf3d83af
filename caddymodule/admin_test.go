package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// operatedServer is Caddy with its admin endpoint.
type operatedServer struct {
	*caddyServer
	admin string // its address
	apps  map[string]any
}

// startOperated is startCaddy with an admin endpoint, and with these apps besides.
func startOperated(t *testing.T, caddyfile string, apps map[string]any) *operatedServer {
	t.Helper()
	return startOperatedAt(t, freeAddr(t), caddyfile, apps)
}

func startOperatedAt(t *testing.T, admin, caddyfile string, apps map[string]any) *operatedServer {
	t.Helper()
	s := &operatedServer{&caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}, admin, apps}
	stopAtEnd(t, s)
	if err := s.load(caddyfile); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	return s
}

// stopAtEnd stops Caddy with its admin endpoint, which Stop leaves alone.
func stopAtEnd(t *testing.T, s *operatedServer) {
	t.Helper()
	caddytest.StopAtEnd(s.server())
}

func (s *operatedServer) load(caddyfile string) error {
	return s.caddyServer.load(caddyfile, s.operate)
}

// operate gives a configuration the admin endpoint and the apps.
func (s *operatedServer) operate(root map[string]any) {
	caddytest.Operate(s.admin)(root)
	loaded, _ := root["apps"].(map[string]any)
	for name, app := range s.apps {
		if loaded == nil {
			loaded = make(map[string]any)
			root["apps"] = loaded
		}
		loaded[name] = app
	}
}

// ask asks the admin endpoint, again if a connection breaks: each load replaces its listener.
func (s *operatedServer) ask(method, path string, header ...string) (a clientAnswer) {
	s.t.Helper()
	client := testClient(s.t)
	eventually(s.t, method+" "+path, func() bool {
		var err error
		a, err = tryAsk(client, newRequest(s.t, method, "http://"+s.admin+path, nil, header...))
		return err == nil
	})
	return a
}

// The contract of the admin API, as its clients know it.
type (
	contractList struct {
		Now         time.Time            `json:"now"`
		Store       *contractStore       `json:"store"`
		Credentials []contractCredential `json:"credentials"`
	}
	contractStore struct {
		Name      string `json:"name"`
		Up        bool   `json:"up"`
		LastError string `json:"last_error"`
	}
	contractPurge struct {
		Store string `json:"store"`
		Text  string `json:"text"`
	}
	contractShare struct {
		On         bool           `json:"on"`
		Up         bool           `json:"up"`
		LastError  string         `json:"last_error"`
		Record     string         `json:"record"`
		From       string         `json:"from"`
		Claim      string         `json:"claim"`
		ClaimUntil *time.Time     `json:"claim_until"`
		Unopened   string         `json:"unopened"`
		Skew       float64        `json:"skew"`
		Adopted    int            `json:"adopted"`
		Claims     map[string]int `json:"claims"`
	}
	contractCredential struct {
		Name        string               `json:"name"`
		Provider    string               `json:"provider"`
		Endpoint    string               `json:"endpoint"`
		State       string               `json:"state"`
		Health      string               `json:"health"`
		Cause       string               `json:"cause"`
		Summary     string               `json:"summary"`
		Advice      string               `json:"advice"`
		Ready       bool                 `json:"ready"`
		Fetching    bool                 `json:"fetching"`
		Fingerprint string               `json:"fingerprint"`
		Bound       string               `json:"bound"` // "DPoP" or ""
		Issued      *time.Time           `json:"issued"`
		Refresh     *time.Time           `json:"refresh"`
		Expires     *time.Time           `json:"expires"`
		NextTry     *time.Time           `json:"next_try"`
		LastSuccess *time.Time           `json:"last_success"`
		LastError   *contractError       `json:"last_error"`
		Share       *contractShare       `json:"share"`
		Purge       *contractPurge       `json:"purge"`
		Tenants     *contractTenants     `json:"tenants"`
		Counters    contractCounters     `json:"counters"`
		Recent      []contractOccurrence `json:"recent"`
	}
	contractTenants struct {
		Count     int                     `json:"count"`
		Max       int                     `json:"max"`
		States    map[string]int          `json:"states"`
		Failing   int                     `json:"failing"`
		Evictions int                     `json:"evictions"`
		Refusals  map[string]int          `json:"refusals"`
		Failures  []contractTenantFailure `json:"failures"`
	}
	contractTenantFailure struct {
		contractOccurrence
		Over bool `json:"over"`
	}
	contractTenant struct {
		Credential  string         `json:"credential"`
		Name        string         `json:"name"`
		State       string         `json:"state"`
		Health      string         `json:"health"`
		Cause       string         `json:"cause"`
		Summary     string         `json:"summary"`
		Advice      string         `json:"advice"`
		Fetching    bool           `json:"fetching"`
		Fingerprint string         `json:"fingerprint"`
		Bound       string         `json:"bound"` // "DPoP" or ""
		Issued      *time.Time     `json:"issued"`
		Refresh     *time.Time     `json:"refresh"`
		Expires     *time.Time     `json:"expires"`
		NextTry     *time.Time     `json:"next_try"`
		LastError   *contractError `json:"last_error"`
	}
	contractTenantPage struct {
		Now     time.Time        `json:"now"`
		Tenants []contractTenant `json:"tenants"`
		Next    string           `json:"next"`
	}
	contractError struct {
		At     time.Time `json:"at"`
		Kind   string    `json:"kind"`
		Status int       `json:"status"`
		Code   string    `json:"code"`
		Cause  string    `json:"cause"`
		Peer   string    `json:"peer"`
		Reason string    `json:"reason"`
	}
	contractCounters struct {
		Requests struct {
			Fresh  int `json:"fresh"`
			Stale  int `json:"stale"`
			Waited int `json:"waited"`
			Failed int `json:"failed"`
		} `json:"requests"`
		Calls struct {
			Obtained    int `json:"obtained"`
			Unavailable int `json:"unavailable"`
			Refused     int `json:"refused"`
			Unreadable  int `json:"unreadable"`
		} `json:"calls"`
		Unauthorized  int `json:"unauthorized"`
		Invalidations int `json:"invalidations"`
		Replays       int `json:"replays"`
		Refusals      struct {
			Destination int `json:"destination"`
			Client      int `json:"client"`
		} `json:"refusals"`
	}
	contractOccurrence struct {
		At          time.Time `json:"at"`
		Outcome     string    `json:"outcome"`
		Tenant      string    `json:"tenant"`
		Duration    float64   `json:"duration"`
		Lifetime    float64   `json:"lifetime"`
		Status      int       `json:"status"`
		Code        string    `json:"code"`
		Cause       string    `json:"cause"`
		Peer        string    `json:"peer"`
		Reason      string    `json:"reason"`
		Fingerprint string    `json:"fingerprint"`
	}
)

// always are the members that a credential always has.
var always = []string{
	"name", "provider", "endpoint", "state", "health", "summary", "advice", "fetching", "counters", "recent",
}

// decodeStrictly fails the test if there is anything in the JSON that the contract does not have.
func decodeStrictly(t *testing.T, body string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("there is more than one value: %s", body)
	}
}

// readCredential checks what holds for every answer with a credential.
func readCredential(t *testing.T, body string) contractCredential {
	t.Helper()
	var c contractCredential
	decodeStrictly(t, body, &c)
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &members); err != nil {
		t.Fatal(err)
	}
	for _, name := range always {
		if len(members[name]) == 0 || string(members[name]) == "null" {
			t.Errorf("%s is missing: %s", name, body)
		}
	}
	for name, counts := range map[string]int{"requests": 4, "calls": 4, "refusals": 2} {
		var counters map[string]json.RawMessage
		var one map[string]int
		_ = json.Unmarshal(members["counters"], &counters)
		if _ = json.Unmarshal(counters[name], &one); len(one) != counts {
			t.Errorf("counters.%s is %s", name, counters[name])
		}
	}
	if !slices.Contains([]string{"none", "fresh", "stale", "rejected", "expired"}, c.State) {
		t.Errorf("state %q", c.State)
	}
	if !slices.Contains([]string{"ok", "idle", "degraded", "failing"}, c.Health) {
		t.Errorf("health %q", c.Health)
	}
	caddytest.WantSentences(t, c.Summary, false)
	caddytest.WantSentences(t, c.Advice, c.Health == "ok" || c.Health == "idle")
	if has := c.Fingerprint != "" && c.Issued != nil && c.Expires != nil; has != (c.State != "none") {
		t.Errorf("state %s, and token, issue and expiry are there: %t", c.State, has)
	}
	if len(c.Recent) > 50 {
		t.Errorf("%d recent occurrences", len(c.Recent))
	}
	return c
}

// credential reads one credential.
func (s *operatedServer) credential(name string) contractCredential {
	s.t.Helper()
	a := s.ask(http.MethodGet, "/token_proxy/credentials/"+name)
	a.wantStatus(s.t, 200)
	return readCredential(s.t, a.body)
}

// wantAdminError checks an error answer, and returns its text.
func (a clientAnswer) wantAdminError(t *testing.T, status int, parts ...string) string {
	t.Helper()
	a.wantStatus(t, status)
	var failure struct {
		Error string `json:"error"`
	}
	decodeStrictly(t, a.body, &failure)
	if a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type is %q", a.Header.Get("Content-Type"))
	}
	for _, part := range append(parts, " ") {
		if !strings.Contains(failure.Error, part) {
			t.Errorf("the error is %q, want %q in it", failure.Error, part)
		}
	}
	return failure.Error
}

func TestAdminRoutes(t *testing.T) {
	tokens := newTokenServer(t)
	dotted, plain := "a.b-c_"+newClientID(), "plain-"+newClientID()
	other := newTokenServer(t)
	addr := freeAddr(t)
	s := startOperated(t, globalOptions(tokens.credential(dotted), other.credential(plain))+
		siteConfig(addr, "token_proxy "+dotted+" "+serveHTTP(t, tokens.api()).URL), nil)

	t.Run("list", func(t *testing.T) {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := s.ask(method, "/token_proxy/credentials")
			a.wantStatus(t, 200)
			if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: header %v", method, a.Header)
			}
			if method == http.MethodHead {
				if a.body != "" {
					t.Errorf("HEAD has a body: %q", a.body)
				}
				continue
			}
			var list contractList
			decodeStrictly(t, a.body, &list)
			if len(list.Credentials) != 2 || list.Credentials[0].Name != dotted || list.Credentials[1].Name != plain || list.Now.IsZero() {
				t.Errorf("got %s", a.body)
			}
		}
	})
	t.Run("one", func(t *testing.T) {
		c := s.credential(dotted)
		if c.Name != dotted || c.Provider != "optoro" || c.State != "none" || c.Health != "idle" || c.Advice != "" ||
			"http://"+c.Endpoint+"/oauth/token" != tokens.url || c.LastSuccess != nil || c.LastError != nil || c.NextTry != nil {
			t.Errorf("before any request: %+v", c)
		}
		if c.Recent == nil || len(c.Recent) != 0 {
			t.Errorf("recent is %v", c.Recent)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
		get(t, "http://"+addr).wantStatus(t, 200)
		c = s.credential(dotted)
		if c.State != "fresh" || c.Health != "ok" || c.Fetching || c.LastSuccess == nil || c.Refresh == nil || c.LastError != nil ||
			c.Counters.Requests.Waited != 1 || c.Counters.Requests.Fresh != 1 || c.Counters.Calls.Obtained != 1 {
			t.Errorf("after two requests: %+v", c)
		}
		if len(c.Recent) != 1 || c.Recent[0].Outcome != "obtained" || c.Recent[0].Lifetime != (25*time.Hour).Seconds() ||
			c.Recent[0].Fingerprint != c.Fingerprint || c.Recent[0].Duration <= 0 {
			t.Errorf("recent: %+v", c.Recent)
		}
		if c.Issued.After(*c.Refresh) || c.Refresh.After(*c.Expires) {
			t.Errorf("issued %s, refresh %s, expires %s", c.Issued, c.Refresh, c.Expires)
		}
		a := s.ask(http.MethodHead, "/token_proxy/credentials/"+dotted)
		if a.wantStatus(t, 200); a.body != "" {
			t.Errorf("HEAD has a body: %q", a.body)
		}
		s.ask(http.MethodGet, "/token_proxy/credentials/"+dotted+"/").wantStatus(t, 200)
	})
	t.Run("refresh and purge", func(t *testing.T) {
		before := s.credential(dotted)
		a := s.ask(http.MethodPost, "/token_proxy/credentials/"+dotted+"/refresh")
		a.wantStatus(t, 200)
		after := readCredential(t, a.body)
		if after.State != "fresh" || after.Fingerprint == before.Fingerprint || after.Counters.Calls.Obtained != 2 || tokens.Calls() != 2 {
			t.Errorf("after a refresh: %+v", after)
		}
		a = s.ask(http.MethodPost, "/token_proxy/credentials/"+dotted+"/purge")
		a.wantStatus(t, 200)
		if purged := readCredential(t, a.body); purged.State != "none" || purged.Fingerprint != "" || purged.Health != "idle" {
			t.Errorf("after a purge: %+v", purged)
		}
		if tokens.Calls() != 2 {
			t.Errorf("a purge costs %d calls", tokens.Calls()-2)
		}
		s.ask(http.MethodPost, "/token_proxy/credentials/"+plain+"/refresh").wantStatus(t, 200)
		a = s.ask(http.MethodPost, "/token_proxy/purge")
		a.wantStatus(t, 200)
		var purged struct {
			Purged int `json:"purged"`
		}
		if decodeStrictly(t, a.body, &purged); purged.Purged != 2 {
			t.Errorf("got %s", a.body)
		}
		if c := s.credential(plain); c.State != "none" {
			t.Errorf("after purging all: %+v", c)
		}
	})
	t.Run("not found", func(t *testing.T) {
		calls := tokens.Calls()
		for path, wants := range map[string][]string{
			"/token_proxy/nothing":                             {"/token_proxy/"},
			"/token_proxy/credentials/nobody":                  {`"nobody"`, dotted, plain},
			"/token_proxy/credentials/":                        {`""`, dotted},
			"/token_proxy/credentials/nobody/refresh":          {`"nobody"`, dotted},
			"/token_proxy/credentials/" + dotted + "/delete":   {`"delete"`, "refresh", "purge"},
			"/token_proxy/credentials/" + dotted + "/refresh/": {"refresh", "purge"},
			"/token_proxy/credentials/" + dotted + "/a/b":      {`"a/b"`},
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				s.ask(method, path).wantAdminError(t, 404, wants...)
			}
		}
		if tokens.Calls() != calls {
			t.Error("there was a call")
		}
	})
	t.Run("methods", func(t *testing.T) {
		calls := tokens.Calls()
		s.ask(http.MethodPost, "/token_proxy/credentials/"+dotted+"/refresh").wantStatus(t, 200)
		for path, allowed := range map[string]string{
			"/token_proxy/":                                   "GET, HEAD",
			"/token_proxy/credentials":                        "GET, HEAD",
			"/token_proxy/credentials/" + dotted:              "GET, HEAD",
			"/token_proxy/credentials/" + dotted + "/refresh": "POST",
			"/token_proxy/credentials/" + dotted + "/purge":   "POST",
			"/token_proxy/purge":                              "POST",
		} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				if slices.Contains(strings.Split(allowed, ", "), method) {
					continue
				}
				a := s.ask(method, path)
				if method == http.MethodHead {
					a.wantStatus(t, 405)
				} else {
					a.wantAdminError(t, 405, "method", strings.Split(allowed, ", ")[0])
				}
				if got := a.Header.Get("Allow"); got != allowed {
					t.Errorf("%s %s: Allow is %q, want %q", method, path, got, allowed)
				}
			}
		}
		if c := s.credential(dotted); c.State != "fresh" || tokens.Calls() != calls+1 {
			t.Errorf("a wrong method had an effect: %s, %d calls", c.State, tokens.Calls()-calls)
		}
	})
	t.Run("origins", func(t *testing.T) {
		calls := tokens.Calls()
		for _, path := range []string{"/token_proxy/", "/token_proxy/credentials", "/token_proxy/credentials/" + dotted} {
			s.ask(http.MethodGet, path, "Origin", "https://evil.example").wantAdminError(t, 403, "origin")
			s.ask(http.MethodGet, path, "Origin", "null").wantStatus(t, 400)
			s.ask(http.MethodGet, path, "Sec-Fetch-Mode", "no-cors").wantStatus(t, 400)
			s.ask(http.MethodGet, path, "Sec-Fetch-Mode", "cors").wantStatus(t, 403)
			s.ask(http.MethodGet, path, "Origin", "http://"+s.admin, "Sec-Fetch-Mode", "cors").wantStatus(t, 200)
		}
		for _, path := range []string{"/token_proxy/credentials/" + dotted + "/refresh", "/token_proxy/credentials/" + dotted + "/purge", "/token_proxy/purge"} {
			s.ask(http.MethodPost, path, "Origin", "https://evil.example").wantStatus(t, 403)
			s.ask(http.MethodPost, path, "Sec-Fetch-Mode", "cors").wantStatus(t, 403)
		}
		if c := s.credential(dotted); c.State != "fresh" || tokens.Calls() != calls {
			t.Errorf("another site had an effect: %s, %d calls", c.State, tokens.Calls()-calls)
		}
		req := newRequest(t, http.MethodGet, "http://"+s.admin+"/token_proxy/credentials", nil)
		req.Host = "evil.example" // DNS rebinding
		ask(t, testClient(t), req).wantStatus(t, 403)
	})
	t.Run("page", func(t *testing.T) {
		a := s.ask(http.MethodGet, "/token_proxy/")
		a.wantStatus(t, 200)
		if a.body != string(page) || !strings.Contains(a.body, "</html>") {
			t.Error("it is not the page")
		}
		for name, want := range map[string]string{
			"Content-Type": "text/html; charset=utf-8",
			"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " +
				"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff",
		} {
			if got := a.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if a := s.ask(http.MethodHead, "/token_proxy/"); a.StatusCode != 200 || a.body != "" {
			t.Errorf("HEAD: status %d, body of %d bytes", a.StatusCode, len(a.body))
		}
		if a := s.ask(http.MethodGet, "/token_proxy"); a.StatusCode/100 != 3 || a.Header.Get("Location") != "/token_proxy/" {
			t.Errorf("without the slash: status %d, Location %q", a.StatusCode, a.Header.Get("Location"))
		}
	})
}

func TestAdminWithoutCredentials(t *testing.T) {
	for name, config := range map[string]string{
		"no app":   siteConfig(freeAddr(t), "respond ok"),
		"no names": globalOptions() + siteConfig(freeAddr(t), "respond ok"),
	} {
		t.Run(name, func(t *testing.T) {
			s := startOperated(t, config, nil)
			a := s.ask(http.MethodGet, "/token_proxy/credentials")
			a.wantStatus(t, 200)
			var list contractList
			if decodeStrictly(t, a.body, &list); !strings.Contains(a.body, `"credentials":[]`) {
				t.Errorf("got %s", a.body)
			}
			s.ask(http.MethodGet, "/token_proxy/credentials/a").wantAdminError(t, 404)
			s.ask(http.MethodPost, "/token_proxy/credentials/a/refresh").wantAdminError(t, 404)
			s.ask(http.MethodGet, "/token_proxy/").wantStatus(t, 200)
			if a := s.ask(http.MethodPost, "/token_proxy/purge"); a.StatusCode != 200 || strings.TrimSpace(a.body) != `{"purged":0}` {
				t.Errorf("purging: %d %s", a.StatusCode, a.body)
			}
		})
	}
}

func TestAdminRefreshExplainsFailures(t *testing.T) {
	tests := []struct {
		name    string
		fault   devserver.Fault
		status  int
		kind    string
		explain []string
	}{
		{"down", devserver.Fault{Status: 503}, 503, "unavailable", []string{"status 503", "status page"}},
		{"limited", devserver.Fault{Status: 429, RetryAfter: "60"}, 503, "unavailable", []string{"status 429", "calls again by itself", "same client id"}},
		{"wrong-secret", devserver.Fault{Error: "invalid_client"}, 502, "refused", []string{"invalid_client", "client_id and client_secret"}},
		{"garbage", devserver.Fault{Garbage: devserver.GarbageHTML}, 502, "unreadable", []string{"token URL"}},
	}
	servers := make([]*tokenServer, len(tests))
	names := make([]string, len(tests))
	var credentials []string
	for i, tc := range tests {
		servers[i], names[i] = newTokenServer(t), tc.name+"-"+newClientID()
		credentials = append(credentials, servers[i].credential(names[i]))
	}
	s := startOperated(t, globalOptions(credentials...), nil)
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			path := "/token_proxy/credentials/" + names[i]
			s.ask(http.MethodPost, path+"/refresh").wantStatus(t, 200)
			servers[i].SetFault(tc.fault)
			calls := servers[i].Calls()
			s.ask(http.MethodPost, path+"/refresh").wantAdminError(t, tc.status, tc.explain...)
			if servers[i].Calls() != calls+1 {
				t.Errorf("%d calls while the token is good, want 1", servers[i].Calls()-calls)
			}
			c := s.credential(names[i])
			if c.State != "fresh" || c.Health != "degraded" || c.LastError == nil || c.LastError.Kind != tc.kind ||
				c.Counters.Calls.Obtained != 1 || c.NextTry == nil || c.LastError.Reason == "" {
				t.Errorf("after the failure: %+v", c)
			}
			// once more, though calls are held back
			s.ask(http.MethodPost, path+"/refresh").wantAdminError(t, tc.status)
			if servers[i].Calls() != calls+2 {
				t.Errorf("%d calls, want 2", servers[i].Calls()-calls)
			}
			s.ask(http.MethodPost, path+"/purge").wantStatus(t, 200)
			if c := s.credential(names[i]); c.NextTry != nil || c.Health != "idle" {
				t.Errorf("after a purge: %+v", c)
			}
			s.ask(http.MethodPost, path+"/refresh").wantAdminError(t, tc.status)
			if c := s.credential(names[i]); c.State != "none" || c.Health != "failing" || c.NextTry == nil {
				t.Errorf("without a token: %+v", c)
			}
			servers[i].SetFault(devserver.Fault{})
			s.ask(http.MethodPost, path+"/refresh").wantStatus(t, 200)
			if c := s.credential(names[i]); c.Health != "ok" || c.NextTry != nil || c.LastError == nil {
				t.Errorf("after the recovery: %+v", c)
			}
		})
	}
}

// The report is of the configuration in force, and what was seen outlives it.
func TestAdminAfterAReload(t *testing.T) {
	tokens := newTokenServer(t)
	name, added := "kept-"+newClientID(), "added-"+newClientID()
	s := startOperated(t, globalOptions(tokens.credential(name)), nil)
	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/refresh").wantStatus(t, 200)
	before := s.credential(name)
	if err := s.load(globalOptions(tokens.credential(name), newTokenServer(t).credential(added))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new configuration", func() bool {
		return s.ask(http.MethodGet, "/token_proxy/credentials/"+added).StatusCode == 200
	})
	if after := s.credential(name); after.Fingerprint != before.Fingerprint || after.Counters != before.Counters || len(after.Recent) != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := s.load(globalOptions(tokens.credential(name), credentialConfig("broken", "nonsense", "a"))); err == nil {
		t.Fatal("a broken configuration was loaded")
	}
	if err := s.load(globalOptions(tokens.credential(added))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old credential to be gone", func() bool {
		return s.ask(http.MethodGet, "/token_proxy/credentials/"+name).StatusCode == 404
	})
	// A corrected credential is another one: what the old one failed with does not count.
	fault := newTokenServer(t)
	bad := "corrected-" + newClientID()
	if err := s.load(globalOptions(credentialConfig(bad, fault.url, "nobody"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal", func() bool {
		return s.ask(http.MethodPost, "/token_proxy/credentials/"+bad+"/refresh").StatusCode == 502
	})
	if c := s.credential(bad); c.Health != "failing" {
		t.Errorf("health %s: %s", c.Health, c.Summary)
	}
	if err := s.load(globalOptions(fault.credential(bad))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the correction, without the history of the mistake", func() bool {
		c := s.credential(bad)
		return c.Health == "idle" && len(c.Recent) == 0
	})
}

// While a configuration is replaced there are two apps, and the new one may be given up.
func TestRunningApp(t *testing.T) {
	limit := replayMemory.limit.Load()
	t.Cleanup(func() { replayMemory.limit.Store(limit) })
	large, small := int64(2000), int64(1000)
	before, one, two := runningApp(), &App{ReplayMemory: &large}, &App{ReplayMemory: &small}
	one.enterForce()
	two.enterForce()
	if runningApp() != two {
		t.Error("the latest is not in force")
	}
	if n := replayMemory.limit.Load(); n != small {
		t.Errorf("replay_memory is %d, want that of the latest, %d", n, small)
	}
	two.leaveForce()
	if runningApp() != one {
		t.Error("the one before is not in force again")
	}
	if n := replayMemory.limit.Load(); n != large {
		t.Errorf("replay_memory is %d, want that of the one before, %d", n, large)
	}
	one.leaveForce()
	if runningApp() != before {
		t.Error("an app that was cleaned up is in force")
	}
}

func TestReportOfAFailureThatIsDue(t *testing.T) {
	c, _ := observedCredential(t)
	synctest.Test(t, func(t *testing.T) {
		c.source = token.NewSource(token.Config{Observer: c.status,
			Fetcher: &failingFetcher{err: &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "it says no"}}})
		c.status.Begin("identity", c.source)
		if c.source.Refresh(t.Context()) == nil {
			t.Fatal("it did not fail")
		}
		r := c.status.Report()
		if r.NextTry == nil || r.Health != "failing" {
			t.Fatalf("while calls are held back: %+v", r)
		}
		<-time.After(time.Until(*r.NextTry))
		if r := c.status.Report(); r.NextTry != nil || r.Health != "failing" || r.LastError == nil {
			t.Errorf("when a call is due: %+v", r)
		}
		c.source.Rest()
	})
}
