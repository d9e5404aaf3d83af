// Package oauth2 asks any OAuth 2.0 token endpoint for tokens (RFC 6749).
package oauth2

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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

// Provider asks any OAuth 2.0 token endpoint (RFC 6749) for tokens. With a token URL or an issuer alone, it does what
// RFC 6749 section 4.4 says: the client-credentials grant, as a form, with the client secret in Basic. Everything
// that servers do otherwise can be said.
//
// Values may have global placeholders such as {env.NAME} in them. SigningKey, ClientCertificate,
// ClientCertificateKey, and the values of Params and Headers may be secret: there, {env.NAME} or {file./path} is the
// whole value, and a file is read again for each token request.
type Provider struct {
	// TokenURL is the token endpoint. Required, unless there is an issuer.
	TokenURL string `json:"token_url,omitempty"`

	// Issuer is the authorization server's identifier, exactly as its metadata has it (RFC 8414, OpenID Connect
	// Discovery). The token endpoint is looked up there at the first token request, and again every hour.
	Issuer string `json:"issuer,omitempty"`

	// ClientAuth is how the client proves its identity, by its registered name: client_secret_basic,
	// client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none.
	// Default: client_secret_basic.
	ClientAuth string `json:"client_auth,omitempty"`

	// BasicEncoding is "form", which encodes id and secret as RFC 6749 section 2.3.1 says, or "raw", for servers that
	// do not decode them. Default: form.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// ClientIDParam is the name of the parameter with the client id; empty sends none. Default: client_id.
	ClientIDParam *string `json:"client_id_param,omitempty"`

	// ClientSecretParam is the name of the parameter with the client secret. Default: client_secret.
	ClientSecretParam string `json:"client_secret_param,omitempty"`

	// SigningKey signs the client assertion of private_key_jwt, or the assertion of the grant jwt-bearer: a private
	// key in PEM without a passphrase, a JWK, or a JSON key file as Google issues them.
	SigningKey option.Source `json:"signing_key,omitempty"`

	// SigningKeyID is the key's identifier (kid). Default: the one in the JWK or the key file, if any.
	SigningKeyID string `json:"signing_key_id,omitempty"`

	// SigningAlg is the algorithm (alg). Default: by the key, RS256, ES256, ES384, ES512 or EdDSA; for
	// client_secret_jwt, HS256.
	SigningAlg string `json:"signing_alg,omitempty"`

	// AssertionAudience is the one audience of assertions. Default: the issuer, or else the token URL.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// AssertionTyp is the JWT type of assertions; empty for none. Default: client-authentication+jwt (RFC 10070) to
	// authenticate the client, JWT for the grant jwt-bearer.
	AssertionTyp *string `json:"assertion_typ,omitempty"`

	// AssertionClaims are claims of the assertion of the grant jwt-bearer, beside iss, sub, aud, iat, exp and jti, or
	// in their place. An empty one leaves the claim out.
	AssertionClaims map[string]string `json:"assertion_claims,omitempty"`

	// ClientAssertionFile is the path of a file with the client assertion, such as a projected service-account token.
	// It is read again for each token request.
	ClientAssertionFile string `json:"client_assertion_file,omitempty"`

	// ClientAssertionType is the client_assertion_type. Default: the one of JWTs (RFC 7523 section 2.2).
	ClientAssertionType string `json:"client_assertion_type,omitempty"`

	// ClientCertificate and ClientCertificateKey are the client's TLS certificate and its key, in PEM. The token
	// endpoint sees the certificate, and so does an API that asks for one.
	ClientCertificate    option.Source `json:"client_certificate,omitempty"`
	ClientCertificateKey option.Source `json:"client_certificate_key,omitempty"`

	// Grant is the grant type; empty sends none. Default: client_credentials.
	Grant *string `json:"grant,omitempty"`

	// Scope is the scope to ask for. Default: none, which leaves it to the server.
	Scope []string `json:"scope,omitempty"`

	// ScopeSeparator stands between the scopes. Default: a space.
	ScopeSeparator string `json:"scope_separator,omitempty"`

	// Audience is the parameter audience. Default: none.
	Audience string `json:"audience,omitempty"`

	// Resource is the parameter resource, once for each URI (RFC 8707). Default: none.
	Resource []string `json:"resource,omitempty"`

	// Params are further parameters. An empty value is sent. {uuid} is a fresh UUID each time.
	Params map[string]option.Source `json:"params,omitempty"`

	// JSONParams are further parameters of the encoding json that are not strings.
	JSONParams map[string]json.RawMessage `json:"json_params,omitempty"`

	// Headers are further header fields of the token request, with values like those of Params.
	Headers map[string]option.Source `json:"headers,omitempty"`

	// Method is POST, or GET with the encoding query. Default: POST.
	Method string `json:"method,omitempty"`

	// Encoding is how the parameters travel: form, json, or query, which lets servers and proxies log them.
	// Default: form.
	Encoding string `json:"encoding,omitempty"`

	// Response says where the answer has what, if it is not where RFC 6749 section 5 says.
	Response *Response `json:"response,omitempty"`

	endpoint    string
	discovery   *oauth.Discovery
	auth        oauth.ClientAuth
	assertions  assertions
	certificate certificateReader
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

// Provision checks all that can be checked without a network.
func (o *Provider) Provision(ctx caddy.Context) error {
	o.logger = ctx.Logger()
	for _, step := range []func() error{
		o.replacePlaceholders,
		o.provisionEndpoint,
		o.provisionAuth,
		o.provisionAssertions,
		o.provisionCertificate,
		o.provisionRequest,
		o.provisionLayout,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// replacePlaceholders replaces global placeholders in all that is not secret.
func (o *Provider) replacePlaceholders() error {
	if strings.Contains(o.ClientAssertionFile, "{file.") { // what is in the file would be taken for its name, and shown
		return errors.New("client_assertion_file: give the path alone, without {file.…}")
	}
	texts := map[string][]*string{
		"token_url":             {&o.TokenURL},
		"issuer":                {&o.Issuer},
		"signing_key_id":        {&o.SigningKeyID},
		"assertion_audience":    {&o.AssertionAudience},
		"client_assertion_file": {&o.ClientAssertionFile},
		"audience":              {&o.Audience},
	}
	for i := range o.Scope {
		texts["scope"] = append(texts["scope"], &o.Scope[i])
	}
	for i := range o.Resource {
		texts["resource"] = append(texts["resource"], &o.Resource[i])
	}
	for name, values := range texts {
		for _, value := range values {
			if err := option.ReplaceGlobal(name, value); err != nil {
				return err
			}
		}
	}
	for name, value := range o.AssertionClaims {
		if err := option.ReplaceGlobal("assertion_claim "+name, &value); err != nil {
			return err
		}
		o.AssertionClaims[name] = value
	}
	return nil
}

func (o *Provider) provisionEndpoint() error {
	if (o.TokenURL == "") == (o.Issuer == "") {
		return errors.New("provider oauth2 needs token_url or issuer: the one or the other")
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
	switch o.auth.Method {
	case oauth.ClientSecretBasic, oauth.ClientSecretPost, oauth.ClientSecretJWT:
		return true
	default:
		return false
	}
}

// NewRequest implements provider.Provider.
func (o *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	endpoint, err := o.tokenEndpoint(ctx, client)
	if err != nil {
		return nil, err
	}
	r := o.request.fill(client.Secrets)
	r.URL = endpoint
	if err := o.addAssertion(&r, client); err != nil {
		return nil, provider.Misconfigured(err)
	}
	proof, err := o.proof(client, endpoint)
	if err != nil {
		return nil, provider.Misconfigured(err)
	}
	o.auth.Apply(&r, client.ID, proof)
	return r.Build(ctx)
}

func (o *Provider) tokenEndpoint(ctx context.Context, client provider.Client) (string, error) {
	if o.discovery == nil {
		return o.endpoint, nil
	}
	return o.discovery.TokenEndpoint(ctx, client.Do)
}

// Doubt implements provider.Learner: what looks like no token endpoint may be one that has moved.
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
	if unreachable || moved {
		o.discovery.Doubt()
	}
}

// Inherit implements provider.Learner.
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
	for _, read := range []func(provider.Secrets) error{o.assertions.read, o.certificate.read, o.request.read} {
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

func (o *Provider) grant() string {
	if o.Grant == nil {
		return "client_credentials"
	}
	return *o.Grant
}

// Interface guards
var (
	_ provider.Provider          = (*Provider)(nil)
	_ provider.SecretHolder      = (*Provider)(nil)
	_ provider.SecretChecker     = (*Provider)(nil)
	_ provider.Discoverer        = (*Provider)(nil)
	_ provider.Learner           = (*Provider)(nil)
	_ provider.CertificateHolder = (*Provider)(nil)
	_ provider.Stubber           = (*Provider)(nil)
	_ caddy.Provisioner          = (*Provider)(nil)
	_ caddyfile.Unmarshaler      = (*Provider)(nil)
)
