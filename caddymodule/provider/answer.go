package provider

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Answer is what a token endpoint answered, within strict limits of size and time. Its Read method reads every answer
// that has the fields of RFC 6749 section 5, wherever they stand.
type Answer = oauth.Answer

// Layout tells Answer.Read where an answer has which field.
type Layout = oauth.Layout

// Issued is a token as the token endpoint issued it.
type Issued = token.Issued

// UnknownLifetime is the Lifetime of a token whose answer names none. The credential's default_lifetime applies.
const UnknownLifetime time.Duration = token.UnknownLifetime
