package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

const sdkFolder = "../examples/unchangeable-apps/elastic-path-sdk/"

// TestElasticPathSDK runs the example with the SDK as it is published, from the npm registry.
func TestElasticPathSDK(t *testing.T) {
	if apart.Run(t) {
		return
	}
	app := installSDK(t)
	const id, secret = "id-of-the-application-3K", "secret-of-the-application-8W"

	tokens := newElasticPathServer(t)
	var atEndpoint, atAPI lockedBuffer
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atEndpoint.dump(r)
		tokens.ServeHTTP(w, r)
	}))
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		atAPI.dump(r)
		sellBooks(w, r, tokens.Registry)
	})
	addr := freeAddr(t)
	config := readExample(t, sdkFolder+"sidecar.caddyfile")
	config = strings.Replace(config, "grant implicit", "grant implicit\n token_url "+endpoint.URL, 1)
	config = strings.Replace(config, "{env.EP_CLIENT_ID}", tokens.ClientID, 1)
	config = strings.Replace(config, "https://euwest.api.elasticpath.com {", api.URL+" {", 1)
	config = strings.ReplaceAll(config, ":8081", ":"+portNumber(addr))
	config = strings.Replace(config, "\tbind loopback/localhost\n", "\tbind loopback/localhost\n log\n", 1)
	server := startCaddy(t, config)

	node := exec.CommandContext(t.Context(), "node", "index.mjs")
	node.Dir = app
	node.Env = append(os.Environ(), "SIDECAR="+addr, "OLD_CLIENT_ID="+id, "OLD_CLIENT_SECRET="+secret)
	output, err := node.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\nthe sidecar says %s", err, output, server.logs())
	}
	if want := "1 A Room of One's Own\n2 The Waves\n"; !strings.HasSuffix(string(output), want) {
		t.Errorf("it wrote %q, want %q at the end", output, want)
	}
	wantCalls(t, tokens.TokenEndpoint, 1)

	if err := caddy.Stop(); err != nil { // now all is logged
		t.Fatal(err)
	}
	logs := server.logs()
	if n := strings.Count(logs, `"uri":"/oauth/access_token"`); n != 1 {
		t.Errorf("the SDK asked for a token %d times, for 3 requests", n)
	}
	received := api.received()
	if len(received) != 3 {
		t.Errorf("the API got %d requests, want 3", len(received))
	}
	for _, r := range received {
		value := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if issued, state := tokens.Registry.Lookup(value); state != devserver.Live || issued.ClientID != tokens.ClientID {
			t.Errorf("%s: the API did not get the real token", r.URI)
		}
		if r.Header.Get("X-Moltin-Sdk-Version") == "" {
			t.Errorf("%s: this request is not the SDK's", r.URI)
		}
	}
	for what, text := range map[string]string{"the application's id": id, "its secret": secret, "the placeholder": stubToken} {
		wantNowhere(t, what, text, map[string]string{
			"the log": logs, "requests to the token endpoint": atEndpoint.String(), "requests to the API": atAPI.String(),
		})
	}
}

// sellBooks is an API as the SDK knows it.
func sellBooks(w http.ResponseWriter, r *http.Request, tokens *devserver.Registry) {
	if _, state := tokens.Lookup(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")); state != devserver.Live {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	book := func(id, name string) string { return fmt.Sprintf(`{"type":"product","id":%q,"name":%q}`, id, name) }
	one, two := book("1", "A Room of One's Own"), book("2", "The Waves")
	answers := map[string]string{
		"/v2/products":   "[" + one + "," + two + "]",
		"/v2/products/1": one,
		"/v2/products/2": two,
	}
	data, ok := answers[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]json.RawMessage{"data": json.RawMessage(data)})
}

// noRegistry is how npm says that it cannot reach the registry.
var noRegistry = regexp.MustCompile(`ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED`)

// installSDK installs the example, exactly as locked, into a folder of its own.
func installSDK(t *testing.T) (folder string) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: the Elastic Path SDK is not tested, because %s is not installed", program)
		}
	}
	folder = t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "index.mjs"} {
		writeFile(t, filepath.Join(folder, name), readExample(t, sdkFolder+name))
	}
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund",
		"--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
	npm.Dir = folder
	if output, err := npm.CombinedOutput(); err != nil {
		if noRegistry.Match(output) {
			t.Skipf("SKIPPED: the Elastic Path SDK is not tested, because the npm registry cannot be reached: %s", output)
		}
		t.Fatalf("npm ci: %v: %s", err, output)
	}
	return folder
}

// TestSDKIsLocked: the lock file holds the exact version, and no registry's addresses.
func TestSDKIsLocked(t *testing.T) {
	var manifest struct {
		Dependencies map[string]string
	}
	var lock struct {
		Packages map[string]struct{ Version, Resolved, Integrity string }
	}
	for name, into := range map[string]any{"package.json": &manifest, "package-lock.json": &lock} {
		if err := json.Unmarshal([]byte(readExample(t, sdkFolder+name)), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for name, version := range manifest.Dependencies {
		if got := lock.Packages["node_modules/"+name].Version; got != version {
			t.Errorf("%s: package.json says %q, the lock file %q", name, version, got)
		}
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" || name != "" && p.Integrity == "" {
			t.Errorf("%s: resolved is %q, integrity %q", name, p.Resolved, p.Integrity)
		}
	}
}
