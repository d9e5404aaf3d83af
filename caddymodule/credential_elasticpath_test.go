package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
)

// newElasticPath is a provisioned provider that no test asks over the network.
func newElasticPath(t *testing.T, grant string) *elasticpath.Provider {
	t.Helper()
	secret := "secret"
	if grant == elasticpath.GrantImplicit {
		secret = ""
	}
	_, c, _ := provisionCredential(t, credentialJSON("elastic_path", "id", secret, "grant", grant))
	return c.provider.(*elasticpath.Provider)
}

func TestElasticPath(t *testing.T) {
	t.Run("POST to the region's host, or to a base URL with any number of slashes", func(t *testing.T) {
		for options, want := range map[[2]string]string{
			{}:                                       "https://euwest.api.elasticpath.com/oauth/access_token",
			{"region", "euwest"}:                     "https://euwest.api.elasticpath.com/oauth/access_token",
			{"region", "useast"}:                     "https://useast.api.elasticpath.com/oauth/access_token",
			{"token_url", "https://shop.example"}:    "https://shop.example/oauth/access_token",
			{"token_url", "https://shop.example/"}:   "https://shop.example/oauth/access_token",
			{"token_url", "https://shop.example///"}: "https://shop.example/oauth/access_token",
			{"token_url", "https://shop.example/oauth/access_token"}: "https://shop.example/oauth/access_token",
		} {
			provided := options[:]
			if options[0] == "" {
				provided = nil
			}
			_, c, _ := provisionCredential(t, credentialJSON("elastic_path", "id", "secret", provided...))
			req, err := c.provider.NewRequest(t.Context(), provider.Client{ID: "id", Secret: token.NewSecret("secret")})
			if err != nil || req.URL.String() != want || c.provider.Endpoint() != want || req.Method != http.MethodPost {
				t.Errorf("%q: got %v, %v, want %s", options, req, err, want)
			}
		}
		if r := captureRequest(t, "elastic_path", "id", "secret"); r.Method != http.MethodPost || r.RequestURI != "/oauth/access_token" {
			t.Errorf("%s %s arrived", r.Method, r.RequestURI)
		}
		for _, region := range []string{"EUWEST", "eu", " ", "euwest.evil.example/"} {
			if _, err := tryProvisionCredential(t, credentialJSON("elastic_path", "id", "secret", "region", region)); err == nil || !strings.Contains(err.Error(), "region") {
				t.Errorf("region %q: got %v", region, err)
			}
		}
	})

	full := captureRequest(t, "elastic_path", "an-id", "a-secret")
	implicit := captureRequest(t, "elastic_path", "an-id", "", "grant", "implicit")
	t.Run("a form that says so", func(t *testing.T) {
		for _, r := range []capturedRequest{full, implicit} {
			if got := r.Header.Values("Content-Type"); !slices.Equal(got, []string{"application/x-www-form-urlencoded"}) {
				t.Errorf("got %q", got)
			}
			if r.ContentLength != int64(len(r.body)) {
				t.Errorf("the body comes in chunks %v", r.TransferEncoding)
			}
		}
	})
	t.Run("the fields of the grant, and no secret with implicit", func(t *testing.T) {
		if want := "client_id=an-id&client_secret=a-secret&grant_type=client_credentials"; full.body != want {
			t.Errorf("got %s, want %s", full.body, want)
		}
		if want := "client_id=an-id&grant_type=implicit"; implicit.body != want {
			t.Errorf("got %s, want %s", implicit.body, want)
		}
		for secret, grant := range map[string]string{"": "client_credentials", "s3cr3t-canary": "implicit"} {
			_, err := tryProvisionCredential(t, credentialJSON("elastic_path", "id", secret, "grant", grant))
			if err == nil || !strings.Contains(err.Error(), "client_secret") || strings.Contains(err.Error(), "canary") {
				t.Errorf("grant %s with secret %q: got %v", grant, secret, err)
			}
		}
		for _, grant := range []string{"password", "refresh_token", "Implicit", " "} {
			if _, err := tryProvisionCredential(t, credentialJSON("elastic_path", "id", "secret", "grant", grant)); err == nil || !strings.Contains(err.Error(), "grant") {
				t.Errorf("grant %q: got %v", grant, err)
			}
		}
	})
	t.Run("no Basic", func(t *testing.T) {
		for _, r := range []capturedRequest{full, implicit} {
			if got, ok := r.Header["Authorization"]; ok {
				t.Errorf("got %q", got)
			}
		}
	})
	t.Run("values are percent-encoded", func(t *testing.T) {
		r := captureRequest(t, "elastic_path", "a:b c", "p%&+ü /~*")
		if want := "client_id=a%3Ab+c&client_secret=p%25%26%2B%C3%BC+%2F~%2A&grant_type=client_credentials"; r.body != want {
			t.Errorf("got\n%s, want\n%s", r.body, want)
		}
		for _, secret := range []string{"&grant_type=implicit", "=", "100%", "a;b", "+", "😀", "p{a}ss", `"\`} {
			endpoint := &devserver.TokenEndpoint{Dialect: devserver.ElasticPath, ClientID: secret + newClientID(), ClientSecret: secret, Registry: devserver.NewRegistry()}
			_, c, _ := provisionCredential(t, credentialJSON("elastic_path", endpoint.ClientID, secret, "token_url", serveHTTP(t, endpoint).URL))
			if _, err := fetchOnce(t, c); err != nil {
				t.Errorf("%q: %v", secret, err)
			}
		}
	})
	t.Run("neither multipart nor JSON", func(t *testing.T) {
		for _, r := range []capturedRequest{full, implicit} {
			if got, err := url.ParseQuery(r.body); err != nil || got.Get("client_id") != "an-id" {
				t.Errorf("%s is no form: %v", r.body, err)
			}
		}
	})
	t.Run("no scope, and nothing in the query", func(t *testing.T) {
		for _, r := range []capturedRequest{full, implicit} {
			if strings.Contains(r.body, "scope") || r.URL.RawQuery != "" {
				t.Errorf("got %s with %s", r.RequestURI, r.body)
			}
		}
	})
	t.Run("the store of an organization's key", func(t *testing.T) {
		r := captureRequest(t, "elastic_path", "id", "secret", "store", "store-1")
		if got := r.Header.Values("X-Moltin-Auth-Store"); !slices.Equal(got, []string{"store-1"}) {
			t.Errorf("got %q", got)
		}
		if got, ok := full.Header["X-Moltin-Auth-Store"]; ok {
			t.Errorf("without a store, got %q", got)
		}
	})
}

func TestElasticPathSuccess(t *testing.T) {
	provider := newElasticPath(t, elasticpath.GrantClientCredentials)
	const (
		value = "xa3521ca621113e44eeed9232fa3e54571cb08bc"
		seed  = `{"access_token":"` + value + `","token_type":"Bearer","expires_in":3600,"expires":1524486008,"identifier":"client_credentials"}`
	)
	at := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).Unix()) }
	for _, tc := range []struct {
		name, body, want string
		lifetime         time.Duration
	}{
		{"flat", seed, value, time.Hour},
		{"below data", `{"data":` + seed + `}`, value, time.Hour},
		{"both alike", strings.TrimSuffix(seed, "}") + `,"data":` + seed + `}`, value, time.Hour},
		{"the top level wins", `{"data":{"access_token":"B","expires_in":60,"token_type":"mac","identifier":"implicit"},"access_token":"A","token_type":"Bearer","expires_in":3600,"identifier":"client_credentials"}`, "A", time.Hour},
		{"a top level of null", `{"access_token":null,"data":{"access_token":"B","expires_in":3600}}`, "B", time.Hour},
		{"a JWT", `{"access_token":"eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln","expires_in":3600}`, "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln", time.Hour}, // its exp has passed
		{"one letter", `{"access_token":"T","expires_in":3600}`, "T", time.Hour},
		{"expires_in before expires", `{"access_token":"T","expires_in":3600,"expires":` + at(-time.Hour) + `}`, "T", time.Hour},
		{"expires alone", `{"access_token":"T","expires":` + at(time.Hour) + `}`, "T", time.Hour},
		{"expires alone, below data", `{"data":{"access_token":"T","expires":` + at(time.Hour) + `}}`, "T", time.Hour},
		{"expires by a clock 10 min behind", `{"access_token":"T","expires":` + at(50*time.Minute) + `}`, "T", 50 * time.Minute},
		{"expires by a clock 10 min ahead", `{"access_token":"T","expires":` + at(70*time.Minute) + `}`, "T", 70 * time.Minute},
		{"expires in the past", `{"access_token":"T","expires":1524486008}`, "T", 0},
		{"neither", `{"access_token":"T","token_type":"Bearer"}`, "T", token.UnknownLifetime},
		{"neither, below data", `{"data":{"access_token":"T"}}`, "T", token.UnknownLifetime},
	} {
		t.Run(tc.name, func(t *testing.T) {
			issued, err := readAnswer(provider, 200, "application/json", tc.body)
			if err != nil || issued.Token.Reveal() != tc.want || (issued.Note != "") != (tc.lifetime == 0) {
				t.Errorf("got %q, note %q, %v", issued.Token.Reveal(), issued.Note, err)
			}
			// expires has whole seconds, and the test itself takes time
			if diff := (issued.Lifetime - tc.lifetime).Abs(); diff > 10*time.Second || tc.lifetime == token.UnknownLifetime && diff != 0 {
				t.Errorf("got lifetime %s, want %s", issued.Lifetime, tc.lifetime)
			}
		})
	}
	for name, body := range map[string]string{
		"a page":                    "<html>c4n4ry</html>",
		"an empty body":             "",
		"text":                      "c4n4ry",
		"no token":                  `{"token_type":"Bearer","expires_in":3600}`,
		"an empty token":            `{"access_token":"","expires_in":3600}`,
		"no token below data":       `{"data":{"expires_in":3600}}`,
		"data of null":              `{"data":null}`,
		"the seed's example string": `"{\n  \"data\": {\n    \"access_token\": \"c4n4ry\",\n    \"expires_in\": 3600\n  }\n}\n"`,
		"data in a string":          `{"data":"{\"access_token\":\"c4n4ry\"}"}`,
	} {
		t.Run("unusable: "+name, func(t *testing.T) {
			_, err := readAnswer(provider, 200, "application/json", body)
			if e := wantTokenError(t, err, token.Unreadable); strings.Contains(e.Error(), "c4n4ry") {
				t.Errorf("the error %q shows what the endpoint sent", e)
			}
		})
	}
	t.Run("a token for another grant is noted", func(t *testing.T) {
		for _, tc := range []struct {
			grant, identifier string
			noted             bool
		}{
			{elasticpath.GrantClientCredentials, `"client_credentials"`, false},
			{elasticpath.GrantImplicit, `"implicit"`, false},
			{elasticpath.GrantClientCredentials, `null`, false},
			{elasticpath.GrantClientCredentials, `"implicit"`, true},
			{elasticpath.GrantImplicit, `"client_credentials"`, true},
			{elasticpath.GrantClientCredentials, `"c4n4ry"`, true},
		} {
			for _, body := range []string{
				`{"access_token":"T","expires_in":60,"identifier":` + tc.identifier + `}`,
				`{"data":{"access_token":"T","expires_in":60,"identifier":` + tc.identifier + `}}`,
			} {
				issued, err := readAnswer(newElasticPath(t, tc.grant), 200, "application/json", body)
				if err != nil || (issued.Note != "") != tc.noted || strings.Contains(issued.Note, "c4n4ry") {
					t.Errorf("asked for %s, got %s: note %q, %v", tc.grant, tc.identifier, issued.Note, err)
				}
			}
		}
	})
	t.Run("and the log says so", func(t *testing.T) {
		srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"T","expires_in":60,"identifier":"implicit"}`)
		}))
		_, c, log := provisionCredential(t, credentialJSON("elastic_path", newClientID(), "s3cr3t", "token_url", srv.URL))
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), `"level":"warn"`) || !strings.Contains(log.String(), "client_credentials") {
			t.Errorf("got %s", log)
		}
	})
	t.Run("201 is success, other statuses are not", func(t *testing.T) {
		if issued, err := readAnswer(provider, 201, "application/json", seed); err != nil || issued.Token.Reveal() != value {
			t.Errorf("201: got %v, %v", issued, err)
		}
		for _, status := range []int{202, 203, 204, 205, 206} {
			if _, err := readAnswer(provider, status, "application/json", seed); err == nil {
				t.Errorf("%d: got a token", status)
			} else {
				wantTokenError(t, err, token.Unreadable)
			}
		}
	})
}

