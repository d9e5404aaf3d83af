package caddymodule

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oidctest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// dpopServers are a token endpoint and an API that demand proofs and nonces.
type dpopServers struct {
	endpoint *devserver.TokenEndpoint
	tokens   *recordingAPI
	api      *devserver.API
	received *recordingAPI
}

// newDPoPServers starts them. The client id is any, and the secret is a-secret.
func newDPoPServers(t *testing.T, id string, endpoint, api devserver.DPoP, demands ...func(*devserver.Demands, *devserver.API)) *dpopServers {
	t.Helper()
	registry := devserver.NewRegistry()
	s := &dpopServers{
		endpoint: &devserver.TokenEndpoint{Dialect: devserver.OAuth2, ClientID: id, ClientSecret: "a-secret", Registry: registry, Demands: devserver.Demands{DPoP: endpoint}},
		api:      &devserver.API{Registry: registry, DPoP: api},
	}
	for _, demand := range demands {
		demand(&s.endpoint.Demands, s.api)
	}
	for _, err := range []error{s.endpoint.Validate(), s.api.Validate()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.tokens = newRecordingAPI(t, s.endpoint.ServeHTTP)
	s.received = newRecordingAPI(t, s.api.ServeHTTP)
	return s
}

// dpopCredential is the Caddyfile of a credential with `dpop on`.
func dpopCredential(id, tokenURL string, options ...string) string {
	return fmt.Sprintf("credential api {\n provider oauth2 {\n token_url %s\n dpop on\n %s\n }\n client_id %s\n client_secret a-secret\n}\n",
		tokenURL, strings.Join(options, "\n"), id)
}

var required = devserver.DPoP{Mode: "required", Nonce: true}

// proofIn returns the claims and the key of the proof in a request.
func proofIn(t *testing.T, header http.Header) (claims, jwk map[string]any) {
	t.Helper()
	if fields := header.Values("DPoP"); len(fields) != 1 {
		t.Fatalf("the request has %d proofs", len(fields))
	}
	parts := strings.Split(header.Get("DPoP"), ".")
	if len(parts) != 3 {
		t.Fatalf("the proof has %d parts", len(parts))
	}
	var head struct {
		JWK map[string]any `json:"jwk"`
	}
	for i, into := range []any{&head, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return claims, head.JWK
}

// keyIn returns a text that identifies the key of the proof in a request.
func keyIn(t *testing.T, header http.Header) string {
	t.Helper()
	_, jwk := proofIn(t, header)
	return fmt.Sprint(jwk["x"], jwk["y"])
}

func post(t *testing.T, url, body string, header ...string) clientAnswer {
	t.Helper()
	return ask(t, testClient(t), newRequest(t, http.MethodPost, url, strings.NewReader(body), header...))
}

// A token endpoint and an API demand proofs with their nonces. The application notices nothing of that.
func TestDPoP(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, required, required)
	caddy, url := startProxy(t, dpopCredential(id, s.tokens.URL), "token_proxy api "+s.received.URL)

	for range 3 {
		a := post(t, url+"/v1/orders%2f7/../8?page=2", "two books", "Authorization", "Bearer own", "DPoP", "own")
		a.wantStatus(t, 200)
		if !strings.Contains(a.body, `"body_bytes":9`) {
			t.Errorf("the API got %s", a.body)
		}
	}
	if calls := s.endpoint.Calls(); calls != 2 {
		t.Errorf("%d token requests, want one without and one with the nonce", calls)
	}
	if calls, refused := s.api.Calls(), s.api.Unauthorized(); calls != 4 || refused != 1 {
		t.Errorf("%d requests, of which %d refused, want 4 and the first one without the nonce", calls, refused)
	}
	seen := make(map[any]bool)
	for _, r := range append(s.tokens.received(), s.received.received()...) {
		claims, _ := proofIn(t, r.Header)
		if seen[claims["jti"]] {
			t.Errorf("the jti %v occurs twice", claims["jti"])
		}
		seen[claims["jti"]] = true
	}
	for _, r := range s.received.received() {
		if got := r.Header.Values("Authorization"); len(got) != 1 || !strings.HasPrefix(got[0], "DPoP ") {
			t.Errorf("Authorization is %q", got)
		}
	}
	for _, message := range []string{"no token", "token rejected by the API"} {
		if lines := caddy.logged(message); len(lines) > 0 {
			t.Errorf("a demand for a nonce is logged: %v", lines)
		}
	}
	if strings.Contains(caddy.logs(), "eyJ0eXAiOiJkcG9wK2p3dCIs") {
		t.Error("a proof is in the log")
	}
}

// The nonces of both servers can change at any time, also with a body on its way.
func TestDPoPNonceChanges(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, required, required)
	_, url := startProxy(t, dpopCredential(id, s.tokens.URL), "token_proxy api "+s.received.URL+" {\n on_unauthorized pass\n}")
	post(t, url, "one").wantStatus(t, 200)
	for range 2 { // the API accepts the latest two
		s.api.RotateNonce()
	}
	before := s.api.Calls()
	a := post(t, url, "two books")
	a.wantStatus(t, 200)
	if !strings.Contains(a.body, `"body_bytes":9`) || s.api.Calls() != before+2 {
		t.Errorf("%d requests, the API got %s", s.api.Calls()-before, a.body)
	}
	if s.endpoint.Calls() != 2 {
		t.Errorf("%d token requests: the demand for a nonce is taken for a rejected token", s.endpoint.Calls())
	}
}

