package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

// explained is an error with the reason that operators see. The text of the error itself names the command.
type explained struct {
	error
	reason *share.Error
}

// Unwrap returns the error, and the reason for package share.
func (e explained) Unwrap() []error { return []error{e.error, e.reason} }

// explain adds the reason to an error that described has returned.
func explain(text, err error) error {
	return explained{text, &share.Error{Reason: reason(err), Err: err}}
}

// reason returns what an error means for the operator.
func reason(err error) string {
	switch {
	case is[*net.DNSError](err):
		return "the name in address cannot be found in the DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the server refuses connections, because it is not running or the address is wrong"
	case errors.Is(err, syscall.ENOENT):
		return "the unix socket in address does not exist"
	case errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH):
		return "no network leads to the server"
	case is[x509.UnknownAuthorityError](err):
		return "the server's certificate is signed by an authority that is not trusted here (option ca of tls)"
	case is[x509.HostnameError](err):
		return "the server's certificate is for another name than that in address (option server_name of tls)"
	case is[x509.CertificateInvalidError](err):
		return "the server's certificate is expired or not valid"
	case is[tls.RecordHeaderError](err):
		return "the server does not answer with TLS (option tls)"
	case is[tls.AlertError](err) || isRemote(err):
		return "the server broke off the TLS handshake, as it does if it requires a client certificate (option client_certificate of tls)"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
		return "the server closes the connection, as it does if it requires TLS (option tls)"
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, goredis.ErrPoolTimeout):
		return "the server does not answer in time"
	case is[*net.OpError](err):
		return "the connection to the server failed"
	default:
		return err.Error()
	}
}

// is reports whether the chain of an error has one of this type.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// isRemote reports whether an error is an alert that the server sent, which crypto/tls returns as a net.OpError.
func isRemote(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error"
}
