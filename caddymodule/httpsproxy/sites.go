package httpsproxy

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sites are the host matchers of a server's routes. They decide as they do for a request, with wildcards and placeholders.
type sites struct {
	matchers []*caddyhttp.MatchHost
	ctx      context.Context // with the replacer that the matchers need
}

// sitesOf returns the hosts that the routes of a server name. A route without a host takes any host, but Caddy has no
// certificate for that, so it is not a site of the proxy.
func sitesOf(server *caddyhttp.Server) sites {
	s := sites{ctx: context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())}
	for _, route := range server.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if hosts, ok := matcher.(*caddyhttp.MatchHost); ok {
					s.matchers = append(s.matchers, hosts)
				}
			}
		}
	}
	return s
}

// serve reports whether a site has this host, which is in its normal form.
func (s *sites) serve(host string) bool {
	r := (&http.Request{Host: host}).WithContext(s.ctx)
	for _, hosts := range s.matchers {
		if match, err := hosts.MatchWithError(r); match && err == nil {
			return true
		}
	}
	return false
}

// names returns the hosts as the configuration names them.
func (s *sites) names() []string {
	var names []string
	for _, hosts := range s.matchers {
		names = append(names, *hosts...)
	}
	return names
}
