package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// The helpers that other packages' tests need too are in caddytest.
var (
	adapt            = caddytest.Adapt
	eventually       = caddytest.Eventually
	freeAddr         = caddytest.FreeAddr
	loopbackDNS      = caddytest.LoopbackDNS
	machineAddr      = caddytest.MachineAddr
	newClientID      = caddytest.NewClientID
	credentialConfig = caddytest.CredentialConfig
	globalOptions    = caddytest.GlobalOptions
	serveHTTP        = caddytest.ServeHTTP
	siteConfig       = caddytest.SiteConfig
	testClient       = caddytest.Client
)

// caddyServer is a caddytest.Server, to which files of this package add methods.
type caddyServer struct {
	t       *testing.T
	logFile string
}

func startCaddy(t *testing.T, caddyfile string) *caddyServer {
	t.Helper()
	s := caddytest.Start(t, caddyfile)
	return &caddyServer{s.T, s.LogFile}
}

func (s *caddyServer) server() caddytest.Server { return caddytest.Server{T: s.t, LogFile: s.logFile} }

func (s *caddyServer) load(caddyfile string, edits ...func(root map[string]any)) error {
	return s.server().Load(caddyfile, edits...)
}

func (s *caddyServer) loadJSON(config []byte, edits ...func(root map[string]any)) error {
	return s.server().LoadJSON(config, edits...)
}

func (s *caddyServer) logTo(root map[string]any, level string) { s.server().LogTo(root, level) }

func (s *caddyServer) logs() string {
	s.t.Helper()
	return s.server().Logs()
}

func (s *caddyServer) logged(message string) []map[string]any {
	s.t.Helper()
	return s.server().Logged(message)
}

type recordedRequest = caddytest.RecordedRequest

type recordingAPI struct{ *caddytest.RecordingAPI }

func newRecordingAPI(t *testing.T, h http.HandlerFunc, configure ...func(*httptest.Server)) *recordingAPI {
	t.Helper()
	return &recordingAPI{caddytest.NewRecordingAPI(t, h, configure...)}
}

func (a *recordingAPI) received() []recordedRequest { return a.Received() }

func (a *recordingAPI) connectionCount() int { return a.ConnectionCount() }

func (a *recordingAPI) only(t *testing.T) recordedRequest {
	t.Helper()
	return a.Only(t)
}

func (a *recordingAPI) addr() string { return a.Addr() }
