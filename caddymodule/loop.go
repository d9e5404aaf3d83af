package caddymodule

import (
	"net/http"
	"strings"
)

// maxVisits is the number of passes through Caddy from which on a request counts as a loop. Useful chains of proxies are
// shorter.
const maxVisits = 16

// loops reports whether a request goes in circles, as it does if the upstream's name leads to this proxy. Caddy adds itself
// to Via (RFC 9110 section 7.6.3) on each pass, but never reads that field.
func loops(r *http.Request) bool {
	visits := 0
	for _, via := range r.Header["Via"] {
		visits += strings.Count(via, " Caddy")
	}
	return visits >= maxVisits
}
