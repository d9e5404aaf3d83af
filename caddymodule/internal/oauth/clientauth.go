package oauth

import (
	"encoding/base64"
	"net/url"
)

// The client authentication methods by their registered names (RFC 7591 section 2, RFC 8705 section 2).
const (
	ClientSecretBasic       = "client_secret_basic"
	ClientSecretPost        = "client_secret_post"
	ClientSecretJWT         = "client_secret_jwt"
	PrivateKeyJWT           = "private_key_jwt"
	TLSClientAuth           = "tls_client_auth"
	SelfSignedTLSClientAuth = "self_signed_tls_client_auth"
	NoClientAuth            = "none"
)

// ClientAuth puts the proof of the client's identity on token requests: one method, never two (RFC 6749 section 2.3).
type ClientAuth struct {
	// Method is one of the names above.
	Method string

	// RawBasic sends id and secret in Basic as they are, for servers that do not decode them.
	RawBasic bool

	// IDParam and SecretParam are the names of the parameters. Without IDParam, the id is not sent as a parameter.
	IDParam, SecretParam string

	// AssertionType is the client_assertion_type.
	AssertionType string
}

// Proof is what a client proves its identity with. Which of the two is needed depends on the method.
type Proof struct {
	// Secret is the client secret.
	Secret string

	// Assertion is the client assertion.
	Assertion string
}

// Apply adds id and proof to the request.
func (a ClientAuth) Apply(r *TokenRequest, id string, proof Proof) {
	if a.Method == ClientSecretBasic {
		r.Header.Set("Authorization", "Basic "+a.basic(id, proof.Secret))
		return
	}
	if a.IDParam != "" {
		r.Params.Set(a.IDParam, id)
	}
	switch a.Method {
	case ClientSecretPost:
		r.Params.Set(a.SecretParam, proof.Secret)
	case ClientSecretJWT, PrivateKeyJWT:
		r.Params.Set("client_assertion_type", a.AssertionType)
		r.Params.Set("client_assertion", proof.Assertion)
	}
}

// basic encodes id and secret as a form does, before base64 (RFC 6749 section 2.3.1): else a colon in the id, or
// anything but ASCII, could not be told from what it means.
func (a ClientAuth) basic(id, secret string) string {
	if !a.RawBasic {
		id, secret = url.QueryEscape(id), url.QueryEscape(secret)
	}
	return base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
}
