package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
)

// maxVisits is the number of passes through Caddy from which on a request counts as a loop. Useful chains of proxies are
// shorter.
const maxVisits = 16

// loops reports whether a request goes in circles, as it does if the upstream's name leads to this proxy. Caddy adds itself
// to Via (RFC 9110 section 7.6.3) on each pass, but never reads that field. With forwarded off, the proxy adds Caddy to
// the Via of those requests only that may have been here before, see mayReturn.
func loops(r *http.Request) bool {
	visits := 0
	for _, via := range r.Header["Via"] {
		visits += strings.Count(via, " Caddy")
	}
	return visits >= maxVisits
}

// mayReturn reports whether a request that carries credentials may have been here before. A request that comes back always
// carries credentials, namely the token, or those that another credential's proxy is about to replace. So the first pass
// can do without Via, and all others count. The worthless token of token_stub comes from an SDK.
func mayReturn(r *http.Request) bool {
	return !strings.HasSuffix(r.Header.Get("Authorization"), stubToken)
}

// visit is what Caddy adds to Via.
func visit(r *http.Request) string { return fmt.Sprintf("%d.%d Caddy", r.ProtoMajor, r.ProtoMinor) }
