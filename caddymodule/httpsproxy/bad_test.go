package httpsproxy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// What a CONNECT asks for besides the host of a site and port 443 is denied, with the reason in the metric.
func TestBadTargets(t *testing.T) {
	p := startProxy(t, parts{})
	for target, want := range map[string]struct {
		status int
		reason string
	}{
		"127.0.0.1:443":                     {http.StatusForbidden, "host"},
		"[::1]:443":                         {http.StatusForbidden, "host"},
		"[::ffff:127.0.0.1]:443":            {http.StatusForbidden, "host"},
		"192.0.2.7:443":                     {http.StatusForbidden, "host"},
		"127.1:443":                         {http.StatusBadRequest, "target"},
		"0x7f000001:443":                    {http.StatusBadRequest, "target"},
		"2130706433:443":                    {http.StatusBadRequest, "target"},
		"[fe80::1%25eth0]:443":              {http.StatusBadRequest, "target"},
		"localhost:443":                     {http.StatusForbidden, "host"},
		"other.example.com:443":             {http.StatusForbidden, "host"},
		apiHost + ".evil.example:443":       {http.StatusForbidden, "host"},
		apiHost + ":80":                     {http.StatusForbidden, "port"},
		apiHost + ":8443":                   {http.StatusForbidden, "port"},
		apiHost + ".:443":                   {http.StatusForbidden, "root"},
		apiHost + "..:443":                  {http.StatusBadRequest, "target"},
		apiHost + ":0":                      {http.StatusBadRequest, "target"},
		apiHost + ":":                       {http.StatusBadRequest, "target"},
		apiHost + ":65536":                  {http.StatusBadRequest, "target"},
		apiHost + ":0443":                   {http.StatusBadRequest, "target"},
		apiHost:                             {http.StatusBadRequest, "target"},
		"user@" + apiHost + ":443":          {http.StatusBadRequest, "target"},
		"user:secret@" + apiHost + ":443":   {http.StatusBadRequest, "target"},
		apiHost + ":443/orders":             {http.StatusBadRequest, "target"},
		"https://" + apiHost + ":443":       {http.StatusBadRequest, "target"},
		"/" + apiHost + ":443":              {http.StatusBadRequest, "target"},
		"a_b-." + apiHost + ":443":          {http.StatusBadRequest, "target"},
		strings.Repeat("a", 64) + ":443":    {http.StatusBadRequest, "target"},
		strings.Repeat("a.", 130) + "a:443": {http.StatusBadRequest, "target"},
		"xn--bcher-kva.example:443":         {http.StatusForbidden, "host"},
		"bücher.example:443":                {http.StatusForbidden, "host"},
	} {
		var res *http.Response
		_, denied := difference(t, func() {
			res = send(t, p.dial(t), "CONNECT "+target+" HTTP/1.1\r\nHost: "+apiHost+":443\r\n\r\n")
		})
		if res.StatusCode != want.status || !maps.Equal(denied, map[string]uint64{want.reason: 1}) {
			t.Errorf("CONNECT %.80s: status %s, denied %v, want %+v", target, res.Status, denied, want)
		}
		if !strings.HasPrefix(res.Header.Get("Proxy-Status"), "token-proxy; error=http_request_") || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("CONNECT %.80s: the answer has %v", target, res.Header)
		}
	}
	if n := p.api.ConnectionCount(); n != 0 {
		t.Errorf("the API got %d connections", n)
	}
}

// The log names a denied host once, and a flood of hosts does not fill it.
func TestDeniedHostsAreLoggedSeldom(t *testing.T) {
	const line = "denied a request to https_proxy: no site of this listener has the host; add a site, or allow the host with the option tunnel of https_proxy"
	p := startProxy(t, parts{})
	for range 3 {
		p.connect(t, "Other.example.com:443")
	}
	lines := p.Logged(line)
	if len(lines) != 1 || lines[0]["host"] != "other.example.com" || lines[0]["level"] != "warn" || lines[0]["port"] != "443" {
		t.Errorf("logged %v", lines)
	}
	last := httpsproxy.CurrentStatus().LastDenied
	if last == nil || last.Host != "other.example.com" || last.Reason != "host" {
		t.Errorf("the status has %+v", last)
	}
	for i := range 100 {
		p.connect(t, strings.Repeat("a", i%50+1)+".example.com:443")
	}
	if n := len(p.Logged(line)); n > 40 { // 20 in a minute; the test may see the end of one and the beginning of another
		t.Errorf("%d lines are logged", n)
	}
}

// A ClientHello for another host is denied with the TLS alert for it.
func TestServerNameMustBeTheHost(t *testing.T) {
	p := startProxy(t, parts{})
	for _, name := range []string{"a.wild.example.com", "other.example.com", "x" + apiHost} {
		conn, status := p.connect(t, apiHost+":443")
		if status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		var err error
		_, denied := difference(t, func() { _, err = p.handshake(conn, name) })
		if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v", name, err)
		}
		if !maps.Equal(denied, map[string]uint64{"sni": 1}) {
			t.Errorf("%s: denied %v", name, denied)
		}
	}
	conn, _ := p.connect(t, apiHost+":443")
	if _, err := p.handshake(conn, strings.ToUpper(apiHost)); err != nil {
		t.Errorf("in another case: %v", err)
	}
}

