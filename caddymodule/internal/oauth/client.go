package oauth

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// maxBody bounds a token answer after decompression. Real ones are below 10 KiB.
	maxBody = 64 << 10

	// maxHeader bounds the header of a token answer; net/http alone would accept 10 MiB.
	maxHeader = 64 << 10

	defaultDialTimeout = 5 * time.Second
	handshakeTimeout   = 5 * time.Second
)

// Options are how token requests travel. The zero value is fit for most.
type Options struct {
	// RootCAs are the authorities to trust. Default: the system's.
	RootCAs *x509.CertPool

	// ServerName is the name that the server's certificate must be for. Default: the URL's.
	ServerName string

	// Certificate is shown to servers that ask for one. Default: none.
	Certificate *tls.Certificate

	// Proxy is the URL of a proxy; NoProxy uses none. Default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
	Proxy   *url.URL
	NoProxy bool

	// DialTimeout bounds connecting. Default: 5s.
	DialTimeout time.Duration

	// AllowPlaintext permits http:// beyond loopback.
	AllowPlaintext bool
}

// Client sends token requests. It follows no redirect, because a 307 would send the secret to another host, and
// keeps no connection, because token calls are rare and a POST on a connection that died meanwhile is not repeated
// by net/http. So a Client costs next to nothing, and is made anew when its certificates may have changed.
type Client struct {
	transport      *http.Transport
	allowPlaintext bool
}

// NewClient makes a client.
func NewClient(o Options) *Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs, ServerName: o.ServerName}
	if o.Certificate != nil {
		// Of config.Certificates, crypto/tls shows none unless the server names its authority, which no server does for
		// a self-signed one (RFC 8705 section 2.2).
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Certificate, nil }
	}
	return &Client{
		transport: &http.Transport{
			Proxy:                  o.proxy,
			DialContext:            (&net.Dialer{Timeout: cmp.Or(o.DialTimeout, defaultDialTimeout)}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    handshakeTimeout,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
			OnProxyConnectResponse: checkProxyAnswer,
		},
		allowPlaintext: o.AllowPlaintext,
	}
}

// proxy implements http.Transport's Proxy. Nothing on this machine is asked through a proxy, which would be elsewhere.
func (o Options) proxy(req *http.Request) (*url.URL, error) {
	switch {
	case o.NoProxy:
		return nil, nil
	case o.Proxy == nil:
		return http.ProxyFromEnvironment(req)
	case IsLoopback(req.URL.Hostname()):
		return nil, nil
	default:
		return o.Proxy, nil
	}
}

// Do sends the request and reads the whole answer. The request's context bounds it all. The error, if any, is a
// *token.Error.
func (c *Client) Do(req *http.Request) (*Answer, error) {
	if req.URL.Scheme != "https" && !c.allowPlaintext && !IsLoopback(req.URL.Hostname()) {
		return nil, &token.Error{Kind: token.Refused, Reason: "the request would be sent in the clear: use https, or say allow_plaintext"}
	}
	sent := time.Now()
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(req.Context(), err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // reading on would not end with the context
		return nil, unavailable(trouble{"", "it switched to another protocol"})
	}

	a := &Answer{Status: res.StatusCode, Header: res.Header, Sent: sent}
	var failed *token.Error
	a.Body, failed = readAnswer(req.Context(), res)
	if failed != nil && (a.success() || req.Context().Err() != nil) {
		return nil, failed
	}
	return a, nil // of a failure, the status says enough
}

func readAnswer(ctx context.Context, res *http.Response) ([]byte, *token.Error) {
	if encoding := res.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		// net/http has undone gzip; nothing else was asked for
		return nil, &token.Error{Kind: token.Unreadable, Status: res.StatusCode, Reason: "the answer has an encoding that was not asked for"}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if len(body) > maxBody {
		return nil, &token.Error{Kind: token.Unreadable, Status: res.StatusCode, Reason: "the answer is larger than 64 KiB"}
	}
	return body, nil
}
