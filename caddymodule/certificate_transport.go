package caddymodule

import (
	"crypto/tls"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// boundTransport shows the API the client certificate that a token may be bound to (RFC 8705 section 3). A connection
// outlives the file that its certificate came from. So each certificate has its own connections, and no token travels on a
// connection that was opened with another certificate.
type boundTransport struct {
	base    *reverseproxy.HTTPTransport
	current atomic.Pointer[certificateTransport]
}

// certificateTransport is the transport with one certificate.
type certificateTransport struct {
	certificate *tls.Certificate
	transport   *reverseproxy.HTTPTransport
}

// newBoundTransport returns nil if the transport cannot show the token's certificate. That is so if it does not encrypt, has
// its own certificate, makes its TLS connections itself, or uses HTTP/3.
func newBoundTransport(transport http.RoundTripper) *boundTransport {
	t, ok := transport.(*reverseproxy.HTTPTransport)
	switch {
	case !ok || t.TLS == nil:
		return nil
	case t.TLS.ClientCertificateFile != "" || t.TLS.ClientCertificateAutomate != "":
		return nil
	case t.Transport.DialTLSContext != nil || slices.Contains(t.Versions, "3"):
		return nil
	}
	return &boundTransport{base: t}
}

// with returns the transport that shows the certificate. It keeps only the latest one. The few requests with an earlier
// token get a transport, and so a connection, of their own.
func (b *boundTransport) with(certificate *tls.Certificate) http.RoundTripper {
	current := b.current.Load()
	if current != nil && sameCertificate(current.certificate, certificate) {
		return current.transport
	}
	made := &certificateTransport{certificate, b.showing(certificate)}
	if b.current.CompareAndSwap(current, made) && current != nil {
		current.transport.Transport.CloseIdleConnections()
	}
	return made.transport
}

func sameCertificate(a, b *tls.Certificate) bool {
	return a == b || a.Leaf.Equal(b.Leaf)
}

// showing returns a copy of the transport with the certificate and without connections.
func (b *boundTransport) showing(certificate *tls.Certificate) *reverseproxy.HTTPTransport {
	bound := *b.base
	bound.Transport = b.base.Transport.Clone()
	bound.Transport.TLSNextProto = nil // which leads to the connections of the original
	bound.Transport.ForceAttemptHTTP2 = slices.Contains(b.base.Versions, "2")
	if bound.Transport.TLSClientConfig == nil {
		bound.Transport.TLSClientConfig = new(tls.Config)
	}
	// Not Certificates, because crypto/tls shows one of those only if the server names its authority.
	bound.Transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return certificate, nil
	}
	return &bound
}

func (b *boundTransport) close() {
	if b == nil {
		return
	}
	if current := b.current.Load(); current != nil {
		current.transport.Transport.CloseIdleConnections()
	}
}
