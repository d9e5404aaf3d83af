// Package oidctest runs an authorization server and a protected resource that demand DPoP, for tests. This project has no
// part in how they judge requests. The authorization server is oidc-provider, and the protected resource verifies tokens and
// proofs with oauth4webapi. Both are packages for Node that NODE_PATH must name.
//
//	s := oidctest.Start(t)
//	// a client with private_key_jwt: s.Issuer, s.TokenURL, s.ClientID, s.KeyFile, s.Scope
//	// the API that demands its tokens: s.API
//	// what both servers answered: s.Events(t)
package oidctest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// patience is the deadline of what must happen. No test waits for it to pass.
const patience = 2 * time.Minute

//go:embed server.cjs
var program []byte

// Server is an authorization server with one client, and an API that demands its tokens. Both listen on loopback without
// TLS, and demand a proof with a nonce of their own for each request.
type Server struct {
	// Issuer is the URL of the authorization server, without a path. Its metadata are at the well-known places.
	Issuer string `json:"issuer"`
	// TokenURL is the token endpoint. It refuses a proof or a client assertion that it has seen before.
	TokenURL string `json:"-"`
	// API is the URL of the API, without a path. It answers each path with Answer, and refuses a proof that it has seen before.
	API string `json:"api"`
	// ClientID is the client. It authenticates with private_key_jwt, and gets only tokens that are bound to a key.
	ClientID string `json:"-"`
	// KeyFile has the private key of the client for ES256, in PEM. The audience of its assertions is the issuer.
	KeyFile string `json:"-"`
	// Scope is the only scope that the client may request.
	Scope string `json:"-"`
}

// Answer is the answer of the API.
type Answer struct {
	Method      string // of the request
	URL         string // its path and query
	Body        string // its body
	Error       string // the error code of the challenge, or empty
	Description string // the reason, or empty
}

// Event is an answer to a request with or without a good proof.
type Event struct {
	Server string         // token or api
	Status int            // of the answer
	Error  string         // the error code of the answer, or empty
	Proof  map[string]any // the claims of the DPoP proof, or nil
	JWK    map[string]any // the key in the header of the proof, or nil
}

// Start runs both servers until the test ends. It skips the test if Node or one of the packages is missing.
func Start(t *testing.T) *Server {
	t.Helper()
	mustBeInstalled(t)
	s := &Server{ClientID: "shop", Scope: "orders", KeyFile: filepath.Join(t.TempDir(), "client.pem")}
	settings, err := json.Marshal(map[string]any{"client_id": s.ClientID, "scope": s.Scope, "client_key": s.newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	s.run(t, string(settings))
	s.TokenURL = s.Issuer + "/token"
	return s
}

func mustBeInstalled(t *testing.T) {
	t.Helper()
	// oidc-provider needs URL.parse, which Node 22 added.
	const check = `URL.parse("http://a.example"); require("oidc-provider"); require("oauth4webapi")`
	if out, err := exec.Command("node", "-e", check).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: Node 22 with oidc-provider and oauth4webapi is not installed; NODE_PATH is %q: %v: %.300s",
			os.Getenv("NODE_PATH"), err, out)
	}
}

// newKey writes the key of the client into its file, and returns the public half.
func (s *Server) newKey(t *testing.T) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key.Public(), Algorithm: string(jose.ES256), Use: "sig"}
}

// run starts the program and waits until it listens. The program ends when its stdin does, so that it does not outlive a
// test that crashes.
func (s *Server) run(t *testing.T, settings string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.cjs")
	if err := os.WriteFile(file, program, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", file, settings)
	var stderr bytes.Buffer // read once the program has ended
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the server ended with %v, and wrote: %s", err, &stderr)
		}
	})
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, s)
	}
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
}

// Events returns all answers of the token endpoint and of the API, oldest first.
func (s *Server) Events(t *testing.T) (events []Event) {
	t.Helper()
	resp, err := http.Get(s.API + "/_events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&events); err != nil {
		t.Fatal(err)
	}
	return events
}

// RotateNonce replaces the nonce of the API. The API refuses the one before.
func (s *Server) RotateNonce(t *testing.T) {
	t.Helper()
	resp, err := http.Get(s.API + "/_rotate")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}