func TestElasticPathFailures(t *testing.T) {
	for _, tc := range []struct {
		name, contentType, body string
		status                  int
		kind                    token.Kind
		code                    string
	}{
		{"400", "application/json", `{"errors":[{"title":"Bad Request","status":"400"}]}`, 400, token.Refused, "400"},
		{"401", "application/json", `{"errors":[{"title":"Unauthorized","status":"401"}]}`, 401, token.Refused, "401"},
		{"with text", "application/json", `{"errors":[{"title":"c4n4ry","detail":"Unable to validate access token","status":"401"}]}`, 401, token.Refused, "401"},
		{"status as a number", "application/json", `{"errors":[{"title":"c4n4ry","status":401}]}`, 401, token.Refused, "401"},
		{"code instead", "application/json", `{"errors":[{"title":"c4n4ry","code":401}]}`, 401, token.Refused, "401"},
		{"code as a text", "application/json", `{"errors":[{"title":"c4n4ry","code":"invalid-key"}]}`, 401, token.Refused, "invalid-key"},
		{"a single object", "application/json", `{"errors":{"title":"c4n4ry","status":"401"}}`, 401, token.Refused, "401"},
		{"a single object with a number", "application/json", `{"errors":{"title":"c4n4ry","status":401}}`, 401, token.Refused, "401"},
		{"a single object with a code", "application/json", `{"errors":{"code":"no-such-key"}}`, 401, token.Refused, "no-such-key"},
		{"extra members", "application/json", `{"errors":[{"title":"c4n4ry","detail":"c4n4ry","request_id":"c4n4ry","source":{"pointer":"c4n4ry"},"meta":{"c4n4ry":1},"status":"401"}],"links":{"c4n4ry":"c4n4ry"}}`, 401, token.Refused, "401"},
		{"several", "application/json", `{"errors":[{"status":"401"},{"status":"500"}]}`, 401, token.Refused, "401"},
		{"an empty list", "application/json", `{"errors":[]}`, 401, token.Refused, ""},
		{"null", "application/json", `{"errors":null}`, 401, token.Refused, ""},
		{"texts", "application/json", `{"errors":["c4n4ry"]}`, 401, token.Refused, ""},
		{"a text", "application/json", `{"errors":"c4n4ry"}`, 401, token.Refused, ""},
		{"nested lists", "application/json", `{"errors":[[{"status":"c4n4ry"}]]}`, 401, token.Refused, ""},
		{"OAuth's dialect", "application/json", `{"error":"invalid_client","error_description":"c4n4ry"}`, 401, token.Refused, "invalid_client"},
		{"both dialects", "application/json", `{"error":"invalid_client","errors":[{"status":"401"}]}`, 401, token.Refused, "invalid_client"},
		{"that can be tried again", "application/json", `{"error":"temporarily_unavailable"}`, 400, token.Unavailable, "temporarily_unavailable"},
		{"429 as a number", "application/json", `{"errors":[{"status":429,"title":"c4n4ry"}]}`, 429, token.Unavailable, "429"},
		{"429 as a text", "application/json", `{"errors":[{"status":"429","title":"Too Many Requests"}]}`, 429, token.Unavailable, "429"},
		{"403", "application/json", `{"errors":[{"status":"403"}]}`, 403, token.Refused, "403"},
		{"404", "", "", 404, token.Refused, ""},
		{"409", "", "", 409, token.Refused, ""},
		{"418", "", "", 418, token.Refused, ""},
		{"422", "", "", 422, token.Refused, ""},
		{"408", "", "", 408, token.Unavailable, ""},
		{"425", "", "", 425, token.Unavailable, ""},
		{"500", "application/json", `{"errors":[{"title":"Internal Server Error","status":"500","detail":"c4n4ry"}]}`, 500, token.Unavailable, "500"},
		{"the status of the answer wins over that in its body", "application/json", `{"errors":[{"status":"401"}]}`, 500, token.Unavailable, "401"},
		{"and the other way round", "application/json", `{"errors":[{"status":"500"}]}`, 401, token.Refused, "500"},
		{"502", "text/html", "<html>c4n4ry</html>", 502, token.Unavailable, ""},
		{"503", "text/html", "<html>c4n4ry</html>", 503, token.Unavailable, ""},
		{"504 without a body", "", "", 504, token.Unavailable, ""},
		{"a page labeled JSON", "application/json", "<html>c4n4ry</html>", 502, token.Unavailable, ""},
		{"an error in success", "application/json", `{"error":"invalid_client"}`, 200, token.Refused, "invalid_client"},
		{"errors in success", "application/json", `{"errors":[{"status":"401"}]}`, 200, token.Refused, "401"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoint := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tc.contentType)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, c, _ := provisionCredential(t, credentialJSON("elastic_path", newClientID(), "s3cr3t", "token_url", endpoint.URL))
			_, err := fetchOnce(t, c)
			e := wantTokenError(t, err, tc.kind)
			if e.Status != tc.status || e.Code != tc.code {
				t.Errorf("got %+v", e)
			}
			if strings.Contains(e.Error(), "c4n4ry") {
				t.Errorf("the error %q shows what the endpoint sent", e)
			}
			endpoint.only(t)
		})
	}
}

