package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// boundTokens is a token endpoint that issues tokens of the type DPoP and checks nothing.
func boundTokens(t *testing.T) *recordingAPI {
	return newRecordingAPI(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","token_type":"DPoP","expires_in":3600}`))
}

// refuseProof answers as an API that demands another proof.
func refuseProof(w http.ResponseWriter, code, nonce string) {
	if nonce != "" {
		w.Header().Set("DPoP-Nonce", nonce)
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", code))
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprint(w, `{"error":"the proof is refused"}`)
}

// Many requests run at the same time. Answers with a nonce from before its last change arrive between a refusal and the second attempt.
func TestDPoPLateNonces(t *testing.T) {
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if claims, _ := proofIn(t, r.Header); claims["nonce"] != "present" {
			refuseProof(w, "use_dpop_nonce", "present")
			return
		}
		w.Header().Set("DPoP-Nonce", "past")
	})
	_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				res, err := testClient(t).Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("the application got %d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
}

// The nonce of another answer arrives between a refusal and the second attempt, which has the nonce of the refusal nevertheless.
func TestDPoPNonceOfTheRefusal(t *testing.T) {
	var url string
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/past" {
			w.Header().Set("DPoP-Nonce", "past")
			return
		}
		if claims, _ := proofIn(t, r.Header); claims["nonce"] == "present" {
			return
		}
		refuseProof(w, "use_dpop_nonce", "present")
		_ = http.NewResponseController(w).Flush()
		res, err := testClient(t).Get(url + "/past") // while the proxy reads the refusal to its end
		if err != nil {
			t.Error(err)
			return
		}
		_ = res.Body.Close()
	})
	_, url = startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
	get(t, url).wantStatus(t, 200)
}

// noncesIn returns the nonces in the proofs of requests.
func noncesIn(t *testing.T, requests []recordedRequest) string {
	t.Helper()
	var nonces []any
	for _, r := range requests {
		claims, _ := proofIn(t, r.Header)
		nonces = append(nonces, claims["nonce"])
	}
	return fmt.Sprint(nonces)
}

// The nonce of each answer is in the next proof, whatever the status.
func TestDPoPNonceOfEachAnswer(t *testing.T) {
	t.Run("API", func(t *testing.T) {
		statuses := []int{200, 404, 500, 403, 204, 200}
		var n atomic.Int64
		api := newRecordingAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			answer := n.Add(1)
			w.Header().Set("DPoP-Nonce", fmt.Sprint("n", answer))
			w.WriteHeader(statuses[answer-1])
		})
		_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
		for _, status := range statuses {
			get(t, url).wantStatus(t, status)
		}
		if got := noncesIn(t, api.received()); got != "[<nil> n1 n2 n3 n4 n5]" {
			t.Errorf("the proofs have the nonces %s", got)
		}
	})
	t.Run("token endpoint", func(t *testing.T) {
		id := newClientID()
		demanded := devserver.DPoP{Mode: "required"}
		s := newDPoPServers(t, id, demanded, demanded)
		tokens := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("DPoP-Nonce", "n1")
			s.endpoint.ServeHTTP(w, r)
		})
		_, url := startProxy(t, dpopCredential(id, tokens.URL), "token_proxy api "+s.received.URL)
		get(t, url).wantStatus(t, 200)
		s.endpoint.Registry.RevokeAll(id)
		get(t, url).wantStatus(t, 200)
		if got := noncesIn(t, tokens.received()); got != "[<nil> n1]" {
			t.Errorf("the proofs have the nonces %s", got)
		}
	})
}

// A proof has the method and the URL of the request that the API gets, whatever Caddy has changed. Each attempt of reverse_proxy has a
// proof of its own.
func TestDPoPProofIsOfTheSentRequest(t *testing.T) {
	plain := func(*httptest.Server) {}
	for name, tc := range map[string]struct {
		configure func(*httptest.Server)
		before    string // before the directive
		options   string
		want      string // method and URL; HOST is the address of the API
	}{
		"as it is":                  {plain, "", "header_up Host {upstream_hostport}", "POST http://HOST/x/a%2fb/../%7Ec"},
		"HTTP/2 over TLS":           {serveHTTPS, "", "", "POST https://HOST/x/a%2fb/../%7Ec"},
		"rewritten before":          {serveHTTPS, "rewrite * /new{uri}", "", "POST https://HOST/new/x/a/b/../~c"},
		"rewritten by the proxy":    {serveHTTPS, "", "method PUT\nrewrite /other?c=d", "PUT https://HOST/other"},
		"another Host":              {serveHTTPS, "", "header_up Host API.example.com:443", "POST https://api.example.com/x/a%2fb/../%7Ec"},
		"after an upstream is down": {plain, "", "to DOWN\nlb_policy round_robin\nlb_retries 1\nheader_up Host {upstream_hostport}", "POST http://HOST/x/a%2fb/../%7Ec"},
	} {
		t.Run(name, func(t *testing.T) {
			api := newRecordingAPI(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, tc.configure)
			options := strings.Replace(tc.options, "DOWN", "http://"+freeAddr(t), 1)
			if api.Certificate() != nil {
				options += "\n" + trusting(t, api.Server)
			}
			_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), tc.before+"\ntoken_proxy api "+api.URL+" {\n"+options+"\n}")
			for range 2 {
				post(t, url+"/x/a%2fb/../%7Ec?d=e", "two books").wantStatus(t, 200)
			}
			seen := make(map[any]bool)
			for _, r := range api.received() {
				claims, _ := proofIn(t, r.Header)
				if got, want := fmt.Sprint(claims["htm"], " ", claims["htu"]), strings.Replace(tc.want, "HOST", api.addr(), 1); got != want {
					t.Errorf("the proof is of %s, want %s", got, want)
				}
				if path, _, _ := strings.Cut(r.URI, "?"); !strings.HasSuffix(tc.want, path) || !strings.HasPrefix(tc.want, r.Method+" ") {
					t.Errorf("the API got %s %s", r.Method, r.URI)
				}
				seen[claims["jti"]] = true
			}
			if len(seen) != 2 {
				t.Errorf("%d proofs for 2 requests", len(seen))
			}
		})
	}
}

