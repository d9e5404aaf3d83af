package caddymodule

import (
	"cmp"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// attempts renews the tokens of requests between the attempts of reverse_proxy. It does so where an attempt begins. reverse_proxy
// has not yet replaced the placeholders in the upstreams and the header, and does not count the request as one to an upstream.
type attempts struct {
	credential *client
	rewrite    *rewrite.Rewrite // nil unless reverse_proxy rewrites the URL
}

// begin replaces a token that has expired while reverse_proxy was trying upstreams. The first attempt always uses the token that
// was just acquired, even if its lifetime is zero.
func (a *attempts) begin(p *proxied, r *http.Request) {
	if p.keeps || !p.late || !p.lease.Expired() {
		return
	}
	before := p.lease
	lease, err := before.Renew(p) // of the same tenant
	if err != nil {
		denial := a.credential.problemOf(p.tenant.failed(err))
		p.denial, p.expired = &denial, true
		return
	}
	p.lease, p.late, p.expired = lease, false, false
	if maps.Equal(before.Kept(), lease.Kept()) {
		return
	}
	p.exposeOther(r, before)
	if a.rewrite != nil {
		a.rewriteAgain(r, p.request)
	}
}

// rewriteAgain rewrites the URL with the values of the present token. reverse_proxy does so before the first attempt only.
func (a *attempts) rewriteAgain(r, original *http.Request) {
	u := *original.URL
	u.Scheme, u.Host = "", "" // as reverse_proxy does
	r.URL, r.RequestURI = &u, original.RequestURI
	a.rewrite.Rewrite(r, r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
}

// attemptSource is the source of dynamic upstreams. If a handler has one, its attempts begin here.
type attemptSource struct {
	reverseproxy.UpstreamSource
	*attempts
}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (s attemptSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	if p, ok := r.Context().Value(proxiedKey{}).(*proxied); ok {
		s.begin(p, r)
	}
	return s.UpstreamSource.GetUpstreams(r)
}

// ResetCache implements reverseproxy.CachingUpstreamSource.
func (s attemptSource) ResetCache(r *http.Request) error {
	if caching, ok := s.UpstreamSource.(reverseproxy.CachingUpstreamSource); ok {
		return caching.ResetCache(r)
	}
	return nil
}

// attemptSelector is the policy that selects the upstream of an attempt.
type attemptSelector struct {
	reverseproxy.Selector
	*attempts
	first bool // attempts begin here
}

// Select implements reverseproxy.Selector.
func (s *attemptSelector) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	p, ok := r.Context().Value(proxiedKey{}).(*proxied)
	if !ok {
		return s.Selector.Select(pool, r, w)
	}
	if s.first {
		s.begin(p, r)
	}
	upstream := s.selectFor(p, pool, r, w)
	if upstream == nil {
		p.late = true // by the time reverse_proxy has found one
	}
	return upstream
}

// selectFor asks the policy, except for the second run of reverse_proxy. That run goes to the upstream of the first one, so that a
// request counts once for the policy. By now, the upstream may be full, unhealthy or unknown to its source. The request then goes
// there only if the policy finds no other one. It would have had its place if it had not had to wait for a token.
func (s *attemptSelector) selectFor(p *proxied, pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	earlier := p.second.takeUpstream()
	if earlier == nil {
		return s.Selector.Select(pool, r, w)
	}
	known := slices.ContainsFunc(pool, func(u *reverseproxy.Upstream) bool { return u.Dial == earlier.Dial })
	if p.second.bringsAnswer() || known && earlier.Available() {
		return earlier
	}
	return cmp.Or(s.Selector.Select(pool, r, w), earlier)
}

// Interface guards
var (
	_ reverseproxy.CachingUpstreamSource = attemptSource{}
	_ reverseproxy.Selector              = (*attemptSelector)(nil)
)
