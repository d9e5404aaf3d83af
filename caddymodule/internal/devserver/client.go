package devserver

import "crypto/subtle"

// The client that a TokenEndpoint accepts by default.
const (
	DefaultClientID     = "dev-client"
	DefaultClientSecret = "dev-secret"
)

// client is the client that a TokenEndpoint accepts.
type client struct{ id, secret string }

func (c client) knows(id, secret string) bool {
	return id == c.id && subtle.ConstantTimeCompare([]byte(secret), []byte(c.secret)) == 1
}
