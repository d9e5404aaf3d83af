package caddymodule

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

const legacyFolder = "../examples/legacy-apps"

// legacyApps are the programs of examples/legacy-apps, and what runs them.
var legacyApps = map[string][]string{
	"curl.sh":     {"sh", "curl.sh"},
	"orders.py":   {"python3", "orders.py"},
	"orders.php":  {"php", "orders.php"},
	"Orders.java": {"java", "-XX:TieredStopAtLevel=1", "Orders.java"},
	"orders.mjs":  {"node", "orders.mjs"},
	"cron.sh":     {"sh", "cron.sh", "FILE"},
}

// TestLegacyApps runs each program against a sidecar, and against one that refuses it.
func TestLegacyApps(t *testing.T) {
	if apart.Run(t) {
		return
	}
	files, err := os.ReadDir(legacyFolder)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if legacyApps[file.Name()] == nil && file.Name() != "README.md" {
			t.Errorf("%s is not tested", file.Name())
		}
	}
	tokens := newTokenServer(t)
	good, bad := freeAddr(t), freeAddr(t)
	startCaddy(t, globalOptions(tokens.credential("api"))+
		siteConfig(good, "token_proxy api "+serveHTTP(t, tokens.api()).URL)+
		siteConfig(bad, "token_proxy api http://127.0.0.1:1 {\n clients 192.0.2.0/24\n}"))

	var group sync.WaitGroup
	for name := range legacyApps { // all at once, since much of it is waiting
		group.Go(func() {
			t.Run(name, func(t *testing.T) {
				answer, err := runLegacyApp(t, name, good)
				if err != nil {
					t.Fatal(err)
				}
				wantOrders(t, answer, tokens.ClientID)
				if answer, err := runLegacyApp(t, name, bad); err == nil || answer != "" {
					t.Errorf("it is refused and succeeds, and writes %q", answer)
				}
			})
		})
	}
	group.Wait()
	wantCalls(t, tokens.TokenEndpoint, 1)
}

// TestCronComesBack: a token endpoint that is down for a moment does not cost the hour's orders.
func TestCronComesBack(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens := newTokenServer(t)
	tokens.SetFault(devserver.Fault{Status: 503, Count: 3})
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	answer, err := runLegacyApp(t, "cron.sh", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	wantOrders(t, answer, tokens.ClientID)
	wantCalls(t, tokens.TokenEndpoint, 4) // three of them for a request that failed
}

// runLegacyApp runs a program, and returns what it writes, be it into a file.
func runLegacyApp(t *testing.T, name, addr string) (string, error) {
	t.Helper()
	command := legacyApps[name]
	needs := command[:1]
	if command[0] == "sh" {
		needs = []string{"sh", "curl"}
	}
	for _, program := range needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: %s is not tested, because %s is not installed", name, program)
		}
	}
	file := filepath.Join(t.TempDir(), "orders.json")
	var args []string
	for _, arg := range command[1:] {
		args = append(args, strings.Replace(arg, "FILE", file, 1))
	}
	cmd := exec.CommandContext(t.Context(), command[0], args...)
	cmd.Dir = legacyFolder
	cmd.Env = append(os.Environ(), "ORDERS_API=http://"+addr, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	cmd.Stderr = t.Output()
	answer, err := cmd.Output()
	if written, errFile := os.ReadFile(file); errFile == nil {
		answer = append(answer, written...)
	}
	return string(answer), err
}

func wantOrders(t *testing.T, answer, client string) {
	t.Helper()
	var echo devserver.Echo
	if err := json.Unmarshal([]byte(answer), &echo); err != nil {
		t.Fatalf("%v: %q", err, answer)
	}
	if echo.Path != "/orders" || echo.Client != client {
		t.Errorf("the API saw %+v", echo)
	}
}

var markdownLink = regexp.MustCompile(`\]\(([^)#:]+)\)`)

// TestExamplesMap follows the links of examples/README.md: whoever looks for a file that runs must find it with two
// clicks.
func TestExamplesMap(t *testing.T) {
	const root = "../examples"
	reachable := make(map[string]bool) // by path below root
	follow := func(page string) (pages []string) {
		for _, m := range markdownLink.FindAllStringSubmatch(readExample(t, filepath.Join(root, page)), -1) {
			target := filepath.Join(filepath.Dir(page), m[1])
			info, err := os.Stat(filepath.Join(root, target))
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if info.IsDir() {
				reachable[target] = true
				target = filepath.Join(target, "README.md")
			}
			reachable[target] = true
			if filepath.Base(target) == "README.md" {
				pages = append(pages, target)
			}
		}
		return pages
	}
	for _, page := range follow("README.md") {
		if _, err := os.Stat(filepath.Join(root, page)); err == nil {
			follow(page)
		}
	}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "node_modules" {
			return filepath.SkipDir
		}
		below, err := filepath.Rel(root, path)
		if runs := strings.HasSuffix(path, ".caddyfile") || strings.HasPrefix(entry.Name(), "Caddyfile"); runs &&
			!reachable[below] && !reachable[filepath.Dir(below)] {
			t.Errorf("%s is more than two clicks away from README.md", below)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