// Every way to ask, at a server that behaves like Elastic Path's, and checks what it is sent.
func TestElasticPathRoundTrip(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		for _, grant := range []string{elasticpath.GrantClientCredentials, elasticpath.GrantImplicit} {
			name := grant
			if wrapped {
				name = fmt.Sprintf("%s, below data", grant)
			}
			t.Run(name, func(t *testing.T) {
				endpoint := &devserver.TokenEndpoint{Dialect: devserver.ElasticPath, ClientID: newClientID(), Wrapped: wrapped, Registry: devserver.NewRegistry()}
				secret := devserver.DefaultClientSecret
				if grant == elasticpath.GrantImplicit {
					secret = ""
				}
				_, c, _ := provisionCredential(t, credentialJSON("elastic_path", endpoint.ClientID, secret, "grant", grant, "store", "store-1", "token_url", serveHTTP(t, endpoint).URL))
				issued, err := fetchOnce(t, c)
				if err != nil || issued.Note != "" || issued.Lifetime != time.Hour {
					t.Fatalf("got %+v, %v", issued, err)
				}
				if _, state := endpoint.Registry.Lookup(issued.Token.Reveal()); state != devserver.Live {
					t.Error("the endpoint does not know the token")
				}
				if got := endpoint.Requests()[0]; got.Store != "store-1" || got.GrantType != grant || got.Basic || len(got.QueryNames) > 0 {
					t.Errorf("the endpoint got %+v", got)
				}
			})
		}
	}
	t.Run("a wrong secret", func(t *testing.T) {
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.ElasticPath, ClientID: newClientID(), Registry: devserver.NewRegistry()}
		_, c, _ := provisionCredential(t, credentialJSON("elastic_path", endpoint.ClientID, "wrong", "token_url", serveHTTP(t, endpoint).URL))
		_, err := c.source.Acquire(t.Context())
		if e := wantTokenError(t, err, token.Refused); e.Status != 401 {
			t.Errorf("got %+v", e)
		}
		if n := endpoint.Calls(); n != 1 {
			t.Errorf("the endpoint got %d calls", n)
		}
	})
}

