package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Credential is one OAuth 2.0 client registration: who asks, which token endpoint is asked, where the token may go,
// and how time is treated.
type Credential struct {
	// Provider is the kind of token endpoint. Required.
	ProviderRaw json.RawMessage `json:"provider,omitempty" caddy:"namespace=token_proxy.providers inline_key=name"`

	// ClientID is the client identifier: a literal, or one whole-value placeholder {env.NAME} or {file./path}.
	// Required.
	ClientID string `json:"client_id,omitempty"`

	// ClientSecret is the client secret: one whole-value placeholder {env.NAME} or {file./path}, or a literal, which
	// gets a warning. A file is read again for each token request. Required if the provider needs it, an error if
	// it does not.
	ClientSecret SecretSource `json:"client_secret,omitempty"`

	// APIHosts are the hosts that the token may be sent to: `api.example.com`, `api.example.com:8443`, or
	// `*.example.com` for all hosts below example.com. Required unless every upstream of the handler is static.
	// Default: the hosts of those upstreams.
	APIHosts []string `json:"api_hosts,omitempty"`

	// AllowPlaintext permits http:// beyond loopback, for the token endpoint and for the upstreams. Default: false.
	AllowPlaintext bool `json:"allow_plaintext,omitempty"`

	// RefreshMargin is how long before its expiry a token is refreshed, at most half of its lifetime.
	// Default: the smaller of 5 minutes and 20 % of the lifetime.
	RefreshMargin caddy.Duration `json:"refresh_margin,omitempty"`

	// FetchTimeout bounds a token request, from connecting to the last byte of the answer. Default: 10s.
	FetchTimeout caddy.Duration `json:"fetch_timeout,omitempty"`

	// MaxWait bounds how long one request waits for a token. Default: 15s.
	MaxWait caddy.Duration `json:"max_wait,omitempty"`

	// DefaultLifetime is the lifetime of tokens whose answer names none. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// Header is where the token goes. Default: `Authorization: Bearer <token>`.
	Header *TokenHeader `json:"header,omitempty"`

	// Transport is how token requests travel. Default: to the URL's host, trusting the system's authorities, through
	// the proxy of the environment if there is one.
	Transport *TokenTransport `json:"transport,omitempty"`

	// Prefetch gets a token when the configuration starts, and keeps one ready even if no request comes.
	// Default: false: the first request waits for the token.
	Prefetch bool `json:"prefetch,omitempty"`

	name         string
	providerName string
	provider     Provider
	endpointHost string
	id, secret   secretReader
	hosts        hostPatterns
	header       TokenHeader
	source       *token.Source
	events       *eventEmitter
	failures     failureLog
	observation  *observation
	identityKey  token.Key
	counted      func() requestMetrics
	logger       *zap.Logger

	hasCertificate bool // token requests are made with a client certificate
}

