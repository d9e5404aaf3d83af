// Package oauth2 requests tokens from any OAuth 2.0 token endpoint (RFC 6749).
package oauth2

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider requests tokens from any OAuth 2.0 token endpoint (RFC 6749). A server that follows RFC 6749 needs only TokenURL
// or Issuer. The request is then a form with the grant client_credentials and with the client secret in the Basic scheme
// (section 4.4). The other fields cover servers that differ.
//
// Values may contain global placeholders such as {env.NAME}. A brace that is text needs a backslash only if the text looks like a
// placeholder. The names of parameters and header fields, JSONParams and Response cannot contain placeholders. SigningKey,
// ClientCertificate, ClientCertificateKey, DPoPKey and the values of Params and Headers may be secret. For a secret, the
// placeholder {env.NAME} or {file./path} must be the whole value. The provider reads its file again for each token request.
type Provider struct {
	// TokenURL is the URL of the token endpoint. Required, unless Issuer is set.
	TokenURL string `json:"token_url,omitempty"`

	// Issuer is the identifier of the authorization server, exactly as in its metadata (RFC 8414, OpenID Connect Discovery).
	// The provider finds the token endpoint in the metadata at the first token request, and looks again every hour.
	// Required, unless TokenURL is set.
	Issuer string `json:"issuer,omitempty"`

	// ClientAuth is the client authentication method. It is client_secret_basic, client_secret_post, client_secret_jwt,
	// private_key_jwt, tls_client_auth, self_signed_tls_client_auth, bearer_jwt or none. With auto, the provider takes the
	// first method that the issuer's metadata list and that fits the proof: the signing key or the client assertion, else
	// the client certificate, else the secret. Default: client_secret_basic.
	ClientAuth string `json:"client_auth,omitempty"`

	// BasicEncoding is the encoding of id and secret in the Basic scheme. It is "form" (RFC 6749 section 2.3.1) or "raw", for
	// servers that do not decode them. Default: form.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// ClientIDParam is the name of the parameter with the client id. If it is empty, the request has no such parameter.
	// Default: client_id.
	ClientIDParam *string `json:"client_id_param,omitempty"`

	// ClientSecretParam is the name of the parameter with the client secret. Default: client_secret.
	ClientSecretParam string `json:"client_secret_param,omitempty"`

	// SigningKey is the private key that signs the client assertion of private_key_jwt, the JWT of bearer_jwt or the
	// assertion of the grant jwt-bearer. It is in PEM without a passphrase, a JWK, or the JSON key file of a Google
	// service account. Default: none.
	SigningKey option.Source `json:"signing_key,omitempty"`

	// SigningKeyID is the identifier of the key (kid). Default: the identifier in the JWK or in the key file, if any.
	SigningKeyID string `json:"signing_key_id,omitempty"`

	// SigningAlg is the algorithm (alg). Default: HS256 for client_secret_jwt, or else RS256, ES256, ES384, ES512 or EdDSA,
	// depending on the key.
	SigningAlg string `json:"signing_alg,omitempty"`

	// AssertionAudience is the audience of assertions. Default: the issuer or, without an issuer, the token URL.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// AssertionTyp is the JWT type (typ) of assertions. If it is empty, assertions have no typ. Default:
	// client-authentication+jwt (RFC 10070) for client assertions, and JWT for bearer_jwt and the grant jwt-bearer.
	AssertionTyp *string `json:"assertion_typ,omitempty"`

	// AssertionCertificate contains the fields of an assertion's header that name the client certificate. They are x5t#S256
	// and x5t, its thumbprints, and x5c, the certificate with its chain. Default: x5t#S256 if the client has a certificate.
	AssertionCertificate []string `json:"assertion_certificate,omitempty"`

	// AssertionClaims are claims of the assertion, of any type except null. They add to iss, sub, aud, iat, exp and jti, or
	// replace them. An empty text removes the claim. If the request has two assertions, the claims belong to that of the
	// grant jwt-bearer. Default: none.
	AssertionClaims map[string]json.RawMessage `json:"assertion_claims,omitempty"`

	// ClientAssertionFile is the path of a file with the client assertion, such as a projected service account token. The
	// provider reads it again for each token request. Default: none.
	ClientAssertionFile string `json:"client_assertion_file,omitempty"`

	// ClientAssertionType is the value of client_assertion_type. Default: the value for JWTs (RFC 7523 section 2.2).
	ClientAssertionType string `json:"client_assertion_type,omitempty"`

	// ClientCertificate and ClientCertificateKey are the TLS certificate of the client and its key, in PEM. The proxy presents
	// the certificate to the token endpoint and to each API that requests one. Default: none.
	ClientCertificate    option.Source `json:"client_certificate,omitempty"`
	ClientCertificateKey option.Source `json:"client_certificate_key,omitempty"`

	// DPoP binds tokens to a key, so that they are worthless to a thief (RFC 9449). It is "on" or "optional". With optional, the
	// provider accepts a Bearer token from a server that does not know DPoP. Default: none, so that tokens are not bound.
	DPoP string `json:"dpop,omitempty"`

	// DPoPKey is the private key that tokens are bound to, in PEM without a passphrase or as a JWK. Replicas with the same key can
	// share tokens. Default: a key that the proxy generates for each credential and each tenant, and never stores.
	DPoPKey option.Source `json:"dpop_key,omitempty"`

	// DPoPAlg is the algorithm (alg) of the proofs: ES256, ES384, ES512, EdDSA, or PS or RS with 256, 384 or 512. Default: the
	// first of these that the metadata of Issuer list for proofs, or else ES256. For DPoPKey, it is the algorithm that signing_alg
	// would have.
	DPoPAlg string `json:"dpop_alg,omitempty"`

	// Grant is the grant type. If it is empty, the request has no grant_type. Default: client_credentials.
	Grant *string `json:"grant,omitempty"`

	// Scope is the requested scope. Default: none, so that the server decides.
	Scope []string `json:"scope,omitempty"`

	// ScopeSeparator is the text between the scopes. Default: a space.
	ScopeSeparator string `json:"scope_separator,omitempty"`

	// Audience contains the values of the parameter audience, which the request has once for each value. Default: none.
	Audience Values[string] `json:"audience,omitempty"`

	// Resource contains the URIs of the parameter resource, which the request has once for each URI (RFC 8707). Default: none.
	Resource []string `json:"resource,omitempty"`

	// Params are further parameters. The request has a parameter once for each of its values. A value may be empty. The value
	// {uuid} is a new UUID for each token request. Default: none.
	Params map[string]Values[option.Source] `json:"params,omitempty"`

	// JSONParams are further parameters of the encoding json, for values other than strings. Default: none.
	JSONParams map[string]json.RawMessage `json:"json_params,omitempty"`

	// Headers are further header fields of the token request, with values like those of Params. Default: none.
	Headers map[string]option.Source `json:"headers,omitempty"`

	// Method is POST, or GET with the encoding query. Default: POST.
	Method string `json:"method,omitempty"`

	// Encoding is the encoding of the parameters. It is form, json or query. Servers and proxies log the parameters in a
	// query. Default: form.
	Encoding string `json:"encoding,omitempty"`

	// Response sets where the answer has which field. Default: the fields of RFC 6749 section 5.
	Response *Response `json:"response,omitempty"`

	endpoint    string
	query       url.Values // of the token URL
	discovery   *oauth.Discovery
	auth        oauth.ClientAuth
	methods     []string // the methods of client authentication that a request may use
	assertions  assertions
	certificate certificateReader
	proofKey    proofKey
	request     requestTemplate
	layout      provider.Layout
	logger      *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.providers.oauth2",
		New: func() caddy.Module { return new(Provider) },
	}
}

