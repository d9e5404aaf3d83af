package caddymodule

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
)

// optoroSeed is the example of Optoro's published description.
const optoroSeed = `{"access_token":"G0ybScDl_7CA3tWVou","token_type":"Bearer","expires_in":90000,"scope":"read write","created_at":1656518368}`

// doorkeeperJSON is the content type of the server behind Optoro.
const doorkeeperJSON = "application/json; charset=utf-8"

// newOptoro is a provider that no test asks over the network.
func newOptoro() *optoro.Provider { return &optoro.Provider{TokenURL: "http://127.0.0.1/"} }

// optoroSource is a source of Optoro tokens from an endpoint in the same bubble.
func optoroSource(t *testing.T, endpoint *devserver.TokenEndpoint, policy token.Policy) *token.Source {
	t.Helper()
	endpoint.Dialect = devserver.Optoro
	return newInProcessSource(t, newOptoro(), endpoint, policy)
}

func TestOptoro(t *testing.T) {
	t.Run("POST to the environment's host", func(t *testing.T) {
		for options, want := range map[[2]string]string{
			{}:                                       "https://auth.optiturn.com/oauth/token",
			{"environment", "production"}:            "https://auth.optiturn.com/oauth/token",
			{"environment", "sandbox"}:               "https://auth.sandbox.optiturn.com/oauth/token",
			{"token_url", "https://gateway.example"}: "https://gateway.example/oauth/token",
			{"token_url", "https://gateway.example/"}:               "https://gateway.example/oauth/token",
			{"token_url", "https://gateway.example//"}:              "https://gateway.example/oauth/token",
			{"token_url", "https://gateway.example/auth"}:           "https://gateway.example/auth",
			{"token_url", "https://gateway.example:8443/?tenant=1"}: "https://gateway.example:8443/oauth/token?tenant=1",
		} {
			provided := options[:]
			if options[0] == "" {
				provided = nil
			}
			_, c, _ := provisionCredential(t, credentialJSON("optoro", "id", "secret", provided...))
			if got := c.provider.Endpoint(); got != want {
				t.Errorf("%q: got %s, want %s", options, got, want)
			}
			req, err := c.provider.NewRequest(t.Context(), provider.Client{ID: "id", Secret: token.NewSecret("secret")})
			if err != nil || req.URL.String() != want || req.Method != http.MethodPost {
				t.Errorf("%q: got %v, %v", options, req, err)
			}
		}
		if r := captureRequest(t, "optoro", "id", "secret"); r.Method != http.MethodPost || r.RequestURI != "/oauth/token" {
			t.Errorf("%s %s arrived", r.Method, r.RequestURI)
		}
	})

	request := captureRequest(t, "optoro", "an-id", "a-secret")
	t.Run("the body is JSON and says so", func(t *testing.T) {
		if got := request.Header.Values("Content-Type"); !slices.Equal(got, []string{"application/json"}) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("exactly the three members, all strings", func(t *testing.T) {
		d := json.NewDecoder(strings.NewReader(request.body))
		var members []string
		for {
			tok, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, fmt.Sprintf("%v", tok))
		}
		if got := strings.Join(members, " "); got != "{ grant_type client_credentials client_id an-id client_secret a-secret }" {
			t.Errorf("got %s", got)
		}
		if request.ContentLength != int64(len(request.body)) || len(request.TransferEncoding) > 0 {
			t.Errorf("the body comes in chunks %v", request.TransferEncoding)
		}
	})
	t.Run("the grant is client_credentials", func(t *testing.T) {
		if !strings.Contains(request.body, `"grant_type":"client_credentials"`) {
			t.Errorf("got %s", request.body)
		}
	})
	t.Run("no Authorization beside the body", func(t *testing.T) {
		if got, ok := request.Header["Authorization"]; ok {
			t.Errorf("got %q", got)
		}
	})
	t.Run("nothing in the query", func(t *testing.T) {
		if request.URL.RawQuery != "" || request.URL.ForceQuery {
			t.Errorf("got %s", request.RequestURI)
		}
	})
	t.Run("Accept, UTF-8, TLS", func(t *testing.T) {
		if got := request.Header.Values("Accept"); !slices.Equal(got, []string{"application/json"}) {
			t.Errorf("got Accept %q", got)
		}
		if !utf8.ValidString(captureRequest(t, "optoro", "ид", "ключ").body) {
			t.Error("the body is not UTF-8")
		}
		for what, config := range map[string]*tls.Config{
			"TLS 1.1":                          {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			"a certificate that nobody trusts": {},
		} {
			var requests atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
			srv.TLS = config
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			_, c, _ := provisionCredential(t, credentialJSON("optoro", "id", "secret", "token_url", srv.URL))
			_, err := fetchOnce(t, c)
			wantTokenError(t, err, token.Unavailable)
			if n := requests.Load(); n != 0 {
				t.Errorf("%s: the secret was sent", what)
			}
			srv.Close()
		}
	})
	t.Run("JSON carries the secret as it is", func(t *testing.T) {
		for _, secret := range []string{`s+e%25 c:=&/`, `s+e%25 c:=&/<>"\`, "p%&+ü /~*", `","scope":"admin`, "\u2028😀", `\u0041`, "p{a}ss"} {
			endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: secret + newClientID(), ClientSecret: secret, Registry: devserver.NewRegistry()}
			_, c, _ := provisionCredential(t, credentialJSON("optoro", endpoint.ClientID, secret, "token_url", serveHTTP(t, endpoint).URL))
			if _, err := fetchOnce(t, c); err != nil {
				t.Errorf("%q: %v", secret, err)
			}
		}
	})
	t.Run("a secret that JSON cannot carry is not changed into another", func(t *testing.T) {
		const secret = "not\xff-utf-8"
		app, err := tryProvisionCredential(t, credentialJSON("optoro", "id", caddytest.SecretFile(t, secret)))
		if err != nil {
			return // refused when it is loaded
		}
		req, err := app.clients["test"].provider.NewRequest(t.Context(), provider.Client{ID: "id", Secret: token.NewSecret(secret)})
		if err != nil {
			return // or when it is sent
		}
		body, _ := io.ReadAll(req.Body)
		t.Errorf("instead of %q, this is sent: %s", secret, body)
	})
	t.Run("redirects are not followed", func(t *testing.T) {
		other := newRecordingAPI(t, nil)
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, Registry: devserver.NewRegistry()}
		endpoint.SetFault(devserver.Fault{Garbage: devserver.GarbageRedirect, RedirectTo: other.URL + "/oauth/token"})
		_, c, _ := provisionCredential(t, credentialJSON("optoro", newClientID(), "s3cr3t", "token_url", serveHTTP(t, endpoint).URL))
		_, err := c.source.Acquire(t.Context())
		if e := wantTokenError(t, err, token.Refused); e.Cause != token.CauseRedirect || strings.Contains(e.Error(), other.addr()) {
			t.Errorf("the error %q (cause %q) should say that it is a redirect, and not where to", e, e.Cause)
		}
		if n := other.connectionCount(); n != 0 {
			t.Errorf("the other server was connected to %d times", n)
		}
		if n := endpoint.Calls(); n != 3 { // as in an outage, because it may be a captive portal
			t.Errorf("the endpoint got %d calls", n)
		}
	})
}

func TestOptoroSuccess(t *testing.T) {
	accepted := func(name, body, want string, lifetime time.Duration, header ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			issued, err := readAnswer(newOptoro(), 200, doorkeeperJSON, body, header...)
			if err != nil || issued.Token.Reveal() != want || issued.Lifetime != lifetime || issued.Note != "" {
				t.Errorf("got %q for %s, note %q, %v", issued.Token.Reveal(), issued.Lifetime, issued.Note, err)
			}
		})
	}
	refused := func(name, body string, kind token.Kind) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, err := readAnswer(newOptoro(), 200, doorkeeperJSON, body)
			wantTokenError(t, err, kind)
		})
	}
	accepted("the description's example", optoroSeed, "G0ybScDl_7CA3tWVou", 25*time.Hour)
	accepted("no lifetime", `{"access_token":"T","token_type":"Bearer"}`, "T", token.UnknownLifetime)
	accepted("a lifetime of null", `{"access_token":"T","expires_in":null}`, "T", token.UnknownLifetime)
	accepted("a lifetime of 0", `{"access_token":"T","expires_in":0}`, "T", 0)
	accepted("a negative lifetime", `{"access_token":"T","expires_in":-1}`, "T", 0)
	accepted("no scope", `{"access_token":"T","token_type":"Bearer","expires_in":90000,"created_at":1656518368}`, "T", 25*time.Hour)
	accepted("a scope of null", `{"access_token":"T","expires_in":90000,"scope":null}`, "T", 25*time.Hour)
	accepted("no type", `{"access_token":"T","expires_in":60}`, "T", time.Minute)
	accepted("a type in lower case", `{"access_token":"T","token_type":"bearer","expires_in":60}`, "T", time.Minute)
	accepted("a type in upper case", `{"access_token":"T","token_type":"BEARER","expires_in":60}`, "T", time.Minute)
	accepted("created 20 hours ago, with token reuse",
		fmt.Sprintf(`{"access_token":"T","token_type":"Bearer","expires_in":17999,"created_at":%d}`, time.Now().Add(-20*time.Hour).Unix()), "T", 17999*time.Second)
	accepted("created in the future", `{"access_token":"T","expires_in":60,"created_at":99999999999}`, "T", time.Minute)
	accepted("created at nonsense", `{"access_token":"T","expires_in":60,"created_at":"yesterday"}`, "T", time.Minute)
	accepted("fields that nobody knows",
		`{"access_token":"T","expires_in":60,"refresh_token":"R","id":[1,{"a":null}],"expires":1,"data":{"access_token":"X","expires_in":1}}`, "T", time.Minute)
	accepted("no-store", `{"access_token":"T","expires_in":60}`, "T", time.Minute, "Cache-Control", "no-store", "Pragma", "no-cache")

	refused("no token", `{"token_type":"Bearer","expires_in":90000}`, token.Unreadable)
	refused("an empty token", `{"access_token":"","expires_in":90000}`, token.Unreadable)
	refused("a token of null", `{"access_token":null,"expires_in":90000}`, token.Unreadable)
	refused("a token that is a number", `{"access_token":12345,"expires_in":90000}`, token.Unreadable)
	refused("a token that is an object", `{"access_token":{"token":"T"},"expires_in":90000}`, token.Unreadable)
	refused("an empty object", `{}`, token.Unreadable)
	refused("an empty body", ``, token.Unreadable)
	refused("a token below data", `{"data":{"access_token":"T"}}`, token.Unreadable) // that is the other service
	for _, kind := range []string{"mac", "DPoP"} {
		t.Run("type "+kind, func(t *testing.T) {
			_, err := readAnswer(newOptoro(), 200, doorkeeperJSON, `{"access_token":"T","token_type":"`+kind+`","expires_in":60}`)
			if e := wantTokenError(t, err, token.Refused); !strings.Contains(strings.ToLower(e.Error()), strings.ToLower(kind)) {
				t.Errorf("the error %q does not name the type", e)
			}
		})
	}
	t.Run("the token is used as Bearer", func(t *testing.T) {
		_, c, _ := provisionCredential(t, credentialJSON("optoro", "id", "secret"))
		if got := c.header.Name + ": " + c.header.value(token.NewSecret("T")); got != "Authorization: Bearer T" {
			t.Errorf("got %s", got)
		}
	})
}

// What the engine makes of these answers. The clock is the bubble's, and calls are counted at the endpoint.
func TestOptoroSource(t *testing.T) {
	bubble := func(name string, f func(t *testing.T)) {
		t.Helper()
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	const unused = time.Hour

	bubble("one call for 25 hours", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		s := optoroSource(t, endpoint, token.Policy{})
		if _, n := demand(t, s, time.Minute, 24*time.Hour+50*time.Minute); n != 0 || endpoint.Calls() != 1 {
			t.Errorf("%d failures, %d calls", n, endpoint.Calls())
		}
		if _, n := demand(t, s, time.Minute, time.Hour); n != 0 || endpoint.Calls() != 2 {
			t.Errorf("then %d failures, %d calls in all", n, endpoint.Calls())
		}
	})
	bubble("tried again, and nothing kept", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		s := optoroSource(t, endpoint, token.Policy{})
		endpoint.SetFault(devserver.Fault{Garbage: devserver.GarbageNoToken})
		_, err := s.Acquire(t.Context())
		wantTokenError(t, err, token.Unreadable)
		if served, _ := demand(t, s, 10*time.Millisecond, 10*time.Second); served != 0 {
			t.Errorf("%d requests were served", served)
		}
		if n := endpoint.Calls(); n < 2 || n > 50 {
			t.Errorf("the endpoint got %d calls in 10 s", n)
		}
		endpoint.SetFault(devserver.Fault{})
		time.Sleep(time.Minute)
		if _, err := s.Acquire(t.Context()); err != nil {
			t.Error(err)
		}
	})
	bubble("the configured lifetime", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		endpoint.SetFault(devserver.Fault{ExpiresIn: devserver.ExpiresInMissing})
		s := optoroSource(t, endpoint, token.Policy{DefaultLifetime: 10 * time.Hour})
		if _, n := demand(t, s, time.Minute, 9*time.Hour+50*time.Minute); n != 0 || endpoint.Calls() != 1 {
			t.Errorf("%d failures, %d calls", n, endpoint.Calls())
		}
		if _, n := demand(t, s, time.Minute, 20*time.Minute); n != 0 || endpoint.Calls() != 2 {
			t.Errorf("then %d failures, %d calls in all: it must not live for ever", n, endpoint.Calls())
		}
	})
	for _, lifetime := range []string{"0", "-1"} {
		// The conformance list says: fetch once more at most, then report. The design goes further: the token serves those who
		// wait, because the server has just said that it is good, and calls are spaced.
		bubble("a lifetime of "+lifetime+" is not kept", func(t *testing.T) {
			endpoint := new(devserver.TokenEndpoint)
			endpoint.SetFault(devserver.Fault{ExpiresIn: lifetime})
			s := optoroSource(t, endpoint, token.Policy{})
			lease, err := s.Acquire(t.Context())
			if err != nil || !lease.Expired() {
				t.Errorf("got %v, %v", lease.Expired(), err)
			}
			if _, n := demand(t, s, time.Millisecond, 10*time.Second); n != 0 {
				t.Errorf("%d requests failed", n)
			}
			if n := endpoint.Calls(); n < 2 || n > 12 {
				t.Errorf("the endpoint got %d calls in 10 s", n)
			}
			endpoint.SetFault(devserver.Fault{})
			demand(t, s, time.Second, 3*time.Second)
			calls := endpoint.Calls()
			if _, n := demand(t, s, time.Second, unused); n != 0 || endpoint.Calls() != calls {
				t.Errorf("%d requests failed, and %d calls were made, with a good token", n, endpoint.Calls()-calls)
			}
		})
	}
	bubble("the age of a reused token is no reason to ask", func(t *testing.T) {
		endpoint := &devserver.TokenEndpoint{Mode: devserver.ModeReuse, Lifetime: 25 * time.Hour}
		optoroSource(t, endpoint, token.Policy{}).Acquire(t.Context()) // another process got the token
		time.Sleep(20 * time.Hour)
		s := optoroSource(t, endpoint, token.Policy{})
		if _, n := demand(t, s, time.Second, 4*time.Hour); n != 0 || endpoint.Calls() != 2 {
			t.Errorf("%d failures, %d calls", n, endpoint.Calls()-1)
		}
	})
	bubble("the same token again does not loop", func(t *testing.T) {
		endpoint := &devserver.TokenEndpoint{Mode: devserver.ModeReuse, Lifetime: time.Hour}
		s := optoroSource(t, endpoint, token.Policy{})
		first, err := s.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, n := demand(t, s, 100*time.Millisecond, 59*time.Minute); n != 0 {
			t.Errorf("%d requests failed", n)
		}
		if n := endpoint.Calls(); n < 2 || n > 4 {
			t.Errorf("the endpoint got %d calls", n)
		}
		if _, n := demand(t, s, 100*time.Millisecond, 5*time.Minute); n != 0 {
			t.Errorf("%d requests failed around the expiry", n)
		}
		second, err := s.Acquire(t.Context())
		if err != nil || second.Value().Equal(first.Value()) {
			t.Errorf("the token did not change with its expiry: %v", err)
		}
		if n := endpoint.Calls(); n > 10 {
			t.Errorf("the endpoint got %d calls in all", n)
		}
	})
	bubble("no-store does not keep the token from its owner", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint) // it sends no-store
		s := optoroSource(t, endpoint, token.Policy{})
		if _, n := demand(t, s, time.Second, time.Hour); n != 0 || endpoint.Calls() != 1 {
			t.Errorf("%d failures, %d calls", n, endpoint.Calls())
		}
	})

	for name, fault := range map[string]devserver.Fault{
		"malformed request":      {Status: 400},
		"invalid_request":        {Error: "invalid_request"},
		"unsupported_grant_type": {Error: "unsupported_grant_type"},
		"unauthorized_client":    {Error: "unauthorized_client"},
		"invalid_scope":          {Error: "invalid_scope"},
		"two methods":            {Status: 400, Error: "invalid_request"},
		"invalid_client":         {Error: "invalid_client"},
		"401":                    {Status: 401},
		"415":                    {Status: 415},
		"422":                    {Status: 422},
	} {
		bubble(name+" is not tried again soon", func(t *testing.T) {
			endpoint := new(devserver.TokenEndpoint)
			endpoint.SetFault(fault)
			s := optoroSource(t, endpoint, token.Policy{})
			_, err := s.Acquire(t.Context())
			wantTokenError(t, err, token.Refused)
			if demand(t, s, 10*time.Millisecond, 29*time.Second); endpoint.Calls() != 1 {
				t.Errorf("the endpoint got %d calls in 29 s", endpoint.Calls())
			}
			if demand(t, s, time.Second, time.Hour); endpoint.Calls() > 20 {
				t.Errorf("the endpoint got %d calls in an hour", endpoint.Calls())
			}
			endpoint.SetFault(devserver.Fault{})
			time.Sleep(5 * time.Minute)
			if _, err := s.Acquire(t.Context()); err != nil {
				t.Errorf("the cooldown does not end: %v", err)
			}
		})
	}

	for _, fault := range []devserver.Fault{
		{Error: "invalid_token_reuse"}, {Status: 500}, {Status: 502}, {Status: 503}, {Status: 504}, {Status: 404},
	} {
		id := "status"
		if fault.Error != "" {
			id = "race"
		}
		bubble(fmt.Sprintf("%s %s%d is tried again at once", id, fault.Error, fault.Status), func(t *testing.T) {
			for failures := 1; failures <= 2; failures++ {
				endpoint := new(devserver.TokenEndpoint)
				brief := fault
				brief.Count = failures
				endpoint.SetFault(brief)
				s := optoroSource(t, endpoint, token.Policy{})
				if _, err := s.Acquire(t.Context()); err != nil {
					t.Errorf("%d failures of the endpoint failed a request: %v", failures, err)
				}
				if n := endpoint.Calls(); n != failures+1 {
					t.Errorf("after %d failures the endpoint had got %d calls", failures, n)
				}
			}
			checkBackoff(t, fault, 4)
		})
	}
	bubble("429 is not tried again at once", func(t *testing.T) { checkBackoff(t, devserver.Fault{Status: 429}, 3) })
	for _, fault := range []devserver.Fault{{Status: 429}, {Status: 503}, {Error: "invalid_token_reuse"}, {Error: "invalid_client"}} {
		bubble(fmt.Sprintf("the token serves while %s%d lasts", fault.Error, fault.Status), func(t *testing.T) {
			endpoint := new(devserver.TokenEndpoint)
			s := optoroSource(t, endpoint, token.Policy{})
			demand(t, s, time.Second, time.Second)
			endpoint.SetFault(fault)
			if _, n := demand(t, s, time.Second, 25*time.Hour-time.Second); n != 0 {
				t.Errorf("%d requests failed with a valid token there", n)
			}
			// full jitter is a matter of luck, but 60 are far from one call for each of the 300 requests
			if n := endpoint.Calls(); n < 2 || n > 60 {
				t.Errorf("the endpoint got %d calls", n-1)
			}
			if _, err := s.Acquire(t.Context()); err == nil {
				t.Error("an expired token is handed out")
			}
		})
	}
}

// checkBackoff has an endpoint fail for ten minutes, with requests all the time: it must be called at most first times
// by the first request, ever more rarely then, and serve as soon as the last wait has passed.
func checkBackoff(t *testing.T, fault devserver.Fault, first int) {
	t.Helper()
	endpoint := new(devserver.TokenEndpoint)
	endpoint.SetFault(fault)
	s := optoroSource(t, endpoint, token.Policy{})
	_, err := s.Acquire(t.Context())
	kind := token.Unavailable
	if fault.Status == http.StatusNotFound {
		kind = token.Refused
	}
	e := wantTokenError(t, err, kind)
	if wait := time.Until(e.RetryAt); wait < 0 || wait > time.Minute {
		t.Errorf("the next try is in %s", wait)
	}
	if n := endpoint.Calls(); n < 1 || n > first {
		t.Errorf("one request made %d calls", n)
	}
	demand(t, s, 50*time.Millisecond, 10*time.Minute)
	if n := endpoint.Calls(); n < 10 || n > 40*first {
		t.Errorf("the endpoint got %d calls in 10 minutes", n)
	}
	endpoint.SetFault(devserver.Fault{})
	time.Sleep(time.Minute) // the longest wait
	if _, err := s.Acquire(t.Context()); err != nil {
		t.Errorf("it does not recover: %v", err)
	}
}

// The failures as the endpoint sends them, over loopback.
func TestOptoroFailures(t *testing.T) {
	const description = `"error_description":"c4n4ry"`
	for _, tc := range []struct {
		name        string
		status      int
		contentType string
		body        string
		kind        token.Kind
		code        string
		want        string // in the text
	}{
		{"an empty body", 400, "text/html", "", token.Refused, "", "400"},
		{"a page", 400, "text/html", "<html>c4n4ry</html>", token.Refused, "", "400"},
		{"malformed", 400, doorkeeperJSON, `{"error":"invalid_request","error_description":"Missing required parameter: grant_type."}`, token.Refused, "invalid_request", "invalid_request"},
		{"unsupported_grant_type", 400, doorkeeperJSON, `{"error":"unsupported_grant_type",` + description + `}`, token.Refused, "unsupported_grant_type", ""},
		{"unauthorized_client", 400, doorkeeperJSON, `{"error":"unauthorized_client",` + description + `}`, token.Refused, "unauthorized_client", ""},
		{"invalid_scope", 400, doorkeeperJSON, `{"error":"invalid_scope",` + description + `}`, token.Refused, "invalid_scope", ""},
		{"race", 400, doorkeeperJSON, `{"error":"invalid_token_reuse",` + description + `}`, token.Unavailable, "invalid_token_reuse", "again later"},
		{"invalid request", 400, doorkeeperJSON, `{"error":"invalid_request",` + description + `}`, token.Refused, "invalid_request", ""},
		{"unknown client", 401, doorkeeperJSON, `{"error":"invalid_client","error_description":"Client authentication failed due to unknown client, no client authentication included, or unsupported authentication method."}`, token.Refused, "invalid_client", "401"},
		{"an empty body", 401, "", "", token.Refused, "", "401"},
		{"a page", 401, "text/html", "<html>c4n4ry</html>", token.Refused, "", "401"},
		{"another object", 401, doorkeeperJSON, `{"message":"c4n4ry"}`, token.Refused, "", "401"},
		{"prose", 401, doorkeeperJSON, `{"error":"c4n4ry, c4n4ry"}`, token.Refused, "", "401"},
		{"404", 404, "text/html", "", token.Refused, "", "no token endpoint at this URL"},
		{"415", 415, doorkeeperJSON, "{}", token.Refused, "", "encoding"},
		{"422", 422, "", "", token.Refused, "", "422"},
		{"429", 429, "", "", token.Unavailable, "", "429"},
		{"with a page", 429, "text/html", "<html>c4n4ry</html>", token.Unavailable, "", "429"},
		{"500", 500, "", "", token.Unavailable, "", "500"},
		{"503", 503, "text/html", "c4n4ry", token.Unavailable, "", "503"},
		{"599", 599, "", "", token.Unavailable, "", "599"},
		{"a status of 5XX wins over its code", 500, doorkeeperJSON, `{"error":"invalid_client"}`, token.Unavailable, "invalid_client", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoint := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tc.contentType)
				w.Header().Set("Www-Authenticate", `Bearer realm="Doorkeeper", error="invalid_request", error_description="c4n4ry"`)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, c, _ := provisionCredential(t, credentialJSON("optoro", newClientID(), "s3cr3t", "token_url", endpoint.URL))
			_, err := fetchOnce(t, c)
			e := wantTokenError(t, err, tc.kind)
			if e.Status != tc.status || e.Code != tc.code || e.RetryAfter != 0 || !strings.Contains(e.Error(), tc.want) {
				t.Errorf("got %+v", e)
			}
			if strings.Contains(e.Error(), "c4n4ry") {
				t.Errorf("the error %q shows what the endpoint sent", e)
			}
			endpoint.only(t)
		})
	}

	// The same through the requests that cause them, at a server that behaves like Optoro's.
	for _, tc := range []struct {
		name   string
		change func(e *devserver.TokenEndpoint, url *string)
		status int
		code   string
		calls  int
	}{
		{"an unknown id", func(e *devserver.TokenEndpoint, _ *string) { e.ClientID = "another" }, 401, "invalid_client", 1},
		{"a wrong secret", func(e *devserver.TokenEndpoint, _ *string) { e.ClientSecret = "another" }, 401, "invalid_client", 1},
		{"the path of the typo", func(_ *devserver.TokenEndpoint, url *string) { *url += "/oauth/tokens" }, 404, "", 3},
		{"a server that insists on a form", func(e *devserver.TokenEndpoint, _ *string) { e.EnforceForm = true }, 415, "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), Registry: devserver.NewRegistry()}
			url, id := serveHTTP(t, endpoint).URL, endpoint.ClientID
			tc.change(endpoint, &url)
			_, c, _ := provisionCredential(t, credentialJSON("optoro", id, devserver.DefaultClientSecret, "token_url", url))
			_, err := c.source.Acquire(t.Context())
			if e := wantTokenError(t, err, token.Refused); e.Status != tc.status || e.Code != tc.code {
				t.Errorf("got %+v", e)
			}
			if n := endpoint.Calls(); n != tc.calls {
				t.Errorf("the endpoint got %d calls", n)
			}
		})
	}

	t.Run("a reset is tried again at once", func(t *testing.T) {
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), Registry: devserver.NewRegistry()}
		endpoint.SetFault(devserver.Fault{Reset: true, Count: 2})
		_, c, _ := provisionCredential(t, credentialJSON("optoro", endpoint.ClientID, devserver.DefaultClientSecret, "token_url", serveHTTP(t, endpoint).URL))
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Error(err)
		}
		if n := endpoint.Calls(); n != 3 {
			t.Errorf("the endpoint got %d calls", n)
		}
	})
	t.Run("no answer within fetch_timeout", func(t *testing.T) {
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), Registry: devserver.NewRegistry()}
		endpoint.SetFault(devserver.Fault{Hang: true})
		_, c, _ := provisionCredential(t, strings.TrimSuffix(
			credentialJSON("optoro", endpoint.ClientID, devserver.DefaultClientSecret, "token_url", serveHTTP(t, endpoint).URL), "}")+`,"fetch_timeout":"50ms"}`)
		_, err := c.source.Acquire(t.Context())
		if e := wantTokenError(t, err, token.Unavailable); !strings.Contains(e.Error(), "fetch_timeout") {
			t.Errorf("the error %q does not name the option", e)
		}
	})
	for _, garbage := range []devserver.Garbage{
		devserver.GarbageHTML, devserver.GarbageEmpty, devserver.GarbageNotJSON, devserver.GarbageTruncated, devserver.GarbageNoToken,
		devserver.GarbageHuge, devserver.GarbageBomb, devserver.GarbageControlChars, devserver.GarbageWrongType,
	} {
		t.Run("unusable: "+string(garbage), func(t *testing.T) {
			endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), Registry: devserver.NewRegistry()}
			endpoint.SetFault(devserver.Fault{Garbage: garbage})
			_, c, _ := provisionCredential(t, credentialJSON("optoro", endpoint.ClientID, devserver.DefaultClientSecret, "token_url", serveHTTP(t, endpoint).URL))
			want := token.Unreadable
			if garbage == devserver.GarbageWrongType {
				want = token.Refused
			}
			_, err := fetchOnce(t, c)
			wantTokenError(t, err, want)
			if n := endpoint.Calls(); n != 1 {
				t.Errorf("the endpoint got %d calls", n)
			}
		})
	}
}

// the descriptions of the APIs name the production token URL under every server. Here the environment decides,
// and nothing is shared between two of them.
func TestOptoroEnvironments(t *testing.T) {
	t.Run("sandbox and production never meet", func(t *testing.T) {
		keys := make(map[token.Key]bool)
		for environment, host := range map[string]string{"production": "auth.optiturn.com", "sandbox": "auth.sandbox.optiturn.com"} {
			config := credentialJSON("optoro", "id", "secret", "environment", environment)
			_, c, _ := provisionCredential(t, config)
			req, err := c.provider.NewRequest(t.Context(), provider.Client{ID: "id", Secret: token.NewSecret("secret")})
			if err != nil || req.URL.Host != host || c.status.Endpoint != host {
				t.Errorf("%s: asks %v, %v", environment, req.URL, err)
			}
			keys[keyOf(t, config)] = true
		}
		if len(keys) != 2 {
			t.Error("the environments share a token")
		}
		for _, environment := range []string{"Sandbox", "stage", "prod", " ", "sandbox."} {
			if _, err := tryProvisionCredential(t, credentialJSON("optoro", "id", "secret", "environment", environment)); err == nil || !strings.Contains(err.Error(), "environment") {
				t.Errorf("environment %q: got %v", environment, err)
			}
		}
	})
}
