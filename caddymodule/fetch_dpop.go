package caddymodule

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// proofs binds the token of one token request to a key (RFC 9449). Nil binds it to none.
type proofs struct {
	endpoint *dpop.Prover // of the token request
	api      *dpop.Prover // of requests with the token
	optional bool
}

// proofs returns what binds the token of a token request with these secrets, or nil.
func (c *caller) proofs(s secrets) (*proofs, error) {
	config, err := c.dpopConfig(s.client.Secrets)
	if err != nil || config == nil {
		return nil, err
	}
	client := new(dpop.Client)
	if c.source != nil {
		client = dpopClient(c.source)
	}
	key, err := proofKey(config, client)
	if err != nil {
		return nil, err
	}
	return &proofs{client.ForEndpoint(key), client.ForAPI(key), config.Optional}, nil
}

// dpopConfig returns how the provider binds tokens to a key, or nil.
func (c *caller) dpopConfig(s provider.Secrets) (*provider.DPoP, error) {
	holder, ok := c.provider.(provider.DPoPHolder)
	if !ok {
		return nil, nil
	}
	return holder.ProofOfPossession(s)
}

// dpopClient returns what a source keeps for proofs: the key that it has generated, and what servers demand.
func dpopClient(s *token.Source) *dpop.Client {
	return s.Attached(func() any { return new(dpop.Client) }).(*dpop.Client)
}

// latestProver returns the prover of the latest token request of a source, or nil.
func latestProver(s *token.Source) token.Prover {
	if p := dpopClient(s).Latest(); p != nil {
		return p
	}
	return nil
}

// prover returns the prover of the key that tokens are bound to at present, or nil. Without a token request, it reads the key.
func (c *caller) prover() token.Prover {
	if !c.binds || c.source == nil {
		return nil
	}
	if p := latestProver(c.source); p != nil {
		return p
	}
	if s, err := c.readSecrets(); err == nil {
		_, _ = c.proofs(s)
	}
	return latestProver(c.source)
}

// proofKey returns the configured key or, without one, that of the source.
func proofKey(config *provider.DPoP, client *dpop.Client) (*dpop.Key, error) {
	if config.Key.Empty() {
		return client.Key(config.Alg)
	}
	key, err := oauth.ParseSigningKey(config.Key.Reveal())
	if err == nil && config.Alg != "" {
		key, err = key.WithAlg(config.Alg)
	}
	if err != nil {
		return nil, fmt.Errorf("the key for DPoP: %w", err)
	}
	return dpop.NewKey(key.Signer())
}

// prove adds a proof to a token request. It goes by the answer to the proof that the token endpoint has refused, which is nil for the
// first request.
func (p *proofs) prove(req *http.Request, refused *dpop.Proof) (*dpop.Proof, error) {
	if p == nil {
		return nil, nil
	}
	proof, err := p.endpoint.Prove(req, "", "", refused)
	if err != nil {
		return nil, &token.Error{Kind: token.Refused, Cause: token.CauseProvider, Reason: "the DPoP proof cannot be signed"}
	}
	req.Header[fieldDPoP] = []string{proof.Field}
	return &proof, nil
}

// learn takes the nonce from an answer of the token endpoint and, unless the answer has a token, the time. It reports whether the next
// proof differs.
func (p *proofs) learn(proof *dpop.Proof, answer http.Header, issued bool) (another bool) {
	return p != nil && p.endpoint.Learn(proof, answer, issued)
}

// refusesProof reports whether the token endpoint refused a request because of its DPoP proof (RFC 9449 sections 5 and 8).
func refusesProof(err error) bool {
	e, ok := errors.AsType[*token.Error](err)
	return ok && e != nil && (e.Code == "use_dpop_nonce" || e.Code == "invalid_dpop_proof")
}

// errNotBound is the failure of a token endpoint that ignores the proof.
var errNotBound = &token.Error{Kind: token.Refused, Status: http.StatusOK, Cause: token.CauseNotBound,
	Reason: "the token endpoint issued a token that is not bound to the key, because its type is not DPoP"}

// bind attaches the key to a token. It returns an error if the token is not bound to the key, but must be.
func (p *proofs) bind(issued *token.Issued) error {
	if p == nil {
		return nil
	}
	if !issued.DPoP && !p.optional {
		return errNotBound
	}
	issued.Prover = p.api
	return nil
}
