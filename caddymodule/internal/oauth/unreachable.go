package oauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// trouble is the cause of a failed exchange, with a constant text in which %s is the peer. The texts of net/http quote URLs,
// and those of crypto/x509 quote the server.
type trouble struct {
	cause token.Cause
	words string
}

// peerWords are the peers as errors call them.
var peerWords = map[token.Peer]string{
	token.PeerEndpoint: "the token endpoint",
	token.PeerIssuer:   "the issuer",
	token.PeerProxy:    "the network proxy",
}

// unreachable returns the error for an exchange without an answer.
func unreachable(ctx context.Context, err error) *token.Error {
	seen := progressOf(ctx).now()
	if proxy, ok := errors.AsType[*proxyError](err); ok {
		return unavailable(token.PeerProxy, proxy.trouble)
	}
	if throughProxy(err) {
		seen.peer = token.PeerProxy
	}
	if ctx.Err() != nil {
		return unavailable(seen.peer, seen.timeout())
	}
	return unavailable(seen.peer, seen.trouble(err))
}

func unavailable(peer token.Peer, t trouble) *token.Error {
	return &token.Error{Kind: token.Unavailable, Cause: t.cause, Peer: peer, Reason: strings.ReplaceAll(t.words, "%s", peerWords[peer])}
}

// throughProxy reports whether an error concerns the network proxy. The operations are those of net/http and its SOCKS client.
func throughProxy(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "proxyconnect" || op.Op == "socks connect")
}

func (o observed) trouble(err error) trouble {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return nameTrouble(dns)
	}
	if t, ok := certificateTrouble(err); ok {
		return t
	}
	if t, ok := o.handshakeTrouble(err); ok {
		return t
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return o.timeout()
	}
	if t, ok := systemTrouble(err); ok {
		return t
	}
	switch op, _ := errors.AsType[*net.OpError](err); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return o.cut()
	case op != nil && op.Op == "socks connect":
		return trouble{token.CauseProxyTunnel, "%s did not open a connection with SOCKS 5"}
	case o.peer == token.PeerProxy && o.stage == stageTunnel:
		return trouble{token.CauseNotHTTP, "%s did not answer as an HTTP proxy"}
	case o.stage == stageAnswer:
		return trouble{token.CauseNotHTTP, "the answer of %s is not HTTP/1.1, or has a header larger than 64 KiB"}
	default:
		return trouble{"", "the exchange with %s failed"}
	}
}

// timeout returns what took too long.
func (o observed) timeout() trouble {
	switch o.stage {
	case stageName:
		return trouble{token.CauseResolver, "the host name of %s could not be resolved in time (dial_timeout, fetch_timeout)"}
	case stageStart, stageConnect:
		return trouble{token.CauseConnectTimeout, "%s did not accept a connection in time (dial_timeout, fetch_timeout)"}
	case stageHandshake:
		return trouble{token.CauseHandshakeTimeout, "%s did not complete the TLS handshake in time"}
	}
	if o.peer == token.PeerProxy {
		return trouble{token.CauseTimeout, "%s did not answer within fetch_timeout"}
	}
	return trouble{token.CauseTimeout, "%s did not answer completely within fetch_timeout"}
}

// cut returns what it means that the peer closed the connection. After a TLS 1.3 handshake, the end of the connection can
// arrive in place of the alert that the server sent before it.
func (o observed) cut() trouble {
	switch {
	case o.asked && !o.shown:
		return trouble{token.CauseClientCertificate, "%s asked for a client certificate, got none, and closed the connection"}
	case o.stage == stageHandshake:
		return trouble{token.CauseHandshake, "%s closed the connection during the TLS handshake"}
	case o.stage == stageTunnel:
		return trouble{token.CauseCut, "%s closed the connection without an answer"}
	default:
		return trouble{token.CauseCut, "%s closed the connection before the answer was complete"}
	}
}

func nameTrouble(err *net.DNSError) trouble {
	if err.IsNotFound {
		return trouble{token.CauseName, "the host name of %s does not exist"}
	}
	return trouble{token.CauseResolver, "the host name of %s could not be resolved, because the DNS server failed or did not answer"}
}

// systemTrouble returns the trouble for an error of the operating system.
func systemTrouble(err error) (trouble, bool) {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return trouble{}, false
	}
	switch errno {
	case syscall.ECONNREFUSED:
		return trouble{token.CauseConnection, "%s refused the connection"}, true
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return trouble{token.CauseRoute, "the network of this machine has no route to %s"}, true
	case syscall.EACCES, syscall.EPERM:
		return trouble{token.CausePermission, "this machine does not permit a connection to %s"}, true
	case syscall.EMFILE, syscall.ENFILE:
		return trouble{token.CauseLimit, "no file descriptor was free for a connection to %s"}, true
	case syscall.EADDRNOTAVAIL:
		return trouble{token.CauseLimit, "this machine has no free port or no suitable address for a connection to %s"}, true
	}
	return trouble{}, false
}

// proxyError is the error for a network proxy that does not open a tunnel.
type proxyError struct {
	trouble trouble
}

// Error implements error.
func (e *proxyError) Error() string { return e.trouble.words }

// checkProxyAnswer implements the field OnProxyConnectResponse of http.Transport. Without it, net/http would return an
// error with the text of the proxy.
func checkProxyAnswer(ctx context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		progressOf(ctx).reached()
		return nil
	}
	return &proxyError{proxyTrouble(proxy, answer)}
}

func proxyTrouble(proxy *url.URL, answer *http.Response) trouble {
	switch status := answer.StatusCode; status {
	case http.StatusProxyAuthRequired:
		return loginTrouble(proxy, answer)
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return trouble{token.CauseProxyDenied, fmt.Sprintf("%%s does not permit this connection (status %d)", status)}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return trouble{token.CauseProxyGateway, fmt.Sprintf("%%s could not open a connection to the host (status %d)", status)}
	default:
		return trouble{token.CauseProxyTunnel, fmt.Sprintf("%%s did not open a connection (status %d)", status)}
	}
}

// loginTrouble explains status 407. net/http knows Basic only (RFC 7617).
func loginTrouble(proxy *url.URL, answer *http.Response) trouble {
	switch {
	case !offersBasic(answer.Header.Values("Proxy-Authenticate")):
		return trouble{token.CauseProxyLoginMethod, "%s requires a login other than Basic, which is not supported (status 407)"}
	case proxy != nil && proxy.User != nil:
		return trouble{token.CauseProxyLogin, "%s refused the user name and the password in its URL (status 407)"}
	default:
		return trouble{token.CauseProxyLogin, "%s requires a user name and a password, and its URL has none (status 407)"}
	}
}

// offersBasic reports whether the challenges include Basic, or do not exist.
func offersBasic(challenges []string) bool {
	for _, challenge := range challenges {
		for part := range strings.SplitSeq(challenge, ",") {
			if scheme, _, _ := strings.Cut(strings.TrimSpace(part), " "); strings.EqualFold(scheme, "Basic") {
				return true
			}
		}
	}
	return len(challenges) == 0
}
