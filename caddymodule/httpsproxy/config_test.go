package httpsproxy_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
)

// A configuration in which the wrapper could not work fails to load, with the remedy.
func TestConfigurationFails(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(string) string
		want string
	}{
		"no tls": {func(c string) string { return strings.Replace(c, "}\n\t\t\ttls\n", "}\n", 1) }, "add tls after it"},
		"after tls": {func(c string) string {
			return strings.Replace(c, "https_proxy {", "http_redirect\n tls\n https_proxy {", 1)
		}, "https_proxy must stand before tls"},
		"twice":  {func(c string) string { return strings.Replace(c, "\t\t\ttls\n", "\t\t\ttls\n https_proxy\n", 1) }, "https_proxy is repeated"},
		"no TLS": {func(c string) string { return withoutTLS(c) }, "https_proxy needs sites with TLS"},
		"no variable": {func(c string) string {
			return strings.Replace(c, "https_proxy {", "https_proxy {\n tunnel {env.HTTPS_PROXY_TEST_UNSET}", 1)
		}, "tunnel: host 1: "},
		"any and a host": {func(c string) string {
			return strings.Replace(c, "https_proxy {", "https_proxy {\n tunnel any {env.HTTPS_PROXY_TEST_HOST}", 1)
		}, "remove the other values"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HTTPS_PROXY_TEST_HOST", "a.example")
			p := newProxy(t, parts{})
			config := tc.edit(p.config)
			if config == p.config {
				t.Fatal("the test edits nothing")
			}
			if err := p.Load(config); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func withoutTLS(config string) string {
	before, _, _ := strings.Cut(config, "https://"+apiHost)
	_, port, _ := strings.Cut(before, "servers 127.0.0.1:")
	port, _, _ = strings.Cut(port, " ")
	return before + "http://" + apiHost + ":" + port + " {\n bind 127.0.0.1\n respond a\n}\n"
}

// Caddy drops the wrapper of an option with another address than the listener, and logs nothing. The application then talks to TLS.
func TestDroppedProxy(t *testing.T) {
	p := newProxy(t, parts{})
	p.config = strings.Replace(p.config, "servers 127.0.0.1:", "servers :", 1)
	p.start(t)
	conn := p.dial(t)
	if _, err := io.WriteString(conn, "CONNECT "+apiHost+":443 HTTP/1.1\r\nHost: "+apiHost+":443\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn) // it may end in a reset
	if len(answer) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", answer, err)
	}
	if s := httpsproxy.CurrentStatus(); s != nil {
		t.Errorf("the status has %+v", s)
	}
	if logs := p.Logs(); strings.Contains(logs, "https_proxy") {
		t.Errorf("the log names the mistake, so the reference should as well: %s", logs)
	}
}

// Elsewhere than in an HTTP server, the wrapper has no sites.
func TestOutsideOfAnHTTPServer(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := new(httpsproxy.ListenerWrapper).Provision(ctx); err == nil || !strings.Contains(err.Error(), "HTTP server") {
		t.Errorf("got %v", err)
	}
}

// Without a named site, the log reports that no request gets a token.
func TestNoNamedSite(t *testing.T) {
	p := newProxy(t, parts{})
	p.config = strings.Replace(p.config, "https://"+apiHost+":", "https://:", 1)
	p.start(t)
	if !strings.Contains(p.Logs(), "no site of this listener has a host as its name") {
		t.Errorf("the log: %s", p.Logs())
	}
	if _, status := p.connect(t, apiHost+":443"); status != 403 {
		t.Errorf("status %d", status)
	}
}