// The first body is larger than what is kept. The proxy learns the nonce before it sends the body, also from an API that refuses to be
// asked.
func TestDPoPNonceBeforeALargeBody(t *testing.T) {
	const size = 1 << 20
	demand := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if claims, _ := proofIn(t, r.Header); claims["nonce"] != "present" {
				refuseProof(w, "use_dpop_nonce", "present")
				return
			}
			next(w, r)
		}
	}
	whole := func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d bytes, %v", n, err)
	}
	unwilling := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		whole(w, r)
	}
	for name, tc := range map[string]struct {
		api       http.HandlerFunc
		configure func(*httptest.Server)
		requests  int
	}{
		"nonce":          {demand(whole), func(*httptest.Server) {}, 3},
		"HTTP/2":         {demand(whole), serveHTTPS, 3},
		"no nonce":       {whole, func(*httptest.Server) {}, 2},
		"no expectation": {unwilling, func(*httptest.Server) {}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			api := newRecordingAPI(t, tc.api, tc.configure)
			transport := "transport http {\n"
			if api.Certificate() != nil {
				transport = strings.TrimSuffix(trusting(t, api.Server), "}\n")
			}
			directive := "token_proxy api " + api.URL + " {\n" + transport + "expect_continue_timeout 1m\n}\n}" // on a busy machine
			_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), directive)
			for range 2 {
				a := post(t, url, strings.Repeat("b", size))
				a.wantStatus(t, 200)
				if want := fmt.Sprintf("%d bytes, <nil>", size); a.body != want {
					t.Errorf("the API got %s, want %s", a.body, want)
				}
			}
			if n := len(api.received()); n != tc.requests {
				t.Errorf("the API got %d requests, want %d", n, tc.requests)
			}
		})
	}
}

// The application has not asked for the 100 (Continue) of the API, which HTTP/1.0 does not know at all.
func TestDPoPContinueStaysHere(t *testing.T) {
	const size = 1 << 20
	for _, version := range []string{"1.0", "1.1"} {
		t.Run(version, func(t *testing.T) {
			api := newRecordingAPI(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
			_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/%s\r\nHost: app\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", version, size, strings.Repeat("b", size))
			answer, _ := io.ReadAll(conn)
			if want := "HTTP/" + version + " 200 OK"; !strings.HasPrefix(string(answer), want) {
				t.Errorf("the application got %q, want %s", answer, want)
			}
			if got := api.only(t).Header.Get("Expect"); got != "100-continue" {
				t.Errorf("the API was asked %q", got)
			}
		})
	}
}

// A revoked token is replaced as without DPoP, with nonces in between.
func TestDPoPTokenIsRejected(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, required, required)
	_, url := startProxy(t, dpopCredential(id, s.tokens.URL), "token_proxy api "+s.received.URL)
	post(t, url, "one").wantStatus(t, 200)
	s.endpoint.Registry.RevokeAll(id)
	for range 2 {
		s.api.RotateNonce()
		s.endpoint.RotateNonce()
	}
	post(t, url, "two").wantStatus(t, 200)
	all := s.received.received()
	if keyIn(t, all[0].Header) != keyIn(t, all[len(all)-1].Header) {
		t.Error("the second token is bound to another key")
	}
}

