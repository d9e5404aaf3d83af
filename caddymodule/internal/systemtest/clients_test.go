package systemtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// order is the body that each client sends.
const order = `{"quantity":1}`

// client is an application that knows only a URL with https:// and the host of the API.
type client struct {
	name string
	row  string // of the table in the reference

	command  []string // gets the URL as its last argument
	requires []string // a command that fails if the client is not installed
	denied   string   // is in what the client reports if the proxy denies a host

	// needsFiles is true if the variables that exec sets are not enough.
	needsFiles bool
}

// clients are all applications of the table but the bystanders, which are in TestBystanders.
func clients() []client {
	python := "/usr/bin/python3" // for which Debian has requests
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	envProxy := []string{"node", "-e", `process.exit(process.allowedNodeEnvironmentFlags.has("--use-env-proxy") ? 0 : 1)`}
	return []client{
		{
			name: "curl", row: "curl",
			command: []string{"curl", "--silent", "--show-error", "--fail", "--header", "Content-Type: application/json", "--data", order},
			denied:  "403",
		},
		{
			name: "wget", row: "wget",
			command: []string{"wget", "--tries=1", "--output-document=-", "--header", "Content-Type: application/json", "--post-data", order},
			denied:  "Forbidden", needsFiles: true,
		},
		{name: "urllib", row: "Python's urllib", command: []string{python, testdata("order_urllib.py")}, denied: "403"},
		{
			name: "requests", row: "Python's requests", command: []string{python, testdata("order_requests.py")},
			requires: []string{python, "-c", "import requests"}, denied: "403",
		},
		{name: "net/http", row: "Go's net/http", command: []string{"order"}, denied: "Forbidden"},
		{name: "Net::HTTP", row: "Ruby's Net::HTTP", command: []string{"ruby", testdata("order.rb")}, denied: "403"},
		{name: "fetch", row: "Node's fetch and https", command: []string{"node", testdata("order_fetch.mjs")}, requires: envProxy, denied: "403"},
		{name: "node:https", row: "Node's fetch and https", command: []string{"node", testdata("order_https.mjs")}, requires: envProxy, denied: "403"},
		{
			name: "undici", row: "Node's axios, and undici with `EnvHttpProxyAgent`", command: []string{"node", testdata("order_undici.cjs")},
			requires: []string{"node", "-e", `require("undici").EnvHttpProxyAgent.name`}, denied: "403",
		},
		{
			name: "axios", row: "Node's axios, and undici with `EnvHttpProxyAgent`", command: []string{"node", testdata("order_axios.cjs")},
			requires: []string{"node", "-e", `require("axios")`}, denied: "403",
		},
		{
			name: "PHP", row: "PHP's curl", command: []string{"php", testdata("order_curl.php")},
			requires: []string{"php", "-r", "curl_version();"}, denied: "403", needsFiles: true,
		},
		{
			name: "HttpClient", row: "Java's HttpClient", command: []string{"java", "-XX:TieredStopAtLevel=1", testdata("Order.java")},
			requires: []string{"javac", "-version"}, denied: "403", needsFiles: true, // java compiles the file
		},
	}
}

// testdata returns the absolute path of an application.
func testdata(name string) string {
	path, _ := filepath.Abs(filepath.Join("testdata", "clients", name))
	return path
}

// mustBeInstalled skips the test of a client that is missing.
func (c client) mustBeInstalled(t *testing.T, s *sidecar) {
	t.Helper()
	requires := c.requires
	if requires == nil {
		requires = []string{"sh", "-c", `command -v "$0"`, c.command[0]}
	}
	cmd := exec.Command(requires[0], requires[1:]...)
	cmd.Env = s.environment()
	if err := cmd.Run(); err != nil {
		t.Skipf("SKIPPED: %s is not installed, or too old: %q: %v", c.name, requires, err)
	}
}

// run runs a command with an environment, and returns what it writes.
func (s *sidecar) run(t *testing.T, environment []string, command ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	if !filepath.IsAbs(command[0]) {
		cmd = exec.CommandContext(t.Context(), "env", command...) // finds it in the PATH of the environment
	}
	cmd.Dir, cmd.Env = s.folder, environment
	cmd.WaitDelay = 10 * time.Second
	ended := time.AfterFunc(patience, func() { _ = cmd.Cancel() })
	defer ended.Stop()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	variable = regexp.MustCompile(`^[A-Za-z_]+=`)
	fileLine = regexp.MustCompile("the line `([^`]+)` in `([^`]+)`")
)

