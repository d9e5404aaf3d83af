package systemtest

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// apiHost is the host of the API, as the example has it.
const apiHost = "catalogs.sandbox.optiturn.com"

// sidecar is examples/unchangeable-apps/https-proxy.caddyfile with a development token endpoint, and an API over TLS.
type sidecar struct {
	t      *testing.T
	folder string // with the Caddyfile, and bundle.pem
	addr   string
	tokens *devserver.TokenEndpoint
	api    *caddytest.RecordingAPI

	mu     sync.Mutex
	bodies []string // that reached the API
}

// newSidecar writes the configuration. tunnel is a line for the wrapper https_proxy, which may be empty.
func newSidecar(t *testing.T, tunnel string) *sidecar {
	t.Helper()
	s := &sidecar{t: t, folder: t.TempDir(), addr: caddytest.FreeAddr(t)}
	var tokenURL string
	s.tokens, tokenURL = caddytest.NewTokenEndpoint(t)
	api := &devserver.API{Registry: s.tokens.Registry}
	s.api = caddytest.NewRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		s.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		api.ServeHTTP(w, r)
	}, func(srv *httptest.Server) { srv.TLS = new(tls.Config) })
	s.write("authorities.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.api.Certificate().Raw})))
	s.write("client-secret", devserver.DefaultClientSecret)

	example, err := os.ReadFile("../../../examples/unchangeable-apps/https-proxy.caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s.write("Caddyfile", replace(t, string(example),
		"\n{\n", "\n{\n admin off\n",
		"127.0.0.1:3128 {", s.addr+" {",
		"https_proxy {", "https_proxy {\n"+tunnel,
		"provider optoro sandbox", "provider optoro {\n token_url "+tokenURL+"\n }",
		"/run/secrets/optoro", filepath.Join(s.folder, "client-secret"),
		apiHost+":3128", apiHost+":"+portOf(s.addr),
		"token_proxy catalog https://"+apiHost, "token_proxy catalog "+s.api.URL,
	))
	return s
}

// replace replaces texts that must be there.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the example has no %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func (s *sidecar) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// command is a command of the program in the environment of the sidecar, whose system trusts the API.
func (s *sidecar) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = s.folder
	cmd.Env = append(s.environment(), "TEST_PROGRAM=1", "OPTORO_CLIENT_ID="+s.tokens.ClientID,
		"SSL_CERT_FILE="+filepath.Join(s.folder, "authorities.pem"), "SSL_CERT_DIR=/nowhere")
	return cmd
}

// environment is what the sidecar and its applications have in common. The application in Go is in the PATH.
func (s *sidecar) environment() []string {
	return []string{"PATH=" + orderFolder + string(filepath.ListSeparator) + os.Getenv("PATH"), "NODE_PATH=" + os.Getenv("NODE_PATH"), "HOME=" + s.folder}
}

// start makes the trust bundle, and runs the sidecar until the test ends.
func (s *sidecar) start() {
	s.t.Helper()
	if out, err := s.command("trust-bundle", "--output", "bundle.pem").CombinedOutput(); err != nil {
		s.t.Fatalf("trust-bundle: %v: %s", err, out)
	}
	log, err := os.Create(filepath.Join(s.folder, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command("run")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.t.Failed() {
			content, _ := os.ReadFile(log.Name())
			s.t.Logf("the sidecar: %s", content)
		}
	})
	caddytest.Eventually(s.t, "a certificate for the API", func() bool {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{ServerName: apiHost, InsecureSkipVerify: true})
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// reached returns how many requests have reached the API.
func (s *sidecar) reached() int { return len(s.api.Received()) }

// wantOrder checks the last request that reached the API, and that it is the only one since before.
func (s *sidecar) wantOrder(t *testing.T, before int) {
	t.Helper()
	all := s.api.Received()
	if len(all) != before+1 {
		t.Fatalf("the API got %d requests, want 1", len(all)-before)
	}
	last := all[before]
	scheme, token, _ := strings.Cut(last.Header.Get("Authorization"), " ")
	if issued, state := s.tokens.Registry.Lookup(token); scheme != "Bearer" || state != devserver.Live || issued.ClientID != s.tokens.ClientID {
		t.Errorf("the API got a request without a token of %s", s.tokens.ClientID)
	}
	s.mu.Lock()
	body := s.bodies[before]
	s.mu.Unlock()
	if last.Method != http.MethodPost || last.URI != "/orders" || body != order || !last.TLS {
		t.Errorf("the API got %s %s, TLS %t, with the body %q", last.Method, last.URI, last.TLS, body)
	}
	if got := last.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the API got the type %s", got)
	}
}