// A server that demands another nonce for ever gets two requests.
func TestDPoPNonceForEver(t *testing.T) {
	var n atomic.Int64
	demand := func(w http.ResponseWriter, status int) {
		w.Header().Set("DPoP-Nonce", fmt.Sprint("n", n.Add(1)))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(status)
		fmt.Fprint(w, `{"error":"use_dpop_nonce"}`)
	}
	t.Run("API", func(t *testing.T) {
		id := newClientID()
		s := newDPoPServers(t, id, required, required)
		api := newRecordingAPI(t, func(w http.ResponseWriter, _ *http.Request) { demand(w, 401) })
		_, url := startProxy(t, dpopCredential(id, s.tokens.URL), "token_proxy api "+api.URL)
		a := post(t, url, "body")
		a.wantStatus(t, 401)
		if calls := len(api.received()); calls != 2 || a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%d requests, answer %v", calls, a.Header)
		}
		if s.endpoint.Calls() != 2 {
			t.Errorf("%d token requests", s.endpoint.Calls())
		}
	})
	t.Run("token endpoint", func(t *testing.T) {
		endpoint := newRecordingAPI(t, func(w http.ResponseWriter, _ *http.Request) { demand(w, 400) })
		caddy, url := startProxy(t, dpopCredential(newClientID(), endpoint.URL), "token_proxy api "+endpoint.URL)
		get(t, url).wantStatus(t, 502)
		if calls := len(endpoint.received()); calls != 2 {
			t.Errorf("%d token requests", calls)
		}
		lines := caddy.logged("no token")
		if len(lines) != 1 || lines[0]["error_code"] != "use_dpop_nonce" || !strings.Contains(fmt.Sprint(lines[0]["advice"]), "another nonce") {
			t.Errorf("the log is %v", lines)
		}
	})
}

// A server that does not know DPoP issues a Bearer token, which is of no use with `dpop on`.
func TestDPoPWithBearerServer(t *testing.T) {
	for mode, status := range map[string]int{"on": 502, "optional": 200} {
		t.Run(mode, func(t *testing.T) {
			id := newClientID()
			s := newDPoPServers(t, id, devserver.DPoP{}, devserver.DPoP{})
			caddy, url := startProxy(t, strings.Replace(dpopCredential(id, s.tokens.URL), "dpop on", "dpop "+mode, 1), "token_proxy api "+s.received.URL)
			get(t, url, "DPoP", "own").wantStatus(t, status)
			if status != 200 {
				if len(s.received.received()) != 0 {
					t.Error("the token is sent")
				}
				if lines := caddy.logged("no token"); len(lines) != 1 || lines[0]["cause"] != "not_bound" {
					t.Errorf("the log is %v", lines)
				}
				return
			}
			got := s.received.only(t).Header
			if !strings.HasPrefix(got.Get("Authorization"), "Bearer ") || len(got.Values("DPoP")) != 0 {
				t.Errorf("the API got %v", got)
			}
		})
	}
}

// The application's own proof goes nowhere, with bearer tokens either.
func TestOwnProofIsRemoved(t *testing.T) {
	endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","expires_in":3600}`))
	api := newRecordingAPI(t, nil)
	_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL, withSecret), "token_proxy api "+api.URL)
	get(t, url, "dpop", "own").wantStatus(t, 200)
	if got := api.only(t).Header; got.Get("DPoP") != "" || got.Get("Authorization") != "Bearer T0KEN" {
		t.Errorf("the API got %v", got)
	}
}

// A reload keeps the key, with the token and after it.
func TestDPoPKeyOutlivesReload(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, required, required)
	addr := freeAddr(t)
	config := func(option string) string {
		return globalOptions(dpopCredential(id, s.tokens.URL)) + siteConfig(addr, "token_proxy api "+s.received.URL+option)
	}
	caddy := startCaddy(t, config(""))
	get(t, "http://"+addr).wantStatus(t, 200)
	if err := caddy.load(config(" {\n forwarded on\n}")); err != nil {
		t.Fatal(err)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
	if s.endpoint.Calls() != 2 {
		t.Errorf("%d token requests", s.endpoint.Calls())
	}
	s.endpoint.Registry.RevokeAll(id)
	get(t, "http://"+addr).wantStatus(t, 200)
	all := append(s.tokens.received(), s.received.received()...)
	for _, r := range all {
		if keyIn(t, r.Header) != keyIn(t, all[0].Header) {
			t.Error("a request has another key")
		}
	}
	if s.endpoint.Calls() != 3 {
		t.Errorf("%d token requests, want one more with the nonce that is known", s.endpoint.Calls())
	}
}

