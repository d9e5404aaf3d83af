package devserver

import "crypto/subtle"

// The credentials of a TokenEndpoint that names none.
const (
	DefaultClientID     = "dev-client"
	DefaultClientSecret = "dev-secret"
)

// client is the only client of a TokenEndpoint.
type client struct{ id, secret string }

func (c client) knows(id, secret string) bool {
	return id == c.id && subtle.ConstantTimeCompare([]byte(secret), []byte(c.secret)) == 1
}
