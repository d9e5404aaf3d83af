package oauth

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
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
		return nil, unavailable(reason(req.Context(), err))
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols { // reading on would not end with the context
		return nil, unavailable("it switched to another protocol")
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
		return nil, unavailable(reason(ctx, err))
	}
	if len(body) > maxBody {
		return nil, &token.Error{Kind: token.Unreadable, Status: res.StatusCode, Reason: "the answer is larger than 64 KiB"}
	}
	return body, nil
}

// unavailable describes a failed exchange.
func unavailable(why string) *token.Error {
	return &token.Error{Kind: token.Unavailable, Reason: "the token endpoint cannot be reached: " + why}
}

// reason says in words of our own why an exchange failed: the texts of net/http quote URLs, and those of crypto/x509
// quote what the server sent.
func reason(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return "it did not answer within fetch_timeout"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "its host name does not exist"
		}
		return "its host name could not be resolved"
	}
	if is[x509.UnknownAuthorityError](err) {
		return "its certificate is signed by an authority that is not trusted here"
	}
	if is[x509.HostnameError](err) {
		return "its certificate is for another host"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "its certificate has expired"
		}
		return "its certificate is not valid"
	}
	if is[tls.RecordHeaderError](err) {
		return "it does not speak TLS"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "connecting timed out"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection before the answer was complete"
	default:
		return "the exchange failed"
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
