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

// keptPlaceholder is the beginning of the placeholders for the values that the option keep takes from a token's answer.
const keptPlaceholder = "http.token_proxy."

// exposeKept sets the placeholders of a request. Each kept value has one and, if it is a URL, a second one with its host and
// port, which can be an upstream.
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

// hideEarlier removes the placeholders with the values of an earlier token.
func hideEarlier(r *http.Request, kept map[string]string) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for name := range kept {
		repl.Delete(keptPlaceholder + name)
		repl.Delete(keptPlaceholder + name + ".hostport")
	}
}

// hideKept removes kept values that show a secret. A hostile endpoint may answer with the secrets that it received, and
// placeholders are logged. A URL in hide is not a secret but a parameter, such as an audience. The API's URL may be the same.
//
// It returns a remark that names the removed values, or "".
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
	return "without keeping " + strings.Join(removed, ", ") + ", because the value shows a secret, or a param or header from a file or a variable"
}

var standardPorts = map[string]string{"https": "443", "http": "80"}

func hostPortOf(value string) (string, bool) {
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || standardPorts[u.Scheme] == "" {
		return "", false
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), standardPorts[u.Scheme])), true
}
