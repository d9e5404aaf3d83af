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
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// seen returns a context of an exchange that has come this far.
func seen(ctx context.Context, o observed) context.Context {
	return context.WithValue(ctx, progressKey{}, &progress{seen: o})
}

func remote(alert tls.AlertError) error { return &net.OpError{Op: remoteAlert, Err: alert} }
func local(alert tls.AlertError) error  { return &net.OpError{Op: localAlert, Err: alert} }

func system(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Err: os.NewSyscallError(op, errno)}
}

// Each failure has its cause, on which the advice to operators depends. An error contains no text of net/http, crypto/tls or
// crypto/x509, because their texts quote URLs and answers.
func TestUnreachable(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{canary + ".example"}}
	future := &x509.Certificate{NotBefore: time.Now().Add(time.Hour)}
	invalid := func(c *x509.Certificate, reason x509.InvalidReason) error {
		return x509.CertificateInvalidError{Cert: c, Reason: reason, Detail: canary}
	}
	var start, asked, shown, answering observed
	asked.asked, asked.stage = true, stageAnswer
	shown.asked, shown.shown = true, true
	answering.stage = stageAnswer
	for _, tc := range []struct {
		err    error
		seen   observed
		cause  token.Cause
		reason string
	}{
		{&net.DNSError{Err: "no such host", Name: canary, IsNotFound: true}, start, token.CauseName, "the host name of the token endpoint does not exist"},
		{&net.DNSError{Err: "timeout", Name: canary, IsTimeout: true}, start, token.CauseResolver, "the DNS server failed or did not answer"},
		{&net.DNSError{Err: canary, IsTemporary: true}, start, token.CauseResolver, "the DNS server failed or did not answer"},
		{system("connect", syscall.ECONNREFUSED), start, token.CauseConnection, "the token endpoint refused the connection"},
		{system("connect", syscall.EHOSTUNREACH), start, token.CauseRoute, "no route to the token endpoint"},
		{system("connect", syscall.ENETUNREACH), start, token.CauseRoute, "no route to the token endpoint"},
		{system("connect", syscall.EACCES), start, token.CausePermission, "does not permit a connection"},
		{system("connect", syscall.EPERM), start, token.CausePermission, "does not permit a connection"},
		{system("socket", syscall.EMFILE), start, token.CauseLimit, "no file descriptor"},
		{system("socket", syscall.ENFILE), start, token.CauseLimit, "no file descriptor"},
		{system("connect", syscall.EADDRNOTAVAIL), start, token.CauseLimit, "no free port"},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, observed{stage: stageName}, token.CauseResolver, "could not be resolved in time"},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, observed{stage: stageConnect}, token.CauseConnectTimeout, "did not accept a connection in time"},
		{os.ErrDeadlineExceeded, observed{stage: stageHandshake}, token.CauseHandshakeTimeout, "did not complete the TLS handshake in time"},
		{x509.UnknownAuthorityError{Cert: leaf}, start, token.CauseAuthority, "the certificate of the token endpoint is signed by an authority that is not trusted here"},
		{x509.SystemRootsError{Err: errors.New(canary)}, start, token.CauseAuthority, "not trusted here"},
		{x509.HostnameError{Certificate: leaf, Host: canary}, start, token.CauseHost, "is for another host"},
		{x509.HostnameError{Certificate: new(x509.Certificate), Host: canary}, start, token.CauseCertificate, "subjectAltName"},
		{invalid(leaf, x509.Expired), start, token.CauseExpired, "has expired"},
		{invalid(future, x509.Expired), start, token.CauseNotYetValid, "not valid yet"},
		{invalid(leaf, x509.IncompatibleUsage), start, token.CauseCertificate, "not one for servers"},
		{invalid(leaf, x509.TooManyIntermediates), start, token.CauseCertificate, "is not valid"},
		{tls.RecordHeaderError{Msg: canary}, start, token.CauseTLS, "does not speak TLS on this port"},
		{remote(70), start, token.CauseVersion, "supports no version of TLS from 1.2 on"},
		{local(70), start, token.CauseVersion, "supports no version of TLS from 1.2 on"},
		{errors.New(canary), observed{stage: stageHandshake, alert: 70}, token.CauseVersion, "supports no version of TLS from 1.2 on"},
		{errors.New(canary), observed{stage: stageHandshake, alert: 47}, token.CauseHandshake, "does not follow the protocol"},
		{remote(40), start, token.CauseCipher, "no cipher or other TLS parameters in common"},
		{remote(71), start, token.CauseCipher, "no cipher or other TLS parameters in common"},
		{remote(112), start, token.CauseServerName, "knows no host with the name"},
		{remote(80), start, token.CauseHandshake, "broke off the TLS handshake"},
		{io.EOF, observed{stage: stageHandshake}, token.CauseHandshake, "closed the connection during the TLS handshake"},
		{remote(116), start, token.CauseClientCertificate, "requires a client certificate, and the credential has none"},
		{remote(40), asked, token.CauseClientCertificate, "requires a client certificate, and the credential has none"},
		{remote(42), asked, token.CauseClientCertificate, "requires a client certificate, and the credential has none"},
		{io.EOF, asked, token.CauseClientCertificate, "asked for a client certificate, got none, and closed the connection"},
		{system("read", syscall.ECONNRESET), asked, token.CauseClientCertificate, "asked for a client certificate, got none, and closed the connection"},
		{system("write", syscall.EPIPE), asked, token.CauseClientCertificate, "asked for a client certificate, got none, and closed the connection"},
		{remote(80), asked, token.CauseHandshake, "broke off the TLS handshake"},
		{remote(42), shown, token.CauseClientCertificateRefused, "refused the client certificate"},
		{remote(44), shown, token.CauseClientCertificateRefused, "because it is revoked"},
		{remote(45), shown, token.CauseClientCertificateRefused, "because it has expired"},
		{remote(48), shown, token.CauseClientCertificateRefused, "because it does not know its authority"},
		{remote(40), shown, token.CauseCipher, "no cipher or other TLS parameters in common"},
		{local(100), answering, token.CauseRenegotiation, "starts another TLS handshake, and tls_renegotiation is never"},
		{local(100), observed{once: true}, token.CauseRenegotiation, "starts further TLS handshakes, and tls_renegotiation is once"},
		{system("read", syscall.ECONNRESET), answering, token.CauseCut, "closed the connection before the answer was complete"},
		{io.EOF, answering, token.CauseCut, "closed the connection before the answer was complete"},
		{io.ErrUnexpectedEOF, answering, token.CauseCut, "closed the connection before the answer was complete"},
		{errors.New(canary), answering, token.CauseNotHTTP, "is not HTTP/1.1"},
		{errors.New(canary), start, "", "the exchange with the token endpoint failed"},
	} {
		for peer, name := range peerWords {
			tc.seen.peer = peer
			want := strings.ReplaceAll(tc.reason, "the token endpoint", name)
			for _, wrapped := range []error{
				tc.err,
				&url.Error{Op: "Post", URL: "https://login.example/?" + canary, Err: tc.err},
				fmt.Errorf("%s: %w", canary, tc.err),
			} {
				e := wantError(t, unreachable(seen(t.Context(), tc.seen), wrapped), token.Unavailable)
				if e.Cause != tc.cause || e.Peer != peer || !strings.Contains(e.Reason, want) || !strings.Contains(e.Reason, name) {
					t.Errorf("%v of %q: got %+v, want cause %q and a reason with %q", wrapped, peer, e, tc.cause, want)
				}
			}
		}
	}
	if e := unreachable(t.Context(), &tls.CertificateVerificationError{Err: x509.UnhandledCriticalExtension{}}); e.Cause != token.CauseCertificate {
		t.Errorf("got %+v", e)
	}
}

