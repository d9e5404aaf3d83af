package caddymodule

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

const systemdFolder = "../examples/systemd/"

// TestSystemdSocket runs the binary and the example on the sockets that systemd keeps. Requests that come before it starts wait
// in them, and a reload keeps them.
func TestSystemdSocket(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string][]string{
		"both addresses":       nil,
		"a kernel without ::1": {"ListenStream=[::1]:8080\n", " fd/4", ", http://[::1]:8080"}, // as the README of the example says
	} {
		t.Run(name, func(t *testing.T) {
			if remove == nil {
				wantIPv6(t)
			}
			s := newSystemdExample(t, remove)
			waiting := make(map[string]<-chan exchange)
			for _, url := range s.urls {
				waiting[url] = exchanges(s.client, url, 1)
			}
			s.process.start()
			for url, outcomes := range waiting {
				if why := wantReceived(t, "the answer to "+url, outcomes).failure(); why != "" {
					t.Error(why)
				}
			}
			s.reload()
			s.want("two")
			if n := s.tokens.Calls(); n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
		})
	}
}

// systemdExample is the example on other ports, and between development servers.
type systemdExample struct {
	t         *testing.T
	tokens    *tokenServer
	process   *process
	config    string // file
	client    *http.Client
	addresses []string // of the sockets
	urls      []string // what applications may call
}

// newSystemdExample makes an example that has yet to start, from which these lines or parts of them are removed.
func newSystemdExample(t *testing.T, remove []string) *systemdExample {
	t.Helper()
	program := product(t)
	s := &systemdExample{t: t, tokens: newTokenServer(t), client: testClient(t)}
	folder, port := shortDir(t), portNumber(freeAddr(t))
	socket, config := readExample(t, systemdFolder+"token-proxy.socket"), readExample(t, systemdFolder+"token-proxy.caddyfile")
	for _, text := range remove {
		if !strings.Contains(socket+config, text) || !strings.Contains(readExample(t, systemdFolder+"README.md"), strings.Trim(text, ", \n")) {
			t.Errorf("the example or its README lacks %q", text)
		}
		socket, config = strings.ReplaceAll(socket, text, ""), strings.ReplaceAll(config, text, "")
	}
	config = strings.NewReplacer(
		":8080", ":"+port, "/run/token-proxy/admin.sock", filepath.Join(folder, "admin.sock"),
		"provider optoro sandbox", "provider optoro {\n token_url "+s.tokens.url+"\n}", "my-client", s.tokens.ClientID,
		"{file./run/credentials/token-proxy.service/client-secret}", "{file."+writeExampleFile(t, devserver.DefaultClientSecret)+"}",
		"https://catalogs.sandbox.optiturn.com", serveHTTP(t, s.tokens.api()).URL, "*.optiturn.com", "127.0.0.1",
	).Replace(config)
	s.config = writeConfig(t, "token-proxy.caddyfile", config)
	s.process = &process{t: t, command: []string{program, "run", "--config", s.config}, folder: folder, isUp: s.isUp}
	for _, address := range listenStreams(socket) {
		address = strings.ReplaceAll(address, ":8080", ":"+port)
		s.addresses = append(s.addresses, address)
		s.process.sockets = append(s.process.sockets, listenAsSystemd(t, address))
		s.urls = append(s.urls, "http://"+address+"/orders")
	}
	s.urls = append(s.urls, "http://localhost:"+port+"/orders") // each application resolves it to one of the two
	return s
}

// listenStreams returns the addresses of a socket unit in their order, which is that of the file descriptors.
func listenStreams(unit string) (addresses []string) {
	for _, line := range regexp.MustCompile(`(?m)^ListenStream=(.*)$`).FindAllStringSubmatch(unit, -1) {
		addresses = append(addresses, line[1])
	}
	return addresses
}

// listenAsSystemd returns a socket that stays open until the test ends.
func listenAsSystemd(t *testing.T, address string) *os.File {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func (s *systemdExample) isUp() bool {
	answer, err := tryAsk(s.client, newRequest(s.t, http.MethodGet, s.urls[0], nil))
	return err == nil && answer.StatusCode == http.StatusOK
}

// reload loads a configuration that can be told from the one before, with the command of the service.
func (s *systemdExample) reload() {
	s.t.Helper()
	writeFile(s.t, s.config, strings.Replace(readExample(s.t, s.config), "\ttoken_proxy catalog ", "\theader X-Config two\n\ttoken_proxy catalog ", 1))
	line := regexp.MustCompile(`(?m)^ExecReload=/usr/local/bin/token-proxy (.*)$`).FindStringSubmatch(readExample(s.t, systemdFolder+"token-proxy.service"))
	if line == nil {
		s.t.Fatal("the service has no ExecReload")
	}
	command := strings.ReplaceAll(line[1], "/etc/token-proxy/token-proxy.caddyfile", s.config)
	if _, stderr, status := runBinary(s.t, strings.Fields(command)...); status != 0 {
		s.t.Fatalf("status %d: %s", status, stderr)
	}
}

// want waits until all addresses answer, with each name of the machine, from the configuration with this header. The one before
// may take a few connections while it closes its copies of the sockets.
func (s *systemdExample) want(config string) {
	s.t.Helper()
	for _, address := range s.addresses {
		for _, url := range s.urls {
			client := testClient(s.t)
			client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}}
			eventually(s.t, url+" at "+address, func() bool {
				answer, err := tryAsk(client, newRequest(s.t, http.MethodGet, url, nil))
				return err == nil && answer.StatusCode == http.StatusOK && answer.Header.Get("X-Config") == config
			})
		}
	}
}
