package caddymodule

import (
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The problem document names the party that failed, and leaves the rest to the log.
func TestProblemNamesTheParty(t *testing.T) {
	details := make(map[string]bool)
	for want, e := range map[string]*token.Error{
		"is unavailable":                        {Kind: token.Unavailable, Status: 503},
		"cannot reach the token endpoint":       {Kind: token.Unavailable, Cause: token.CauseConnection},
		"the network proxy on the way":          {Kind: token.Unavailable, Cause: token.CauseProxyLogin, Peer: token.PeerProxy},
		"the issuer that names":                 {Kind: token.Unavailable, Cause: token.CauseName, Peer: token.PeerIssuer},
		"the metadata of the issuer":            {Kind: token.Refused, Cause: token.CauseMetadataIssuer, Peer: token.PeerIssuer},
		"no token endpoint at":                  {Kind: token.Refused, Cause: token.CauseNoEndpoint, Status: 404},
		"does not come from a token endpoint":   {Kind: token.Refused, Cause: token.CauseNotJSON, Status: 403},
		"an unreadable secret":                  {Kind: token.Refused},
		"a token of a type":                     {Kind: token.Refused, Cause: token.CauseTokenType, Status: 200},
		"The token endpoint refuses":            {Kind: token.Refused, Status: 401, Code: "invalid_client"},
		"answered, but not with a usable token": {Kind: token.Unreadable, Status: 200},
	} {
		got := problemOf(e).detail
		if !strings.Contains(got, want) || details[got] {
			t.Errorf("%+v: got %q, want %q in it, and a detail of its own", e, got, want)
		}
		details[got] = true
	}
}
