package dpop

import (
	"cmp"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Client is what one source of tokens keeps for its proofs: its key, and what servers have told about proofs. The zero value is
// ready for use, and it is safe for concurrent use.
type Client struct {
	endpoints, apis servers // apart, because a server may be both, with different nonces (RFC 9449 section 9)

	mu        sync.Mutex
	generated *Key

	latest atomic.Pointer[Prover]
}

// Key returns the client's own key, which it generates when it is first asked for it. "" stands for DefaultAlg.
func (c *Client) Key(alg string) (*Key, error) {
	alg = cmp.Or(alg, DefaultAlg)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generated != nil && c.generated.alg == alg {
		return c.generated, nil
	}
	key, err := Generate(alg)
	if err == nil {
		c.generated = key
	}
	return key, err
}

// ForEndpoint returns the prover of token requests.
func (c *Client) ForEndpoint(k *Key) *Prover { return &Prover{k, &c.endpoints, &c.endpoints} }

// ForAPI returns the prover of requests that carry a token. It is the same as before for the same key.
func (c *Client) ForAPI(k *Key) *Prover {
	if p := c.latest.Load(); p != nil && p.key.header == k.header {
		return p
	}
	p := &Prover{k, &c.apis, &c.endpoints}
	c.latest.Store(p)
	return p
}

// Latest returns the latest result of ForAPI, or nil.
func (c *Client) Latest() *Prover { return c.latest.Load() }

// Prover makes the proofs of requests with one key. It is safe for concurrent use.
type Prover struct {
	key     *Key
	servers *servers
	clock   *servers // whose clock counts for a server that has not answered yet
}

// Key returns the key.
func (p *Prover) Key() *Key { return p.key }

// Thumbprint implements token.Prover.
func (p *Prover) Thumbprint() string { return p.key.thumbprint }

// Proof is the proof of one request.
type Proof struct {
	// Field is the value of the header field DPoP.
	Field string

	server string // by which the client knows it
	sent   time.Time
	of     server // what was known of the server
	told   server // what is known of it since its answer
}

// Risky reports whether the server may refuse the proof because it demands a nonce that the client does not know.
func (p *Proof) Risky() bool { return p.of.mayDemandNonce(p.sent) }

// Prove returns a new proof for a request, with the token that it carries or, for a token request, "". The address is the one that
// is dialed, if it is not in the request: servers at two addresses may get the same Host.
//
// A request that is sent again goes by the answer to its refused proof, which is nil for the first attempt. Meanwhile, another
// request may have got an answer with a nonce that the server has replaced, or with that of another server behind the same address.
func (p *Prover) Prove(req *http.Request, address, token string, refused *Proof) (Proof, error) {
	origin := Origin(req)
	proof := Proof{server: address + " " + origin, sent: time.Now()}
	proof.of = p.expected(proof.server, refused)
	var err error
	proof.Field, err = p.key.Proof(Claims{
		Method: req.Method,
		Target: origin + sentPath(req.URL),
		Time:   proof.sent.Add(proof.of.ahead),
		Token:  token,
		Nonce:  proof.of.nonce,
	})
	return proof, err
}

// expected returns what a proof for a server goes by.
func (p *Prover) expected(name string, refused *Proof) server {
	if refused != nil && refused.server == name {
		return refused.told
	}
	known, ok := p.servers.find(name)
	if !ok {
		known.ahead = p.clock.clock()
	}
	return known
}

// Learn takes the nonce from the answer to a request and, unless the server has accepted the proof, the time: a proof that was
// accepted has the right one, and the Date of the answer can be that of a cache or of another server behind a gateway. It reports
// whether the next proof is different in more than its jti and the time that has passed, so that a server that has refused this
// proof may accept the next one.
func (p *Prover) Learn(from *Proof, answer http.Header, accepted bool) (changed bool) {
	from.told = p.servers.learn(from, answer, accepted)
	return from.told.differs(from.of)
}