// Provision checks the configuration, as far as that is possible without a network.
func (o *Provider) Provision(ctx caddy.Context) error {
	o.logger = provider.Logger(ctx)
	for _, step := range []func() error{
		o.replacePlaceholders,
		o.provisionEndpoint,
		o.provisionAuth,
		o.provisionAssertions,
		o.provisionCertificate,
		o.provisionDPoP,
		o.provisionRequest,
		o.provisionLayout,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// provisionDPoP checks the key that tokens are bound to.
func (o *Provider) provisionDPoP() (err error) {
	o.proofKey, err = newProofKey(o.DPoP, o.DPoPKey, o.DPoPAlg)
	if err == nil && o.proofKey.reader != nil {
		option.WarnOfKey(o.logger, "dpop_key", *o.proofKey.reader)
	}
	return err
}

// replacePlaceholders replaces global placeholders in values that are not secret.
func (o *Provider) replacePlaceholders() error {
	if strings.Contains(o.ClientAssertionFile, "{file.") { // the content would become the name of a file, which errors show
		return errors.New("client_assertion_file: set the path alone, without {file.…}")
	}
	texts := map[string][]*string{
		"token_url":             {&o.TokenURL},
		"issuer":                {&o.Issuer},
		"client_id_param":       {o.ClientIDParam},
		"client_secret_param":   {&o.ClientSecretParam},
		"signing_key_id":        {&o.SigningKeyID},
		"signing_alg":           {&o.SigningAlg},
		"assertion_audience":    {&o.AssertionAudience},
		"assertion_typ":         {o.AssertionTyp},
		"client_assertion_file": {&o.ClientAssertionFile},
		"client_assertion_type": {&o.ClientAssertionType},
		"dpop_alg":              {&o.DPoPAlg},
		"grant":                 {o.Grant},
		"scope_separator":       {&o.ScopeSeparator},
	}
	for i := range o.Audience {
		texts["audience"] = append(texts["audience"], &o.Audience[i])
	}
	for i := range o.Scope {
		texts["scope"] = append(texts["scope"], &o.Scope[i])
	}
	for i := range o.Resource {
		texts["resource"] = append(texts["resource"], &o.Resource[i])
	}
	for name, values := range texts {
		for _, value := range values {
			if value == nil {
				continue
			}
			if err := option.ReplaceGlobal(name, value); err != nil {
				return err
			}
		}
	}
	for name, value := range o.AssertionClaims {
		replaced, err := replaceClaim(value)
		if err != nil {
			return fmt.Errorf("assertion_claim %s: %w", name, err)
		}
		o.AssertionClaims[name] = replaced
	}
	return nil
}

func (o *Provider) provisionEndpoint() error {
	if (o.TokenURL == "") == (o.Issuer == "") {
		return errors.New("provider oauth2 needs either token_url or issuer")
	}
	option := "token_url"
	if o.Issuer != "" {
		option = "issuer"
	}
	o.endpoint = cmp.Or(o.TokenURL, o.Issuer)
	u, err := oauth.ParseEndpoint(o.endpoint)
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	if o.Issuer == "" {
		o.query = u.Query()
		return nil
	}
	if u.RawQuery != "" { // RFC 8414 section 2
		return errors.New("issuer: the URL must not have a query")
	}
	o.discovery = &oauth.Discovery{Issuer: o.Issuer, MTLS: o.ClientCertificate != ""}
	return nil
}

// Endpoint implements provider.Provider.
func (o *Provider) Endpoint() string { return o.endpoint }

// NeedsSecret implements provider.Provider.
func (o *Provider) NeedsSecret() bool {
	return o.mayUse(oauth.ClientSecretBasic, oauth.ClientSecretPost, oauth.ClientSecretJWT)
}

// NewRequest implements provider.Provider.
func (o *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	endpoint, err := o.tokenEndpoint(ctx, client)
	if err != nil {
		return nil, err
	}
	auth, err := o.chooseAuth()
	if err != nil {
		return nil, provider.Misconfigured(err)
	}
	r := o.request.fill(client.Secrets)
	r.URL = endpoint
	addClaims(&r, client.Claims)
	if err := o.addAssertion(&r, client); err != nil {
		return nil, provider.Misconfigured(err)
	}
	proof, err := o.proof(auth.Method, client, endpoint)
	if err != nil {
		return nil, provider.Misconfigured(err)
	}
	auth.Apply(&r, client.ID, proof)
	return r.Build(ctx)
}

func (o *Provider) tokenEndpoint(ctx context.Context, client provider.Client) (string, error) {
	if o.discovery == nil {
		return o.endpoint, nil
	}
	return o.discovery.TokenEndpoint(ctx, client.Do)
}

// Doubt implements provider.Learner. A token endpoint that seems to be missing may have moved, and one that refuses the
// client may have changed its methods of client authentication.
func (o *Provider) Doubt(err error) {
	e, ok := errors.AsType[*provider.Error](err)
	if o.discovery == nil || !ok {
		return
	}
	unreachable := e.Kind == provider.Unavailable && e.Status == 0
	moved := e.Status >= 300 && e.Status < 400
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		moved = true
	}
	refused := o.ClientAuth == authAuto && e.Kind == provider.Refused
	if unreachable || moved || refused {
		o.discovery.Doubt()
	}
}

// Inherit implements provider.Learner. It takes over the token endpoint of the issuer.
func (o *Provider) Inherit(from provider.Provider) {
	if old, ok := from.(*Provider); ok && o.discovery != nil && old.discovery != nil {
		o.discovery = old.discovery
	}
}

// ReadAnswer implements provider.Provider.
func (o *Provider) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	return answer.Read(o.layout)
}

