package httpsproxy

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// denied is why the proxy denied a request. It is an index into denials.
type denied int

const (
	deniedClient  denied = iota // the client is not one of clients
	deniedTarget                // the target is not a host and a port, or the request is not one to a proxy
	deniedHost                  // the host has no site, and tunnel does not allow it
	deniedPort                  // the host is right, and the port is not
	deniedPlain                 // the request has no TLS, and sites demand client certificates
	deniedRoot                  // the host of a site has a dot at the end
	deniedAddress               // the host leads to an address that tunnels do not reach
	deniedTLS                   // no TLS came after the CONNECT
	deniedSNI                   // TLS asks for another host than the CONNECT
)

// denials has, for each reason, the value of the metric label reason, what the operator can do, and the answer. Denials
// without an answer come after the 200 that answers the CONNECT.
var denials = [...]struct {
	label, advice string
	answer        answer
}{
	deniedClient: {"client", "the client is not allowed, because every client that reaches this listener could act as the credentials of its sites; bind the sites to loopback, or allow the client with the option clients of https_proxy",
		answer{status: http.StatusForbidden, proxyError: "http_request_denied", slug: "client-not-allowed", title: "Client not allowed",
			detail: "This client may not use the proxy. The operator of the proxy can allow the client with the option clients."}},
	deniedTarget: {"target", "the proxy understands CONNECT with a host and a port, and requests for http:// URLs, both without a user",
		answer{status: http.StatusBadRequest, proxyError: "http_request_error", slug: "not-a-request-to-a-proxy", title: "Not a request to a proxy",
			detail: "The proxy understands CONNECT with a host and a port, and requests for http:// URLs, without a user. Set HTTPS_PROXY to its address."}},
	deniedHost: {"host", "no site of this listener has the host; add a site, or allow the host with the option tunnel of https_proxy",
		answer{status: http.StatusForbidden, proxyError: "http_request_denied", slug: "host-not-allowed", title: "Host not allowed",
			detail: "The proxy has no site for this host. The operator of the proxy can allow the host with the option tunnel, or the application can name it in NO_PROXY."}},
	deniedPort: {"port", "the host is allowed, but not with this port; sites have port 443, and port 80 for http:// URLs, and the option tunnel takes host:port",
		answer{status: http.StatusForbidden, proxyError: "http_request_denied", slug: "port-not-allowed", title: "Port not allowed",
			detail: "The proxy allows this host, but not with this port. A site has port 443, and port 80 for http:// URLs."}},
	deniedPlain: {"plain", "the request has no TLS, and a site of this listener demands client certificates; use https:// in the application",
		answer{status: http.StatusForbidden, proxyError: "http_request_denied", slug: "not-a-request-to-a-proxy", title: "Not a request to a proxy",
			detail: "The proxy serves no http:// URLs, because one of its sites demands client certificates."}},
	deniedRoot: {"root", "the host of a site was written with a dot at the end; write it without the dot in the application",
		answer{status: http.StatusForbidden, proxyError: "http_request_denied", slug: "host-not-allowed", title: "Host not allowed",
			detail: "The proxy knows this host without the dot at the end. Write it without the dot in the application."}},
	deniedAddress: {"address", "the host leads to an address of loopback, link-local or metadata; to allow that, name the address in the option tunnel of https_proxy",
		answer{status: http.StatusForbidden, proxyError: "destination_ip_prohibited", slug: "host-not-allowed", title: "Host not allowed",
			detail: "The host leads to an address that the proxy does not connect to. The operator of the proxy can name the address in the option tunnel."}},
	deniedTLS: {"tls", "the client sent no TLS for the site after CONNECT", answer{}},
	deniedSNI: {"sni", "the client asked for another host in TLS (SNI) than in CONNECT", answer{}},
}

// String returns the value of the metric label reason.
func (d denied) String() string { return denials[d].label }

func (d denied) advice() string { return denials[d].advice }
func (d denied) answer() answer { return denials[d].answer }

// The answers to requests that the proxy does not deny and cannot serve.
var (
	answerTimeout = answer{status: http.StatusGatewayTimeout, proxyError: "connection_timeout", slug: "host-unreachable", title: "Host unreachable",
		detail: "The proxy got no connection to this host in time."}
	answerUnreachable = answer{status: http.StatusBadGateway, proxyError: "destination_unavailable", slug: "host-unreachable", title: "Host unreachable",
		detail: "The proxy cannot connect to this host. Its log has the reason at debug level."}
)

// answer is an answer of the proxy itself, in the format of RFC 9457, with a proxy error type of RFC 9209 section 2.3.
type answer struct {
	status     int
	proxyError string
	slug       string // a heading of the README
	title      string
	detail     string
}

// problemType is the address of the README, which has a heading for each answer.
const problemType = "https://github.com/tokenproxy/caddy-token-proxy#"

func (a answer) write(w http.ResponseWriter) {
	body, _ := json.Marshal(struct { // this cannot fail, because it has only strings and a number
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{problemType + a.slug, a.title, a.status, a.detail})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Proxy-Status", "token-proxy; error="+a.proxyError)
	w.WriteHeader(a.status)
	_, _ = w.Write(append(body, '\n'))
}

// The log has each line once in an interval, and at most this many different lines.
const (
	logInterval = time.Minute
	logLines    = 20
)

// seldom limits the lines of the log, so that clients cannot fill it.
type seldom struct {
	mu    sync.Mutex // guards what follows
	since time.Time
	lines map[string]bool
}

// allow reports whether a line may be logged.
func (s *seldom) allow(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.lines == nil || now.Sub(s.since) >= logInterval {
		s.since, s.lines = now, make(map[string]bool)
	}
	if s.lines[line] || len(s.lines) == logLines {
		return false
	}
	s.lines[line] = true
	return true
}
