package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// trouble is the cause of a failed exchange, with a constant text. The texts of net/http quote URLs, and those of
// crypto/x509 quote the server.
type trouble struct {
	cause token.Cause
	words string
}

// unreachable returns the error for an exchange without an answer.
func unreachable(ctx context.Context, err error) *token.Error {
	if ctx.Err() != nil {
		return unavailable(trouble{token.CauseTimeout, "it did not answer within fetch_timeout"})
	}
	if atProxy(err) {
		return &token.Error{Kind: token.Unavailable, Cause: token.CauseProxy, Reason: "the proxy cannot be used: " + troubleOf(err).words}
	}
	return unavailable(troubleOf(err))
}

func unavailable(t trouble) *token.Error {
	return &token.Error{Kind: token.Unavailable, Cause: t.cause, Reason: "the token endpoint cannot be reached: " + t.words}
}

func troubleOf(err error) trouble {
	if proxy, ok := errors.AsType[*proxyError](err); ok {
		return trouble{token.CauseProxy, proxy.Error()}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return nameTrouble(dns)
	}
	if t, ok := tlsTrouble(err); ok {
		return t
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return trouble{token.CauseConnectTimeout, "connecting timed out"}
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return trouble{token.CauseConnection, "connection refused"}
	case errors.Is(err, syscall.ECONNRESET):
		return trouble{token.CauseCut, "connection reset"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return trouble{token.CauseCut, "it closed the connection before the answer was complete"}
	default:
		return trouble{"", "the exchange failed"}
	}
}

func nameTrouble(err *net.DNSError) trouble {
	if err.IsNotFound {
		return trouble{token.CauseName, "its host name does not exist"}
	}
	return trouble{token.CauseName, "its host name could not be resolved"}
}

func tlsTrouble(err error) (trouble, bool) {
	if is[x509.UnknownAuthorityError](err) {
		return trouble{token.CauseAuthority, "its certificate is signed by an authority that is not trusted here"}, true
	}
	if is[x509.HostnameError](err) {
		return trouble{token.CauseCertificate, "its certificate is for another host"}, true
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return trouble{token.CauseCertificate, "its certificate has expired"}, true
		}
		return trouble{token.CauseCertificate, "its certificate is not valid"}, true
	}
	if is[tls.RecordHeaderError](err) {
		return trouble{token.CauseTLS, "it does not speak TLS"}, true
	}
	if is[tls.AlertError](err) || remoteAlert(err) {
		return trouble{token.CauseHandshake, "it broke off the TLS handshake"}, true
	}
	return trouble{}, false
}

// remoteAlert reports whether the server sent a TLS alert. For TCP, crypto/tls returns an OpError with this operation.
func remoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// atProxy reports whether an error concerns the proxy. The operations are those of net/http and its SOCKS client.
func atProxy(err error) bool {
	if is[*proxyError](err) {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "proxyconnect" || op.Op == "socks connect")
}

// proxyError is the error for a proxy that does not open a tunnel.
type proxyError struct {
	status int
}

// Error implements error.
func (e *proxyError) Error() string {
	if e.status == http.StatusProxyAuthRequired {
		return "it requires a user name and a password (status 407)"
	}
	return fmt.Sprintf("it does not open a tunnel (status %d)", e.status)
}

// checkProxyAnswer implements the field OnProxyConnectResponse of http.Transport. Without it, net/http would return an
// error with the text of the proxy.
func checkProxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return &proxyError{answer.StatusCode}
	}
	return nil
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
