//go:build unix

package httpsproxy_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// startBenched runs a site with https_proxy that answers by itself, so that nothing else is measured.
func startBenched(b *testing.B) *proxy {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	p := &proxy{authority: newAuthority(b), addr: l.Addr().String()}
	l.Close()
	_, port, _ := net.SplitHostPort(p.addr)
	config, err := caddytest.Adapt(fmt.Sprintf(`{
	auto_https disable_redirects
	skip_install_trust
	storage file_system %s
	servers {
		protocols h1 h2
		listener_wrappers {
			https_proxy
			tls
		}
	}
}
https://%s:%s {
	bind 127.0.0.1
	tls %s
	respond "an answer of the site"
}`, b.TempDir(), apiHost, port, p.files(b, apiHost)))
	if err != nil {
		b.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		b.Fatal(err)
	}
	root["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	root["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}}
	config, err = json.Marshal(root)
	if err != nil {
		b.Fatal(err)
	}
	if err := caddy.Load(bytes.Clone(config), true); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = caddy.Stop() })
	return p
}

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// The ways to the site: with CONNECT, and without.
var ways = []string{"direct", "https_proxy"}

// BenchmarkRequest measures a request on a kept connection, both ends of it in this process.
func BenchmarkRequest(b *testing.B) {
	p := startBenched(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots}}
			defer transport.CloseIdleConnections()
			target := "https://" + apiHost + "/"
			if way == "direct" {
				_, port, _ := net.SplitHostPort(p.addr)
				target = "https://127.0.0.1:" + port + "/"
				transport.TLSClientConfig.ServerName = apiHost
			} else {
				transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr})
			}
			request := func() {
				req, err := http.NewRequest(http.MethodGet, target, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Host = apiHost
				res, err := transport.RoundTrip(req)
				if err != nil || res.StatusCode != http.StatusOK {
					b.Fatal(res, err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			request()
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				request()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkSetUp measures a new connection with TLS.
func BenchmarkSetUp(b *testing.B) {
	p := startBenched(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				conn, err := net.Dial("tcp", p.addr)
				if err != nil {
					b.Fatal(err)
				}
				if way != "direct" {
					if res := send(b, conn, "CONNECT "+apiHost+":443 HTTP/1.1\r\nHost: "+apiHost+":443\r\n\r\n"); res.StatusCode != http.StatusOK {
						b.Fatal(res.Status)
					}
				}
				if _, err := p.handshake(conn, apiHost); err != nil {
					b.Fatal(err)
				}
				conn.Close()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
