package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// fetcher asks the credential's provider for tokens. It implements token.Fetcher.
type fetcher struct {
	client *client
	issued atomic.Pointer[provider.Secret] // the last token; an abandoned call may run beside the next one
}

// Prepare implements token.Fetcher. What cannot be read makes a call that fails, and that has a proof of its own.
func (f *fetcher) Prepare() token.Call {
	s, err := f.client.readSecrets()
	if err != nil {
		failed := provider.Misconfigured(err)
		return token.Call{
			Proof: provider.NewSecret(failed.Reason),
			Fetch: func(context.Context) (token.Issued, error) { return token.Issued{}, failed },
		}
	}
	return token.Call{
		Proof: s.proof(f.client.AllowPlaintext),
		Fetch: func(ctx context.Context) (token.Issued, error) { return f.fetch(ctx, s) },
	}
}

// fetch makes a token request with these secrets, and lets none of them be seen.
func (f *fetcher) fetch(ctx context.Context, s secrets) (token.Issued, error) {
	issued, err := f.client.fetch(ctx, s)
	if err == nil {
		f.issued.Store(&issued.Token)
	}
	hide := append(s.all(), issued.Token)
	if last := f.issued.Load(); last != nil {
		hide = append(hide, *last)
	}
	if slices.ContainsFunc(hide, func(s provider.Secret) bool { return s.In(issued.Note) }) {
		issued.Note = "there is a remark that cannot be shown"
	}
	if remark := hideKept(issued.Kept, hide); remark != "" {
		issued.Note = remark
	}
	return issued, hideEcho(err, hide)
}

// inherit takes over what the same provider has learned before a reload. The source is the same only if the whole
// identity is.
func (c *client) inherit() {
	learner, ok := c.provider.(provider.Learner)
	earlier, isOurs := c.source.Fetcher().(*fetcher)
	if ok && isOurs && earlier.client != c {
		learner.Inherit(earlier.client.provider)
	}
}

// fetch makes one token request. None of the secrets can be its token.
func (c *client) fetch(ctx context.Context, s secrets) (token.Issued, error) {
	http, certificate, err := c.httpClient(s)
	if err != nil {
		return token.Issued{}, provider.Misconfigured(err)
	}
	c.certificate.Store(certificate)
	client := s.client
	client.Do = http.Do
	req, err := c.provider.NewRequest(ctx, client)
	if e, ok := errors.AsType[*token.Error](err); ok && e != nil {
		return token.Issued{}, e
	}
	if err != nil {
		return token.Issued{}, &token.Error{Kind: token.Refused, Cause: token.CauseProvider, Reason: "the token request cannot be built"}
	}
	issued, sent, err := c.exchange(http, req)
	if err == nil && isReflected(issued.Token, req, s) {
		return token.Issued{}, errReflected
	}
	if err == nil && certificate != nil {
		c.bind(&issued, certificate, sent)
	}
	if learner, ok := c.provider.(provider.Learner); ok && err != nil {
		learner.Doubt(err)
	}
	return issued, err
}

func (c *client) exchange(client *oauth.Client, req *http.Request) (issued token.Issued, sent time.Time, err error) {
	answer, err := client.Do(req)
	if err != nil {
		return token.Issued{}, time.Time{}, err
	}
	issued, err = c.provider.ReadAnswer(answer)
	return issued, answer.Sent, err
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
func (c *client) bind(issued *token.Issued, certificate *tls.Certificate, sent time.Time) {
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
func hideEcho(err error, hide []provider.Secret) error {
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
