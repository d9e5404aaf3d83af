package caddymodule

import (
	"errors"
	"net/http"
	"slices"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// laterStatuses ask the client to send the request at another time or through another party. A new token does not help.
var laterStatuses = []int{http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}

// checkRejectedStatus returns an error for a status that cannot mean that the API rejects the token. Only a status from 400
// to 499 means that the API has not applied the request, so that the proxy may send it again (RFC 9110 section 15.5).
func checkRejectedStatus(statuses []int) error {
	for i, status := range statuses {
		switch {
		case status < 400 || status > 499:
			return errors.New("each status must be a number from 400 to 499, because the proxy sends the request again")
		case slices.Contains(laterStatuses, status):
			return errors.New("the statuses 407, 408, 425 and 429 cannot mean that the API rejects the token")
		case slices.Contains(statuses[:i], status):
			return errors.New("a status is set twice")
		}
	}
	return nil
}

// judgeRejection returns whether an answer that rejects the token may be about something else, and whether it can be about
// the token at all. The challenge decides. Without one, 401, 403 and all other registered statuses may be about the request
// or about permissions. A status without a registered meaning, such as 498, has only the meaning that the operator knows.
func judgeRejection(res *http.Response, c challenge) (doubt token.Doubt, ours bool) {
	doubt, ours = c.judge()
	if len(res.Header.Values("WWW-Authenticate")) == 0 && http.StatusText(res.StatusCode) == "" {
		return token.Certain, true
	}
	return doubt, ours
}
