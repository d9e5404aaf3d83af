package caddymodule

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// firstScreen returns the request of the application and the one that the API receives, as README.md shows them.
func firstScreen(t *testing.T) (sent, received string) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```http\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("README.md shows %d requests, want 2", len(blocks))
	}
	return blocks[0][1], blocks[1][1]
}

// The API receives, byte for byte, the request on the first screen of README.md.
func TestFirstScreen(t *testing.T) {
	sent, want := firstScreen(t)
	host := regexp.MustCompile(`(?m)^Host: (.*)$`).FindStringSubmatch(want)[1]
	tokens := newTokenServer(t)
	heads := make(chan string, 1)
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	defer certificates.Close()
	api := serveConns(t, func(plain net.Conn) {
		conn := tls.Server(plain, &tls.Config{Certificates: certificates.TLS.Certificates})
		head, err := readHead(bufio.NewReader(conn))
		if err != nil {
			return
		}
		heads <- head
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	})
	// A proxy that knows where the name leads, in place of DNS.
	network := serveConns(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil || r.Method != http.MethodConnect || r.Host != host+":443" {
			t.Errorf("the network proxy got %v, %v", r, err)
			return
		}
		to, err := net.Dial("tcp", api)
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, conn) }()
		_, _ = io.Copy(conn, to)
	})
	_, base := startProxy(t, tokens.credential("api"),
		"token_proxy api https://"+host+" {\n transport http {\n network_proxy url http://"+network+"\n tls_insecure_skip_verify\n}\n}")
	conn := dialSite(t, base)
	addr := strings.TrimPrefix(base, "http://")
	_, _ = io.WriteString(conn, strings.NewReplacer("127.0.0.1:8080", addr, "\n", "\r\n").Replace(sent)+"\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("got %v, %v", answer, err)
	}
	head := wantReceived(t, "a request", heads)
	got := strings.ReplaceAll(strings.TrimSuffix(head, "\r\n"), "\r\n", "\n")
	got = regexp.MustCompile(`Bearer .*`).ReplaceAllString(got, "Bearer TOKEN")
	if want = regexp.MustCompile(`Bearer .*…`).ReplaceAllString(want, "Bearer TOKEN"); got != want {
		t.Errorf("the API receives\n%swant, as in README.md,\n%s", got, want)
	}
}

// readHead reads a request up to the end of its header.
func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		head.WriteString(line)
	}
	return head.String(), nil
}

// forwardedCase is a request to a proxy with certain options, and what the API gets in the fields that reverse_proxy adds.
type forwardedCase struct {
	name    string
	servers string // options of the server
	block   string
	sent    []string
	want    map[string][]string
}

const (
	trustAll = "trusted_proxies static private_ranges"
	ip       = "127.0.0.1"
)

var forwardedCases = []forwardedCase{
	{name: "nothing"},
	{name: "off", block: "forwarded off"},
	{name: "on", block: "forwarded on",
		want: map[string][]string{"X-Forwarded-For": {ip}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"SITE"}, "Via": {"1.1 Caddy"}}},
	{name: "the application's own", sent: []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop"}},
	{name: "the application's own Via", sent: []string{"Via", "1.0 fred", "Via", "1.1 barney"}, want: map[string][]string{"Via": {"1.0 fred", "1.1 barney"}}},
	{name: "a trusted proxy's, trusted by the server", servers: trustAll, sent: []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "https"},
		want: map[string][]string{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}},
	{name: "a trusted proxy's, trusted by the directive", block: "trusted_proxies 127.0.0.0/8 192.0.2.1", sent: []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-For", "192.0.2.2"},
		want: map[string][]string{"X-Forwarded-For": {"192.0.2.1", "192.0.2.2"}}},
	{name: "another proxy is trusted", block: "trusted_proxies 192.0.2.0/24 ::1", sent: []string{"X-Forwarded-For", "192.0.2.1"}},
	{name: "a trusted proxy sends nothing", servers: trustAll},
	{name: "header_up sets what reverse_proxy would", block: "header_up X-Forwarded-For {remote_host}\n header_up X-Forwarded-Proto http\n header_up Via \"1.1 Caddy\"",
		want: map[string][]string{"X-Forwarded-For": {ip}, "X-Forwarded-Proto": {"http"}, "Via": {"1.1 Caddy"}}},
	{name: "header_up sets one", block: "header_up X-Forwarded-Proto https", want: map[string][]string{"X-Forwarded-Proto": {"https"}}},
	{name: "header_up adds", block: "header_up +X-Forwarded-For 203.0.113.9\n header_up +Via \"1.1 edge\"",
		want: map[string][]string{"X-Forwarded-For": {"203.0.113.9"}, "Via": {"1.1 edge"}}},
	{name: "header_up adds to a trusted proxy's", servers: trustAll, block: "header_up +X-Forwarded-For 203.0.113.9", sent: []string{"X-Forwarded-For", "192.0.2.1"},
		want: map[string][]string{"X-Forwarded-For": {"192.0.2.1", "203.0.113.9"}}},
	{name: "header_up adds to the application's Via", block: "header_up +Via \"1.1 edge\"", sent: []string{"Via", "1.0 fred"},
		want: map[string][]string{"Via": {"1.0 fred", "1.1 edge"}}},
	{name: "header_up removes a trusted proxy's", servers: trustAll, block: "header_up -X-Forwarded-*", sent: []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Host", "shop"}},
	{name: "header_up changes something else", block: "header_up X-Source legacy", sent: []string{"Via", "1.0 fred", "X-Forwarded-For", "192.0.2.1"},
		want: map[string][]string{"Via": {"1.0 fred"}}},
	{name: "header_up passes on what the application sent", block: "header_up X-Forwarded-For {header.X-Forwarded-For}", sent: []string{"X-Forwarded-For", "192.0.2.1"},
		want: map[string][]string{"X-Forwarded-For": {"192.0.2.1"}}},
	{name: "the token of an SDK", sent: []string{"Authorization", "Bearer " + stubToken}},
	{name: "with the application's credentials, which may be a token that comes back", sent: []string{"Authorization", "Bearer own"},
		want: map[string][]string{"Via": {"1.1 Caddy"}}},
	{name: "… and header_up removes Via", block: "header_up -Via", sent: []string{"Authorization", "Bearer own"}},
	{name: "credentials of the application that are kept", block: "client_authorization keep", sent: []string{"Authorization", "Bearer own", "Via", "1.0 fred"},
		want: map[string][]string{"Via": {"1.0 fred", "1.1 Caddy"}}},
	{name: "X-Forwarded fields of others", sent: []string{"Forwarded", "for=192.0.2.1", "X-Forwarded-Port", "443"},
		want: map[string][]string{"Forwarded": {"for=192.0.2.1"}, "X-Forwarded-Port": {"443"}}},
}

// Without forwarded, the API gets what the application, a trusted proxy and header_up have set, and nothing that
// reverse_proxy adds, over TLS as without.
func TestForwarded(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		for _, tc := range forwardedCases {
			t.Run(fmt.Sprintf("%s, TLS %t", tc.name, encrypted), func(t *testing.T) {
				tokens := newTokenServer(t)
				var api *recordingAPI
				block := tc.block
				if encrypted {
					api = newRecordingAPI(t, nil, func(s *httptest.Server) { s.TLS = new(tls.Config) })
					block += "\n transport http {\n tls_insecure_skip_verify\n}"
				} else {
					api = newRecordingAPI(t, nil)
				}
				addr := freeAddr(t)
				startCaddy(t, strings.Replace(globalOptions(tokens.credential("api")), "{\n", "{\n servers {\n "+tc.servers+"\n}\n", 1)+
					siteConfig(addr, "token_proxy api "+api.URL+" {\n"+block+"\n}"))
				get(t, "http://"+addr, tc.sent...).wantStatus(t, 200)
				got := api.only(t).Header
				for name, want := range tc.want {
					if want[0] == "SITE" {
						want = []string{addr}
					}
					if !slices.Equal(got[name], want) {
						t.Errorf("%s: the API got %q, want %q", name, got[name], want)
					}
				}
				for _, name := range addedFields {
					if _, ok := got[name]; ok && tc.want[name] == nil {
						t.Errorf("%s: the API got %q", name, got[name])
					}
				}
			})
		}
	}
}

// A service that redirects what is not https, as it sees from X-Forwarded-Proto, redirects forever with forwarded on only.
func TestForwardedProtoDoesNotRedirect(t *testing.T) {
	tokens := newTokenServer(t)
	service := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-Proto") == "http" {
			http.Redirect(w, r, "https://"+r.Host+r.URL.Path, http.StatusMovedPermanently)
		}
	})
	_, base := startProxy(t, tokens.credential("api"),
		"token_proxy /on api "+service.URL+" {\n forwarded on\n}\n token_proxy api "+service.URL)
	client := testClient(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ask(t, client, newRequest(t, http.MethodGet, base+"/on", nil)).wantStatus(t, http.StatusMovedPermanently)
	ask(t, client, newRequest(t, http.MethodGet, base+"/off", nil)).wantStatus(t, http.StatusOK)
}

// The attempts at several upstreams are alike, and a health check is as reverse_proxy makes it.
func TestForwardedOfEachAttempt(t *testing.T) {
	tokens := newTokenServer(t)
	broken := serveConns(t, func(conn net.Conn) { conn.Close() })
	for _, header := range []string{"", "header_up X-Source legacy"} {
		api := newRecordingAPI(t, nil)
		_, base := startProxy(t, tokens.credential("api"), "token_proxy api http://"+broken+" "+api.URL+
			" {\n lb_policy first\n lb_retries 3\n fail_duration 1m\n"+header+"\n}")
		get(t, base, "Via", "1.0 fred").wantStatus(t, 200)
		got := api.only(t).Header
		if !slices.Equal(got["Via"], []string{"1.0 fred"}) || got["X-Forwarded-For"] != nil {
			t.Errorf("%q: the second upstream got %v", header, got)
		}
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
