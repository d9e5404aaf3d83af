package caddymodule

import (
	"crypto/tls"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// boundTransport shows the API the client certificate that a token may be bound to (RFC 8705 section 3). A connection
// outlives the file that its certificate came from. So each certificate has its own connections, and no token travels on a
// connection that was opened with another certificate.
type boundTransport struct {
	base    *reverseproxy.HTTPTransport
	own     latestTransport // of a credential without tenants
	tenants sync.Map        // of *latestTransport, by the name of the tenant
	began   time.Time
	swept   atomic.Int64 // when unused transports of tenants were looked for: a time.Duration since began
}

// latestTransport is the transport with the latest certificate of a credential or a tenant.
type latestTransport struct {
	current atomic.Pointer[certificateTransport]
	used    atomic.Int64 // a time.Duration since began; of tenants only
}

// unusedTransport is how long the transport of a tenant is kept without use. That is longer than an idle connection is kept by
// default.
const unusedTransport = 5 * time.Minute

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
	return &boundTransport{base: t, began: time.Now()}
}

// with returns the transport that shows the certificate. It keeps only the latest one of each tenant, or of the credential if
// tenant is empty. The few requests with an earlier token get a transport, and so a connection, of their own.
func (b *boundTransport) with(tenant string, certificate *tls.Certificate) http.RoundTripper {
	latest := b.latestOf(tenant)
	current := latest.current.Load()
	if current != nil && sameCertificate(current.certificate, certificate) {
		return current.transport
	}
	made := &certificateTransport{certificate, b.showing(certificate)}
	if latest.current.CompareAndSwap(current, made) && current != nil {
		current.transport.Transport.CloseIdleConnections()
	}
	return made.transport
}

func (b *boundTransport) latestOf(tenant string) *latestTransport {
	if tenant == "" {
		return &b.own
	}
	now := time.Since(b.began)
	found, ok := b.tenants.Load(tenant)
	if !ok {
		b.dropUnused(now)
		found, _ = b.tenants.LoadOrStore(tenant, new(latestTransport))
	}
	latest := found.(*latestTransport)
	latest.used.Store(int64(now))
	return latest
}

// dropUnused drops the transports of tenants that have not been used for a while.
func (b *boundTransport) dropUnused(now time.Duration) {
	last := b.swept.Load()
	if now-time.Duration(last) < unusedTransport || !b.swept.CompareAndSwap(last, int64(now)) {
		return
	}
	b.tenants.Range(func(tenant, of any) bool {
		if latest := of.(*latestTransport); now-time.Duration(latest.used.Load()) >= unusedTransport {
			b.tenants.Delete(tenant)
			latest.close()
		}
		return true
	})
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
	b.own.close()
	b.tenants.Range(func(_, of any) bool {
		of.(*latestTransport).close()
		return true
	})
}

func (l *latestTransport) close() {
	if current := l.current.Load(); current != nil {
		current.transport.Transport.CloseIdleConnections()
	}
}
