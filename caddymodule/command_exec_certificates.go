package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
)

// allCertified reports whether each site for which Caddy's own authority issues the certificate has it. Caddy starts to
// serve before that, and fails the handshakes until then. Certificates of other authorities do not count, because they can
// take minutes.
func allCertified(ctx caddy.Context) bool {
	if ctx.Context == nil {
		return false // a reload is under way
	}
	tls, errTLS := ctx.AppIfConfigured("tls")
	http, errHTTP := ctx.AppIfConfigured("http")
	if errTLS != nil || errHTTP != nil {
		return true
	}
	manager := tls.(*caddytls.TLS)
	return !slices.ContainsFunc(tlsHosts(http.(*caddyhttp.App)), func(host string) bool {
		return issuedInternally(manager, host) && !manager.HasCertificateForSubject(host)
	})
}

// tlsHosts returns the names of the sites that have TLS.
func tlsHosts(app *caddyhttp.App) (hosts []string) {
	replacer := caddy.NewReplacer()
	for _, server := range app.Servers {
		if len(server.TLSConnPolicies) == 0 {
			continue
		}
		for _, route := range server.Routes {
			for _, set := range route.MatcherSets {
				for _, matcher := range set {
					if names, ok := matcher.(*caddyhttp.MatchHost); ok {
						for _, name := range *names {
							hosts = append(hosts, strings.ToLower(replacer.ReplaceAll(name, "")))
						}
					}
				}
			}
		}
	}
	return hosts
}

// issuedInternally reports whether Caddy's own authority issues the certificate of a host before the first handshake. As
// in Caddy, the first policy with the host counts.
func issuedInternally(manager *caddytls.TLS, host string) bool {
	if manager.Automation != nil {
		for _, policy := range manager.Automation.Policies {
			covers := func(subject string) bool { return certmagic.MatchWildcard(host, subject) }
			if len(policy.Subjects()) == 0 || slices.ContainsFunc(policy.Subjects(), covers) {
				return !policy.OnDemand && len(policy.Issuers) > 0 && !slices.ContainsFunc(policy.Issuers, isPublic)
			}
		}
	}
	return !certmagic.SubjectQualifiesForPublicCert(host)
}

func isPublic(issuer certmagic.Issuer) bool {
	_, internal := issuer.(*caddytls.InternalIssuer)
	return !internal
}