// What the engine makes of these answers. The clock is the bubble's, and calls are counted at the endpoint.
func TestElasticPathSource(t *testing.T) {
	source := func(t *testing.T, endpoint *devserver.TokenEndpoint) *token.Source {
		t.Helper()
		endpoint.Dialect = devserver.ElasticPath
		return newInProcessSource(t, &elasticpath.Provider{TokenURL: "http://127.0.0.1/"}, endpoint, token.Policy{})
	}
	bubble := func(name string, f func(t *testing.T)) {
		t.Helper()
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	bubble("one call for an hour", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		s := source(t, endpoint)
		if _, n := demand(t, s, time.Second, 53*time.Minute); n != 0 || endpoint.Calls() != 1 {
			t.Errorf("%d failures, %d calls", n, endpoint.Calls())
		}
		if _, n := demand(t, s, time.Second, 8*time.Minute); n != 0 || endpoint.Calls() != 2 {
			t.Errorf("then %d failures, %d calls in all", n, endpoint.Calls())
		}
	})
	bubble("429 backs off, and the token serves meanwhile", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		s := source(t, endpoint)
		demand(t, s, time.Second, time.Second)
		endpoint.SetFault(devserver.Fault{Status: 429})
		if _, n := demand(t, s, 100*time.Millisecond, time.Hour-time.Second); n != 0 {
			t.Errorf("%d requests failed with a valid token there", n)
		}
		if n := endpoint.Calls(); n < 2 || n > 40 {
			t.Errorf("the endpoint got %d calls", n-1)
		}
		_, err := s.Acquire(t.Context())
		wantTokenError(t, err, token.Unavailable)
		endpoint.SetFault(devserver.Fault{})
		time.Sleep(time.Minute)
		if _, err := s.Acquire(t.Context()); err != nil {
			t.Errorf("it does not recover: %v", err)
		}
	})
	bubble("a first 429 is not answered with a hail of calls", func(t *testing.T) {
		endpoint := new(devserver.TokenEndpoint)
		endpoint.SetFault(devserver.Fault{Status: 429})
		s := source(t, endpoint)
		_, err := s.Acquire(t.Context())
		if e := wantTokenError(t, err, token.Unavailable); e.RetryAt.Before(time.Now()) || time.Until(e.RetryAt) > time.Minute {
			t.Errorf("the next try is in %s", time.Until(e.RetryAt))
		}
		if demand(t, s, 10*time.Millisecond, 10*time.Minute); endpoint.Calls() > 120 {
			t.Errorf("the endpoint got %d calls in 10 minutes", endpoint.Calls())
		}
	})
	bubble("a brief failure of the edge fails no request", func(t *testing.T) {
		for _, status := range []int{500, 502, 503, 504} {
			endpoint := new(devserver.TokenEndpoint)
			endpoint.SetFault(devserver.Fault{Status: status, Count: 2})
			if _, err := source(t, endpoint).Acquire(t.Context()); err != nil || endpoint.Calls() != 3 {
				t.Errorf("%d: %d calls, %v", status, endpoint.Calls(), err)
			}
		}
	})
	// scripted answers each call with a token of its own, and these members beside it.
	scripted := func(t *testing.T, members func() string) (*token.Source, *atomic.Int32) {
		t.Helper()
		calls := new(atomic.Int32)
		p := &elasticpath.Provider{TokenURL: "http://127.0.0.1/"}
		s := newInProcessSource(t, p, new(devserver.TokenEndpoint), token.Policy{})
		s.Start(token.Config{Fetcher: &inProcess{p, provider.Client{ID: "id"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"access_token":"T%d"%s}`, calls.Add(1), members())
		})}})
		return s, calls
	}
	bubble("without a lifetime, an hour", func(t *testing.T) {
		s, calls := scripted(t, func() string { return "" })
		if _, n := demand(t, s, time.Second, 53*time.Minute); n != 0 || calls.Load() != 1 {
			t.Errorf("%d failures, %d calls", n, calls.Load())
		}
		if _, n := demand(t, s, time.Second, 8*time.Minute); n != 0 || calls.Load() != 2 {
			t.Errorf("then %d failures, %d calls in all: it must not live for ever", n, calls.Load())
		}
	})
	bubble("expires by a clock that is far behind serves all the same", func(t *testing.T) {
		s, calls := scripted(t, func() string { return fmt.Sprintf(`,"expires":%d`, time.Now().Add(-time.Hour).Unix()) })
		if _, n := demand(t, s, 10*time.Millisecond, 10*time.Second); n != 0 || calls.Load() > 12 {
			t.Errorf("%d failures, %d calls", n, calls.Load())
		}
	})
}

// the key of the cache. js-sdk once left out the client id, and shops got each other's tokens.
func TestElasticPathIdentity(t *testing.T) {
	t.Run("host, client id, grant and store", func(t *testing.T) {
		configs := []string{
			credentialJSON("elastic_path", "id", "secret"),
			credentialJSON("elastic_path", "id", "secret", "region", "useast"),
			credentialJSON("elastic_path", "id", "secret", "token_url", "https://shop.example"),
			credentialJSON("elastic_path", "other", "secret"),
			credentialJSON("elastic_path", "id", "", "grant", "implicit"),
			credentialJSON("elastic_path", "other", "", "grant", "implicit"),
			credentialJSON("elastic_path", "id", "secret", "store", "1"),
			credentialJSON("elastic_path", "id", "secret", "store", "2"),
			credentialJSON("elastic_path", "id", "", "grant", "implicit", "store", "1"),
		}
		keys := make(map[token.Key]string)
		for _, config := range configs {
			key := keyOf(t, config)
			if other, ok := keys[key]; ok {
				t.Errorf("%s and %s share a token", config, other)
			}
			keys[key] = config
		}
	})
}
