package caddymodule

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// keptPlaceholder is the beginning of the placeholders with what a token's answer said besides.
const keptPlaceholder = "http.token_proxy."

// exposeKept sets the placeholders of a request: the value itself and, if it is a URL, its host and port, which can be
// an upstream.
func exposeKept(r *http.Request, kept map[string]string) {
	if len(kept) == 0 {
		return
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for name, value := range kept {
		repl.Set(keptPlaceholder+name, value)
		if hostport, ok := hostPortOf(value); ok {
			repl.Set(keptPlaceholder+name+".hostport", hostport)
		}
	}
}

// hideKept removes values that show a secret: a hostile endpoint may send what it got as its answer, and placeholders
// are logged. A URL is no secret, but a parameter such as an audience, which can well be where the API is.
//
// It returns a remark that names what it has removed, or nothing.
func hideKept(kept map[string]string, hide []provider.Secret) string {
	var removed []string
	maps.DeleteFunc(kept, func(name, value string) bool {
		shows := slices.ContainsFunc(hide, func(s provider.Secret) bool {
			_, isURL := hostPortOf(s.Reveal())
			return !isURL && s.In(value)
		})
		if shows {
			removed = append(removed, name)
		}
		return shows
	})
	if len(removed) == 0 {
		return ""
	}
	slices.Sort(removed)
	return "without keeping " + strings.Join(removed, ", ") + ": the value shows a secret, or a param or header that is read from a file or variable"
}

var standardPorts = map[string]string{"https": "443", "http": "80"}

func hostPortOf(value string) (string, bool) {
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || standardPorts[u.Scheme] == "" {
		return "", false
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), standardPorts[u.Scheme])), true
}
