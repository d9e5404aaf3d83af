package status

import (
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// party has the words for the peer of a token call.
type party struct {
	cause Cause
	name  string // with the host, if it is certain
	place string // what to check: the options that lead to the peer
	url   string // the options that lead to the token endpoint

	oauth2 bool // the provider is oauth2, with all its options
}

// oauth2 reports whether the provider is oauth2. The other providers have few options, and no issuer.
func (s Service) oauth2() bool { return s.Provider == "oauth2" }

// partyOf returns the words for a peer. The metadata of an issuer can name a token endpoint on another host.
func (s Service) partyOf(peer token.Peer) party {
	url := "the token URL"
	if s.oauth2() {
		url = "the token URL or issuer"
	}
	p := party{causeEndpoint, "the token endpoint", url + " (" + s.Endpoint + ")", url, s.oauth2()}
	switch peer {
	case token.PeerProxy:
		p.cause, p.name, p.place = causeProxy, "the network proxy", "the URL of the network proxy (option proxy of transport, or else HTTPS_PROXY, HTTP_PROXY and NO_PROXY)"
	case token.PeerIssuer:
		p.cause, p.name, p.place = causeIssuer, "the issuer", "the option issuer ("+s.Endpoint+")"
	}
	return p
}

// advise returns what to do about a failure with a cause, or "". Its sentences begin with the most likely remedy.
func (s Service) advise(e *token.Error) string {
	p := s.partyOf(e.Peer)
	for _, advice := range []func(token.Cause, party) string{adviseOnNetwork, adviseOnCertificate, adviseOnHandshake, adviseOnProxy, adviseOnMetadata, adviseOnAnswer} {
		if text := advice(e.Cause, p); text != "" {
			return text
		}
	}
	return ""
}

func adviseOnNetwork(cause token.Cause, p party) string {
	switch cause {
	case token.CauseName:
		return "Check the spelling of the host in " + p.place + ". If it is right, check whether the DNS server of this machine knows this name."
	case token.CauseResolver:
		return "Check the DNS server that this machine uses (on Linux: /etc/resolv.conf), and the network to it. The host is that of " + p.place + "."
	case token.CauseConnection:
		return "Check the host and the port in " + p.place + ", and whether " + p.name + " is running. A firewall can also refuse connections."
	case token.CauseRoute:
		return "Check the network of this machine and its routes. If the host of " + p.place + " has an IPv6 address, check whether this machine has IPv6."
	case token.CausePermission:
		return "Check the firewall of this machine, and its rules for processes and containers (seccomp, SELinux, AppArmor, systemd). The connection goes to " + p.place + "."
	case token.CauseLimit:
		return "Raise the limit of open files of this process (ulimit -n, or LimitNOFILE of systemd). Check whether many connections are open."
	case token.CauseConnectTimeout:
		return "Check the host and the port in " + p.place + ", and whether a firewall drops the connection. If all connections must go through a network proxy, set the option proxy of transport."
	case token.CauseHandshakeTimeout:
		return "Check the port in " + p.place + ", and whether " + p.name + " is overloaded. A firewall that inspects TLS can also be the cause."
	case token.CauseTimeout:
		return "Check the host and the port in " + p.place + ", and whether " + p.name + " is overloaded. If it is always slow, set a longer fetch_timeout."
	case token.CauseCut:
		return "Check the log of " + p.name + ". A firewall or a load balancer on the way can also close connections. Check the port in " + p.place + "."
	case token.CauseNotHTTP:
		return "Check the scheme and the port in " + p.place + ". Another service may be listening there."
	default:
		return ""
	}
}

func adviseOnCertificate(cause token.Cause, p party) string {
	switch cause {
	case token.CauseAuthority:
		return "If the authority is a private one, set the option ca of transport to its certificate. If it is a public one, install the system's certificates (package ca-certificates), or ask the operator of " +
			p.name + " to send the complete chain. If it worked until now, another machine may be intercepting the connection."
	case token.CauseHost:
		if p.cause == causeProxy {
			return "Use the host name that is in the certificate in " + p.place + "."
		}
		return "Use the host name that is in the certificate in " + p.place + ", or set the option server_name of transport to it. If both were right until now, another machine may be intercepting the connection."
	case token.CauseExpired:
		return "Check the clock of this machine. If it is right, the operator of " + p.name + " must renew the certificate."
	case token.CauseNotYetValid:
		return "Check the clock of this machine. It is probably slow."
	case token.CauseCertificate:
		return "The operator of " + p.name + " must replace the certificate. Check whether " + p.place + " leads to the right server."
	default:
		return ""
	}
}

func adviseOnHandshake(cause token.Cause, p party) string {
	switch cause {
	case token.CauseTLS:
		if p.cause == causeProxy {
			return "Begin " + p.place + " with http:// instead of https://. Requests to an https token endpoint stay encrypted. If the network proxy should speak TLS, check the port."
		}
		return "Check the port in " + p.place + ". Another service may be listening there, or a server without TLS."
	case token.CauseVersion:
		return "The operator of " + p.name + " must enable TLS 1.2 or TLS 1.3. The proxy does not use older versions, because they do not protect the secret."
	case token.CauseCipher:
		return "Ask the operator of " + p.name + " to enable a cipher with forward secrecy, such as ECDHE with AES-GCM. Some servers end the handshake like this if they do not know the host name, so check " + p.place + "."
	case token.CauseServerName:
		if p.cause == causeProxy {
			return "Check the host in " + p.place + "."
		}
		return "Check the host in " + p.place + ", and the option server_name of transport."
	case token.CauseClientCertificate:
		if p.cause == causeProxy {
			return "Use another network proxy, or one without client certificates. Check " + p.place + "."
		}
		return "Set client_certificate and client_certificate_key of provider oauth2, with a certificate that the service has registered for this client."
	case token.CauseClientCertificateRefused:
		if p.cause == causeProxy {
			return "Use another network proxy, or one without client certificates. Check " + p.place + "."
		}
		return "Check that client_certificate is the certificate that the service has registered for this client, that it has not expired, and that its file also holds the intermediate certificates."
	case token.CauseRenegotiation:
		return "Set the option tls_renegotiation of transport to once, or to freely if it is once. The server is probably IIS, which asks for the client certificate that way."
	case token.CauseHandshake:
		return "Check the log of " + p.name + " for the reason. Check whether it requires a client certificate (client_certificate of provider oauth2), and whether it supports TLS 1.2 or TLS 1.3."
	default:
		return ""
	}
}

func adviseOnProxy(cause token.Cause, p party) string {
	switch cause {
	case token.CauseProxyLogin:
		return "Put the right user name and password into " + p.place + ", as in http://user:password@proxy.example.com:3128. Keep that URL in a file or a variable."
	case token.CauseProxyLoginMethod:
		return "Ask the operator of the network proxy for a login with Basic, or for an exception for this machine. A local forwarder that knows the other method can also help. Then change " + p.place + "."
	case token.CauseProxyDenied:
		return "Ask the operator of the network proxy to permit connections to the host and the port of the token endpoint. If the connection needs no network proxy, set the option proxy of transport to none, or add the host to NO_PROXY."
	case token.CauseProxyGateway:
		return "Check the host and the port of " + p.url + ". If they are right, ask the operator of the network proxy whether it can resolve and reach that host."
	case token.CauseProxyTunnel:
		return "Check that " + p.place + " leads to a network proxy of that kind that permits CONNECT, and that its user name and password are right. Check also whether the network proxy can reach the host of the token endpoint."
	default:
		return ""
	}
}

func adviseOnMetadata(cause token.Cause, p party) string {
	switch cause {
	case token.CauseMetadataMissing:
		return "Check " + p.place + " with the service's documentation. If the service has no metadata, set token_url instead of issuer."
	case token.CauseMetadataDenied:
		return "Check " + p.place + ". If the service does not publish its metadata, set token_url instead of issuer."
	case token.CauseMetadataNotJSON:
		return "Check " + p.place + adviceElsewhere + " You can also set token_url instead of issuer."
	case token.CauseMetadataIssuer:
		return "Set the option issuer to exactly the value of the member issuer in the metadata, if that is the service that you mean. If it is not, check " + p.place + ", or set token_url instead of issuer."
	case token.CauseMetadataNoIssuer:
		return "Check " + p.place + ". Metadata must name their issuer (RFC 8414), so the proxy does not use these. Set token_url instead of issuer, or report this to the operator of the issuer."
	case token.CauseMetadataSlash:
		return "Set the option issuer exactly as in the metadata, with or without the slash at the end."
	case token.CauseMetadataNoEndpoint:
		return "Check " + p.place + ". The service may have no token endpoint, or may name it elsewhere. Set token_url instead of issuer if you know it."
	case token.CauseMetadataEndpoint:
		return "If you trust this token endpoint, set token_url to it instead of issuer. Otherwise, report it to the operator of the issuer."
	default:
		return ""
	}
}

func adviseOnAnswer(cause token.Cause, p party) string {
	switch cause {
	case token.CauseRedirect:
		if p.cause == causeIssuer {
			return "Set issuer to the issuer that the redirect leads to, if you trust it, or set token_url instead of issuer. Check " + p.place + "."
		}
		return "Set token_url to the URL that the redirect leads to, if you trust it. A redirect to a login page means that the token URL is wrong."
	case token.CauseNoEndpoint:
		return "Compare the path of the token URL with the service's documentation. If the service has several environments or tenants, check that the URL names the right one."
	case token.CauseMethod:
		return "Compare the token URL with the service's documentation. It may be the URL of the authorization endpoint or of a web page."
	case token.CauseTooLarge, token.CauseNotJSON:
		return "Check " + p.place + adviceElsewhere
	case token.CauseEncoding:
		return "Check " + p.place + ". A gateway on the way may compress or change answers."
	case token.CauseNoToken:
		if !p.oauth2 {
			return "Check " + p.place + adviceElsewhere
		}
		return "Check " + p.place + adviceElsewhere + " If the service puts the token elsewhere, set token in the block response of provider oauth2."
	case token.CauseTokenText:
		if !p.oauth2 {
			return "Report this to the service, with the name of the provider."
		}
		return "Check that the option token of response leads to the access token, and not to another member. If it does, report this to the service."
	case token.CauseTokenType:
		if !p.oauth2 {
			return "Ask the service for Bearer tokens."
		}
		return "If the API accepts this type as a Bearer token, add it to the option token_type of response. Otherwise, ask the service for Bearer tokens. If the type is DPoP, set the option dpop of provider oauth2 to on."
	case token.CauseNotBound:
		return "Register the client for DPoP (dpop_bound_access_tokens) in the service's console, and check that the token endpoint supports DPoP. If Bearer tokens will do, set the option dpop of provider oauth2 to optional, or remove it."
	default:
		return ""
	}
}
