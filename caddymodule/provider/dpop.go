package provider

// DPoPHolder is a Provider whose tokens are bound to a key of the client (DPoP, RFC 9449). The app adds a proof of the key to
// the token request, and to each request to the API with a token of the type DPoP. It follows the nonces and the clocks of the
// servers, and makes the token request a second time if the token endpoint demands a nonce.
type DPoPHolder interface {
	// ProofOfPossession returns how tokens are bound, made from the secrets that SecretHolder.Secrets has read for this token request. The
	// secrets are nil if the provider is not a SecretHolder. It returns nil if tokens are not bound. An error names the option.
	// The app calls it for each token request, after Provider.NewRequest, and also when Caddy loads the configuration.
	ProofOfPossession(secrets Secrets) (*DPoP, error)
}

// DPoP is how the tokens of a provider are bound to a key.
type DPoP struct {
	// Key is the private key in PEM without a passphrase, or a JWK. Default: a key that the app generates for each source of
	// tokens. The app never stores such a key, and replicas do not share tokens that are bound to it.
	Key Secret

	// Alg is the algorithm of the proofs (alg). Default: ES256, or that of Key: RS256, ES256, ES384, ES512 or EdDSA.
	Alg string

	// Optional makes the app accept a token of another type than DPoP, from a token endpoint that does not know DPoP. Such a
	// token is sent without a proof. Default: false, so that the app does not use such a token.
	Optional bool
}
