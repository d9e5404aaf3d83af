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
