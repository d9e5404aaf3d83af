package dpop

import (
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Target returns the URL of a request for the claim htu, which has neither query nor fragment. The host is the one that the
// server gets in Host, in the normal form of RFC 3986 sections 6.2.2 and 6.2.3. The path is the one that is sent. A server that
// normalizes both URLs, as RFC 9449 section 4.3 advises, finds no difference. Many servers compare the paths as they are, and refuse
// a proof with a path in another form, oauth4webapi for one.
func Target(req *http.Request) string {
	return Origin(req) + sentPath(req.URL)
}

// Origin returns the scheme and the host of a request, in normal form.
func Origin(req *http.Request) string {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	scheme := strings.ToLower(req.URL.Scheme)
	return scheme + "://" + normalHost(scheme, host)
}

// normalHost returns a host in lower case, and without its port if that is the scheme's own.
func normalHost(scheme, host string) string {
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil { // which is what net/http sends
		host = ascii
	}
	host = strings.ToLower(host)
	standard := ":80"
	if scheme == "https" {
		standard = ":443"
	}
	host = strings.TrimSuffix(strings.TrimSuffix(host, standard), ":")
	if zone := strings.IndexByte(host, '%'); zone >= 0 && strings.HasPrefix(host, "[") { // which net/http does not send
		if end := strings.IndexByte(host[zone:], ']'); end >= 0 {
			host = host[:zone] + host[zone+end:]
		}
	}
	return host
}

// sentPath returns the path of a URL as it is sent.
func sentPath(u *url.URL) string {
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return "/" + strings.TrimPrefix(path, "*") // the target of OPTIONS * is the server itself (RFC 9110 section 7.1)
	}
	return path
}
