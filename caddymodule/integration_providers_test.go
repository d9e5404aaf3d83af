package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
)

// echoOf reads the answer of a development API.
func echoOf(t *testing.T, a clientAnswer) devserver.Echo {
	t.Helper()
	a.wantStatus(t, http.StatusOK)
	var echo devserver.Echo
	if err := json.Unmarshal([]byte(a.body), &echo); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return echo
}

// send sends a request with a body.
func send(t *testing.T, method, target, body string, header ...string) clientAnswer {
	t.Helper()
	return ask(t, testClient(t), newRequest(t, method, target, strings.NewReader(body), header...))
}

// wantCalls checks how many requests reached the token endpoint.
func wantCalls(t *testing.T, endpoint *devserver.TokenEndpoint, want int) {
	t.Helper()
	if got := endpoint.Calls(); got != want {
		t.Errorf("the token endpoint got %d calls, want %d", got, want)
	}
}

// refuseFirst is an API that refuses the first token that it sees, as a server with Doorkeeper does, and takes others.
func refuseFirst(challenge string) http.HandlerFunc {
	var mu sync.Mutex
	var first string
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		credential := r.Header.Get("Authorization")
		if first == "" {
			first = credential
		}
		if credential == first {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
}

func TestOptoroProxied(t *testing.T) {
	t.Run("the token arrives as Bearer", func(t *testing.T) {
		tokens := newTokenServer(t)
		api := newRecordingAPI(t, nil)
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
		get(t, base).wantStatus(t, http.StatusOK)
		got := api.only(t).Header.Values("Authorization")
		if len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ") {
			t.Fatalf("got %d values of Authorization", len(got))
		}
		if _, state := tokens.tokens.Lookup(strings.TrimPrefix(got[0], "Bearer ")); state != devserver.Live {
			t.Error("the endpoint does not know the token")
		}
	})

	t.Run("a race in the token endpoint fails no request", func(t *testing.T) {
		tokens := newTokenServer(t)
		tokens.SetFault(devserver.Fault{Error: "invalid_token_reuse", Count: 1})
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+serveHTTP(t, tokens.api()).URL)
		get(t, base).wantStatus(t, http.StatusOK)
		wantCalls(t, tokens.TokenEndpoint, 2)
	})

	t.Run("nor does a 5XX that passes", func(t *testing.T) {
		tokens := newTokenServer(t)
		tokens.SetFault(devserver.Fault{Status: 503, Count: 1})
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+serveHTTP(t, tokens.api()).URL)
		get(t, base).wantStatus(t, http.StatusOK)
		wantCalls(t, tokens.TokenEndpoint, 2)
	})

	t.Run("after a 401 one fresh token, and the request once more", func(t *testing.T) {
		tokens := newTokenServer(t)
		api := tokens.api()
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+serveHTTP(t, api).URL)
		first := echoOf(t, get(t, base))
		tokens.revokeAll()
		second := echoOf(t, send(t, http.MethodPost, base+"/orders?a=b", "the body", "Content-Type", "text/x-order"))
		if second.Token == first.Token {
			t.Error("the revoked token was taken")
		}
		if second.Method != http.MethodPost || second.Path != "/orders" || second.Query != "a=b" || second.BodyBytes != 8 || second.ContentType != "text/x-order" {
			t.Errorf("the request became %+v", second)
		}
		wantCalls(t, tokens.TokenEndpoint, 2)
		if api.Calls() != 3 || api.Unauthorized() != 1 {
			t.Errorf("the API got %d requests and refused %d", api.Calls(), api.Unauthorized())
		}
		if third := echoOf(t, get(t, base)); third.Token != second.Token {
			t.Error("the fresh token was dropped")
		}
		wantCalls(t, tokens.TokenEndpoint, 2)
	})

	for _, description := range []string{"The access token is invalid", "The access token expired", "The access token was revoked"} {
		t.Run("an empty 401: "+description, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, refuseFirst(`Bearer realm="Doorkeeper", error="invalid_token", error_description="`+description+`"`))
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
			send(t, http.MethodPut, base, "the body").wantStatus(t, http.StatusOK)
			wantCalls(t, tokens.TokenEndpoint, 2)
			got := api.received()
			if len(got) != 2 || got[0].Header.Get("Authorization") == got[1].Header.Get("Authorization") {
				t.Errorf("the API got %d requests", len(got))
			}
		})
	}

	t.Run("a 401 that is about permissions is passed on", func(t *testing.T) {
		tokens := newTokenServer(t)
		api := tokens.api()
		api.Reject = http.StatusUnauthorized
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+serveHTTP(t, api).URL)
		const more = 10
		begin := time.Now()
		for range 1 + more {
			a := get(t, base)
			a.wantStatus(t, http.StatusUnauthorized)
			if a.body != `{"message":"You are not allowed to do this action"}` || a.Header.Get("Proxy-Status") != "" {
				t.Errorf("got %s", wholeAnswer(a))
			}
		}
		// The first request tries a fresh token, and no other does before a second has passed.
		most := 2 + int(time.Since(begin)/time.Second)
		if n := tokens.Calls(); n < 2 || n > most {
			t.Errorf("the token endpoint got %d calls, want 2 to %d", n, most)
		}
		if n := api.Calls(); n < 2+more || n > most+more {
			t.Errorf("the API got %d requests for %d", n, 1+more)
		}
	})

	t.Run("a 403 is passed on and costs no token", func(t *testing.T) {
		tokens := newTokenServer(t)
		api := tokens.api()
		api.Reject = http.StatusForbidden
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+serveHTTP(t, api).URL)
		for range 3 {
			get(t, base).wantStatus(t, http.StatusForbidden)
		}
		wantCalls(t, tokens.TokenEndpoint, 1)
		if n := api.Calls(); n != 3 {
			t.Errorf("the API got %d requests for 3", n)
		}
	})

	t.Run("one token for all APIs", func(t *testing.T) {
		tokens := newTokenServer(t)
		sites, bases := "", []string(nil)
		for i := range 3 {
			addr := freeAddr(t)
			bases = append(bases, "http://"+addr)
			credential := "first"
			if i == 2 {
				credential = "second" // the same client by another name
			}
			sites += siteConfig(addr, "token_proxy "+credential+" "+serveHTTP(t, tokens.api()).URL)
		}
		startCaddy(t, globalOptions(tokens.credential("first"), tokens.credential("second", "max_wait 1m", "api_hosts 127.0.0.1"))+sites)
		var seen []string
		for _, base := range bases {
			seen = append(seen, echoOf(t, get(t, base)).Token)
		}
		if len(slices.Compact(seen)) != 1 {
			t.Errorf("the APIs saw the tokens %s", seen)
		}
		wantCalls(t, tokens.TokenEndpoint, 1)
	})

	t.Run("version headers, fixed and from the application", func(t *testing.T) {
		tokens := newTokenServer(t)
		api := newRecordingAPI(t, nil)
		_, base := startProxy(t, tokens.credential("api"), fmt.Sprintf(`token_proxy api %s {
			header_up Optiturn-Facilities-Version 2024-08-08
		}`, api.URL))
		get(t, base, "X-Optiturn-Api-Version", "2").wantStatus(t, http.StatusOK)
		got := api.only(t).Header
		if got.Get("Optiturn-Facilities-Version") != "2024-08-08" || got.Get("X-Optiturn-Api-Version") != "2" || got.Get("Authorization") == "" {
			t.Errorf("the API got the fields %v", slices.Sorted(maps.Keys(got)))
		}
	})
}

