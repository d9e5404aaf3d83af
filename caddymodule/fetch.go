package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// fetcher asks the credential's provider for tokens. It implements token.Fetcher.
type fetcher struct {
	caller *caller
	issued atomic.Pointer[provider.Secret] // the last token; atomic, because an abandoned call may run beside the next one
}

// Prepare implements token.Fetcher. If a secret cannot be read, it returns a call that fails.
func (f *fetcher) Prepare() token.Call {
	s, err := f.caller.readSecrets()
	if err != nil {
		return failingCall(provider.Misconfigured(err))
	}
	return token.Call{
		Proof: s.proof(f.caller.AllowPlaintext),
		Fetch: func(ctx context.Context) (token.Issued, error) { return f.fetch(ctx, s) },
	}
}

// failingCall returns a call that fails because secrets cannot be read. Its proof is the reason, so that the proof changes as
// soon as they can be read.
func failingCall(failed *token.Error) token.Call {
	return token.Call{
		Proof: provider.NewSecret(failed.Reason),
		Fetch: func(context.Context) (token.Issued, error) { return token.Issued{}, failed },
	}
}

// fetch makes a token request with these secrets. It removes secrets and tokens from all texts of the result.
func (f *fetcher) fetch(ctx context.Context, s secrets) (token.Issued, error) {
	issued, err := f.caller.fetch(ctx, s)
	if err == nil {
		f.issued.Store(&issued.Token)
	}
	hide := append(s.all(), issued.Token)
	if last := f.issued.Load(); last != nil {
		hide = append(hide, *last)
	}
	if slices.ContainsFunc(hide, func(s provider.Secret) bool { return s.In(issued.Note) }) {
		issued.Note = "its remark is not shown, because it contains a secret"
	}
	if remark := hideKept(issued.Kept, hide); remark != "" {
		issued.Note = remark
	}
	return issued, hideEcho(err, hide)
}

// fetch makes one token request. It fails if the token in the answer is a part of the request.
func (c *caller) fetch(ctx context.Context, s secrets) (token.Issued, error) {
	http, certificate, err := c.httpClient(s)
	if err != nil {
		return token.Issued{}, provider.Misconfigured(err)
	}
	c.certificate.Store(certificate)
	client := s.client
	client.Do = http.Do
	client.Claims = token.Demanded(ctx)
	req, issued, sent, err := c.exchange(ctx, http, client, s)
	if err == nil && isReflected(issued.Token, req, s.client.Secret, s.all()) {
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

// exchange sends the token request and reads the answer. It returns the request, and when it was sent. If the token endpoint
// refuses only the DPoP proof and has sent what another proof needs, it makes another request (RFC 9449 section 8). That is not
// the same request with another proof, because the assertion of a client is also good only once.
func (c *caller) exchange(ctx context.Context, client *oauth.Client, of provider.Client, s secrets) (req *http.Request, issued token.Issued, sent time.Time, err error) {
	var proof *dpop.Proof
	for tries := 1; ; tries++ {
		if req, err = c.newRequest(ctx, of); err != nil {
			return nil, token.Issued{}, time.Time{}, err
		}
		proofs, err := c.proofs(s) // now that the provider has read the metadata, which may list the algorithms
		if err != nil {
			return nil, token.Issued{}, time.Time{}, provider.Misconfigured(err)
		}
		if proof, err = proofs.prove(req, proof); err != nil {
			return nil, token.Issued{}, time.Time{}, err
		}
		answer, err := client.Do(req)
		if err != nil {
			return nil, token.Issued{}, time.Time{}, err
		}
		issued, err = c.provider.ReadAnswer(answer)
		another := proofs.learn(proof, answer.Header, err == nil)
		if err == nil {
			err = proofs.bind(&issued)
		}
		if !another || tries == 2 || !refusesProof(err) {
			return req, issued, answer.Sent, err
		}
	}
}

// newRequest returns a token request.
func (c *caller) newRequest(ctx context.Context, of provider.Client) (*http.Request, error) {
	req, err := c.provider.NewRequest(ctx, of)
	if e, ok := errors.AsType[*token.Error](err); ok && e != nil {
		return nil, e
	}
	if err != nil {
		return nil, &token.Error{Kind: token.Refused, Cause: token.CauseProvider, Reason: "the token request cannot be built"}
	}
	return req, nil
}

// bind attaches the client certificate of the token request to the token, because the API may accept the token only with
// this certificate (RFC 8705 section 3). The token then lives no longer than the certificate.
func (c *caller) bind(issued *token.Issued, certificate *tls.Certificate, sent time.Time) {
	issued.Certificate = certificate
	lifetime := issued.Lifetime
	if lifetime == token.UnknownLifetime {
		lifetime = cmp.Or(time.Duration(c.DefaultLifetime), token.DefaultLifetime)
	}
	if usable := certificate.Leaf.NotAfter.Sub(sent); 0 < usable && usable < lifetime {
		issued.Lifetime = usable
	}
}

// hideEcho removes secrets and tokens from a failure. A hostile endpoint may send a secret that it received, or a token that
// it issued, as its error code, and a provider may put anything into the reason.
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
			hidden.Reason = "the reason is not shown, because it contains a secret"
		}
	}
	return &hidden
}
