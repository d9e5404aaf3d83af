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
	// metadataLifetime is how long an issuer's metadata is believed. After that the issuer is asked again, and what is
	// known is believed still if it does not answer.
	metadataLifetime = time.Hour

	// renewalTimeout and renewalShare, of the time that is left, bound asking again. renewalPause spaces it while it
	// fails.
	renewalTimeout = 2 * time.Second
	renewalShare   = 4
	renewalPause   = time.Minute
)

// Discovery finds an issuer's token endpoint when it is needed, and remembers it. It is safe for concurrent use.
type Discovery struct {
	// Issuer is the issuer's identifier, a URL.
	Issuer string

	// MTLS prefers the endpoint for clients with a certificate.
	MTLS bool

	mu     sync.Mutex
	known  string
	asked  time.Time
	expiry time.Time
}

// TokenEndpoint returns the issuer's token endpoint, asked for with do. Its errors are of type *token.Error.
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

func (d *Discovery) remember(endpoint string) {
	d.known, d.asked = endpoint, time.Now()
	d.expiry = d.asked.Add(metadataLifetime)
}

// Doubt says that there seems to be no token endpoint where the metadata said: it may have moved. The issuer is asked
// again before the next token request, unless it was a moment ago.
func (d *Discovery) Doubt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) >= renewalPause {
		d.expiry = time.Time{}
	}
}

// renew asks again. It must not take the time that the token request needs: what is known is good enough.
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

// discover looks where RFC 8414 section 3.1 says, then where OpenID Connect Discovery section 4 says.
func (d *Discovery) discover(ctx context.Context, do func(*http.Request) (*Answer, error)) (string, error) {
	locations, err := metadataURLs(d.Issuer)
	if err != nil {
		return "", err
	}
	var failures []*token.Error
	for i, location := range locations {
		endpoint, failed := d.askInTime(ctx, len(locations)-i, location, do)
		if failed == nil {
			return endpoint, nil
		}
		failures = append(failures, failed)
	}
	return "", worthiest(failures)
}

func metadataURLs(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, &token.Error{Kind: token.Refused, Reason: "issuer is not a URL"}
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() // which escapes the zone of an address
	return []string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + path + "/.well-known/openid-configuration",
	}, nil
}

// askInTime asks at one location, and leaves time for those that remain: it may be one that never answers.
func (d *Discovery) askInTime(ctx context.Context, remaining int, location string, do func(*http.Request) (*Answer, error)) (string, *token.Error) {
	if deadline, ok := ctx.Deadline(); ok && remaining > 1 && d.known == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return d.ask(ctx, location, do)
}

// ask reads the metadata at one location.
func (d *Discovery) ask(ctx context.Context, location string, do func(*http.Request) (*Answer, error)) (string, *token.Error) {
	req, err := newRequest(ctx, http.MethodGet, location, "", nil)
	if err != nil {
		return "", refusedDiscovery("the issuer is not a URL")
	}
	answer, err := do(req)
	if e, ok := errors.AsType[*token.Error](err); ok {
		failed := *e
		failed.Reason = "discovery: " + strings.ReplaceAll(e.Reason, "the token endpoint", "the issuer")
		return "", &failed
	}
	if err != nil {
		return "", refusedDiscovery("the issuer cannot be asked")
	}
	if answer.Status != http.StatusOK {
		failed := answer.failure("", Layout{})
		failed.Reason = "discovery: the issuer has no metadata: check issuer, or set token_url in its place"
		if failed.Kind == token.Unavailable {
			failed.Reason = "discovery: the issuer asks to try again later"
		}
		return "", failed
	}
	return d.read(answer.Body)
}

// read reads the metadata (RFC 8414 section 2). Its members are found by their exact names, which encoding/json would
// not do for a struct.
func (d *Discovery) read(body []byte) (string, *token.Error) {
	m, ok := parseFields("application/json", body)
	if _, isObject := m.root.(map[string]any); !ok || !isObject {
		return "", refusedDiscovery("the issuer's metadata cannot be read")
	}
	if issuer, _ := m.text("issuer"); issuer != d.Issuer { // RFC 8414 section 3.3: identical, or not to be used
		if strings.TrimSuffix(issuer, "/") == strings.TrimSuffix(d.Issuer, "/") {
			return "", refusedDiscovery("the metadata and issuer differ in a slash at the end: write issuer as the server does")
		}
		return "", refusedDiscovery("the metadata names another issuer: check issuer")
	}
	endpoint, _ := m.text("token_endpoint")
	if d.MTLS { // RFC 8705 section 5
		alias, _ := m.text("mtls_endpoint_aliases.token_endpoint")
		endpoint = cmp.Or(alias, endpoint)
	}
	if !d.mayName(endpoint) {
		return "", refusedDiscovery("the metadata names no token endpoint that can be used")
	}
	return endpoint, nil
}

// mayName keeps metadata from sending the client's secret where its issuer has no business: in the clear, or to what
// listens on this machine or its link, such as Caddy's own admin API, or a cloud's metadata service.
func (d *Discovery) mayName(endpoint string) bool {
	u, err := ParseEndpoint(endpoint)
	if err != nil {
		return false
	}
	issuer, err := ParseEndpoint(d.Issuer)
	if err != nil {
		return false
	}
	if issuer.Scheme == "https" && u.Scheme != "https" {
		return false
	}
	return IsLoopback(issuer.Hostname()) || sameHost(issuer.Hostname(), u.Hostname()) || !mayBeNear(u.Hostname())
}

func refusedDiscovery(reason string) *token.Error {
	return &token.Error{Kind: token.Refused, Reason: "discovery: " + reason}
}

// worthiest is the failure to tell: one that may pass, so that it is tried again soon; or else one of an answer over one
// that there was no answer.
func worthiest(failures []*token.Error) *token.Error {
	best := failures[0]
	for _, f := range failures {
		if f.Kind != token.Refused {
			return f
		}
		if best.Status == http.StatusNotFound {
			best = f
		}
	}
	return best
}
