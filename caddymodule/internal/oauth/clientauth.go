package oauth

import (
	"encoding/base64"
	"net/url"
)

// The client authentication methods, by their registered names (RFC 7591 section 2, RFC 8705 section 2).
const (
	ClientSecretBasic       = "client_secret_basic"
	ClientSecretPost        = "client_secret_post"
	ClientSecretJWT         = "client_secret_jwt"
	PrivateKeyJWT           = "private_key_jwt"
	TLSClientAuth           = "tls_client_auth"
	SelfSignedTLSClientAuth = "self_signed_tls_client_auth"
	NoClientAuth            = "none"

	// BearerJWT is a method without a registered name. The request carries a JWT that the client has signed, in the Bearer
	// scheme (RFC 6750 section 2.1). GitHub demands it of its Apps.
	BearerJWT = "bearer_jwt"
)

// ClientAuth adds the proof of the client to token requests, by exactly one method (RFC 6749 section 2.3).
type ClientAuth struct {
	// Method is the client authentication method, such as ClientSecretBasic. Required.
	Method string

	// RawBasic sends id and secret in the Basic scheme without encoding, for servers that do not decode them. Default:
	// false.
	RawBasic bool

	// IDParam and SecretParam are the names of the parameters for id and secret. Without IDParam, the request has no
	// parameter for the id.
	IDParam, SecretParam string

	// AssertionType is the value of the parameter client_assertion_type.
	AssertionType string
}

// Proof proves the client to the token endpoint. The method determines which of the fields is required.
type Proof struct {
	// Secret is the client secret.
	Secret string

	// Assertion is the client assertion, or the JWT of BearerJWT.
	Assertion string
}

// Apply adds the client id and the proof to the request.
func (a ClientAuth) Apply(r *TokenRequest, id string, proof Proof) {
	switch a.Method {
	case ClientSecretBasic:
		r.Header.Set("Authorization", "Basic "+a.basic(id, proof.Secret))
		return
	case BearerJWT: // the JWT names the client
		r.Header.Set("Authorization", "Bearer "+proof.Assertion)
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

// basic returns the credentials of the Basic scheme. It form-encodes id and secret before base64 (RFC 6749 section 2.3.1),
// because Basic has no other way to carry a colon in the id, or characters beyond ASCII.
func (a ClientAuth) basic(id, secret string) string {
	if !a.RawBasic {
		id, secret = url.QueryEscape(id), url.QueryEscape(secret)
	}
	return base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
}