// elasticPathServer is a development token endpoint of Elastic Path, with a client of its own.
type elasticPathServer struct {
	*devserver.TokenEndpoint
	url string
}

func newElasticPathServer(t *testing.T) *elasticPathServer {
	t.Helper()
	s := &elasticPathServer{TokenEndpoint: &devserver.TokenEndpoint{
		Dialect: devserver.ElasticPath, ClientID: newClientID(), Registry: devserver.NewRegistry(),
	}}
	s.url = serveHTTP(t, s.TokenEndpoint).URL
	return s
}

func (s *elasticPathServer) api() *devserver.API { return &devserver.API{Registry: s.Registry} }

// credential is the configuration of a credential with a grant.
func (s *elasticPathServer) credential(name, grant string) string {
	secret := "client_secret " + devserver.DefaultClientSecret
	if grant == elasticpath.GrantImplicit {
		secret = ""
	}
	return fmt.Sprintf("credential %s {\n provider elastic_path {\n token_url %s\n grant %s\n }\n client_id %s\n %s\n}\n",
		name, s.url, grant, s.ClientID, secret)
}

func TestElasticPathProxied(t *testing.T) {
	t.Run("a legacy host gets a warning", func(t *testing.T) {
		credential := func(name, url string) string {
			return fmt.Sprintf("credential %s {\n provider elastic_path {\n token_url %s\n grant implicit\n }\n client_id a\n}\n", name, url)
		}
		s := startCaddy(t, globalOptions(
			credential("a", "https://api.moltin.com"), credential("b", "https://api.molt.in/oauth/access_token"),
			credential("c", "https://euwest.api.elasticpath.com"), credential("d", "https://api.moltin.com.example")))
		var hosts []string
		for line := range strings.Lines(s.logs()) {
			var entry struct{ Level, Msg, Host string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatal(err)
			}
			if entry.Level == "warn" && strings.Contains(entry.Msg, "legacy") {
				hosts = append(hosts, entry.Host)
			}
		}
		slices.Sort(hosts)
		if want := []string{"api.molt.in", "api.moltin.com"}; !slices.Equal(hosts, want) {
			t.Errorf("warned of %q, want %q", hosts, want)
		}
	})

	t.Run("the store on API calls", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		api := newRecordingAPI(t, nil)
		_, base := startProxy(t, tokens.credential("api", elasticpath.GrantClientCredentials), fmt.Sprintf(`token_proxy api %s {
			header_up X-MOLTIN-AUTH-STORE store-1
		}`, api.URL))
		get(t, base).wantStatus(t, http.StatusOK)
		if got := api.only(t).Header.Values("X-Moltin-Auth-Store"); !slices.Equal(got, []string{"store-1"}) {
			t.Errorf("got %q", got)
		}
	})

	for _, grant := range []string{elasticpath.GrantClientCredentials, elasticpath.GrantImplicit} {
		t.Run("one Authorization, Bearer without a colon, with "+grant, func(t *testing.T) {
			tokens := newElasticPathServer(t)
			api := newRecordingAPI(t, nil)
			_, base := startProxy(t, tokens.credential("api", grant), "token_proxy api "+api.URL)
			get(t, base).wantStatus(t, http.StatusOK)
			got := api.only(t).Header.Values("Authorization")
			if len(got) != 1 {
				t.Fatalf("got %d values of Authorization", len(got))
			}
			if value, ok := strings.CutPrefix(got[0], "Bearer "); !ok || len(value) != 40 {
				t.Errorf("got %d characters, which do not begin with Bearer and a space: %v", len(got[0]), ok)
			} else if _, state := tokens.Registry.Lookup(value); state != devserver.Live {
				t.Error("the endpoint does not know the token")
			}
		})
	}

	t.Run("many 401s at once cost one token, and every body is sent again", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		api := tokens.api()
		_, base := startProxy(t, tokens.credential("api", elasticpath.GrantClientCredentials), "token_proxy api "+serveHTTP(t, api).URL)
		echoOf(t, get(t, base))
		tokens.Registry.RevokeAll(tokens.ClientID)
		const n = 8
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range n {
			req := newRequest(t, http.MethodPost, base, strings.NewReader(strings.Repeat("x", 1000+i)))
			c := testClient(t)
			all.Go(func() {
				<-begin
				a, err := tryAsk(c, req)
				if err != nil || a.StatusCode != http.StatusOK || !strings.Contains(a.body, fmt.Sprintf(`"body_bytes":%d,`, 1000+i)) {
					t.Errorf("request %d: got %v %q, %v", i, a.Response, a.body, err)
				}
			})
		}
		close(begin)
		all.Wait()
		wantCalls(t, tokens.TokenEndpoint, 2)
		if got := api.Calls(); got != 1+n+api.Unauthorized() || api.Unauthorized() > n {
			t.Errorf("the API got %d requests and refused %d", got, api.Unauthorized())
		}
	})

	t.Run("the shopper's tokens go with the implicit token", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		api := newRecordingAPI(t, nil)
		_, base := startProxy(t, tokens.credential("api", elasticpath.GrantImplicit), "token_proxy api "+api.URL)
		get(t, base, "EP-Account-Management-Authentication-Token", "account", "X-Moltin-Customer-Token", "customer").wantStatus(t, http.StatusOK)
		got := api.only(t).Header
		if got.Get("EP-Account-Management-Authentication-Token") != "account" || got.Get("X-Moltin-Customer-Token") != "customer" {
			t.Errorf("they became %q and %q", got.Get("EP-Account-Management-Authentication-Token"), got.Get("X-Moltin-Customer-Token"))
		}
		if got := tokens.Requests()[0].GrantType; !strings.HasPrefix(api.only(t).Header.Get("Authorization"), "Bearer ") || got != elasticpath.GrantImplicit {
			t.Errorf("beside them went no token of the grant implicit, but of %s", got)
		}
	})

	t.Run("grants of one client do not share a token", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		full, implicit := freeAddr(t), freeAddr(t)
		upstream := serveHTTP(t, tokens.api()).URL
		startCaddy(t, globalOptions(tokens.credential("full", elasticpath.GrantClientCredentials), tokens.credential("shopper", elasticpath.GrantImplicit))+
			siteConfig(full, "token_proxy full "+upstream)+siteConfig(implicit, "token_proxy shopper "+upstream))
		if first, second := echoOf(t, get(t, "http://"+full)), echoOf(t, get(t, "http://"+implicit)); first.Token == second.Token {
			t.Error("the shopper acts with full access")
		}
		var grants []string
		for _, r := range tokens.Requests() {
			grants = append(grants, r.GrantType)
		}
		if !slices.Equal(grants, []string{elasticpath.GrantClientCredentials, elasticpath.GrantImplicit}) {
			t.Errorf("the endpoint was asked for %q", grants)
		}
	})

	t.Run("an implicit token may write", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		_, base := startProxy(t, tokens.credential("api", elasticpath.GrantImplicit), "token_proxy api "+serveHTTP(t, tokens.api()).URL)
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if echo := echoOf(t, send(t, method, base+"/v2/carts/1/items", "{}")); echo.Method != method || echo.BodyBytes != 2 {
				t.Errorf("%s became %+v", method, echo)
			}
		}
		wantCalls(t, tokens.TokenEndpoint, 1)
	})

	t.Run("at most one fresh token for a 401", func(t *testing.T) {
		tokens := newElasticPathServer(t)
		api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"title":"Unauthorized","status":401}]}`)
		})
		_, base := startProxy(t, tokens.credential("api", elasticpath.GrantClientCredentials), "token_proxy api "+api.URL)
		a := get(t, base)
		a.wantStatus(t, http.StatusUnauthorized)
		if a.body != `{"errors":[{"title":"Unauthorized","status":401}]}` {
			t.Errorf("the application got %q", a.body)
		}
		wantCalls(t, tokens.TokenEndpoint, 2)
		got := api.received()
		if len(got) != 2 || got[0].Header.Get("Authorization") == got[1].Header.Get("Authorization") {
			t.Errorf("the API got %d requests", len(got))
		}
	})
}
