package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptrace"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// fieldDPoP is the header field with the proof (RFC 9449 section 4.1), as http.CanonicalHeaderKey spells it.
const fieldDPoP = "Dpop"

// dpopHeader carries the tokens that are bound to a key (RFC 9449 section 7.1).
var dpopHeader = TokenHeader{Name: "Authorization", Format: "DPoP " + placeholderToken, prefix: "DPoP "}

// headerFor returns the header field that carries a lease's token.
func (c *client) headerFor(lease token.Lease) *TokenHeader {
	if lease.Prover() != nil {
		return &dpopHeader
	}
	return &c.header
}

// sendWithProof sends a request whose token is bound to a key. net/http sends a request again by itself if the connection is
// lost. It then gets another proof, because the API may have seen the first one (RFC 9449 section 11.1).
func (i *injector) sendWithProof(out *http.Request, p *proxied) (*http.Response, error) {
	prover, bound := p.lease.Prover().(*dpop.Prover), p.lease.Value().Reveal()
	di, _ := reverseproxy.GetDialInfo(out.Context())
	proof, err := prover.Prove(out, di.Address, bound)
	if err != nil {
		closeBody(out)
		return nil, err
	}
	out.Header[fieldDPoP] = []string{proof.Field}
	first := true
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { // once for each attempt; net/http is done with the attempt before
			if first {
				first = false
				return
			}
			if another, err := prover.Prove(out, di.Address, bound); err == nil {
				proof = another
				out.Header[fieldDPoP] = []string{proof.Field}
			}
		},
	}))
	res, err := i.roundTrip(i.transport(p), out, p)
	if err == nil {
		p.proof = prover.Learn(proof, res.Header)
	}
	return res, err
}

// sendProved sends a request, and sends it once more if the API refuses only its proof and has just sent the nonce or the time for
// another one. The token is the same, because the API has not judged it (RFC 9449 section 9).
func (i *injector) sendProved(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	p.proof = false
	res, err := i.send(req, p, body, attempt)
	if err != nil || !p.proof || res.StatusCode != http.StatusUnauthorized || !challengeIn(res, p.lease).demandsProof() {
		return res, err
	}
	again, ok := body.again()
	if !ok { // more of the body has been sent than is kept
		return res, nil
	}
	go res.Body.Close() // as for a replay with another token
	return i.send(req, p, body, again)
}