// The operations of net/http name the network proxy.
func TestUnreachableThroughProxy(t *testing.T) {
	for _, tc := range []struct {
		err   error
		cause token.Cause
	}{
		{&net.OpError{Op: "proxyconnect", Err: system("connect", syscall.ECONNREFUSED)}, token.CauseConnection},
		{&net.OpError{Op: "proxyconnect", Err: &net.DNSError{IsNotFound: true}}, token.CauseName},
		{&net.OpError{Op: "proxyconnect", Err: x509.UnknownAuthorityError{}}, token.CauseAuthority},
		{&net.OpError{Op: "proxyconnect", Err: remote(70)}, token.CauseVersion},
		{&net.OpError{Op: "proxyconnect", Err: tls.RecordHeaderError{Msg: canary}}, token.CauseTLS},
		{&net.OpError{Op: "socks connect", Err: io.EOF}, token.CauseCut},
		{&net.OpError{Op: "socks connect", Err: errors.New(canary)}, token.CauseProxyTunnel},
	} {
		e := wantError(t, unreachable(t.Context(), tc.err), token.Unavailable)
		if e.Cause != tc.cause || e.Peer != token.PeerProxy || !strings.Contains(e.Reason, "the network proxy") {
			t.Errorf("%v: got %+v, want cause %q", tc.err, e, tc.cause)
		}
	}
}