// settings does what the reference tells the operator to do for an application, and returns its environment.
func (s *sidecar) settings(t *testing.T, row string) []string {
	t.Helper()
	cells := strings.NewReplacer(
		"127.0.0.1:3128", s.addr, "proxyPort=3128", "proxyPort="+portOf(s.addr), "bundle.pem", filepath.Join(s.folder, "bundle.pem"),
	).Replace(referenceRow(t, row))

	environment := append(s.environment(), "APT_CONFIG=apt.conf", "PHPRC="+s.folder)
	for _, found := range fileLine.FindAllStringSubmatch(cells, -1) {
		s.write(found[2], found[1]+"\n")
	}
	var javaOptions []string
	for _, found := range codeSpan.FindAllStringSubmatch(fileLine.ReplaceAllString(cells, ""), -1) {
		span := found[1]
		switch {
		case variable.MatchString(span):
			environment = append(environment, span)
		case strings.HasPrefix(span, "-D"):
			javaOptions = append(javaOptions, span)
		case strings.HasPrefix(span, "cp "), strings.HasPrefix(span, "keytool -"):
			if out, err := s.run(t, append(environment, "JAVA_HOME="+javaHome(t)), "sh", "-c", span); err != nil {
				t.Fatalf("%s: %v: %s", span, err, out)
			}
		}
	}
	if javaOptions != nil {
		environment = append(environment, "JAVA_TOOL_OPTIONS="+strings.Join(javaOptions, " "))
	}
	return environment
}

// referenceRow returns the settings of a row of the table of applications.
func referenceRow(t *testing.T, row string) string {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| application | proxy | authorities |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		if cells, ok := strings.CutPrefix(line, "| "+row+" | "); ok {
			return cells
		}
	}
	t.Fatalf("the reference has no row for %s", row)
	return ""
}

// javaHome returns the folder of the Java that is in the PATH.
func javaHome(t *testing.T) string {
	t.Helper()
	java, err := exec.LookPath("java")
	if err == nil {
		java, err = filepath.EvalSymlinks(java)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(java))
}

// orderFolder is where the application in Go is built.
var orderFolder = filepath.Join(os.TempDir(), fmt.Sprint("systemtest-", os.Getpid()))

// orderBuilt builds the application in Go, once.
var orderBuilt = sync.OnceValue(func() error {
	if out, err := exec.Command("go", "build", "-o", orderFolder+string(filepath.Separator), testdata("order.go")).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// buildOrder builds the application in Go, which the environment of each sidecar has in its PATH.
func buildOrder(t *testing.T) {
	t.Helper()
	if err := orderBuilt(); err != nil {
		t.Fatal(err)
	}
}

// TestClients sends a request with each client, whose settings are those of the reference. The API gets it with a token. A
// host without a site is denied, and the client reports it.
func TestClients(t *testing.T) {
	t.Parallel()
	buildOrder(t)
	s := newSidecar(t, "")
	s.start()
	for _, c := range clients() {
		t.Run(c.name, func(t *testing.T) {
			c.mustBeInstalled(t, s)
			environment := s.settings(t, c.row)
			before := s.reached()
			out, err := s.run(t, environment, append(slices.Clone(c.command), "https://"+apiHost+"/orders")...)
			if err != nil || !strings.Contains(out, fmt.Sprintf("%q", s.tokens.ClientID)) {
				t.Fatalf("%v: %s", err, out)
			}
			s.wantOrder(t, before)

			out, err = s.run(t, environment, append(slices.Clone(c.command), "https://other.example.com/orders")...)
			if err == nil || !strings.Contains(out, c.denied) {
				t.Errorf("a host without a site: %v: %s", err, out)
			}
			if n := s.reached() - before; n != 1 {
				t.Errorf("the API got %d requests", n)
			}
		})
	}
	if n := s.tokens.Calls(); n > 1 {
		t.Errorf("the token endpoint got %d calls for all of them, want 1", n)
	}
}

// TestClientsOfExec runs each client by exec, with no other settings, unless it needs a file.
func TestClientsOfExec(t *testing.T) {
	t.Parallel()
	buildOrder(t)
	s := newSidecar(t, "")
	for _, c := range clients() {
		if c.needsFiles {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			c.mustBeInstalled(t, s)
			before, calls := s.reached(), s.tokens.Calls()
			cmd := s.command(append(append([]string{"exec", "--wait", "2m", "--"}, c.command...), "https://"+apiHost+"/orders")...)
			out, err := s.run(t, cmd.Env, cmd.Args...)
			if err != nil || !strings.Contains(out, fmt.Sprintf("%q", s.tokens.ClientID)) {
				t.Fatalf("%v: %s", err, out)
			}
			s.wantOrder(t, before)
			if n := s.tokens.Calls() - calls; n != 1 {
				t.Errorf("the token endpoint got %d calls, want 1", n)
			}
		})
	}
}
