package caddymodule

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// The values of Handler.CrossSite.
const (
	crossSiteDeny  = "deny"
	crossSiteAllow = "allow"
)

// crossSite reports whether a browser made the request for a page of another site. A browser can run on the machine of the
// application, so the address of the connection does not reveal it. But pages cannot set or remove the fields that this
// function reads (Fetch, section 2.2.2, forbidden request-headers). net/http.CrossOriginProtection is not enough, because
// it admits GET, HEAD and OPTIONS, which a token makes harmful as well.
func crossSite(r *http.Request) bool {
	if sites := r.Header["Sec-Fetch-Site"]; len(sites) > 0 {
		switch strings.Join(sites, ",") {
		case "same-origin": // even if a proxy in front has changed the Host
			return false
		case "none": // typed by the user; if it has an Origin nevertheless, that must be our own
		default: // cross-site, same-site, and unknown values
			return true
		}
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return false
	}
	return len(origins) > 1 || !isOrigin(origins[0], r.Host)
}

// isOrigin reports whether an origin has the host and the port that a request was sent to. It does not compare the scheme,
// because a proxy in front may have ended TLS. The scheme only sets the default port (RFC 6454 section 6.2).
func isOrigin(origin, host string) bool {
	o, ok := parseOrigin(origin)
	if !ok {
		return false
	}
	h := &url.URL{Scheme: o.Scheme, Host: host}
	return strings.EqualFold(o.Hostname(), h.Hostname()) && originPort(o) == originPort(h)
}

// parseOrigin parses an origin, which is a scheme, a host and perhaps a port. It reports false for null and for the origins
// of files and of browser extensions, because no request can be sent to those.
func parseOrigin(origin string) (*url.URL, bool) {
	o, err := url.Parse(origin)
	ok := err == nil && (o.Scheme == "http" || o.Scheme == "https") && o.Host != "" && origin == o.Scheme+"://"+o.Host
	return o, ok
}

// originPort returns the port, or the default port of the scheme.
func originPort(u *url.URL) string {
	switch port := u.Port(); {
	case port != "":
		return port
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}

// plainHost matches a host in the form that browsers send, with or without a port.
var plainHost = regexp.MustCompile(`^[a-z0-9._:\[\]-]{1,260}$`)

// siteOf returns the page's site for the log. It returns "" if the browser does not send the site, or sends more than a
// plain host.
func siteOf(r *http.Request) string {
	origins := r.Header["Origin"]
	if len(origins) != 1 {
		return ""
	}
	o, ok := parseOrigin(origins[0])
	if !ok || !plainHost.MatchString(o.Host) {
		return ""
	}
	return o.Host
}
