package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// caddyServer is Caddy running in the test process. Caddy has one configuration per process: tests that boot it must
// not be parallel.
type caddyServer struct {
	t       *testing.T
	logFile string
}

// startCaddy runs Caddy with a Caddyfile until the test ends. Everything it logs, at debug level, can be read with
// logs.
func startCaddy(t *testing.T, caddyfile string) *caddyServer {
	t.Helper()
	s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	if err := s.load(caddyfile); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	return s
}

// load replaces the running configuration, as a reload does; if it fails, the running one stays.
func (s *caddyServer) load(caddyfile string, edits ...func(root map[string]any)) error {
	config, err := adapt(caddyfile)
	if err != nil {
		return err
	}
	return s.loadJSON(config, edits...)
}

// loadJSON is load for a JSON configuration. It turns the admin endpoint off and logs to the test's file; edits come
// after that.
func (s *caddyServer) loadJSON(config []byte, edits ...func(root map[string]any)) error {
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		return err
	}
	root["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	s.logTo(root, "DEBUG")
	for _, edit := range edits {
		edit(root)
	}
	config, err := json.Marshal(root)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// logTo makes a configuration log to the test's file.
func (s *caddyServer) logTo(root map[string]any, level string) {
	root["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
		"level":  level,
		"writer": map[string]any{"output": "file", "filename": s.logFile, "roll": false},
	}}}
}

// logs returns what has been logged so far, a JSON object a line.
func (s *caddyServer) logs() string {
	s.t.Helper()
	content, err := os.ReadFile(s.logFile)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return string(content)
}

// logged returns the log entries with this message.
func (s *caddyServer) logged(message string) []map[string]any {
	s.t.Helper()
	var found []map[string]any
	for lines := bufio.NewScanner(bytes.NewReader([]byte(s.logs()))); lines.Scan(); {
		var entry map[string]any
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// adapt turns a Caddyfile into JSON.
func adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// lastPort is the port that freeAddr tried last. It begins anywhere below the ports that the system gives to outgoing
// connections, since one of those could be taken between freeAddr and its use.
var lastPort atomic.Int32

func init() { lastPort.Store(lowestPort + rand.Int32N(portRange)) }

const (
	lowestPort = 10_000
	portRange  = 20_000
)

// freeAddr returns a loopback address that nobody listens on, another one each time.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range portRange {
		port := lowestPort + lastPort.Add(1)%portRange
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("there is no free port")
	return ""
}

// testClient is an application's HTTP client: it neither follows redirects nor keeps connections after the test.
func testClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
