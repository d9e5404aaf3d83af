package caddymodule

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// The API gets the Host that reverse_proxy would give it, in each attempt, and the debug log shows that one.
func TestHostAsWithReverseProxy(t *testing.T) {
	const transport = " transport http {\n tls_insecure_skip_verify\n}\n lb_policy first\n lb_retries 3\n fail_duration 1m\n"
	broken := serveConns(t, func(conn net.Conn) { conn.Close() })
	for name, tc := range map[string]struct {
		options string
		host    string // "" for the address of the API
	}{
		"as it is":             {"", ""},
		"forwarded":            {"forwarded on", ""},
		"header_up Host":       {"header_up Host api.example", "api.example"},
		"header_up, forwarded": {"header_up Host api.example\n forwarded on", "api.example"},
		"another header_up":    {"header_up X-Source legacy", ""},
		"header_down":          {"header_down X-Source legacy", ""},
		"kept credentials":     {"client_authorization keep", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, nil, serveHTTPS)
			options := transport + tc.options
			addr := freeAddr(t)
			s := startCaddy(t, strings.Replace(globalOptions(tokens.credential("api")), "{\n", "{\n debug\n", 1)+siteConfig(addr,
				"token_proxy /token api https://"+broken+" "+api.URL+" {\n"+options+"\n}\n"+
					"reverse_proxy https://"+broken+" "+api.URL+" {\n"+strings.NewReplacer("forwarded on", "", "client_authorization keep", "").Replace(options)+"\n}"))
			want := tc.host
			if want == "" {
				want = api.addr()
			}
			for _, path := range []string{"/token", "/plain"} {
				get(t, "http://"+addr+path, "Authorization", "Bearer app").wantStatus(t, http.StatusOK)
			}
			received := api.received()
			if len(received) != 2 || received[0].Host != want || received[1].Host != want {
				t.Errorf("the API got %v, want the host %s twice", received, want)
			}
			shown := 0
			for _, entry := range s.logged("upstream roundtrip") {
				request, _ := entry["request"].(map[string]any)
				if request["uri"] == "/token" && entry["status"] != nil && request["host"] == want {
					shown++
				}
			}
			if shown != 1 {
				t.Errorf("the debug log shows the host %d times", shown)
			}
		})
	}
}

// reverse_proxy makes no copy of the header for its own transport. Other header operations are left to it.
func TestHeaderOperationsOfTransports(t *testing.T) {
	encrypting := &reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}
	if (&injector{next: encrypting, setsHost: true}).RequestHeaderOps() != nil {
		t.Error("reverse_proxy must copy the header to set Host")
	}
	up := &headers.Handler{Request: new(headers.HeaderOps)}
	for name, tc := range map[string]struct {
		transport http.RoundTripper
		headers   *headers.Handler
		leaves    bool
	}{
		"with TLS":                  {encrypting, nil, true},
		"with TLS and header_down":  {encrypting, &headers.Handler{Response: new(headers.RespHeaderOps)}, true},
		"with TLS and header_up":    {encrypting, up, false},
		"without TLS":               {new(reverseproxy.HTTPTransport), nil, false},
		"another transport":         {roundTrip(nil), nil, false},
		"with other operations":     {askable{ops: &headers.HeaderOps{Set: http.Header{"Host": {"x"}}}}, nil, false},
		"with one more operation":   {askable{ops: &headers.HeaderOps{Set: hostOps.Set, Delete: []string{"Via"}}}, nil, false},
		"with the same operations":  {askable{ops: &headers.HeaderOps{Set: hostOps.Set.Clone()}}, nil, true},
		"with no operations at all": {askable{}, nil, false},
	} {
		if got := leaveHost(tc.transport, tc.headers); got != tc.leaves {
			t.Errorf("%s: the injector sets Host: %t", name, got)
		}
	}
}
