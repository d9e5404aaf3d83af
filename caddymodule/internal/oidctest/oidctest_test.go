package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// jwt signs with ES256 and no library, because these tests judge the servers and not a client.
func jwt(t *testing.T, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	segment := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	header = maps.Clone(header)
	header["alg"] = "ES256"
	text := segment(header) + "." + segment(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// proofOf returns the claims of a good proof.
func proofOf(method, url, nonce, token string) map[string]any {
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": url, "iat": time.Now().Unix()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return claims
}

func signProof(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	return jwt(t, key, map[string]any{"typ": "dpop+jwt", "jwk": jwk}, claims)
}

// send sends a request, and returns the status, the answer, the challenge, and the nonce of the server.
func send(t *testing.T, r *http.Request) (status int, answer map[string]any, challenge, nonce string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	return resp.StatusCode, answer, resp.Header.Get("WWW-Authenticate"), resp.Header.Get("DPoP-Nonce")
}

// tokenRequest returns a token request with a new client assertion.
func (s *Server) tokenRequest(t *testing.T, proof string) *http.Request {
	t.Helper()
	text, err := os.ReadFile(s.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {s.Scope}, "client_id": {s.ClientID},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion": {jwt(t, key.(*ecdsa.PrivateKey), map[string]any{"typ": "JWT"}, map[string]any{
			"iss": s.ClientID, "sub": s.ClientID, "aud": s.Issuer, "iat": now, "exp": now + 60, "jti": rand.Text(),
		})},
	}
	r, err := http.NewRequest(http.MethodPost, s.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	return r
}

