package oauth

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// metadataLifetime is the time after which Discovery requests the metadata again. If that fails, it keeps the token
	// endpoint that it knows.
	metadataLifetime = time.Hour

	// renewalTimeout limits such a request. It also takes at most 1/renewalShare of the time that the token request has left.
	// If it fails, renewalPause is the time until the next one.
	renewalTimeout = 2 * time.Second
	renewalShare   = 4
	renewalPause   = time.Minute
)

// Discovery finds the token endpoint of an issuer at the first token request and remembers it. It is safe for concurrent
// use.
type Discovery struct {
	// Issuer is the identifier of the issuer, a URL. Required.
	Issuer string

	// MTLS prefers the token endpoint for clients with a certificate (RFC 8705 section 5). Default: false.
	MTLS bool

	mu        sync.Mutex
	known     string
	methods   []string
	proofAlgs []string
	asked     time.Time
	expiry    time.Time
}

// TokenEndpoint returns the token endpoint of the issuer. It sends requests for metadata with do. Its errors are of type
// *token.Error.
func (d *Discovery) TokenEndpoint(ctx context.Context, do func(*http.Request) (*Answer, error)) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Now().Before(d.expiry) {
		return d.known, nil
	}
	if d.known != "" {
		d.renew(ctx, do)
		return d.known, nil
	}
	endpoint, err := d.discover(ctx, do)
	if err != nil {
		return "", err
	}
	d.remember(endpoint)
	return endpoint, nil
}

// AuthMethods returns the client authentication methods that the token endpoint supports, as the metadata list them. It
// returns the methods of the metadata that TokenEndpoint has read last.
func (d *Discovery) AuthMethods() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.methods
}

// ProofAlgs returns the algorithms of DPoP proofs that the issuer supports (RFC 9449 section 5.1), as the metadata that TokenEndpoint
// has read last list them.
func (d *Discovery) ProofAlgs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proofAlgs
}

func (d *Discovery) remember(endpoint string) {
	d.known, d.asked = endpoint, time.Now()
	d.expiry = d.asked.Add(metadataLifetime)
}

// Doubt reports that the known token endpoint does not seem to exist any more. The next call of TokenEndpoint requests the
// metadata again, unless Discovery has requested it within the last minute.
func (d *Discovery) Doubt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) >= renewalPause {
		d.expiry = time.Time{}
	}
}

// renew requests the metadata again. It leaves most of the time to the token request, because the known token endpoint
// probably works.
func (d *Discovery) renew(ctx context.Context, do func(*http.Request) (*Answer, error)) {
	timeout := renewalTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)/renewalShare)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	endpoint, err := d.discover(ctx, do)
	if err != nil {
		d.asked = time.Now()
		d.expiry = d.asked.Add(renewalPause)
		return
	}
	d.remember(endpoint)
}

// discover requests the metadata at the location of RFC 8414 section 3.1, then at that of OpenID Connect Discovery
// section 4.
func (d *Discovery) discover(ctx context.Context, do func(*http.Request) (*Answer, error)) (string, error) {
	locations, err := metadataURLs(d.Issuer)
	if err != nil {
		return "", err
	}
	var failures []*token.Error
	for i, location := range locations {
		endpoint, failed := d.requestInTime(ctx, len(locations)-i, location, do)
		if failed == nil {
			return endpoint, nil
		}
		failures = append(failures, failed)
	}
	return "", mostUseful(failures)
}

func metadataURLs(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, &token.Error{Kind: token.Refused, Reason: "issuer is not a URL"}
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() // String escapes the zone of an IPv6 address
	return []string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + path + "/.well-known/openid-configuration",
	}, nil
}

// requestInTime requests the metadata at one location. It leaves time for the remaining locations, in case this one does not
// answer.
func (d *Discovery) requestInTime(ctx context.Context, remaining int, location string, do func(*http.Request) (*Answer, error)) (string, *token.Error) {
	if deadline, ok := ctx.Deadline(); ok && remaining > 1 && d.known == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return d.request(ctx, location, do)
}

// request requests the metadata at one location and returns the token endpoint.
func (d *Discovery) request(ctx context.Context, location string, do func(*http.Request) (*Answer, error)) (string, *token.Error) {
	req, err := newRequest(withPeer(ctx, token.PeerIssuer), http.MethodGet, location, "", nil)
	if err != nil {
		return "", &token.Error{Kind: token.Refused, Reason: "issuer is not a URL"}
	}
	answer, err := do(req)
	if e, ok := errors.AsType[*token.Error](err); ok {
		return "", e
	}
	if err != nil {
		return "", &token.Error{Kind: token.Refused, Cause: token.CauseProvider, Peer: token.PeerIssuer, Reason: "the request for the metadata of the issuer failed"}
	}
	if answer.Status != http.StatusOK {
		return "", answer.noMetadata()
	}
	return d.read(answer.Body)
}