// A fixed key is read from its file. The token is bound to it.
func TestDPoPKey(t *testing.T) {
	for kind, alg := range map[string]string{"P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA", "RSA": "PS256"} {
		t.Run(kind, func(t *testing.T) {
			key, ok := testKeys()[kind]
			if !ok {
				t.Fatalf("no key of the kind %s", kind)
			}
			id := newClientID()
			s := newDPoPServers(t, id, required, required)
			_, url := startProxy(t, dpopCredential(id, s.tokens.URL, "dpop_key "+inFile(secretPath(t, pkcs8(key[0]))), "dpop_alg "+alg), "token_proxy api "+s.received.URL)
			get(t, url).wantStatus(t, 200)
		})
	}
}

// The key is replaced in its file. Each token travels with proofs of the key that it is bound to.
func TestDPoPKeyIsReplaced(t *testing.T) {
	file := secretPath(t, pkcs8(signingKeyOf("P-256")))
	id := newClientID()
	s := newDPoPServers(t, id, required, required)
	_, url := startProxy(t, dpopCredential(id, s.tokens.URL, "dpop_key "+inFile(file)), "token_proxy api "+s.received.URL)
	get(t, url).wantStatus(t, 200)
	if err := os.WriteFile(file, []byte(pkcs8(anotherKeyOf("P-256"))), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, url).wantStatus(t, 200)
	s.endpoint.Registry.RevokeAll(id)
	get(t, url).wantStatus(t, 200)
	all := s.received.received()
	first, second, last := all[0].Header, all[len(all)-3].Header, all[len(all)-1].Header
	if keyIn(t, first) != keyIn(t, second) {
		t.Error("a request with the first token has the second key")
	}
	if keyIn(t, first) == keyIn(t, last) || keyIn(t, last) != keyIn(t, s.tokens.received()[s.endpoint.Calls()-1].Header) {
		t.Error("the request with the second token has another key than its token request")
	}
}

func TestDPoPMisconfigured(t *testing.T) {
	ec := inFile(secretPath(t, pkcs8(signingKeyOf("P-256"))))
	for name, tc := range map[string]struct{ options, credential, want string }{
		"unknown value":               {"dpop yes", "", "dpop"},
		"key without dpop":            {"dpop_key " + ec, "", "dpop_key: needs dpop"},
		"algorithm without dpop":      {"dpop_alg ES256", "", "dpop_alg: needs dpop"},
		"unknown algorithm":           {"dpop on\ndpop_alg HS256", "", "dpop_alg: unknown algorithm"},
		"algorithm that does not fit": {"dpop on\ndpop_key " + ec + "\ndpop_alg ES384", "", "dpop_alg: the algorithm does not fit"},
		"key that is none":            {"dpop on\ndpop_key " + inFile(secretPath(t, "CANARY")), "", "dpop_key: the value is neither"},
		"public key":                  {"dpop on\ndpop_key " + inFile(secretPath(t, publicPEM(signingKeyOf("P-256")))), "", "dpop_key: the value contains no private key"},
		"missing file":                {"dpop on\ndpop_key {file./does/not/exist}", "", "dpop_key"},
		"another header":              {"dpop on", "header X-Token", "header: remove it"},
		"a proof of its own":          {"dpop on\nheader DPoP own", "", "header DPoP: remove it"},
		"a header like Authorization": {"dpop optional", `header Authorization "Bearer {token}"`, "header: remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &caddyServer{t: t, logFile: t.TempDir() + "/caddy.log"}
			err := s.load(globalOptions(oauth2Credential("api", "token_url http://127.0.0.1:1\n"+tc.options, withSecret, tc.credential)) + siteConfig(freeAddr(t), "token_proxy api 127.0.0.1:2"))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// boundTickets is a provider of another project whose tokens are bound to a key. It uses the public package alone.
type boundTickets struct {
	URL string `json:"url,omitempty"`
	Alg string `json:"alg,omitempty"`
}

func init() { caddy.RegisterModule(new(boundTickets)) }

// CaddyModule returns the Caddy module information.
func (*boundTickets) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_proxy.providers.test_bound_tickets", New: func() caddy.Module { return new(boundTickets) }}
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (p *boundTickets) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the provider's name
	d.AllArgs(&p.URL, &p.Alg)
	return nil
}

// Endpoint implements provider.Provider.
func (p *boundTickets) Endpoint() string { return p.URL }

// NeedsSecret implements provider.Provider.
func (*boundTickets) NeedsSecret() bool { return false }

// NewRequest implements provider.Provider.
func (p *boundTickets) NewRequest(ctx context.Context, _ provider.Client) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodPut, p.URL, nil)
}

