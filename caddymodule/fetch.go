package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// fetcher asks the credential's provider for tokens. It implements token.Fetcher.
type fetcher struct {
	credential *Credential
	issued     atomic.Pointer[Secret] // the last token; an abandoned Fetch may run beside the next one
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
	issued, err := c.fetch(ctx, identity, secrets)
	if err == nil {
		f.issued.Store(&issued.Token)
	}
	secrets = append(secrets, identity.Secret, issued.Token)
	if last := f.issued.Load(); last != nil {
		secrets = append(secrets, *last)
	}
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

// fetch makes one token request. None of the secrets can be its token.
func (c *Credential) fetch(ctx context.Context, identity Client, secrets []Secret) (token.Issued, error) {
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
	if err == nil && isReflected(issued.Token, req, identity, secrets) {
		return token.Issued{}, errReflected
	}
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