// Secrets implements provider.SecretHolder.
func (o *Provider) Secrets() (provider.Secrets, error) {
	secrets := make(provider.Secrets)
	for _, read := range []func(provider.Secrets) error{o.assertions.read, o.certificate.read, o.proofKey.read, o.request.read} {
		if err := read(secrets); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// Certificate implements provider.CertificateHolder.
func (o *Provider) Certificate(secrets provider.Secrets) (*tls.Certificate, error) {
	return o.certificate.parse(secrets)
}

// ProofOfPossession implements provider.DPoPHolder.
func (o *Provider) ProofOfPossession(secrets provider.Secrets) (*provider.DPoP, error) {
	d, err := o.proofKey.parse(secrets)
	if err == nil && d != nil && d.Key.Empty() && d.Alg == "" && o.discovery != nil {
		d.Alg = oauth.FirstAlg(o.discovery.ProofAlgs())
	}
	return d, err
}

// Stub implements provider.Stubber.
func (o *Provider) Stub(token string, _ time.Time, lifetime time.Duration) any {
	return struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
		Scope       string `json:"scope,omitempty"`
	}{token, "Bearer", int64(lifetime.Seconds()), strings.Join(o.Scope, " ")}
}

// ByIssuer implements provider.Discoverer.
func (o *Provider) ByIssuer() bool { return o.Issuer != "" }

// grant returns the grant type. The query of the token URL replaces the default, as it does in the documentation of some
// vendors.
func (o *Provider) grant() string {
	if o.Grant != nil {
		return *o.Grant
	}
	return cmp.Or(o.query.Get("grant_type"), "client_credentials")
}

// Interface guards
var (
	_ provider.Provider          = (*Provider)(nil)
	_ provider.SecretHolder      = (*Provider)(nil)
	_ provider.SecretChecker     = (*Provider)(nil)
	_ provider.Discoverer        = (*Provider)(nil)
	_ provider.Learner           = (*Provider)(nil)
	_ provider.CertificateHolder = (*Provider)(nil)
	_ provider.DPoPHolder        = (*Provider)(nil)
	_ provider.Stubber           = (*Provider)(nil)
	_ caddy.Provisioner          = (*Provider)(nil)
	_ caddyfile.Unmarshaler      = (*Provider)(nil)
)