// ReadAnswer implements provider.Provider.
func (*boundTickets) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	return answer.Read(provider.Layout{Token: []string{"ticket"}, Type: []string{"kind"}, Code: []string{"problem"}, DPoP: true})
}

// ProofOfPossession implements provider.DPoPHolder.
func (p *boundTickets) ProofOfPossession(provider.Secrets) (*provider.DPoP, error) {
	return &provider.DPoP{Alg: p.Alg}, nil
}

// The tokens of a provider of another project are bound in the same way.
func TestDPoPOfAnotherProvider(t *testing.T) {
	credential := func(url, alg string) string {
		return fmt.Sprintf("credential api {\n provider test_bound_tickets %s %s\n client_id %s\n}\n", url, alg, newClientID())
	}
	tickets := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if claims, _ := proofIn(t, r.Header); claims["nonce"] != "present" {
			sendAnswer(400, "application/json", `{"problem":"use_dpop_nonce"}`, "DPoP-Nonce", "present")(w, r)
			return
		}
		sendAnswer(200, "application/json", `{"ticket":"T0KEN","kind":"DPoP"}`)(w, r)
	})
	api := newRecordingAPI(t, nil)
	_, url := startProxy(t, credential(tickets.URL, "EdDSA"), "token_proxy api "+api.URL)
	get(t, url).wantStatus(t, 200)
	got := api.only(t).Header
	if claims, jwk := proofIn(t, got); got.Get("Authorization") != "DPoP T0KEN" || claims["ath"] == nil || jwk["crv"] != "Ed25519" {
		t.Errorf("the API got %s with the proof %v of the key %v", got.Get("Authorization"), claims, jwk)
	}
	for _, r := range tickets.received() {
		if claims, _ := proofIn(t, r.Header); keyIn(t, r.Header) != keyIn(t, got) || claims["htm"] != http.MethodPut {
			t.Errorf("a token request has the proof %v of another key or method", claims)
		}
	}
	if n := len(tickets.received()); n != 2 {
		t.Errorf("%d token requests", n)
	}

	s := &caddyServer{t: t, logFile: t.TempDir() + "/caddy.log"}
	if err := s.load(globalOptions(credential(tickets.URL, "HS256")) + siteConfig(freeAddr(t), "token_proxy api "+api.URL)); err == nil || !strings.Contains(err.Error(), "dpop: unknown algorithm") {
		t.Errorf("with an unknown algorithm: %v", err)
	}
}

// Our clock is wrong, or that of the server. The time of the proofs is that of the server.
func TestDPoPClock(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			checked := func(h http.HandlerFunc, status int) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					now := time.Now().Add(ahead)
					w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
					claims, _ := proofIn(t, r.Header)
					at, _ := claims["iat"].(float64)
					if now.Sub(time.Unix(int64(at), 0)).Abs() > 10*time.Second {
						w.Header().Set("Content-Type", "application/json")
						w.Header().Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
						w.WriteHeader(status)
						fmt.Fprint(w, `{"error":"invalid_dpop_proof"}`)
						return
					}
					h(w, r)
				}
			}
			endpoint := newRecordingAPI(t, checked(sendAnswer(200, "application/json", `{"access_token":"T0KEN","token_type":"DPoP","expires_in":3600}`), 400))
			api := newRecordingAPI(t, checked(func(http.ResponseWriter, *http.Request) {}, 401))
			other := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) { // whose clock is that of this machine
				claims, _ := proofIn(t, r.Header)
				if at, _ := claims["iat"].(float64); time.Since(time.Unix(int64(at), 0)).Abs() > 10*time.Second {
					w.Header().Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
					w.WriteHeader(401)
				}
			})
			_, url := startProxy(t, dpopCredential(newClientID(), endpoint.URL), "token_proxy /other* api "+other.URL+"\ntoken_proxy api "+api.URL)
			for range 2 {
				get(t, url).wantStatus(t, 200)
				get(t, url+"/other").wantStatus(t, 200)
			}
			if a, b, c := len(endpoint.received()), len(api.received()), len(other.received()); a != 2 || b != 2 || c != 3 {
				t.Errorf("%d token requests, %d and %d requests to the APIs, want 2, 2 and 3", a, b, c)
			}
		})
	}
}

