package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// provenRequest is a request whose token is bound to a key, with a proof of the key.
type provenRequest struct {
	request  *http.Request
	prover   *dpop.Prover
	token    string
	address  string      // that is dialed
	refused  *dpop.Proof // of the attempt before; nil if this is the first one
	proof    dpop.Proof
	attempts int
}

// proveRequest adds a proof to a request with this lease's token. net/http sends a request again by itself if the connection is
// lost. It then gets another proof, because the API may have seen the first one (RFC 9449 section 11.1).
func proveRequest(req *http.Request, lease token.Lease, refused *dpop.Proof) (*provenRequest, error) {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	p := &provenRequest{
		request: req, prover: lease.Prover().(*dpop.Prover), token: lease.Value().Reveal(), address: di.Address, refused: refused,
	}
	if err := p.prove(); err != nil {
		return nil, err
	}
	p.request = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: p.gotConn}))
	return p, nil
}

// prove replaces the proof.
func (p *provenRequest) prove() error {
	proof, err := p.prover.Prove(p.request, p.address, p.token, p.refused)
	if err != nil {
		return err
	}
	p.proof = proof
	p.request.Header[fieldDPoP] = []string{proof.Field}
	return nil
}

// gotConn implements the field GotConn of httptrace.ClientTrace. net/http calls it once for each attempt, when it is done with the
// attempt before.
func (p *provenRequest) gotConn(httptrace.GotConnInfo) {
	if p.attempts++; p.attempts > 1 {
		_ = p.prove() // the first proof was made, so this one is, too
	}
}

// learn takes the nonce and the time from the answer. If the API may accept another proof after it has refused this one, learn
// returns this one.
func (p *provenRequest) learn(res *http.Response) *dpop.Proof {
	if p.prover.Learn(&p.proof, res.Header, res.StatusCode != http.StatusUnauthorized) {
		return &p.proof
	}
	return nil
}

// errExpectation is the error of an attempt that the API has refused unread, with 417, because it has no 100 (Continue).
var errExpectation = errors.New("the API refuses `Expect: 100-continue`")

// roundTripProved sends a request with a proof. The API may demand another nonce, and it is too late for another attempt if more of
// the body has been sent than is kept. So the attempt asks to send such a body, and does so after continueTimeout if the API does not
// answer (RFC 9110 section 10.1.1).
func (i *injector) roundTripProved(transport http.RoundTripper, proven *provenRequest, p *proxied) (*http.Response, error) {
	req := proven.request
	asks := proven.proof.Risky() && (req.ContentLength < 0 || req.ContentLength > int64(i.replayBuffer))
	if asks {
		req.Header["Expect"] = []string{"100-continue"}
		req = withoutContinue(req)
	}
	res, err := i.roundTrip(transport, req, p)
	if err != nil {
		return nil, err
	}
	p.proof = proven.learn(res)
	if asks && res.StatusCode == http.StatusExpectationFailed {
		_ = res.Body.Close()
		return nil, errExpectation
	}
	return res, nil
}

// withoutContinue keeps the 100 (Continue) that the proxy has asked for from reverse_proxy, which would pass it on to an application
// that has not.
func withoutContinue(req *http.Request) *http.Request {
	trace := httptrace.ContextClientTrace(req.Context())
	if trace == nil || trace.Got1xxResponse == nil {
		return req
	}
	quiet := *trace
	quiet.Got1xxResponse = func(status int, header textproto.MIMEHeader) error {
		if status == http.StatusContinue {
			return nil
		}
		return trace.Got1xxResponse(status, header)
	}
	return replaceTrace(req, &quiet)
}

// continueTimeout is how long an attempt waits for 100 (Continue), unless the transport has an expect_continue_timeout. Go's servers
// and many others answer at once.
const continueTimeout = time.Second

// awaitContinue makes continueTimeout the default of a transport, which does not wait by default.
func awaitContinue(transport http.RoundTripper) {
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && t.Transport.ExpectContinueTimeout == 0 {
		t.Transport.ExpectContinueTimeout = continueTimeout
	}
}

// maxAhead is how much of a refusal is read before the next attempt. Answers that demand a nonce are shorter.
const maxAhead = 4 << 10

// readAhead reads the beginning of an answer before its reader does. After a short answer over HTTP/1, net/http sends the next attempt
// on the same connection. On another one, a load balancer may choose another server, which has its own nonces.
func readAhead(res *http.Response) {
	beginning, _ := io.ReadAll(io.LimitReader(res.Body, maxAhead))
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(beginning), res.Body), res.Body}
}
