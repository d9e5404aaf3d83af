package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// TestCaddyfileExample runs the first command of the README, on other ports, and asks what its reader asks.
func TestCaddyfileExample(t *testing.T) {
	config := readExample(t, "../Caddyfile.example")
	addrs := make(map[string]string)
	for _, port := range []string{"8080", "8081", "9080", "9081"} {
		addrs[port] = freeAddr(t)
		_, free, _ := strings.Cut(addrs[port], ":")
		config = strings.ReplaceAll(config, ":"+port, ":"+free)
	}
	server := startCaddy(t, config)

	for _, test := range []struct{ url, path, logged string }{
		{"http://" + addrs["8080"] + "/orders", "/orders", "catalog"},
		{"http://" + addrs["8081"] + "/v2/products", "/v2/products", "storefront"},
	} {
		echo := getEcho(t, test.url)
		if echo.Path != test.path || echo.Client != devserver.DefaultClientID {
			t.Errorf("%s: the API saw %+v", test.url, echo)
		}
		if !strings.Contains(server.logs(), `"fingerprint":"`+echo.Token+`"`) {
			t.Errorf("%s: the log does not name the token by the fingerprint that the API shows", test.url)
		}
	}
	if n := len(server.logged("token obtained")); n != 2 {
		t.Errorf("got %d tokens, want 2", n)
	}
}

func getEcho(t *testing.T, url string) devserver.Echo {
	t.Helper()
	res, err := testClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, body %s", url, res.StatusCode, body)
	}
	var echo devserver.Echo
	if err := json.Unmarshal(body, &echo); err != nil {
		t.Fatal(err)
	}
	return echo
}

// TestReadmeLoads provisions the configurations in the README and the reference, with the variables set and the files there
// that they name.
func TestReadmeLoads(t *testing.T) {
	if loaded := loadDocument(t, "../README.md"); loaded != 1 {
		t.Errorf("found %d configurations in the README, want 1: the Caddyfile", loaded)
	}
	if loaded := loadDocument(t, reference); loaded != 4 {
		t.Errorf("found %d configurations in the reference, want 4: the JSON, the share block, https_proxy, and the site of the page", loaded)
	}
}

// loadDocument provisions the configurations in a document, and returns how many they are.
func loadDocument(t *testing.T, path string) int {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```(caddyfile|json)\n(.*?)```").FindAllStringSubmatch(readExample(t, path), -1)
	loaded := 0
	for _, block := range blocks {
		kind, config := block[1], block[2]
		switch {
		case kind == "json":
			loadExampleJSON(t, []byte(withFiles(t, config)), "")
		case strings.HasPrefix(config, "{\n") && !strings.Contains(config, "…"), strings.HasPrefix(config, "http://localhost:2020 {"):
			loadExample(t, config)
		default:
			continue // a syntax, not a configuration
		}
		loaded++
	}
	return loaded
}

func loadExample(t *testing.T, config string) {
	t.Helper()
	adapted, err := adapt(withFiles(t, config))
	if err != nil {
		t.Fatal(err)
	}
	loadExampleJSON(t, adapted, config)
}

// loadExampleJSON provisions a configuration. It must not need root, unless the text with it names the port, and must not change
// the trust of the machine.
func loadExampleJSON(t *testing.T, config []byte, text string) {
	t.Helper()
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if parsed.AppsRaw == nil {
		parsed.AppsRaw = make(caddy.ModuleMap)
	}
	parsed.AppsRaw["machine_witness"] = json.RawMessage("{}")
	if err := caddy.Validate(&parsed); err != nil {
		t.Error(err)
	}
	for _, address := range witnessed.privileged {
		if !strings.Contains(text, "port "+portNumber(address)+", which requires") {
			t.Errorf("it listens on %s, and no comment names the port: add auto_https disable_redirects, or the comment", address)
		}
	}
	if len(witnessed.installs) > 0 {
		t.Errorf("it adds the authorities %q to the trust store of the system: add skip_install_trust", witnessed.installs)
	}
}

var (
	fileInExample = regexp.MustCompile(`\{file\.([^{}]+)\}`)
	envInExample  = regexp.MustCompile(`\{env\.(\w+)\}`)
)

// withFiles puts a file in the place of each that the configuration names, and sets each variable. It leaves those of tenants, which
// no load of a configuration reads.
func withFiles(t *testing.T, config string) string {
	t.Helper()
	return withContents(t, config, exampleContents())
}

// withContents is withFiles for files with these contents. A variable that ends in _FILE is the path of such a file. The folders
// of Windows are elsewhere.
func withContents(t *testing.T, config string, contents *fileContents) string {
	t.Helper()
	config = strings.ReplaceAll(config, "C:/ProgramData", t.TempDir())
	for _, m := range envInExample.FindAllStringSubmatch(config, -1) {
		value := "value-of-" + m[1]
		switch {
		case strings.HasSuffix(m[1], "_FILE"):
			value = writeExampleFile(t, contents.of(m[1]))
		case strings.HasSuffix(m[1], "_CLIENT_ID") || strings.HasSuffix(m[1], "_CLIENT_EMAIL"):
			value = devserver.DefaultClientID
		}
		t.Setenv(m[1], value)
	}
	return fileInExample.ReplaceAllStringFunc(config, func(placeholder string) string {
		name := strings.TrimSuffix(strings.TrimPrefix(placeholder, "{file."), "}")
		return "{file." + writeExampleFile(t, contents.of(name)) + "}"
	})
}

func writeExampleFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readExample(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
