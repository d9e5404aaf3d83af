package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

// Each mistake has a reason of its own, which holds no text of the server.
func TestReasons(t *testing.T) {
	dial := func(err error) error { return harmless(&net.OpError{Op: "dial", Net: "tcp", Err: err}) }
	seen := make(map[string]string)
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"refused":       {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "refuses connections"},
		"unknown host":  {dial(&net.DNSError{Err: "no such host", Name: password, IsNotFound: true}), "DNS"},
		"no socket":     {dial(os.NewSyscallError("connect", syscall.ENOENT)), "socket"},
		"no route":      {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "no network"},
		"authority":     {harmless(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "option ca"},
		"other name":    {harmless(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: new(x509.Certificate), Host: password}}), "server_name"},
		"expired":       {harmless(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), "expired"},
		"no TLS":        {harmless(tls.RecordHeaderError{Msg: password}), "does not answer with TLS"},
		"alert":         {harmless(&net.OpError{Op: "remote error", Err: tls.AlertError(42)}), "client_certificate"},
		"closed":        {io.EOF, "requires TLS"},
		"late":          {context.DeadlineExceeded, "in time"},
		"another":       {dial(errors.New(password)), "failed"},
		"file":          {harmless(errors.New("password: the file is empty")), "password: the file is empty"},
		"not Redis":     {errors.New(password), "is not Redis"},
		"several times": {fmt.Errorf("again: %w", io.EOF), "requires TLS"},

		// go-redis takes the error of a handshake apart
		"several times, late":  {os.ErrDeadlineExceeded, "in time"},
		"several times, reset": {os.NewSyscallError("read", syscall.ECONNRESET), "requires TLS"},
	} {
		err := failed("GET", tc.err)
		explained, ok := errors.AsType[*share.Error](err)
		if !ok || !strings.Contains(explained.Reason, tc.want) || strings.Contains(explained.Reason, password) {
			t.Errorf("%s: the reason is %+v, want %q", name, explained, tc.want)
			continue
		}
		if other := seen[explained.Reason]; other != "" && !strings.HasPrefix(name, "several times") && !strings.HasPrefix(other, "several times") {
			t.Errorf("%s and %s have the same reason", name, other)
		}
		seen[explained.Reason] = name
		if errors.Is(tc.err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(tc.err, context.DeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the class is lost", name)
		}
	}
}