// The servers behind a load balancer have their own nonces. The load balancer chooses one for each connection.
func TestDPoPLoadBalancer(t *testing.T) {
	type serverKey struct{}
	var connections atomic.Int64
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		own := fmt.Sprint("nonce-", r.Context().Value(serverKey{}))
		if claims, _ := proofIn(t, r.Header); claims["nonce"] != own {
			refuseProof(w, "use_dpop_nonce", own)
		}
	}, func(srv *httptest.Server) {
		srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, serverKey{}, connections.Add(1))
		}
	})
	_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
	// net/http keeps a connection only if it has sent the request soon enough, which depends on the load of this machine.
	eventually(t, "a second attempt with a body on the same connection", func() bool { return post(t, url, "two books").StatusCode == 200 })
}

// A gateway checks the proofs, and passes on the answers of a server whose clock is wrong.
func TestDPoPDateOfAnotherServer(t *testing.T) {
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		claims, _ := proofIn(t, r.Header)
		if at, _ := claims["iat"].(float64); time.Since(time.Unix(int64(at), 0)).Abs() > 5*time.Minute {
			refuseProof(w, "invalid_dpop_proof", "")
			return
		}
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
	})
	_, url := startProxy(t, dpopCredential(newClientID(), boundTokens(t).URL), "token_proxy api "+api.URL)
	for range 2 {
		post(t, url, strings.Repeat("x", defaultReplayBuffer+1)).wantStatus(t, 200)
	}
}

// A gateway checks the proofs of token requests, and passes on the Date of a token endpoint whose clock is wrong.
func TestDPoPDateOfAnIssuedToken(t *testing.T) {
	id := newClientID()
	demanded := devserver.DPoP{Mode: "required"}
	s := newDPoPServers(t, id, demanded, demanded)
	tokens := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		s.endpoint.ServeHTTP(w, r)
	})
	_, url := startProxy(t, dpopCredential(id, tokens.URL), "token_proxy api "+s.received.URL)
	get(t, url).wantStatus(t, 200)
	s.endpoint.Registry.RevokeAll(id)
	get(t, url).wantStatus(t, 200)
	if calls := s.endpoint.Calls(); calls != 2 {
		t.Errorf("%d token requests", calls)
	}
}

// The same token travels in the field that goes with its type.
func TestFieldOfTheType(t *testing.T) {
	var f tokenField
	token, bearer := provider.NewSecret("T0KEN"), &TokenHeader{Name: "Authorization", prefix: "Bearer "}
	for range 2 {
		if got := f.of(bearer, token).values[0]; got != "Bearer T0KEN" {
			t.Errorf("the bearer token is sent as %s", got)
		}
		if got := f.of(&dpopHeader, token).values[0]; got != "DPoP T0KEN" {
			t.Errorf("the bound token is sent as %s", got)
		}
	}
}

// With a generated key, the proxy takes an algorithm that the issuer supports, from the first token request on.
func TestDPoPAlgOfTheIssuer(t *testing.T) {
	for name, tc := range map[string]struct {
		listed, options, want string
	}{
		"no list":               {"", "", "ES256"},
		"ES256 among others":    {`["PS256","ES256"]`, "", "ES256"},
		"others only":           {`["none","PS256","EdDSA"]`, "", "EdDSA"},
		"none that is known":    {`["none",7]`, "", "ES256"},
		"dpop_alg is set":       {`["PS256"]`, "dpop_alg ES384", "ES384"},
		"dpop_key is of a kind": {`["PS256"]`, "dpop_key " + inFile(secretPath(t, pkcs8(signingKeyOf("P-256")))), "ES256"},
	} {
		t.Run(name, func(t *testing.T) {
			id := newClientID()
			demand := func(d *devserver.Demands, a *devserver.API) {
				d.DPoP.Algs, a.DPoP.Algs = []string{tc.want}, []string{tc.want}
			}
			s := newDPoPServers(t, id, devserver.DPoP{Mode: "required"}, devserver.DPoP{Mode: "required"}, demand)
			handler := s.tokens.Config.Handler
			s.tokens.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					handler.ServeHTTP(w, r)
					return
				}
				list := ""
				if tc.listed != "" {
					list = `,"dpop_signing_alg_values_supported":` + tc.listed
				}
				fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q%s}`, s.tokens.URL, s.tokens.URL+"/token", list)
			})
			config := strings.Replace(dpopCredential(id, s.tokens.URL, tc.options), "token_url", "issuer", 1)
			_, url := startProxy(t, config, "token_proxy api "+s.received.URL)
			get(t, url).wantStatus(t, 200)
			if n := s.endpoint.Calls(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}
