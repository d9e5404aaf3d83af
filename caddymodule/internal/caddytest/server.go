package caddytest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Server is Caddy running in the test process. Caddy has one configuration per process: tests that boot it must not be
// parallel, except with apart.Run.
type Server struct {
	T       *testing.T
	LogFile string
}

// NewServer is a server that has yet to load a configuration. Nothing stops it.
func NewServer(t *testing.T) Server {
	t.Helper()
	return Server{T: t, LogFile: filepath.Join(t.TempDir(), "caddy.log")}
}

// Start runs Caddy with a Caddyfile until the test ends. Everything it logs, at debug level, can be read with Logs.
func Start(t *testing.T, caddyfile string) Server {
	t.Helper()
	s := NewServer(t)
	if err := s.Load(caddyfile); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	return s
}

// StartOperated is Start with an admin endpoint at this address.
func StartOperated(t *testing.T, admin, caddyfile string) Server {
	t.Helper()
	s := NewServer(t)
	StopAtEnd(s)
	if err := s.Load(caddyfile, Operate(admin)); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	return s
}

// StopAtEnd stops Caddy with its admin endpoint, which caddy.Stop leaves alone.
func StopAtEnd(s Server) {
	s.T.Helper()
	s.T.Cleanup(func() {
		if err := errors.Join(s.LoadJSON([]byte("{}")), caddy.Stop()); err != nil {
			s.T.Errorf("stopping Caddy: %v", err)
		}
	})
}

// Operate gives a configuration an admin endpoint.
func Operate(admin string) func(root map[string]any) {
	return func(root map[string]any) {
		root["admin"] = map[string]any{"listen": admin, "config": map[string]any{"persist": false}}
	}
}

// Load replaces the running configuration, as a reload does; if it fails, the running one stays.
func (s Server) Load(caddyfile string, edits ...func(root map[string]any)) error {
	config, err := Adapt(caddyfile)
	if err != nil {
		return err
	}
	return s.LoadJSON(config, edits...)
}

// LoadJSON is Load for a JSON configuration. It turns the admin endpoint off and logs to the test's file; edits come
// after that. When it returns, the configuration that runs is the only one that takes connections.
func (s Server) LoadJSON(config []byte, edits ...func(root map[string]any)) error {
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		return err
	}
	root["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	s.LogTo(root, "DEBUG")
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

// LogTo makes a configuration log to the test's file.
func (s Server) LogTo(root map[string]any, level string) {
	root["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
		"level":  level,
		"writer": map[string]any{"output": "file", "filename": s.LogFile, "roll": false},
	}}}
}

// Logs returns what has been logged so far, a JSON object a line.
func (s Server) Logs() string {
	s.T.Helper()
	content, err := os.ReadFile(s.LogFile)
	if err != nil && !os.IsNotExist(err) {
		s.T.Fatal(err)
	}
	return string(content)
}

// Logged returns the log entries with this message.
func (s Server) Logged(message string) []map[string]any {
	s.T.Helper()
	var found []map[string]any
	for lines := bufio.NewScanner(bytes.NewReader([]byte(s.Logs()))); lines.Scan(); {
		var entry map[string]any
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// Adapt turns a Caddyfile into JSON.
func Adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}
