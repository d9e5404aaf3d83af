package caddymodule

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// The client of the tests of provider oauth2: what goes through an encoding wrongly shows.
const (
	oddID     = "a:b c"
	oddSecret = "p%&+ü /~*"
)

// testKeys are keys of every kind, made once: of each kind the right one, and another.
var testKeys = sync.OnceValue(func() map[string][2]crypto.Signer {
	pair := func(make func() (crypto.Signer, error)) (pair [2]crypto.Signer) {
		for i := range pair {
			key, err := make()
			if err != nil {
				panic(err)
			}
			pair[i] = key
		}
		return pair
	}
	curve := func(c elliptic.Curve) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
	}
	return map[string][2]crypto.Signer{
		"RSA":   pair(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }),
		"P-256": pair(curve(elliptic.P256())),
		"P-384": pair(curve(elliptic.P384())),
		"P-521": pair(curve(elliptic.P521())),
		"Ed25519": pair(func() (crypto.Signer, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return key, err
		}),
	}
})

// signingKeyOf is the right key of a kind, and anotherKeyOf one that the server does not know.
func signingKeyOf(kind string) crypto.Signer { return testKeys()[kind][0] }
func anotherKeyOf(kind string) crypto.Signer { return testKeys()[kind][1] }

func pemText(kind string, der []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pemText("PRIVATE KEY", der, err)
}

func publicPEM(key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return pemText("PUBLIC KEY", der, err)
}

func jwkOf(key any, id, alg string) string {
	text, err := jose.JSONWebKey{Key: key, KeyID: id, Algorithm: alg}.MarshalJSON()
	if err != nil {
		panic(err)
	}
	return string(text)
}

// googleKeyFile is a service account's key file as Google issues it.
func googleKeyFile(key crypto.Signer, id string) string {
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": id, "private_key": pkcs8(key),
		"client_email": oddID, "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// testCertificate is a client certificate, of its own authority, with its key.
type testCertificate struct {
	certificate, key string // PEM
	thumbprint       [sha256.Size]byte
}

func newTestCertificate(t testing.TB, key crypto.Signer, life time.Duration) testCertificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "a client"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(life),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return testCertificate{pemText("CERTIFICATE", der, err), pkcs8(key), sha256.Sum256(der)}
}

// secretPath makes a file with this content that its owner alone can read, and returns its name.
func secretPath(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	writeFile(t, name, content)
	return name
}

// inFile is the placeholder of a file.
func inFile(name string) string { return "{file." + name + "}" }

// options are JSON members of provider oauth2.
type options map[string]any

// with returns the options with others in their place.
func (o options) with(others options) options {
	all := maps.Clone(o)
	if all == nil {
		all = make(options)
	}
	maps.Copy(all, others)
	return all
}

// oauth2JSON is a credential of provider oauth2. What is nil is left out.
func oauth2JSON(id, secret string, o options, more ...options) string {
	provider := o.with(options{"name": "oauth2"})
	maps.DeleteFunc(provider, func(_ string, value any) bool { return value == nil })
	credential := options{"provider": provider, "client_id": id}
	if secret != "" {
		credential["client_secret"] = secret
	}
	for _, m := range more {
		credential = credential.with(m)
	}
	config, err := json.Marshal(credential)
	if err != nil {
		panic(err)
	}
	return string(config)
}

// oauth2Server is a token endpoint of the dialect oauth2, with what it has seen and said.
type oauth2Server struct {
	*httptest.Server

	mu       sync.Mutex
	endpoint *devserver.TokenEndpoint
	requests []capturedRequest // but those for metadata
	refusals []string
}

// newOAuth2Server serves demands at any path of a server, which may be one with TLS that asks for a certificate.
func newOAuth2Server(t *testing.T, withTLS bool, id, secret string, d devserver.Demands) *oauth2Server {
	t.Helper()
	s := new(oauth2Server)
	s.Server = serveHTTP(t, http.HandlerFunc(s.serve), func(srv *httptest.Server) {
		if withTLS {
			srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		}
	})
	s.demand(t, id, secret, d)
	return s
}

// demand has the server demand something else from now on.
func (s *oauth2Server) demand(t *testing.T, id, secret string, d devserver.Demands) {
	t.Helper()
	endpoint := &devserver.TokenEndpoint{Dialect: devserver.OAuth2, ClientID: id, ClientSecret: secret, Demands: d, Registry: devserver.NewRegistry()}
	if err := endpoint.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := endpoint.ValidateKeys(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoint = endpoint
}

func (s *oauth2Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.mu.Lock()
	endpoint := s.endpoint
	s.mu.Unlock()
	endpoint.ServeHTTP(w, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, capturedRequest{r, string(body)})
	s.refusals = append(s.refusals, w.Header().Get(devserver.RefusalHeader))
}

// last returns the last request, and why it was refused, if it was.
func (s *oauth2Server) last(t *testing.T) (capturedRequest, string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("the endpoint got no request")
	}
	return s.requests[len(s.requests)-1], s.refusals[len(s.refusals)-1]
}

func (s *oauth2Server) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// transport is how token requests get there: it trusts the server's certificate.
func (s *oauth2Server) transport() options {
	if s.Certificate() == nil {
		return nil
	}
	return options{"transport": options{"ca": pemText("CERTIFICATE", s.Certificate().Raw, nil)}}
}

// knows reports whether the server has issued a token.
func (s *oauth2Server) knows(issued provider.Issued) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, state := s.endpoint.Registry.Lookup(issued.Token.Reveal())
	return state == devserver.Live
}

// fileMode changes who can read a file.
func fileMode(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
