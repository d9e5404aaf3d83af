package caddymodule

import (
	"encoding/json"
	"fmt"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// identified is what tells the token of one client from all others.
type identified struct {
	key      token.Key
	identity token.Secret // what key is a digest of
	clientID string       // as it was when the configuration was loaded
}

// identifyRequest adds the fields that shape the token, except the id and the secret. The policy is not among them, so that a
// changed timeout costs no token call.
func (c *caller) identifyRequest(b *token.KeyBuilder, provider string) error {
	configuration, err := json.Marshal(c.provider)
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	transport, err := json.Marshal(c.Transport)
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	b.Field("provider", provider).
		Secret("provider configuration", token.NewSecret(string(configuration))).
		Secret("transport", token.NewSecret(string(transport))).
		Field("endpoint", c.provider.Endpoint())
	return nil
}

// shares reports whether replicas may share the tokens. A token that is bound to a key of this process is of no use to them.
func (c *caller) shares() bool { return c.Credential.shares() && !c.ownKey }

// identifyClient adds the id and the secret, which completes the identity.
func (c *caller) identifyClient(b *token.KeyBuilder) (identified, error) {
	id, err := c.id.Read()
	if err != nil {
		return identified{}, fmt.Errorf("client_id: %w", err)
	}
	b.Secret("client_id", id)
	c.secret.Identity(b, "client_secret")
	if !c.shares() { // it must not have its token from a source that shares
		b.Field("share", "off")
	}
	return identified{b.Key(), b.Identity(), id.Reveal()}, nil
}