func (s *Server) apiRequest(t *testing.T, authorization, proof string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, s.API+"/v1/orders/7?a=1", strings.NewReader("two books"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", authorization)
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	return r
}

// TestServers does by hand what a client of these servers must do. It also sends what they must refuse.
func TestServers(t *testing.T) {
	s := Start(t)
	key := newKey(t)
	token, nonce := s.token(t, key)
	s.useToken(t, key, token)

	t.Run("metadata", func(t *testing.T) {
		r, err := http.NewRequest(http.MethodGet, s.Issuer+"/.well-known/openid-configuration", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, metadata, _, _ := send(t, r)
		if metadata["issuer"] != s.Issuer || metadata["token_endpoint"] != s.TokenURL || metadata["dpop_signing_alg_values_supported"] == nil {
			t.Errorf("got %v", metadata)
		}
	})
	t.Run("each claim of the proof at the token endpoint", func(t *testing.T) {
		for _, name := range []string{"jti", "htm", "htu", "iat", "nonce"} {
			claims := proofOf("POST", s.TokenURL, nonce, "")
			delete(claims, name)
			status, answer, _, _ := send(t, s.tokenRequest(t, signProof(t, key, claims)))
			want := "invalid_dpop_proof"
			if name == "nonce" {
				want = "use_dpop_nonce"
			}
			if status != 400 || answer["error"] != want {
				t.Errorf("without %s: got %d %v", name, status, answer)
			}
		}
		if status, answer, _, _ := send(t, s.tokenRequest(t, "")); status != 400 {
			t.Errorf("without a proof: got %d %v", status, answer)
		}
	})
	t.Run("each claim of the proof at the API", func(t *testing.T) {
		_, _, _, nonce := send(t, s.apiRequest(t, "DPoP "+token, ""))
		for _, name := range []string{"jti", "htm", "htu", "iat", "ath", "nonce"} {
			claims := proofOf("PUT", s.API+"/v1/orders/7", nonce, token)
			delete(claims, name)
			if status, answer, _, _ := send(t, s.apiRequest(t, "DPoP "+token, signProof(t, key, claims))); status != 401 {
				t.Errorf("without %s: got %d %v", name, status, answer)
			}
		}
		good := func(signer *ecdsa.PrivateKey) string {
			return signProof(t, signer, proofOf("PUT", s.API+"/v1/orders/7", nonce, token))
		}
		for what, r := range map[string]*http.Request{
			"another key":      s.apiRequest(t, "DPoP "+token, good(newKey(t))),
			"the scheme":       s.apiRequest(t, "Bearer "+token, good(key)),
			"no proof":         s.apiRequest(t, "Bearer "+token, ""),
			"an unknown token": s.apiRequest(t, "DPoP x"+token, good(key)),
		} {
			if status, answer, _, _ := send(t, r); status != 401 {
				t.Errorf("%s: got %d %v", what, status, answer)
			}
		}
		if status, answer, _, _ := send(t, s.apiRequest(t, "DPoP "+token, good(key))); status != 200 {
			t.Errorf("a good proof: got %d %v", status, answer)
		}
	})
}

// token gets a token, whose proof needs a nonce that the server hands out.
func (s *Server) token(t *testing.T, key *ecdsa.PrivateKey) (token, nonce string) {
	t.Helper()
	status, answer, _, nonce := send(t, s.tokenRequest(t, signProof(t, key, proofOf("POST", s.TokenURL, "", ""))))
	if status != 400 || answer["error"] != "use_dpop_nonce" || nonce == "" {
		t.Fatalf("without a nonce: got %d %v", status, answer)
	}
	proof := signProof(t, key, proofOf("POST", s.TokenURL, nonce, ""))
	status, answer, _, _ = send(t, s.tokenRequest(t, proof))
	token, _ = answer["access_token"].(string)
	if status != 200 || answer["token_type"] != "DPoP" || answer["scope"] != s.Scope || token == "" {
		t.Fatalf("with a nonce: got %d %v", status, answer)
	}
	if status, answer, _, _ = send(t, s.tokenRequest(t, proof)); status != 400 || answer["access_token"] != nil {
		t.Errorf("a replayed proof: got %d %v", status, answer)
	}
	return token, nonce
}

// useToken uses a token at the API, with a nonce that the API hands out.
func (s *Server) useToken(t *testing.T, key *ecdsa.PrivateKey, token string) {
	t.Helper()
	const target = "/v1/orders/7"
	ask := func(nonce string) (int, map[string]any, string, string, string) {
		proof := signProof(t, key, proofOf("PUT", s.API+target, nonce, token))
		status, answer, challenge, next := send(t, s.apiRequest(t, "DPoP "+token, proof))
		return status, answer, challenge, next, proof
	}
	status, answer, challenge, nonce, _ := ask("")
	if status != 401 || !strings.HasPrefix(challenge, `DPoP error="use_dpop_nonce"`) || nonce == "" {
		t.Errorf("without a nonce: got %d %v %s", status, answer, challenge)
	}
	status, answer, _, _, proof := ask(nonce)
	want := map[string]any{"method": "PUT", "url": target + "?a=1", "body": "two books"}
	if status != 200 || !maps.Equal(answer, want) {
		t.Errorf("with a nonce: got %d %v", status, answer)
	}
	if status, answer, _, _ = send(t, s.apiRequest(t, "DPoP "+token, proof)); status != 401 || answer["error"] != "invalid_dpop_proof" {
		t.Errorf("a replayed proof: got %d %v", status, answer)
	}
	s.RotateNonce(t)
	if status, answer, _, next, _ := ask(nonce); status != 401 || answer["error"] != "use_dpop_nonce" || next == nonce {
		t.Errorf("an old nonce: got %d %v", status, answer)
	}

	var events []string
	for _, e := range s.Events(t) {
		if e.Proof["jti"] == nil || e.JWK["kty"] != "EC" {
			t.Errorf("an event has the proof %v with the key %v", e.Proof, e.JWK)
		}
		events = append(events, strings.TrimSpace(fmt.Sprintln(e.Server, e.Status, e.Error)))
	}
	if want := []string{
		"token 400 use_dpop_nonce", "token 200", "token 400 invalid_grant",
		"api 401 use_dpop_nonce", "api 200", "api 401 invalid_dpop_proof", "api 401 use_dpop_nonce",
	}; !slices.Equal(events, want) {
		t.Errorf("the servers answered %q", events)
	}
}
