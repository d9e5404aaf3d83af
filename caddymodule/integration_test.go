package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
// after that. When it returns, the configuration that runs is the only one that takes connections.
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
	trackListeners(root)
	config, err := json.Marshal(root)
	if err != nil {
		return err
	}
	closing := openListeners()
	errLoad := caddy.Load(config, true)
	if errLoad != nil { // the running configuration stays, and what this one has opened is closed
		closing = slices.DeleteFunc(openListeners(), func(l *trackedListener) bool { return slices.Contains(closing, l) })
	}
	return errors.Join(errLoad, waitUntilClosed(closing))
}

// tracked is a listener wrapper that tells when a listener is closed. Caddy does not: after a reload it lets the old
// configuration's servers close their listeners while the reload is already over. Until they have, the kernel gives them
// some of the new connections, to be served by the old configuration, or to be reset.
type tracked struct{}

var (
	trackedMu   sync.Mutex
	trackedOpen = map[*trackedListener]bool{} // those that are open
)

func init() { caddy.RegisterModule(tracked{}) }

func (tracked) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.tracked", New: func() caddy.Module { return new(tracked) }}
}

func (tracked) WrapListener(l net.Listener) net.Listener {
	wrapped := &trackedListener{Listener: l, closed: make(chan struct{})}
	trackedMu.Lock()
	defer trackedMu.Unlock()
	trackedOpen[wrapped] = true
	return wrapped
}

type trackedListener struct {
	net.Listener
	closed chan struct{}
	once   sync.Once
}

// Close returns when the kernel no longer listens.
func (l *trackedListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		trackedMu.Lock()
		defer trackedMu.Unlock()
		delete(trackedOpen, l)
		close(l.closed)
	})
	return err
}

// trackListeners puts the wrapper around the listeners of all servers.
func trackListeners(root map[string]any) {
	apps, _ := root["apps"].(map[string]any)
	http, _ := apps["http"].(map[string]any)
	servers, _ := http["servers"].(map[string]any)
	for _, server := range servers {
		server := server.(map[string]any)
		wrappers, _ := server["listener_wrappers"].([]any)
		server["listener_wrappers"] = append(wrappers, map[string]any{"wrapper": "tracked"})
	}
}

func openListeners() []*trackedListener {
	trackedMu.Lock()
	defer trackedMu.Unlock()
	return slices.Collect(maps.Keys(trackedOpen))
}

func waitUntilClosed(listeners []*trackedListener) error {
	deadline := time.After(20 * time.Second)
	for _, l := range listeners {
		select {
		case <-l.closed:
		case <-deadline:
			return fmt.Errorf("the configuration before still listens on %s", l.Addr())
		}
	}
	return nil
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