// A client that sends no SNI is Caddy's matter, as without the wrapper.
func TestNoServerName(t *testing.T) {
	p := startProxy(t, parts{global: "default_sni " + apiHost})
	conn, _ := p.connect(t, apiHost+":443")
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, client, apiHost); status != http.StatusOK || !strings.Contains(body, p.tokens.ClientID) {
		t.Errorf("status %d, %s", status, body)
	}
}

// What is not TLS after a CONNECT for a site ends the connection, and so does silence.
func TestNoClientHello(t *testing.T) {
	p := startProxy(t, parts{server: "timeouts {\n read_header 300ms\n}"})
	for name, sent := range map[string]string{
		"nothing":             "",
		"HTTP":                "GET /orders HTTP/1.1\r\nHost: " + apiHost + "\r\n\r\n",
		"garbage":             strings.Repeat("\x00\xff", 50),
		"half of a record":    "\x16\x03\x01\x02\x00\x01",
		"TLS, but no hello":   "\x17\x03\x03\x00\x05hello",
		"a hello of garbage":  "\x16\x03\x01\x00\x09\x01\x00\x00\x05hello",
		"a hello of 16 MB":    "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("a", 0x4000-4),
		"a record of 64 KB":   "\x16\x03\x01\xff\xff" + strings.Repeat("a", 0xffff),
		"nothing, and closed": "close",
	} {
		t.Run(name, func(t *testing.T) {
			conn, status := p.connect(t, apiHost+":443")
			if status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			_, denied := difference(t, func() {
				if sent == "close" {
					_ = conn.CloseWrite()
				} else {
					_, _ = io.WriteString(conn, sent) // the proxy need not read to the end
				}
				// A reset is as good as an end, because not all of what was sent has been read.
				if rest, err := io.ReadAll(conn); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("it got %q, %v", rest, err)
				}
			})
			if !maps.Equal(denied, map[string]uint64{"tls": 1}) {
				t.Errorf("denied %v", denied)
			}
		})
	}
	if n := p.api.ConnectionCount(); n != 0 {
		t.Errorf("the API got %d connections", n)
	}
}

// Garbage instead of a request ends the connection. A head without an end is cut off at the limit of Caddy's server.
func TestBadRequests(t *testing.T) {
	p := startProxy(t, parts{})
	for _, tc := range []struct {
		name, sent string
		want       int
	}{
		{"garbage", strings.Repeat("\x00\xff", 50) + "\r\n\r\n", http.StatusBadRequest},
		{"text", "hello\r\n\r\n", http.StatusBadRequest},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", http.StatusBadRequest},
		{"SOCKS5", "\x05\x01\x00\r\n\r\n", http.StatusBadRequest},
		{"two hosts", "GET http://" + apiHost + "/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", http.StatusBadRequest},
		{"1 MB of one field", "CONNECT " + apiHost + ":443 HTTP/1.1\r\nHost: a\r\nX-Large: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"1 MB of fields", "CONNECT " + apiHost + ":443 HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 1<<20/6) + "\r\n", http.StatusRequestHeaderFieldsTooLarge},
		{"1 MB of target", "CONNECT " + strings.Repeat("a", 1<<20) + ":443 HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := p.dial(t)
			answer := make(chan string, 1)
			go func() {
				content, _ := io.ReadAll(conn) // it may end in a reset
				answer <- string(content)
			}()
			_, _ = io.WriteString(conn, tc.sent) // the proxy need not read to the end
			_ = conn.CloseWrite()
			got := <-answer
			if got == "" && tc.want == http.StatusRequestHeaderFieldsTooLarge {
				return // the reset overtook the answer
			}
			if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tc.want)) {
				t.Errorf("got %.200q, want %d", got, tc.want)
			}
		})
	}
	res, err := p.application(t, true).Get("https://" + apiHost + "/orders")
	p.wantToken(t, res, err)
}

// Silent connections cost little memory, and delay no other client.
func TestSilentConnections(t *testing.T) {
	connections := 5000
	if raceDetector || testing.Short() {
		connections = 500
	}
	p := startProxy(t, parts{})
	application := p.application(t, false)
	application.Transport.(*http.Transport).DisableKeepAlives = true // each request is a CONNECT
	request := func() {
		t.Helper()
		res, err := application.Get("https://" + apiHost + "/orders")
		p.wantToken(t, res, err)
	}
	request()
	latency := func() []time.Duration {
		var all []time.Duration
		for range 200 {
			start := time.Now()
			request()
			all = append(all, time.Since(start))
		}
		slices.Sort(all)
		return all
	}
	calm := latency()
	before := memory()
	for n := range connections {
		conn, err := net.Dial("tcp", p.addr)
		if errors.Is(err, syscall.EMFILE) {
			t.Skipf("SKIPPED: the limit of open files is too low for %d connections", connections)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n%2 == 0 { // half of them begin a request
			if _, err := io.WriteString(conn, "CONN"); err != nil {
				t.Fatal(err)
			}
		}
	}
	caddytest.Eventually(t, "the proxy to have accepted all", func() bool {
		return runtime.NumGoroutine() > connections
	})
	request()
	perConnection := (memory() - before) / int64(connections)
	crowded := latency()
	t.Logf("%d silent connections: %d bytes each, both ends; p50 %s, p99 %s; without them p50 %s, p99 %s",
		connections, perConnection, crowded[100], crowded[198], calm[100], calm[198])
	if perConnection > 40<<10 {
		t.Errorf("a silent connection costs %d bytes", perConnection)
	}
}

// memory is what the process has in use.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
