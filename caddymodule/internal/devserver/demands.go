package devserver

import (
	"cmp"
	"encoding/json"
)

// The methods of client authentication: RFC 6749, section 2.3.1; OpenID Connect Core, section 9; RFC 8705, section 2.
const (
	authBasic         = "client_secret_basic"
	authPost          = "client_secret_post"
	authSecretJWT     = "client_secret_jwt"
	authKeyJWT        = "private_key_jwt"
	authTLS           = "tls_client_auth"
	authSelfSignedTLS = "self_signed_tls_client_auth"
	authNone          = "none"
)

var authMethods = []string{authBasic, authPost, authSecretJWT, authKeyJWT, authTLS, authSelfSignedTLS, authNone}

const (
	encodingForm  = "form"
	encodingJSON  = "json"
	encodingQuery = "query"
	basicRaw      = "raw"
)

const (
	grantClientCredentials = "client_credentials"
	grantJWTBearer         = "urn:ietf:params:oauth:grant-type:jwt-bearer"            // RFC 7523, section 2.1
	assertionJWTBearer     = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523, section 2.2
)

const (
	defaultAnswer  = `{"access_token":"$token","token_type":"Bearer","expires_in":$expires_in}`
	defaultFailure = `{"error":"$code"}`
)

// Demands are what a TokenEndpoint of the dialect OAuth2 demands of a request, and what it answers. The zero Demands
// are RFC 6749 with client_secret_basic. The JSON names are those of Caddy's configuration, where ClientKey,
// ClientAssertion and ClientCertificate may also be {file./path}, which is read when the configuration is loaded.
type Demands struct {
	// The one method of client authentication to accept: client_secret_basic, client_secret_post, client_secret_jwt,
	// private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none. Default: client_secret_basic.
	ClientAuth string `json:"client_auth,omitempty"`

	// How id and secret are written in Basic: form (form-encoded before base64, RFC 6749, section 2.3.1) or raw.
	// Default: form.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// The parameter with the client id; empty for none. With a JWT it may be left out (RFC 7521, section 4.2), and with
	// client_secret_basic there must be none. Default: client_id.
	ClientIDParam *string `json:"client_id_param,omitempty"`

	// The parameter with the secret, for client_secret_post. Default: client_secret.
	ClientSecretParam string `json:"client_secret_param,omitempty"`

	// The key that checks JWTs, for private_key_jwt and the grant jwt-bearer: a public or private key, or a
	// certificate, in PEM; or a JWK. With a certificate the JWT must name it by x5t#S256. Default: none.
	ClientKey string `json:"client_key,omitempty"`

	// The algorithm that a JWT must be signed with, like PS256. Default: any that fits the key; HS256 for
	// client_secret_jwt.
	SigningAlg string `json:"signing_alg,omitempty"`

	// What aud of a JWT must be: this one string. Default: issuer, or else the URL of the request without its query.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// What typ of a JWT must be; empty if there must be none. Default: client-authentication+jwt, and JWT for the grant
	// jwt-bearer.
	AssertionTyp *string `json:"assertion_typ,omitempty"`

	// Claims that the JWT of the grant jwt-bearer must have, as strings. With an empty value the claim must be absent.
	// Default: iss and sub are the client id.
	AssertionClaims []Field `json:"assertion_claims,omitempty"`

	// The exact client_assertion to accept with private_key_jwt instead of one that client_key checks, as for a
	// federated identity. Default: none.
	ClientAssertion string `json:"client_assertion,omitempty"`

	// The client_assertion_type to accept. Default: urn:ietf:params:oauth:client-assertion-type:jwt-bearer.
	ClientAssertionType string `json:"client_assertion_type,omitempty"`

	// The certificate, in PEM, that the client must have used for the TLS connection. It is told by its SHA-256
	// thumbprint alone. Default: none.
	ClientCertificate string `json:"client_certificate,omitempty"`

	// The HTTP method: POST or GET. Default: POST.
	Method string `json:"method,omitempty"`

	// Where the parameters are: form or json (in the body) or query. Default: form, or query if the method is GET.
	Encoding string `json:"encoding,omitempty"`

	// The grant_type; empty if there must be none. Default: client_credentials.
	Grant *string `json:"grant,omitempty"`

	// The exact value of the parameter scope. Default: there must be none.
	Scope string `json:"scope,omitempty"`

	// Further parameters that must be there, each as often as it is named. All others are refused. Default: none.
	Params []Field `json:"params,omitempty"`

	// Members of a JSON body that must be there and are no strings, compared as JSON. Default: none.
	JSONParams []JSONField `json:"json_params,omitempty"`

	// Header fields that must be there. Default: none.
	Headers []Field `json:"headers,omitempty"`

	// The answer, JSON in which $token, $expires_in, $expires_in_ms, $expires_at, $expires_at_ms, $expires_at_rfc3339,
	// $issued_at, $issued_at_ms and $scope are replaced. Default: access_token, token_type and expires_in.
	Answer string `json:"answer,omitempty"`

	// The body of a refusal, JSON in which $code is replaced. Default: {"error":"$code"}.
	Failure string `json:"failure,omitempty"`

	// The issuer that the metadata names (RFC 8414). They are at each path with /.well-known/oauth-authorization-server
	// or /.well-known/openid-configuration in it. Default: no metadata.
	Issuer string `json:"issuer,omitempty"`

	// The token endpoint that the metadata names. Default: issuer and /token.
	TokenURL string `json:"token_endpoint,omitempty"`

	// The token endpoint in mtls_endpoint_aliases of the metadata (RFC 8705, section 5). Default: none.
	MTLSTokenURL string `json:"mtls_token_endpoint,omitempty"`
}

// Field is a parameter, header field or claim that is demanded.
type Field struct {
	// Its name.
	Name string `json:"name"`
	// The value that it must have. Default: any.
	Value *string `json:"value,omitempty"`
}

// JSONField is a member of a JSON body that is demanded.
type JSONField struct {
	// Its name.
	Name string `json:"name"`
	// The value that it must have.
	Value json.RawMessage `json:"value"`
}

func (d *Demands) clientAuth() string { return cmp.Or(d.ClientAuth, authBasic) }

func (d *Demands) clientIDParam() string { return orDefault(d.ClientIDParam, "client_id") }

func (d *Demands) clientSecretParam() string { return cmp.Or(d.ClientSecretParam, "client_secret") }

func (d *Demands) method() string { return cmp.Or(d.Method, "POST") }

func (d *Demands) encoding() string {
	if d.method() == "GET" {
		return cmp.Or(d.Encoding, encodingQuery)
	}
	return cmp.Or(d.Encoding, encodingForm)
}

func (d *Demands) grant() string { return orDefault(d.Grant, grantClientCredentials) }

func (d *Demands) tokenURL() string { return cmp.Or(d.TokenURL, d.Issuer+"/token") }

// signs reports whether a request has a JWT that is checked by its signature.
func (d *Demands) signs() bool {
	return d.clientAuth() == authSecretJWT || d.usesKey()
}

// usesKey reports whether ClientKey has something to check.
func (d *Demands) usesKey() bool {
	return d.clientAuth() == authKeyJWT && d.ClientAssertion == "" || d.grant() == grantJWTBearer
}

func orDefault(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}
