package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// deliberate are the warnings that examples start with on purpose. Each must come, and no others.
var deliberate = []struct {
	examples string // a regular expression of their names
	warnings []string
}{
	// A recipe is about its vendor. Caddy's default protocols would take as many lines as the client.
	{`^providers/`, []string{skippedHTTP2, skippedHTTP3}},
	{`^(Caddyfile.example|tenants/token-proxy.caddyfile|kubernetes/rehearsal/(development-servers|outage|revoked).caddyfile)$`, []string{
		"serving a development API; not for production", "serving a development token endpoint; not for production",
	}},
	// So that it runs without a file or a variable.
	{`^Caddyfile.example$`, []string{
		"client_secret is in the configuration itself, which the admin API and autosave.json show; use {file./path} or {env.NAME}",
	}},
	{`^(windows|unchangeable-apps)/[^/]*$`, []string{"admin endpoint disabled"}},
}

const (
	skippedHTTP2 = "HTTP/2 skipped because it requires TLS"
	skippedHTTP3 = "HTTP/3 skipped because it requires TLS"
)

// TestExamplesLoad starts every example, on other ports, with the variables set and the files there that it names. The log of
// the start has no warning that is not deliberate.
func TestExamplesLoad(t *testing.T) {
	stopped := caddytest.NewServer(t)
	caddytest.StopAtEnd(stopped)
	paths := examples(t)
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		t.Run(name, func(t *testing.T) {
			config, err := adapt(withFiles(t, readExample(t, paths[name])))
			if err != nil {
				t.Fatal(err)
			}
			server := caddytest.NewServer(t)
			if err := server.LoadJSON(config, onThisMachine(t, server, config)); err != nil {
				t.Fatal(err)
			}
			if got, want := startWarnings(t, server), deliberateWarnings(name); !slices.Equal(got, want) {
				t.Errorf("it starts with the warnings %q, want %q:\n%s", got, want, server.Logs())
			}
		})
	}
}

func deliberateWarnings(example string) (warnings []string) {
	for _, d := range deliberate {
		if regexp.MustCompile(d.examples).MatchString(example) {
			warnings = append(warnings, d.warnings...)
		}
	}
	slices.Sort(warnings)
	return warnings
}

// startWarnings returns the warnings and errors in the log, each once.
func startWarnings(t *testing.T, server caddytest.Server) (found []string) {
	t.Helper()
	for line := range strings.Lines(server.Logs()) {
		if !strings.HasSuffix(line, "\n") {
			continue // it is being written, after the start
		}
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if entry.Level == "warn" || entry.Level == "error" {
			found = append(found, entry.Msg)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// onThisMachine makes an example listen on free ports and sockets, and write into folders of the test. It calls no token
// endpoint, and shares nothing, because its Redis is not there. The loggers that it excludes stay so, as does the kind of its
// admin endpoint.
func onThisMachine(t *testing.T, server caddytest.Server, config []byte) func(root map[string]any) {
	t.Helper()
	folder, err := os.MkdirTemp("", "tp") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	var original map[string]any
	if err := json.Unmarshal(config, &original); err != nil {
		t.Fatal(err)
	}
	return func(root map[string]any) {
		if admin := at(original, "admin"); admin["disabled"] != true {
			address := freeAddr(t)
			if listen, _ := admin["listen"].(string); strings.HasPrefix(listen, "unix/") {
				address = "unix/" + filepath.Join(folder, "admin.sock")
			}
			caddytest.Operate(address)(root)
		}
		if excluded := at(original, "logging", "logs", "default")["exclude"]; excluded != nil {
			at(root, "logging", "logs", "default")["exclude"] = excluded
		}
		root["storage"] = map[string]any{"module": "file_system", "root": filepath.Join(folder, "data")}
		delete(at(root, "apps", "token_proxy"), "share")
		delete(at(root, "apps", "http"), "shutdown_delay") // of the gateway
		for _, credential := range at(root, "apps", "token_proxy", "credentials") {
			delete(credential.(map[string]any), "prefetch")
		}
		ports := make(map[string]string) // the free ones by those of the example
		for _, server := range at(root, "apps", "http", "servers") {
			listen := server.(map[string]any)["listen"].([]any)
			for i, address := range listen {
				listen[i] = freed(t, address.(string), folder, ports)
			}
		}
	}
}

var portAtEnd = regexp.MustCompile(`:\d+$`)

// freed returns an address of the same kind that is free.
func freed(t *testing.T, address, folder string, ports map[string]string) string {
	t.Helper()
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		return "unix/" + filepath.Join(folder, filepath.Base(path))
	}
	if strings.HasPrefix(address, "fd/") { // of a service manager
		address = "loopback/localhost:" + address[len("fd/"):]
	}
	port := portAtEnd.FindString(address)
	if port == "" {
		t.Fatalf("%s has no port", address)
	}
	if ports[port] == "" {
		ports[port] = ":" + portNumber(freeAddr(t))
	}
	return strings.TrimSuffix(address, port) + ports[port]
}

// at returns an object in JSON, or nil.
func at(root map[string]any, path ...string) map[string]any {
	for _, name := range path {
		root, _ = root[name].(map[string]any)
	}
	return root
}

// examples returns the path of every example by its name.
func examples(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{"Caddyfile.example": "../Caddyfile.example"}
	err := filepath.WalkDir("../examples", func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".caddyfile") {
			found[strings.TrimPrefix(filepath.ToSlash(path), "../examples/")] = path
		}
		return err
	})
	if err != nil || len(found) < 2 {
		t.Fatal(fmt.Errorf("looking for examples: found %d, error %w", len(found), err))
	}
	return found
}