// After the end of the context, how far the exchange has come decides.
func TestUnreachableAfterTimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for stage, want := range map[stage]token.Cause{
		stageStart: token.CauseConnectTimeout, stageName: token.CauseResolver, stageConnect: token.CauseConnectTimeout, stageTunnel: token.CauseTimeout,
		stageHandshake: token.CauseHandshakeTimeout, stageAnswer: token.CauseTimeout,
	} {
		e := wantError(t, unreachable(seen(ctx, observed{stage: stage}), &net.DNSError{Err: canary, Name: canary, IsNotFound: true}), token.Unavailable)
		if e.Cause != want || !strings.Contains(e.Reason, "time") {
			t.Errorf("%v: got %+v, want cause %q", stage, e, want)
		}
	}
}

// The error for a network proxy that is down, or that does not open a tunnel, names the network proxy.
func TestUnreachableProxy(t *testing.T) {
	answers := func(status int, challenges ...string) string {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Proxy-Authenticate"] = challenges
			w.WriteHeader(status)
			_, _ = io.WriteString(w, canary)
		}))
		t.Cleanup(proxy.Close)
		return proxy.URL
	}
	withUser := func(proxy string) string { return strings.Replace(proxy, "http://", "http://user:"+canary+"@", 1) }
	for _, tc := range []struct {
		proxy, target string
		cause         token.Cause
		reason        string
	}{
		{answers(407), "https://login.invalid", token.CauseProxyLogin, "requires a user name and a password, and its URL has none"},
		{answers(407, "Negotiate", `Basic realm="x"`), "https://login.invalid", token.CauseProxyLogin, "its URL has none"},
		{answers(407, `Negotiate, basic realm="x"`), "https://login.invalid", token.CauseProxyLogin, "its URL has none"},
		{withUser(answers(407)), "https://login.invalid", token.CauseProxyLogin, "refused the user name and the password"},
		{answers(407, "Negotiate", "NTLM"), "https://login.invalid", token.CauseProxyLoginMethod, "a login other than Basic"},
		{answers(407), "http://login.invalid", token.CauseProxyLogin, "its URL has none"},
		{withUser(answers(407)), "http://login.invalid", token.CauseProxyLogin, "refused the user name and the password"},
		{answers(403), "https://login.invalid", token.CauseProxyDenied, "does not permit this connection (status 403)"},
		{answers(502), "https://login.invalid", token.CauseProxyGateway, "could not open a connection to the host (status 502)"},
		{answers(405), "https://login.invalid", token.CauseProxyTunnel, "did not open a connection (status 405)"},
		{"http://127.0.0.1:1", "https://login.invalid", token.CauseConnection, "the network proxy refused the connection"}, // no other process takes this port meanwhile
		{"http://proxy.invalid:1", "https://login.invalid", "", "the host name of the network proxy"},
		{"socks5://127.0.0.1:1", "https://login.invalid", token.CauseConnection, "the network proxy refused the connection"},
		{"socks5://" + speaks(t, "no SOCKS"), "https://login.invalid", token.CauseProxyTunnel, "SOCKS"},
		{"http://" + speaks(t, "no HTTP\n"), "https://login.invalid", token.CauseNotHTTP, "did not answer as an HTTP proxy"},
		{"http://" + speaks(t, ""), "https://login.invalid", token.CauseCut, "the network proxy closed the connection"},
		{strings.Replace(answers(200), "http://", "https://", 1), "https://login.invalid", token.CauseTLS, "the network proxy does not speak TLS"},
		{answers(200), "https://login.invalid", token.CauseTLS, "the token endpoint does not speak TLS"},
	} {
		_, err := post(t.Context(), NewClient(Options{Proxy: must(url.Parse(tc.proxy)), AllowPlaintext: true}), tc.target)
		e := wantError(t, err, token.Unavailable)
		if tc.cause != "" && e.Cause != tc.cause || !strings.Contains(e.Reason, tc.reason) || strings.Contains(tc.reason, "endpoint") != (e.Peer == token.PeerEndpoint) {
			t.Errorf("%s: got %+v, want cause %q, reason %q", tc.proxy, e, tc.cause, tc.reason)
		}
	}
}

// speaks returns the address of a server that greets and closes each connection.
func speaks(t *testing.T, greeting string) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, greeting)
			_, _ = conn.Read(make([]byte, 4096))
			conn.Close()
		}
	}()
	return l.Addr().String()
}