// net/http sends a request again if the API closes a connection that was idle. The API may have seen the first proof.
func TestDPoPLostConnection(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, required, devserver.DPoP{})
	var requests atomic.Int64
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 2 { // on the connection of the first
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		}
	})
	_, url := startProxy(t, dpopCredential(id, s.tokens.URL), "token_proxy api "+api.URL)
	for range 2 {
		get(t, url).wantStatus(t, 200)
	}
	seen := make(map[any]bool)
	for _, r := range api.received() {
		claims, _ := proofIn(t, r.Header)
		seen[claims["jti"]] = true
	}
	if len(seen) != 3 || len(api.received()) != 3 {
		t.Errorf("%d proofs for %d requests", len(seen), len(api.received()))
	}
}

// Each tenant has a key of its own.
func TestDPoPTenants(t *testing.T) {
	var mu sync.Mutex
	keys := make(map[string]map[string]bool) // by scope
	tokens := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		scope := r.PostForm.Get("scope")
		if keys[scope] == nil {
			keys[scope] = make(map[string]bool)
		}
		keys[scope][keyIn(t, r.Header)] = true
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"%s-T0KEN","token_type":"DPoP","expires_in":3600}`, scope)
	})
	api := newRecordingAPI(t, nil)
	_, url := startProxy(t, fmt.Sprintf("credential api {\n provider oauth2 {\n token_url %s\n scope {tenant}\n dpop on\n }\n client_id %s\n client_secret a-secret\n tenant {http.request.header.X-Tenant}\n api_hosts %s\n}\n",
		tokens.URL, newClientID(), api.addr()), "token_proxy api "+api.URL)
	for range 2 {
		for _, name := range []string{"a", "b", "c"} {
			get(t, url, "X-Tenant", name).wantStatus(t, 200)
		}
	}
	all := make(map[string]bool)
	for scope, of := range keys {
		if len(of) != 1 {
			t.Errorf("tenant %s has %d keys", scope, len(of))
		}
		for key := range of {
			all[key] = true
		}
	}
	if len(all) != 3 {
		t.Errorf("%d keys for 3 tenants", len(all))
	}
	for _, r := range api.received() {
		tenant, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "DPoP "), "-")
		if !keys[tenant][keyIn(t, r.Header)] {
			t.Errorf("a request of tenant %s has the key of another", tenant)
		}
	}
}

// oidc-provider issues the token, and oauth4webapi protects the API. Both demand nonces.
func TestDPoPWithOIDCProvider(t *testing.T) {
	s := oidctest.Start(t)
	for name, endpoint := range map[string]string{"token_url": "token_url " + s.TokenURL + "\n assertion_audience " + s.Issuer, "issuer": "issuer " + s.Issuer} {
		t.Run(name, func(t *testing.T) {
			before := len(s.Events(t))
			s.RotateNonce(t)
			_, url := startProxy(t, fmt.Sprintf("credential api {\n provider oauth2 {\n %s\n client_auth private_key_jwt\n signing_key %s\n scope %s\n dpop on\n }\n client_id %s\n refresh_margin %ds\n}\n",
				endpoint, inFile(s.KeyFile), s.Scope, s.ClientID, 30+len(name)), "token_proxy api "+s.API+" {\n header_up Host {upstream_hostport}\n}")
			for range 2 {
				a := post(t, url+"/v1/orders%2f7/%7Eann?a=1", "two books") // which oauth4webapi compares as it is
				a.wantStatus(t, 200)
				var got oidctest.Answer
				if err := json.Unmarshal([]byte(a.body), &got); err != nil || got.Body != "two books" || got.URL != "/v1/orders%2f7/%7Eann?a=1" {
					t.Errorf("the API got %s: %v", a.body, err)
				}
			}
			s.RotateNonce(t)
			post(t, url+"/v1", "three").wantStatus(t, 200)
			var answers []string
			for _, e := range s.Events(t)[before:] {
				answers = append(answers, fmt.Sprintf("%s %d %s", e.Server, e.Status, e.Error))
			}
			want := "token 400 use_dpop_nonce, token 200 , api 401 use_dpop_nonce, api 200 , api 200 , api 401 use_dpop_nonce, api 200 "
			if got := strings.Join(answers, ", "); got != want {
				t.Errorf("the servers answered %s, want %s", got, want)
			}
		})
	}
}

// The API demands claims that only a new token has. They are part of one token request, with those of the configuration.
func TestClaimsChallenge(t *testing.T) {
	const own = `{"access_token":{"xms_cc":{"values":["cp1"]}}}`
	for name, demand := range map[string]devserver.DPoP{"bearer": {}, "DPoP": required} {
		t.Run(name, func(t *testing.T) {
			id := newClientID()
			s := newDPoPServers(t, id, demand, demand, func(d *devserver.Demands, api *devserver.API) {
				d.AcceptClaims = true
				api.ClaimsChallenge = json.RawMessage(`{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}`)
			})
			config := dpopCredential(id, s.tokens.URL, "param claims `"+own+"`")
			if demand.Mode == "" {
				config = strings.Replace(config, "dpop on", "", 1)
			}
			var mu sync.Mutex
			var asked []string
			tokens := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				form, _ := url.ParseQuery(string(text))
				mu.Lock()
				asked = append(asked, form.Get("claims"))
				mu.Unlock()
				r.Body = io.NopCloser(strings.NewReader(string(text)))
				s.endpoint.ServeHTTP(w, r)
			})
			addr := freeAddr(t)
			caddy := startOperated(t, globalOptions(strings.Replace(config, s.tokens.URL, tokens.URL, 1))+siteConfig(addr, "token_proxy api "+s.received.URL), nil)
			url := "http://" + addr
			for range 2 {
				a := post(t, url, "two books")
				a.wantStatus(t, 200)
				if !strings.Contains(a.body, `"body_bytes":9`) {
					t.Errorf("the API got %s", a.body)
				}
			}
			if c := caddy.credential("api"); c.Health != "ok" || (c.Bound == "DPoP") != (name == "DPoP") {
				t.Errorf("after a challenge that is satisfied, the health is %s: %s Bound to %q", c.Health, c.Summary, c.Bound)
			}
			if lines := caddy.logged("token rejected by the API"); len(lines) != 1 || lines[0]["error_code"] != "insufficient_claims" {
				t.Errorf("the log is %v", lines)
			}
			s.endpoint.Registry.RevokeAll(id)
			both := `{"access_token":{"nbf":{"essential":true,"value":"1604106651"},"xms_cc":{"values":["cp1"]}}}`
			eventually(t, "a token request without the claims of the challenge", func() bool {
				post(t, url, "x")
				mu.Lock()
				defer mu.Unlock()
				got := slices.Compact(slices.Clone(asked))
				if len(got) < 2 || got[0] != own || got[1] != both {
					t.Fatalf("the token requests ask for %q", got)
				}
				return len(got) > 2 && got[2] == own
			})
		})
	}
}

// With `on_unauthorized pass`, the answer goes to the application, and the next token has the claims.
func TestClaimsChallengeIsPassed(t *testing.T) {
	id := newClientID()
	s := newDPoPServers(t, id, devserver.DPoP{}, devserver.DPoP{}, func(d *devserver.Demands, api *devserver.API) {
		d.AcceptClaims = true
		api.ClaimsChallenge = json.RawMessage(`{"access_token":{"acrs":{"essential":true}}}`)
	})
	_, url := startProxy(t, strings.Replace(dpopCredential(id, s.tokens.URL), "dpop on", "", 1), "token_proxy api "+s.received.URL+" {\n on_unauthorized pass\n}")
	get(t, url).wantStatus(t, 401)
	eventually(t, "a token with the claims", func() bool { return get(t, url).StatusCode == 200 })
}

// An API that repeats its demand for every token costs no more token requests than one that rejects every token.
func TestClaimsChallengeForEver(t *testing.T) {
	var n atomic.Int64
	tokens := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		sendAnswer(200, "application/json", fmt.Sprintf(`{"access_token":"T0KEN-%d","expires_in":3600}`, n.Add(1)))(w, r)
	})
	api := newRecordingAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_claims", claims="e30="`)
		w.WriteHeader(401)
	})
	_, url := startProxy(t, oauth2Credential("api", "token_url "+tokens.URL, withSecret), "token_proxy api "+api.URL)
	began := time.Now()
	for range 50 {
		get(t, url).wantStatus(t, 401)
	}
	// The first rejection is free, and the pauses between the others double from one second on.
	most := 3
	for pause := time.Second; began.Add(pause).Before(time.Now()); pause *= 2 {
		most++
	}
	if got := len(tokens.received()); got > most {
		t.Errorf("%d token requests in %s, want %d at most", got, time.Since(began), most)
	}
}