// noMetadata returns the error for an answer of the issuer without metadata. It says nothing about the client, because the
// request has no secret.
func (a *Answer) noMetadata() *token.Error {
	e := a.failure("", Layout{})
	e.Peer = token.PeerIssuer
	e.Passing = e.Kind == token.Refused
	switch {
	case e.Kind == token.Unavailable:
		e.Reason = "the issuer cannot serve its metadata at the moment"
	case e.Cause == token.CauseRedirect:
		e.Reason = "the issuer redirects the request for its metadata, and the proxy does not follow"
	case e.Cause == token.CauseClientCertificate:
		e.Reason = "the issuer refused its metadata, after it had asked for a client certificate and got none"
	case e.Cause == token.CauseNoEndpoint:
		e.Cause = token.CauseMetadataMissing
		e.Reason = "the issuer has no metadata at either of its well-known URLs"
	default:
		e.Cause = token.CauseMetadataDenied
		e.Reason = "the issuer answered the request for its metadata without them"
	}
	return e
}

// read returns the token endpoint in the metadata (RFC 8414 section 2). It does not decode into a struct, because
// encoding/json would accept the names of members in any case.
func (d *Discovery) read(body []byte) (string, *token.Error) {
	m, ok := parseJSON(body)
	if _, isObject := m.root.(map[string]any); !ok || !isObject {
		failed := badMetadata(token.CauseMetadataNotJSON, "the metadata of the issuer are not a JSON object")
		failed.Passing = true // it may be the page of a captive portal
		return "", failed
	}
	if err := d.checkIssuer(m); err != nil {
		return "", err
	}
	endpoint, _ := m.text("token_endpoint")
	if d.MTLS { // RFC 8705 section 5
		alias, _ := m.text("mtls_endpoint_aliases.token_endpoint")
		endpoint = cmp.Or(alias, endpoint)
	}
	if err := d.checkEndpoint(endpoint); err != nil {
		return "", err
	}
	d.methods = authMethods(m)
	d.proofAlgs, _ = m.list("dpop_signing_alg_values_supported")
	return endpoint, nil
}

// checkIssuer returns an error unless the metadata name exactly the configured issuer (RFC 8414 section 3.3).
func (d *Discovery) checkIssuer(metadata fields) *token.Error {
	issuer, _ := metadata.text("issuer")
	switch {
	case issuer == d.Issuer:
		return nil
	case issuer == "":
		return badMetadata(token.CauseMetadataNoIssuer, "the metadata of the issuer do not name their issuer")
	case strings.TrimSuffix(issuer, "/") == d.Issuer:
		return badMetadata(token.CauseMetadataSlash, "the issuer in the metadata ends in a slash, and the option issuer does not")
	case issuer == strings.TrimSuffix(d.Issuer, "/"):
		return badMetadata(token.CauseMetadataSlash, "the option issuer ends in a slash, and the issuer in the metadata does not")
	default:
		return badMetadata(token.CauseMetadataIssuer, "the metadata name another issuer than the option issuer")
	}
}

// authMethods returns the client authentication methods in the metadata. Metadata without a list mean client_secret_basic
// (RFC 8414 section 2).
func authMethods(metadata fields) []string {
	methods, ok := metadata.list("token_endpoint_auth_methods_supported")
	if !ok {
		return []string{ClientSecretBasic}
	}
	return methods
}

// checkEndpoint returns an error unless the issuer may name this token endpoint. The metadata of an https issuer must not send
// the secret over plaintext. The metadata of an issuer elsewhere must not send the secret to this machine or to a link-local
// address, where Caddy's admin API or a cloud's metadata service may listen.
func (d *Discovery) checkEndpoint(endpoint string) *token.Error {
	if endpoint == "" {
		return badMetadata(token.CauseMetadataNoEndpoint, "the metadata of the issuer name no token endpoint")
	}
	u, err := ParseEndpoint(endpoint)
	issuer, err2 := ParseEndpoint(d.Issuer)
	switch {
	case err != nil || err2 != nil:
		return badMetadata(token.CauseMetadataEndpoint, "the token endpoint in the metadata of the issuer is not a valid URL of a token endpoint")
	case issuer.Scheme == "https" && u.Scheme != "https":
		return badMetadata(token.CauseMetadataEndpoint, "the token endpoint in the metadata of the issuer does not use https")
	case !IsLoopback(issuer.Hostname()) && !sameHost(issuer.Hostname(), u.Hostname()) && mayBeLocal(u.Hostname()):
		return badMetadata(token.CauseMetadataEndpoint, "the token endpoint in the metadata of the issuer could be on this machine or on a link-local address")
	default:
		return nil
	}
}

func badMetadata(cause token.Cause, reason string) *token.Error {
	return &token.Error{Kind: token.Refused, Cause: cause, Peer: token.PeerIssuer, Reason: reason}
}

// mostUseful returns the failure to report. It prefers a failure that may pass, so that the app tries again soon. Among the
// others, it prefers the first one that is not a mere 404.
func mostUseful(failures []*token.Error) *token.Error {
	best := failures[0]
	for _, f := range failures {
		if f.Kind != token.Refused {
			return f
		}
		if best.Cause == token.CauseMetadataMissing {
			best = f
		}
	}
	return best
}
