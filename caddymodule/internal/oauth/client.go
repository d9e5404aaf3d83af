package oauth

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// maxBody limits the body of an answer after decompression. Real answers have less than 10 KiB.
	maxBody = 64 << 10

	// maxHeader limits the header of an answer. The default of net/http is 10 MiB.
	maxHeader = 64 << 10

	defaultDialTimeout = 5 * time.Second
	handshakeTimeout   = 5 * time.Second
)

// Options configure a Client. The zero value is useful.
type Options struct {
	// RootCAs are the trusted certificate authorities. Default: those of the system.
	RootCAs *x509.CertPool

	// ServerName is the name that the certificate of the server must be valid for. Default: the host of the URL.
	ServerName string

	// Certificate is the client certificate for servers that request one. Default: none.
	Certificate *tls.Certificate

	// Renegotiation permits a server to start another TLS handshake on the connection, up to TLS 1.2. Default: never.
	Renegotiation tls.RenegotiationSupport

	// Proxy is the URL of a proxy. NoProxy uses no proxy. Default: the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY set.
	Proxy   *url.URL
	NoProxy bool

	// DialTimeout limits the time to connect. Default: 5s.
	DialTimeout time.Duration

	// AllowPlaintext permits http to hosts beyond loopback. Default: false.
	AllowPlaintext bool
}

// Client sends token requests. It does not follow redirects, because a 307 would send the secret to another host. It does
// not keep connections, because token requests are rare, and net/http does not repeat a POST on a connection that the
// server has closed. A Client is therefore cheap, and the app makes a new one for each token request.
type Client struct {
	transport        *http.Transport
	allowPlaintext   bool
	renegotiatesOnce bool
}

// NewClient returns a Client with these options.
func NewClient(o Options) *Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs, ServerName: o.ServerName, Renegotiation: o.Renegotiation}
	config.GetClientCertificate = o.clientCertificate
	return &Client{
		transport: &http.Transport{
			Proxy:                  o.proxy,
			DialContext:            o.dial,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    handshakeTimeout,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
			DisableCompression:     true, // readAnswer decodes, because the label Content-Encoding can be wrong
			OnProxyConnectResponse: checkProxyAnswer,
		},
		allowPlaintext:   o.AllowPlaintext,
		renegotiatesOnce: o.Renegotiation == tls.RenegotiateOnceAsClient,
	}
}

// clientCertificate implements the field GetClientCertificate of tls.Config. crypto/tls would not present a certificate of
// the field Certificates whose authority the server does not name. No server names the authority of a self-signed certificate
// (RFC 8705 section 2.2).
func (o Options) clientCertificate(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	progressOf(request.Context()).change(func(seen *observed) { seen.asked, seen.shown = true, o.Certificate != nil })
	return cmp.Or(o.Certificate, new(tls.Certificate)), nil
}

// dial implements the field DialContext of http.Transport.
func (o Options) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: cmp.Or(o.DialTimeout, defaultDialTimeout)}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &observedConn{conn, progressOf(ctx)}, nil
}

// proxy implements the field Proxy of http.Transport.
func (o Options) proxy(req *http.Request) (*url.URL, error) {
	proxy, err := o.proxyFor(req)
	progressOf(req.Context()).through(proxy)
	return proxy, err
}

// proxyFor returns the network proxy for a request, or nil. A request to loopback uses none, because for a proxy on another
// host, loopback is that host.
func (o Options) proxyFor(req *http.Request) (*url.URL, error) {
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

// Do sends the request and reads the whole answer. The context of the request limits the time for both. Errors are of type
// *token.Error.
func (c *Client) Do(req *http.Request) (*Answer, error) {
	if req.URL.Scheme != "https" && !c.allowPlaintext && !IsLoopback(req.URL.Hostname()) {
		return nil, &token.Error{Kind: token.Refused, Reason: "the request would be sent in the clear; use https or set allow_plaintext"}
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	req = observe(req, c.renegotiatesOnce)
	sent := time.Now()
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(req.Context(), err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // the context would not end the reading of its body
		return nil, unavailable(peerOf(req.Context()), trouble{token.CauseNotHTTP, "%s switched to another protocol"})
	}
	if proxy := progressOf(req.Context()).askedBy(); proxy != nil && res.StatusCode == http.StatusProxyAuthRequired {
		return nil, unavailable(token.PeerProxy, loginTrouble(proxy, res))
	}

	seen := progressOf(req.Context()).now()
	a := &Answer{Status: res.StatusCode, Header: res.Header, Sent: sent, WantsCertificate: seen.asked && !seen.shown}
	var failed *token.Error
	a.Body, failed = readAnswer(req.Context(), res)
	if failed != nil && (a.success() || req.Context().Err() != nil) {
		return nil, failed
	}
	return a, nil // the status of a failure suffices without its body
}

// readAnswer reads the body of an answer. It decodes gzip wherever it finds it, and ignores the label Content-Encoding. Some
// servers label plain JSON as UTF-8, or as gzip that a gateway has already decoded.
func readAnswer(ctx context.Context, res *http.Response) ([]byte, *token.Error) {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if isGzip(body) && len(body) <= maxBody {
		body, err = gunzip(body)
	}
	encoding := res.Header.Get("Content-Encoding")
	switch {
	case len(body) > maxBody:
		return nil, unreadable(res, token.CauseTooLarge, "the answer of %s is larger than 64 KiB")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, unreachable(ctx, err)
	case err != nil:
		return nil, unreadable(res, token.CauseEncoding, "the compressed answer of %s is damaged")
	case encoding != "" && !utf8.Valid(body):
		return nil, unreadable(res, token.CauseEncoding, "the answer of %s has a content encoding that the proxy did not request")
	}
	return body, nil
}

func unreadable(res *http.Response, cause token.Cause, words string) *token.Error {
	e := unavailable(peerOf(res.Request.Context()), trouble{cause, words})
	e.Kind, e.Status = token.Unreadable, res.StatusCode
	return e
}

// isGzip reports whether the body begins as gzip does (RFC 1952 section 2.3.1). No text in UTF-8 begins so.
func isGzip(body []byte) bool { return bytes.HasPrefix(body, []byte{0x1f, 0x8b}) }

// gunzip decodes at most maxBody+1 bytes.
func gunzip(body []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxBody+1))
}