// A demand that no token of the client meets passes through untouched, and is named in the log and in the report.
func TestStepUp(t *testing.T) {
	for code, challenge := range map[string]string{
		"insufficient_scope":               `Bearer error="insufficient_scope", scope="orders:write", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource"`,
		"insufficient_user_authentication": `Bearer error="insufficient_user_authentication", acr_values="phr"`,
	} {
		t.Run(code, func(t *testing.T) {
			tokens := newRecordingAPI(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","expires_in":3600}`))
			api := newRecordingAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(map[bool]int{true: 403, false: 401}[code == "insufficient_scope"])
				fmt.Fprint(w, "the API's text")
			})
			caddy, url := startProxy(t, oauth2Credential("api", "token_url "+tokens.URL, withSecret), "token_proxy api "+api.URL)
			for range 3 {
				a := get(t, url)
				if a.body != "the API's text" || a.Header.Get("WWW-Authenticate") != challenge {
					t.Errorf("the application got %q with %v", a.body, a.Header)
				}
			}
			if len(tokens.received()) != 1 || len(api.received()) != 3 {
				t.Errorf("%d token requests and %d requests to the API", len(tokens.received()), len(api.received()))
			}
			lines := caddy.logged("the API demands more than the token has")
			if len(lines) != 1 || lines[0]["error_code"] != code || lines[0]["advice"] == "" {
				t.Errorf("the log is %v", lines)
			}
			if code == "insufficient_scope" && !strings.Contains(fmt.Sprint(lines[0]["demand"]), "orders:write), and names its metadata at https://api.example.com/") {
				t.Errorf("the demand is %v", lines[0]["demand"])
			}
		})
	}
}

