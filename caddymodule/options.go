package caddymodule

// The values of Handler.ClientAuthorization and Handler.OnUnauthorized.
const (
	authorizationReplace = "replace"
	authorizationKeep    = "keep"
	authorizationReject  = "reject"

	unauthorizedReplay = "replay"
	unauthorizedPass   = "pass"
)
