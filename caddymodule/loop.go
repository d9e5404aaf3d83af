package caddymodule

import (
	"net/http"
	"strings"

	"go.uber.org/zap"
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

func (h *Handler) warnOfLoop() {
	h.looped.Do(func() {
		h.logger.Error("a request keeps coming back: the upstream's name leads to this proxy; see to it that this process finds the API behind the name, or name the upstream by its address",
			zap.String("credential", h.Credential))
	})
}