// A token of another replica that is bound to a key is of use only with that key.
func TestDPoPSharing(t *testing.T) {
	for name, tc := range map[string]struct {
		key    string // of the credential; empty for one that is generated
		shares bool
	}{
		"the same key":  {pkcs8(signingKeyOf("P-256")), true},
		"another key":   {pkcs8(anotherKeyOf("P-256")), false},
		"generated key": {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			api := newRecordingAPI(t, nil)
			tokens := newRecordingAPI(t, sendAnswer(200, "application/json", `{"access_token":"OWN","token_type":"DPoP","expires_in":3600}`))
			option := ""
			if tc.key != "" {
				option = "dpop_key " + inFile(secretPath(t, tc.key))
			}
			addr := freeAddr(t)
			caddy := startCaddy(t, globalOptions(sharedThrough(t, newMemory(t)), dpopCredential(newClientID(), tokens.URL, option))+siteConfig(addr, "token_proxy api "+api.URL))
			key, err := oauth.ParseSigningKey(pkcs8(signingKeyOf("P-256")))
			if err != nil {
				t.Fatal(err)
			}
			proofKey, err := dpop.NewKey(key.Signer())
			if err != nil {
				t.Fatal(err)
			}
			prover := new(dpop.Client).ForAPI(proofKey)
			otherReplica(t, "api", func(s *share.Spec, _ *share.Share) { s.Prover = func() token.Prover { return prover } }).Save(t.Context(), token.Found{
				Issued: token.Issued{Token: token.NewSecret("SHARED"), DPoP: true, Prover: prover}, Lifetime: time.Hour, RefreshIn: 50 * time.Minute,
			})
			get(t, "http://"+addr).wantStatus(t, 200)
			got := api.only(t).Header
			want := map[bool]string{true: "DPoP SHARED", false: "DPoP OWN"}[tc.shares]
			if got.Get("Authorization") != want {
				t.Errorf("the API got %s, want %s", got.Get("Authorization"), want)
			}
			if _, jwk := proofIn(t, got); tc.shares && !strings.Contains(proofKeyText(t, proofKey), fmt.Sprint(jwk["x"])) {
				t.Error("the proof is of another key")
			}
			if lines := caddy.logged("replicas do not share the tokens of this credential, because each replica has generated a key of its own for DPoP; set dpop_key to one key for all replicas"); (len(lines) == 1) != (tc.key == "") {
				t.Errorf("the warning is %v", lines)
			}
		})
	}
}

// proofKeyText returns the header of a proof of the key.
func proofKeyText(t *testing.T, key *dpop.Key) string {
	t.Helper()
	proof, err := key.Proof(dpop.Claims{Method: "GET", Target: "https://api.example.com/"})
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(proof, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
