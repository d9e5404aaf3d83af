package devserver

import (
	"cmp"
	"encoding/json"
)

// The methods of client authentication of RFC 6749, section 2.3.1; OpenID Connect Core, section 9; RFC 8705, section 2.
const (
	authBasic         = "client_secret_basic"
	authPost          = "client_secret_post"
	authSecretJWT     = "client_secret_jwt"
	authKeyJWT        = "private_key_jwt"
	authTLS           = "tls_client_auth"
	authSelfSignedTLS = "self_signed_tls_client_auth"
	authNone          = "none"

	authBearerJWT = "bearer_jwt" // has no registered name: a JWT that the client signs, in the Bearer scheme
)

var authMethods = []string{authBasic, authPost, authSecretJWT, authKeyJWT, authTLS, authSelfSignedTLS, authBearerJWT, authNone}

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
	defaultAnswer  = `{"access_token":"$token","token_type":"$token_type","expires_in":$expires_in}`
	defaultFailure = `{"error":"$code"}`
)

// Demands describe the requests that a TokenEndpoint of the dialect OAuth2 accepts, and its answers. The zero Demands
// describe RFC 6749 with client_secret_basic. The JSON names are those of Caddy's configuration. In the configuration,
// ClientKey, ClientAssertion and ClientCertificate may be {file./path}. Caddy reads the file when it loads the
// configuration.
type Demands struct {
	// The only method of client authentication to accept: client_secret_basic, client_secret_post, client_secret_jwt,
	// private_key_jwt, tls_client_auth, self_signed_tls_client_auth, bearer_jwt or none. Default: client_secret_basic.
	ClientAuth string `json:"client_auth,omitempty"`

	// How the client encodes its id and secret in Basic: form (form-encoded before base64, RFC 6749, section 2.3.1) or
	// raw. Default: form.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// The parameter with the client id. Empty if the request must not have it. With a client assertion the client may
	// leave it out (RFC 7521, section 4.2). client_secret_basic does not have this option. Default: client_id.
	ClientIDParam *string `json:"client_id_param,omitempty"`

	// The parameter with the secret, for client_secret_post. Default: client_secret.
	ClientSecretParam string `json:"client_secret_param,omitempty"`

	// The key that verifies JWTs, for private_key_jwt, bearer_jwt and the grant jwt-bearer. It is a public key, a private
	// key or a certificate in PEM, or a JWK. If it is a certificate, the JWT must name it. Default: none.
	ClientKey string `json:"client_key,omitempty"`

	// The algorithm that a JWT must be signed with, such as PS256. Default: any algorithm that fits the key, or HS256
	// for client_secret_jwt.
	SigningAlg string `json:"signing_alg,omitempty"`

	// The aud of a JWT, which must be a single string. Default: issuer, or the URL of the request without its query.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// The typ of a JWT. Empty if the JWT must not have it. Default: client-authentication+jwt, or JWT for the grant
	// jwt-bearer.
	AssertionTyp *string `json:"assertion_typ,omitempty"`

	// Claims that the JWT must have, as strings. A claim with an empty value must be absent. If the request has two JWTs,
	// they are claims of that of the grant jwt-bearer. Unless iss and sub are listed here, they must be the client id. Default: none.
	AssertionClaims []Field `json:"assertion_claims,omitempty"`

	// Claims like those of AssertionClaims, compared as JSON. Default: none.
	AssertionJSONClaims []JSONField `json:"assertion_json_claims,omitempty"`

	// The fields of a JWT's header that must name the certificate in ClientKey: x5t#S256, x5t, x5c. The JWT must not have
	// the others. Default: x5t#S256.
	AssertionCertificate []string `json:"assertion_certificate,omitempty"`

	// The exact client_assertion to accept with private_key_jwt, for a client whose platform issues the assertion.
	// Default: none, client_key verifies the assertion.
	ClientAssertion string `json:"client_assertion,omitempty"`

	// The client_assertion_type to accept. Default: urn:ietf:params:oauth:client-assertion-type:jwt-bearer.
	ClientAssertionType string `json:"client_assertion_type,omitempty"`

	// The certificate, in PEM, that the client must present in the TLS handshake. Only its SHA-256 thumbprint is
	// compared. Default: none.
	ClientCertificate string `json:"client_certificate,omitempty"`

	// The HTTP method: POST or GET. Default: POST.
	Method string `json:"method,omitempty"`

	// Where the parameters are: form or json (both in the body), or query. Default: form, or query for the method GET.
	Encoding string `json:"encoding,omitempty"`

	// The grant_type. Empty if the request must not have it. Default: client_credentials.
	Grant *string `json:"grant,omitempty"`

	// The exact value of the parameter scope. Default: the request must not have a scope.
	Scope string `json:"scope,omitempty"`

	// Further parameters that the request must have, each as often as it is listed here. A request with any other
	// parameter is refused. Default: none.
	Params []Field `json:"params,omitempty"`

	// Members that a JSON body must have, compared as JSON. A member may have any type, unlike those of params, which
	// are strings. Default: none.
	JSONParams []JSONField `json:"json_params,omitempty"`

	// Header fields that the request must have, each as often as it is listed here. Default: none.
	Headers []Field `json:"headers,omitempty"`

	// The DPoP proofs that the request must have (RFC 9449). A token that is issued for a proof is bound to its key. Default:
	// none.
	DPoP DPoP `json:"dpop,omitzero"`

	// Whether the request may have the parameter claims, a JSON object (OpenID Connect Core, section 5.5). The token is issued
	// for these claims, which a dev_api with claims_challenge demands. Default: false.
	AcceptClaims bool `json:"accept_claims,omitempty"`

	// The body with a token. It is JSON with the variables $token, $token_type, $expires_in, $expires_in_ms, $expires_at,
	// $expires_at_ms, $expires_at_rfc3339, $issued_at, $issued_at_ms and $scope. Default: an object with access_token,
	// token_type and expires_in.
	Answer string `json:"answer,omitempty"`

	// The status of the answer with a token. Default: 200.
	AnswerStatus int `json:"answer_status,omitempty"`

	// The body of a refusal. It is JSON with the variable $code. Default: {"error":"$code"}.
	Failure string `json:"failure,omitempty"`

	// The issuer in the metadata (RFC 8414). The metadata are at each path that contains
	// /.well-known/oauth-authorization-server or /.well-known/openid-configuration. Default: none, and no metadata.
	Issuer string `json:"issuer,omitempty"`

	// The token endpoint in the metadata. Default: issuer followed by /token.
	TokenURL string `json:"token_endpoint,omitempty"`

	// The token endpoint in mtls_endpoint_aliases of the metadata (RFC 8705, section 5). Default: none.
	MTLSTokenURL string `json:"mtls_token_endpoint,omitempty"`
}

// Field is a demand for a parameter, a header field or a claim.
type Field struct {
	// Its name.
	Name string `json:"name"`
	// The value that it must have. Default: any.
	Value *string `json:"value,omitempty"`
}

// JSONField is a demand for a member of a JSON body.
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

// signs reports whether requests have a JWT whose signature is verified.
func (d *Demands) signs() bool {
	return d.clientAuth() == authSecretJWT || d.usesKey()
}

// usesKey reports whether ClientKey verifies a JWT of the request.
func (d *Demands) usesKey() bool {
	return d.clientAuth() == authKeyJWT && d.ClientAssertion == "" || d.clientAuth() == authBearerJWT || d.grant() == grantJWTBearer
}

func (d *Demands) assertionCertificate() []string {
	if d.AssertionCertificate == nil {
		return []string{"x5t#S256"}
	}
	return d.AssertionCertificate
}

func orDefault(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}
