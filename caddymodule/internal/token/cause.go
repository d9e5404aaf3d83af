package token

// Cause is where a failure comes from. The advice to the operator is chosen by it, never by a text.
type Cause string

// The causes. A failure without a cause is explained by its kind, status and code.
const (
	// CauseName: the host name does not exist, or could not be resolved.
	CauseName Cause = "name"

	// CauseConnection: the host refused the connection.
	CauseConnection Cause = "connection"

	// CauseConnectTimeout: the host did not answer the attempt to connect.
	CauseConnectTimeout Cause = "connect_timeout"

	// CauseTimeout: the token call took longer than Policy.FetchTimeout.
	CauseTimeout Cause = "timeout"

	// CauseCut: the connection ended before the answer was complete.
	CauseCut Cause = "cut"

	// CauseAuthority: the server's certificate is signed by an authority that is not trusted here.
	CauseAuthority Cause = "authority"

	// CauseCertificate: the server's certificate is for another host, has expired, or is not valid.
	CauseCertificate Cause = "certificate"

	// CauseTLS: the server does not speak TLS.
	CauseTLS Cause = "tls"

	// CauseHandshake: the server broke off the TLS handshake. It may want a client certificate, or share no version or
	// cipher with us.
	CauseHandshake Cause = "handshake"

	// CauseProxy: the proxy on the way to the token endpoint cannot be used.
	CauseProxy Cause = "proxy"

	// CauseRedirect: the answer is a redirect, which is not followed.
	CauseRedirect Cause = "redirect"

	// CauseProvider: the provider's code failed, before or after the call.
	CauseProvider Cause = "provider"
)
