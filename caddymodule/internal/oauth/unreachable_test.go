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

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// An error contains no text of net/http, crypto/tls or crypto/x509, because their texts quote URLs and answers.
func TestUnavailableReason(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{canary + ".example"}}
	for want, errs := range map[string][]error{
		"its host name does not exist":         {&net.DNSError{Err: "no such host", Name: canary, IsNotFound: true}},
		"its host name could not be resolved":  {&net.DNSError{Err: "timeout", Name: canary, IsTimeout: true}},
		"signed by an authority":               {x509.UnknownAuthorityError{Cert: leaf}},
		"its certificate is for another host":  {x509.HostnameError{Certificate: leaf, Host: canary}},
		"its certificate has expired":          {x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired, Detail: canary}},
		"its certificate is not valid":         {x509.CertificateInvalidError{Cert: leaf, Reason: x509.NameMismatch, Detail: canary}},
		"it does not speak TLS":                {tls.RecordHeaderError{Msg: canary}},
		"connecting timed out":                 {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}},
		"connection refused":                   {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		"connection reset":                     {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}},
		"it closed the connection before":      {io.EOF, io.ErrUnexpectedEOF},
		"it broke off the TLS handshake":       {tls.AlertError(40), &net.OpError{Op: "remote error", Err: tls.AlertError(116)}},
		"the exchange failed":                  {errors.New(canary)},
		"the token endpoint cannot be reached": {errors.New(canary)},
	} {
		for _, err := range errs {
			for _, wrapped := range []error{
				err,
				&url.Error{Op: "Post", URL: "https://login.example/?" + canary, Err: err},
				fmt.Errorf("%s: %w", canary, &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{leaf}, Err: err}),
			} {
				if e := wantError(t, unreachable(t.Context(), wrapped), token.Unavailable); !strings.Contains(e.Reason, want) {
					t.Errorf("%v: got %q, want %q", wrapped, e.Reason, want)
				}
			}
		}
	}
}

func TestUnavailableReasonAfterTimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := wantError(t, unreachable(ctx, &net.DNSError{Err: canary, Name: canary, IsNotFound: true}), token.Unavailable)
	if !strings.Contains(e.Reason, "fetch_timeout") {
		t.Errorf("the reason %q does not name the option", e.Reason)
	}
}

// Each failure has its cause. The advice to operators depends on it.
func TestUnreachableCause(t *testing.T) {
	for want, errs := range map[token.Cause][]error{
		token.CauseName:           {&net.DNSError{IsNotFound: true}, &net.DNSError{IsTimeout: true}},
		token.CauseConnection:     {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		token.CauseConnectTimeout: {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}},
		token.CauseCut:            {io.EOF, io.ErrUnexpectedEOF, os.NewSyscallError("read", syscall.ECONNRESET)},
		token.CauseAuthority:      {x509.UnknownAuthorityError{}},
		token.CauseCertificate: {
			x509.HostnameError{Certificate: new(x509.Certificate)}, x509.CertificateInvalidError{Reason: x509.Expired},
			x509.CertificateInvalidError{Reason: x509.TooManyIntermediates},
		},
		token.CauseTLS:       {tls.RecordHeaderError{}},
		token.CauseHandshake: {tls.AlertError(40), &net.OpError{Op: "remote error", Err: tls.AlertError(116)}},
		token.CauseProxy: {
			&proxyError{407}, &proxyError{502},
			&net.OpError{Op: "proxyconnect", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
			&net.OpError{Op: "proxyconnect", Err: &net.DNSError{IsNotFound: true}},
			&net.OpError{Op: "proxyconnect", Err: x509.UnknownAuthorityError{}},
			&net.OpError{Op: "socks connect", Err: errors.New(canary)},
		},
		"": {errors.New(canary)},
	} {
		for _, err := range errs {
			if got := unreachable(t.Context(), fmt.Errorf("%s: %w", canary, err)).Cause; got != want {
				t.Errorf("%v: got cause %q, want %q", err, got, want)
			}
		}
	}
}

// The error for a proxy that is down, or that does not open a tunnel, names the proxy and not the token endpoint.
func TestUnreachableProxy(t *testing.T) {
	answers := func(status int) string {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, canary)
		}))
		t.Cleanup(proxy.Close)
		return proxy.URL
	}
	for proxy, want := range map[string]string{
		answers(407):           "user name and a password",
		answers(403):           "status 403",
		"http://127.0.0.1:1":   "connection refused", // no other process takes this port meanwhile
		"socks5://127.0.0.1:1": "the proxy cannot be used",
	} {
		_, err := post(t.Context(), NewClient(Options{Proxy: must(url.Parse(proxy))}), "https://login.invalid")
		e := wantError(t, err, token.Unavailable)
		if e.Cause != token.CauseProxy || !strings.Contains(e.Reason, want) {
			t.Errorf("%s: got cause %q, reason %q, want a reason with %q", proxy, e.Cause, e.Reason, want)
		}
	}
}
