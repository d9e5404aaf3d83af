package caddymodule

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// gatewayHost is the name that pods use.
const gatewayHost = "token-proxy-gateway"

// startGateway runs the gateway of the Kubernetes example without Redis, and returns its address once it has a token.
func startGateway(t *testing.T, clients, shutdownDelay string) (addr string, cmd *exec.Cmd) {
	t.Helper()
	tokens := newTokenServer(t)
	api := httptest.NewServer(tokens.api())
	t.Cleanup(api.Close)
	config, folder := podConfig(t, "../examples/kubernetes/gateway/gateway.caddyfile", tokens)
	written, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)\t\tshare \{.*?\n\t\t\}\n`).ReplaceAllString(string(written), "")
	metrics := portNumber(freeAddr(t))
	for from, to := range map[string]string{
		"clients 10.244.0.0/16": "clients " + clients, "shutdown_delay 10s": "shutdown_delay " + shutdownDelay,
		"https://catalogs.sandbox.optiturn.com": api.URL, "*.optiturn.com": "127.0.0.1", ":2020": ":" + metrics,
	} {
		if !strings.Contains(text, from) {
			t.Fatalf("the example lacks %q", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	config = filepath.Join(folder, "gateway.caddyfile")
	writeFile(t, config, text)
	logged, cmd := startBinary(t, folder, config)
	ports := regexp.MustCompile(`(?m)^http://:(\d+) \{`).FindAllStringSubmatch(text, -1)
	poll(t, "the readiness of the gateway", func() bool {
		res, err := testClient(t).Get("http://127.0.0.1:" + ports[1][1] + "/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if strings.Contains(logged.String(), `"level":"warn"`) {
		t.Errorf("a healthy start warns:\n%s", logged)
	}
	return "127.0.0.1:" + ports[0][1], cmd
}

// keptConnection is the connection of a pod that never sends a request again.
type keptConnection struct {
	net.Conn
	answers *bufio.Reader
}

func connect(t *testing.T, addr string) keptConnection {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return keptConnection{conn, bufio.NewReader(conn)}
}

// ask returns the status, and whether the gateway announces the end of the connection.
func (c keptConnection) ask(t *testing.T, host string) (status int, last bool) {
	t.Helper()
	if _, err := io.WriteString(c, "POST /orders HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		t.Fatalf("the gateway lost a request: %v", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Close
}

// TestGatewayStops sends requests over a kept connection while Kubernetes stops the replica. The replica announces the end of
// the connection and serves new ones, so that no pod loses a request.
func TestGatewayStops(t *testing.T) {
	addr, cmd := startGateway(t, "loopback", "1h") // the test does not wait for it
	kept := connect(t, addr)
	for range 3 {
		if status, last := kept.ask(t, gatewayHost); status != http.StatusOK || last {
			t.Fatalf("before the end: status %d, last %t", status, last)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	poll(t, "the announcement of the end", func() bool {
		status, last := kept.ask(t, gatewayHost)
		if status != http.StatusOK {
			t.Fatalf("after the signal: status %d", status)
		}
		return last
	})
	if status, last := connect(t, addr).ask(t, gatewayHost); status != http.StatusOK || !last {
		t.Errorf("a new connection: status %d, last %t", status, last)
	}
}

// TestGatewayHostAndClients checks that another name, as a page in a browser can have it, gets 421, and that a pod beyond
// `clients` gets 403.
func TestGatewayHostAndClients(t *testing.T) {
	addr, _ := startGateway(t, "10.244.0.0/16", "10s")
	for host, want := range map[string]int{
		gatewayHost: http.StatusForbidden, gatewayHost + ":8080": http.StatusForbidden,
		"gateway": http.StatusMisdirectedRequest, gatewayHost + ".com": http.StatusMisdirectedRequest, addr: http.StatusMisdirectedRequest,
	} {
		if status, _ := connect(t, addr).ask(t, host); status != want {
			t.Errorf("host %s: status %d, want %d", host, status, want)
		}
	}
}
