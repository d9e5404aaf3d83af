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

// crossSite reports whether a browser made the request for a page of another site. A browser runs beside the
// application, so that the address of the connection tells nothing of it; but pages cannot set or remove these fields
// (Fetch, section 2.2.2, forbidden request-headers). net/http.CrossOriginProtection is no help: it admits GET, HEAD and
// OPTIONS, and a token makes these harmful as well.
func crossSite(r *http.Request) bool {
	if sites := r.Header["Sec-Fetch-Site"]; len(sites) > 0 {
		switch strings.Join(sites, ",") {
		case "same-origin": // whatever Host a proxy in front has made of it
			return false
		case "none": // the user's doing; if a page is named nevertheless, it must be our own
		default: // cross-site, same-site, and what nobody knows
			return true
		}
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return false
	}
	return len(origins) > 1 || !isOrigin(origins[0], r.Host)
}

// isOrigin reports whether an origin is that of the host that a request was sent to. The scheme is not compared,
// because a proxy in front may have ended TLS; it says which port goes without saying (RFC 6454 section 6.2).
func isOrigin(origin, host string) bool {
	o, ok := parseOrigin(origin)
	if !ok {
		return false
	}
	h := &url.URL{Scheme: o.Scheme, Host: host}
	return strings.EqualFold(o.Hostname(), h.Hostname()) && originPort(o) == originPort(h)
}

// parseOrigin takes scheme, host and port, and nothing more. Origins that are not of the web, such as null, file:// or
// an extension's, are the host of no request.
func parseOrigin(origin string) (*url.URL, bool) {
	o, err := url.Parse(origin)
	ok := err == nil && (o.Scheme == "http" || o.Scheme == "https") && o.Host != "" && origin == o.Scheme+"://"+o.Host
	return o, ok
}

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

// plainHost is a host, perhaps with its port, as browsers write it.
var plainHost = regexp.MustCompile(`^[a-z0-9._:\[\]-]{1,260}$`)

// siteOf names the page's site for the log. It is empty if the browser names none: what is no plain host is not shown.
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
