package devserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndpointValidate(t *testing.T) {
	tests := []struct {
		endpoint TokenEndpoint
		want     string // the start of the error, or empty if the endpoint is valid
	}{
		{TokenEndpoint{Dialect: Optoro}, ""},
		{TokenEndpoint{Dialect: Optoro, EnforceForm: true, Mode: ModeReuse, Lifetime: time.Second}, ""},
		{TokenEndpoint{Dialect: ElasticPath, Wrapped: true}, ""},
		{TokenEndpoint{}, "dialect"},
		{TokenEndpoint{Dialect: "okta"}, "dialect"},
		{TokenEndpoint{Dialect: Optoro, Mode: "x"}, "mode"},
		{TokenEndpoint{Dialect: Optoro, Lifetime: -1}, "lifetime"},
		{TokenEndpoint{Dialect: Optoro, Wrapped: true}, "wrapped"},
		{TokenEndpoint{Dialect: ElasticPath, EnforceForm: true}, "enforce_content_type"},
	}
	for i := range tests {
		checkError(t, tests[i].endpoint.Validate(), tests[i].want)
	}
	if w := serve(&TokenEndpoint{}, optoroRequest()); w.Code != http.StatusInternalServerError {
		t.Errorf("without a dialect: got status %d", w.Code)
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %v, want %q", err, want)
	}
}

func TestLifetime(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Lifetime: 90 * time.Second, Registry: NewRegistry()}
	if got := fetch(t, e); string(got.ExpiresIn) != "90" {
		t.Errorf("got expires_in %s", got.ExpiresIn)
	}
}

func TestDefaultRegistry(t *testing.T) {
	got := fetch(t, &TokenEndpoint{Dialect: Optoro})
	if _, s := Default.Lookup(got.AccessToken); s != Live || !Default.Revoke(got.AccessToken) {
		t.Error("the token is not in the default registry")
	}
}

func TestRecorded(t *testing.T) {
	var seen string
	e := &TokenEndpoint{Dialect: ElasticPath, Registry: NewRegistry()}
	e.OnRequest = func(_ *http.Request, body []byte) { seen = string(body) }
	r := elasticRequest()
	r.URL.RawQuery = "b=1&a=2"
	r.Header.Set("X-MOLTIN-AUTH-STORE", "shop")
	serve(e, r)
	want := Recorded{
		Method: "POST", Path: "/oauth/access_token",
		HeaderNames: []string{"Content-Type", "X-Moltin-Auth-Store"}, ContentType: formType,
		QueryNames: []string{"a", "b"}, ParamNames: []string{"client_id", "client_secret", "grant_type"},
		GrantType: "client_credentials", ClientID: "dev-client", Store: "shop",
	}
	if got := e.Requests(); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if seen != formGood {
		t.Errorf("OnRequest got the body %q", seen)
	}
	for range maxRecorded {
		r := post("/oauth/access_token", typeJSON, `{"z":1,"grant_type":"x"}`)
		r.SetBasicAuth("a", "b")
		serve(e, r)
	}
	got := e.Requests()
	if len(got) != maxRecorded || !got[0].Basic || !reflect.DeepEqual(got[0].ParamNames, []string{"grant_type", "z"}) {
		t.Errorf("got %d requests, the first %+v", len(got), got[0])
	}
}

func TestWaitCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
		e.SetFault(Fault{Latency: time.Second})
		for range 3 {
			go serve(e, optoroRequest())
		}
		if err := e.WaitCalls(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.WaitCalls(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v", err)
		}
		fetch(t, e)
		if e.Calls() != 4 || e.MaxInFlight() != 3 {
			t.Errorf("got %d calls and %d in flight", e.Calls(), e.MaxInFlight())
		}
	})
}

// Every mode over real connections, while the fault changes and an API looks up the tokens.
func TestConcurrency(t *testing.T) {
	for _, mode := range []Mode{ModeDefault, ModeReuse, ModeRevokePrevious} {
		t.Run(string(mode), func(t *testing.T) {
			e := &TokenEndpoint{Dialect: Optoro, Mode: mode}
			srv, ask := start(t, e, Fault{})
			api := &API{Registry: e.Registry}
			var mu sync.Mutex
			distinct := make(map[string]bool)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 10 {
						resp, err := ask()
						if err != nil {
							t.Error(err)
							return
						}
						token := decode[tokenBody](t, resp.Body).AccessToken
						_ = resp.Body.Close()
						e.SetFault(Fault{})
						e.Requests()
						serve(api, apiRequest(http.MethodGet, "/", token))
						mu.Lock()
						distinct[token] = true
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			live := 0
			for token := range distinct {
				if _, s := e.Registry.Lookup(token); s == Live {
					live++
				}
			}
			want := map[Mode][2]int{ModeDefault: {80, 80}, ModeReuse: {1, 1}, ModeRevokePrevious: {80, 1}}[mode]
			if len(distinct) != want[0] || live != want[1] {
				t.Errorf("got %d tokens, %d live; want %v", len(distinct), live, want)
			}
			if e.Calls() != 80 || e.MaxInFlight() < 1 || e.MaxInFlight() > 8 || srv == nil {
				t.Errorf("got %d calls, %d in flight", e.Calls(), e.MaxInFlight())
			}
		})
	}
}

func TestPeers(t *testing.T) {
	unix := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/run/x", Net: "unix"})
	tcp := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80})
	tests := []struct {
		ctx    context.Context
		remote string
		want   bool
	}{
		{tcp, "127.0.0.1:1", true},
		{tcp, "127.8.8.8:1", true},
		{tcp, "[::1]:1", true},
		{tcp, "[::ffff:127.0.0.1]:1", true},
		{unix, "@", true},
		{tcp, "192.0.2.1:1", false},
		{tcp, "[fe80::1%eth0]:1", false},
		{tcp, "@", false},
		{tcp, "", false},
	}
	endpoint := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	api := &API{Registry: endpoint.Registry}
	for _, tc := range tests {
		for _, h := range []http.Handler{endpoint, api} {
			r := optoroRequest().WithContext(tc.ctx)
			r.RemoteAddr = tc.remote
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			w := serve(h, r)
			if (w.Code != http.StatusForbidden) != tc.want || w.Header().Get(HeaderName) != HeaderValue {
				t.Errorf("%T, %q: got status %d", h, tc.remote, w.Code)
			}
		}
	}
	if endpoint.Calls() != 5 || api.Calls() != 5 {
		t.Error("a client that got 403 was counted")
	}
}

func TestUnixSocket(t *testing.T) {
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(&TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()})
	_ = srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	resp, err := client.Post("http://localhost/oauth/token", typeJSON, strings.NewReader(jsonGood))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d", resp.StatusCode)
	}
}