// provision resolves and checks everything that can be checked without a network.
func (c *Credential) provision(ctx caddy.Context, name string) error {
	c.name = name
	c.logger = ctx.Logger()
	if !validCredentialName(name) {
		return errors.New("a credential's name is made of letters, digits, '_', '-' and '.'")
	}
	c.observation = observationOf(name)
	c.counted = metrics.forRequests(name)
	if err := c.loadProvider(ctx); err != nil {
		return err
	}
	if err := c.loadClient(); err != nil {
		return err
	}
	if err := c.loadTransport(); err != nil {
		return err
	}
	if err := c.checkDurations(); err != nil {
		return err
	}
	var err error
	if c.hosts, err = parseHostPatterns(c.APIHosts); err != nil {
		return fmt.Errorf("api_hosts: %w", err)
	}
	if c.Header != nil {
		c.header = *c.Header
	}
	if err := c.header.provision(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return nil
}

func (c *Credential) loadProvider(ctx caddy.Context) error {
	if c.ProviderRaw == nil {
		return errors.New("provider is missing")
	}
	mod, err := ctx.LoadModule(c, "ProviderRaw")
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	provider, ok := mod.(Provider)
	if !ok {
		return fmt.Errorf("provider: %T is not a provider", mod)
	}
	c.provider = provider
	c.providerName = mod.(caddy.Module).CaddyModule().ID.Name()

	endpoint, err := url.Parse(provider.Endpoint())
	if err != nil {
		return errors.New("provider: the token URL is not a URL")
	}
	if endpoint.Scheme != "https" && !oauth.IsLoopback(endpoint.Hostname()) && !c.AllowPlaintext {
		option := "token_url"
		if byIssuer(provider) {
			option = "issuer"
		}
		return errors.New(option + ": the client secret would be sent in the clear: use https, or say allow_plaintext")
	}
	c.endpointHost = endpoint.Host
	_, err = c.providerSecrets()
	return err
}

// providerSecrets reads the secrets that the provider holds itself.
func (c *Credential) providerSecrets() ([]Secret, error) {
	if holder, ok := c.provider.(SecretHolder); ok {
		return holder.Secrets()
	}
	return nil, nil
}

// loadTransport reads what the transport needs once, so that a mistyped name is refused now.
func (c *Credential) loadTransport() error {
	if c.Transport == nil {
		c.Transport = new(TokenTransport)
	}
	if err := c.Transport.provision(); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	_, certificate, err := c.tokenClient()
	c.hasCertificate = certificate != nil
	return err
}

// tokenClient makes the client for one token request, with certificates as they are now. It returns the client
// certificate too, if there is one.
func (c *Credential) tokenClient() (*oauth.Client, *tls.Certificate, error) {
	options, err := c.Transport.options()
	if err != nil {
		return nil, nil, fmt.Errorf("transport: %w", err)
	}
	if holder, ok := c.provider.(CertificateHolder); ok {
		if options.Certificate, err = holder.Certificate(); err != nil {
			return nil, nil, err
		}
		if err := withLeaf(options.Certificate); err != nil {
			return nil, nil, err
		}
	}
	options.AllowPlaintext = c.AllowPlaintext
	return oauth.NewClient(options), options.Certificate, nil
}

// secretChecker is a provider that cannot use just any client secret.
type secretChecker interface {
	checkSecret(secret Secret) error
}

// loadClient reads id and secret once, so that a mistyped name is refused now and not at the first request.
func (c *Credential) loadClient() error {
	if c.ClientID == "" {
		return errors.New("client_id is missing")
	}
	var err error
	if c.id, err = newSecretReader(c.ClientID); err == nil {
		_, err = c.id.read()
	}
	if err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	if !c.provider.NeedsSecret() {
		if c.ClientSecret != "" {
			return fmt.Errorf("client_secret: provider %s sends none, as it is configured: remove it", c.providerName)
		}
		return nil
	}
	if c.ClientSecret == "" {
		return fmt.Errorf("client_secret is missing: provider %s needs one, as it is configured", c.providerName)
	}
	var secret Secret
	if c.secret, err = newSecretReader(string(c.ClientSecret)); err == nil {
		secret, err = c.secret.read()
	}
	if checker, ok := c.provider.(secretChecker); ok && err == nil {
		err = checker.checkSecret(secret)
	}
	if err != nil {
		return fmt.Errorf("client_secret: %w", err)
	}
	if c.secret.isLiteral() {
		c.ClientSecret = "" // for whoever prints or marshals a credential in use
		c.logger.Warn("client_secret stands in the configuration itself, where the admin API and autosave.json show it: use {env.NAME} or {file./path}",
			zap.String("credential", c.name))
	}
	return nil
}

func (c *Credential) checkDurations() error {
	for option, d := range map[string]caddy.Duration{
		"refresh_margin":   c.RefreshMargin,
		"fetch_timeout":    c.FetchTimeout,
		"max_wait":         c.MaxWait,
		"default_lifetime": c.DefaultLifetime,
	} {
		if d < 0 {
			return fmt.Errorf("%s: a duration must be positive", option)
		}
	}
	return nil
}

// key identifies the source: everything that shapes the token, and nothing else. Policy is left out, so that a
// changed timeout costs no token.
func (c *Credential) key() (token.Key, error) {
	provider, err := json.Marshal(c.provider)
	if err != nil {
		return "", fmt.Errorf("provider: %w", err)
	}
	transport, err := json.Marshal(c.Transport)
	if err != nil {
		return "", fmt.Errorf("transport: %w", err)
	}
	b := token.NewKeyBuilder().
		Field("provider", c.providerName).
		Secret("provider configuration", token.NewSecret(string(provider))).
		Secret("transport", token.NewSecret(string(transport))).
		Field("endpoint", c.provider.Endpoint())
	id, err := c.id.read()
	if err != nil {
		return "", fmt.Errorf("client_id: %w", err)
	}
	b.Secret("client_id", id)
	c.secret.identity(b, "client_secret")
	return b.Key(), nil
}

func (c *Credential) config() token.Config {
	return token.Config{
		Fetcher: &fetcher{credential: c},
		Policy: token.Policy{
			RefreshMargin:   time.Duration(c.RefreshMargin),
			FetchTimeout:    time.Duration(c.FetchTimeout),
			MaxWait:         time.Duration(c.MaxWait),
			DefaultLifetime: time.Duration(c.DefaultLifetime),
			Prefetch:        c.Prefetch,
		},
		Observe: c.observe,
	}
}

// acquire gets a lease on a token. Credentials may share a source, but each has its own patience.
func (c *Credential) acquire(ctx context.Context) (token.Lease, error) {
	return c.source.AcquireWithin(ctx, cmp.Or(time.Duration(c.MaxWait), token.DefaultMaxWait))
}

// validCredentialName keeps names usable in URLs, metrics and logs.
func validCredentialName(name string) bool {
	return strings.Trim(name, ".") != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") == ""
}

// fetcher asks the credential's provider for tokens. It implements token.Fetcher.
type fetcher struct {
	credential *Credential
	issued     Secret // the last token; one Fetch runs at a time
}

// Fetch implements token.Fetcher.
func (f *fetcher) Fetch(ctx context.Context) (token.Issued, error) {
	c := f.credential
	secrets, err := c.providerSecrets()
	if err != nil {
		return token.Issued{}, refused(err)
	}
	identity, err := c.identity()
	if err != nil {
		return token.Issued{}, refused(err)
	}
	issued, err := c.fetch(ctx, identity)
	if err == nil {
		f.issued = issued.Token
	}
	secrets = append(secrets, identity.Secret, f.issued, issued.Token)
	if slices.ContainsFunc(secrets, func(s Secret) bool { return s.In(issued.Note) }) {
		issued.Note = "there is a remark that cannot be shown"
	}
	if remark := hideKept(issued.Kept, secrets); remark != "" {
		issued.Note = remark
	}
	return issued, hideEcho(err, secrets)
}

// refused is the failure of what is configured here, whose errors are made to be shown.
func refused(err error) *token.Error {
	return &token.Error{Kind: token.Refused, Reason: err.Error()}
}

// inherit takes over what the same provider has learned before a reload. The source is the same only if the whole
// identity is.
func (c *Credential) inherit() {
	learner, ok := c.provider.(learner)
	earlier, isOurs := c.source.Fetcher().(*fetcher)
	if ok && isOurs && earlier.credential != c {
		learner.inherit(earlier.credential.provider)
	}
}

// fetch makes one token request.
func (c *Credential) fetch(ctx context.Context, identity Client) (token.Issued, error) {
	client, certificate, err := c.tokenClient()
	if err != nil {
		return token.Issued{}, refused(err)
	}
	identity.http = client
	req, err := c.provider.NewRequest(ctx, identity)
	if e, ok := errors.AsType[*token.Error](err); ok && e != nil {
		return token.Issued{}, e
	}
	if err != nil {
		return token.Issued{}, &token.Error{Kind: token.Refused, Reason: "the token request cannot be built"}
	}
	issued, sent, err := c.exchange(client, req)
	if err == nil && certificate != nil {
		c.bind(&issued, certificate, sent)
	}
	if learner, ok := c.provider.(learner); ok && err != nil {
		learner.doubt(err)
	}
	return issued, err
}

func (c *Credential) exchange(client *oauth.Client, req *http.Request) (issued token.Issued, sent time.Time, err error) {
	answer, err := client.Do(req)
	if err != nil {
		return token.Issued{}, time.Time{}, err
	}
	issued, err = c.provider.ReadAnswer(answer)
	return issued, answer.Sent, err
}

// learner is a provider that learns, while it is asked, where the token endpoint is.
type learner interface {
	// doubt tells it of a failed token request.
	doubt(err error)

	// inherit takes over what the same provider has learned before a reload.
	inherit(from Provider)
}

// withLeaf parses the certificate itself, if whoever made it has not.
func withLeaf(certificate *tls.Certificate) error {
	if certificate == nil || certificate.Leaf != nil {
		return nil
	}
	if len(certificate.Certificate) == 0 {
		return errors.New("the client certificate is empty")
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	certificate.Leaf = leaf
	return err
}

// bind binds a token to the certificate that it was asked for with: it may be of no use without (RFC 8705 section 3),
// and so not for longer.
func (c *Credential) bind(issued *token.Issued, certificate *tls.Certificate, sent time.Time) {
	issued.Certificate = certificate
	lifetime := issued.Lifetime
	if lifetime == token.UnknownLifetime {
		lifetime = cmp.Or(time.Duration(c.DefaultLifetime), token.DefaultLifetime)
	}
	if usable := certificate.Leaf.NotAfter.Sub(sent); 0 < usable && usable < lifetime {
		issued.Lifetime = usable
	}
}

// hideEcho removes from a failure what shows a secret or a token: a hostile endpoint may send what it got, or what it
// gave, as its error code, and a provider may put anything into its reason.
func hideEcho(err error, hide []Secret) error {
	e, ok := errors.AsType[*token.Error](err)
	if !ok || e == nil {
		return err
	}
	hidden := *e
	for _, secret := range hide {
		if secret.In(e.Code) {
			hidden.Code = ""
		}
		if secret.In(e.Reason) {
			hidden.Reason = "the failure cannot be told without showing a secret"
		}
	}
	return &hidden
}

// Proof implements token.Fetcher.
func (f *fetcher) Proof() string {
	c := f.credential
	secrets, err := c.providerSecrets()
	if err != nil {
		return err.Error()
	}
	identity, err := c.identity()
	if err != nil {
		return err.Error()
	}
	proof := identity.ID + " " + c.Transport.proof() + " " + strconv.FormatBool(c.AllowPlaintext)
	for _, secret := range append(secrets, identity.Secret) {
		proof += " " + secret.Fingerprint()
	}
	return proof
}

// identity reads id and secret as they are now.
func (c *Credential) identity() (Client, error) {
	id, err := c.id.read()
	if err != nil {
		return Client{}, fmt.Errorf("client_id: %w", err)
	}
	if !c.provider.NeedsSecret() {
		return Client{ID: id.Reveal()}, nil
	}
	secret, err := c.secret.read()
	if err != nil {
		return Client{}, fmt.Errorf("client_secret: %w", err)
	}
	return Client{ID: id.Reveal(), Secret: secret}, nil
}
