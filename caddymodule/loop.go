package caddymodule

import (
	"net/http"
	"strings"
)

// maxVisits is how often Caddy may have sent a request on before it gets here. The longest chain that somebody has a
// use for is shorter.
const maxVisits = 16

// loops reports whether a request goes round in circles, which it does if the upstream's name leads to this proxy. Caddy
// adds itself to Via each time, but looks at it never; RFC 9110 section 7.6.3.
func loops(r *http.Request) bool {
	visits := 0
	for _, via := range r.Header["Via"] {
		visits += strings.Count(via, " Caddy")
	}
	return visits >= maxVisits
}
