package token

// Peer is the party of a token call that a Cause is about.
type Peer string

// The peers.
const (
	// PeerEndpoint is the token endpoint.
	PeerEndpoint Peer = ""

	// PeerIssuer is the issuer, whose metadata name the token endpoint.
	PeerIssuer Peer = "issuer"

	// PeerProxy is the network proxy on the way to the token endpoint or to the issuer.
	PeerProxy Peer = "proxy"
)

// Cause is where a failure comes from. The advice to the operator is chosen by it and by the Peer, never by a text.
type Cause string

// The causes. A failure without a cause is explained by its kind, status and code.
const (
	// CauseName: the host name does not exist.
	CauseName Cause = "name"

	// CauseResolver: the host name could not be resolved, because the DNS server failed or did not answer.
	CauseResolver Cause = "resolver"

	// CauseConnection: the host refused the connection.
	CauseConnection Cause = "connection"

	// CauseRoute: the network has no route to the host.
	CauseRoute Cause = "route"

	// CausePermission: the operating system does not permit the connection.
	CausePermission Cause = "permission"

	// CauseLimit: this process or machine has no file descriptor or port left for the connection.
	CauseLimit Cause = "limit"

	// CauseConnectTimeout: the host did not answer the attempt to connect.
	CauseConnectTimeout Cause = "connect_timeout"

	// CauseHandshakeTimeout: the peer did not complete the TLS handshake in time.
	CauseHandshakeTimeout Cause = "handshake_timeout"

	// CauseTimeout: the token call took longer than Policy.FetchTimeout.
	CauseTimeout Cause = "timeout"

	// CauseCut: the connection ended before the answer was complete.
	CauseCut Cause = "cut"

	// CauseNotHTTP: the answer is not HTTP/1.1.
	CauseNotHTTP Cause = "not_http"

	// CauseAuthority: the peer's certificate is signed by an authority that is not trusted here.
	CauseAuthority Cause = "authority"

	// CauseHost: the peer's certificate is for another host.
	CauseHost Cause = "host"

	// CauseExpired: the peer's certificate, or that of its authority, has expired.
	CauseExpired Cause = "expired"

	// CauseNotYetValid: the peer's certificate, or that of its authority, is not valid yet.
	CauseNotYetValid Cause = "not_yet_valid"

	// CauseCertificate: the peer's certificate is not valid for another reason.
	CauseCertificate Cause = "certificate"

	// CauseTLS: the peer does not speak TLS.
	CauseTLS Cause = "tls"

	// CauseVersion: the peer supports no version of TLS that the app supports.
	CauseVersion Cause = "tls_version"

	// CauseCipher: the peer found no TLS parameters in common, such as a cipher.
	CauseCipher Cause = "cipher"

	// CauseServerName: the peer knows no host with the name in the TLS handshake.
	CauseServerName Cause = "server_name"

	// CauseClientCertificate: the peer requires a client certificate, and the credential has none.
	CauseClientCertificate Cause = "client_certificate"

	// CauseClientCertificateRefused: the peer did not accept the client certificate.
	CauseClientCertificateRefused Cause = "client_certificate_refused"

	// CauseRenegotiation: the server started another TLS handshake, which Options do not permit.
	CauseRenegotiation Cause = "renegotiation"

	// CauseHandshake: the TLS handshake failed for another reason.
	CauseHandshake Cause = "handshake"

	// CauseProxyLogin: the network proxy requires a user name and a password, or other ones.
	CauseProxyLogin Cause = "proxy_login"

	// CauseProxyLoginMethod: the network proxy accepts no user name and password, but only other ways to log in.
	CauseProxyLoginMethod Cause = "proxy_login_method"

	// CauseProxyDenied: the network proxy does not permit the connection.
	CauseProxyDenied Cause = "proxy_denied"

	// CauseProxyGateway: the network proxy cannot connect to the host.
	CauseProxyGateway Cause = "proxy_gateway"

	// CauseProxyTunnel: the network proxy did not open a connection to the host for another reason.
	CauseProxyTunnel Cause = "proxy_tunnel"

	// CauseRedirect: the answer is a redirect, which is not followed.
	CauseRedirect Cause = "redirect"

	// CauseNoEndpoint: the server has nothing at this URL.
	CauseNoEndpoint Cause = "no_endpoint"

	// CauseMethod: the URL does not accept POST.
	CauseMethod Cause = "method"

	// CauseTooLarge: the answer is larger than the app reads.
	CauseTooLarge Cause = "too_large"

	// CauseEncoding: the answer is compressed in a way that the app cannot read, or damaged.
	CauseEncoding Cause = "encoding"

	// CauseNotJSON: the answer is neither JSON nor a form.
	CauseNotJSON Cause = "not_json"

	// CauseNoToken: the answer holds no token.
	CauseNoToken Cause = "no_token"

	// CauseTokenText: the token cannot be sent in a header field.
	CauseTokenText Cause = "token_text"

	// CauseTokenType: the token is of a type that the configuration does not accept.
	CauseTokenType Cause = "token_type"

	// CauseNotBound: the token is not bound to the key of the DPoP proof.
	CauseNotBound Cause = "not_bound"

	// CauseMetadataMissing: the issuer has no metadata.
	CauseMetadataMissing Cause = "metadata_missing"

	// CauseMetadataDenied: the issuer answered the request for its metadata with a failure that will not pass.
	CauseMetadataDenied Cause = "metadata_denied"

	// CauseMetadataNotJSON: the issuer's metadata are not a JSON object.
	CauseMetadataNotJSON Cause = "metadata_not_json"

	// CauseMetadataIssuer: the metadata are those of another issuer.
	CauseMetadataIssuer Cause = "metadata_issuer"

	// CauseMetadataNoIssuer: the metadata name no issuer.
	CauseMetadataNoIssuer Cause = "metadata_no_issuer"

	// CauseMetadataSlash: the issuer in the metadata differs in a slash at its end.
	CauseMetadataSlash Cause = "metadata_slash"

	// CauseMetadataNoEndpoint: the metadata name no token endpoint.
	CauseMetadataNoEndpoint Cause = "metadata_no_endpoint"

	// CauseMetadataEndpoint: the token endpoint in the metadata is not a URL that the app may use.
	CauseMetadataEndpoint Cause = "metadata_endpoint"

	// CauseFile: a file that an option names is not there.
	CauseFile Cause = "file"

	// CauseTenant: the files of the tenant are not there.
	CauseTenant Cause = "tenant"

	// CauseProvider: the provider's code failed, before or after the call.
	CauseProvider Cause = "provider"
)
