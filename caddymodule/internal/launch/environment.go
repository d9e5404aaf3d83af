package launch

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// Settings are what the environment of the application depends on.
type Settings struct {
	// Proxy is the sidecar's proxy, or nil if it has none. Without a proxy, the variables for proxies stay as they are.
	Proxy *url.URL

	// Hosts are the names of the APIs that the application must reach through the proxy. A name can begin with "*.".
	Hosts []string

	// Bundle is the path of the authorities that the application must trust. If it is empty, the variables for authorities
	// stay as they are.
	Bundle string

	// Named is what the configuration of the sidecar names. The application gets no variable that leads to it.
	Named Named
}

// caVariables are the variables that name a file of certificate authorities: for OpenSSL and Go, Python's requests, curl,
// Node and git.
var caVariables = []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"}

// Environment returns the environment of the application. environ is that of exec, and removed has the names of its variables
// that the application does not get.
func (s Settings) Environment(environ []string) (env, removed []string) {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if s.Named.concerns(name, value) {
			removed = append(removed, name)
			continue
		}
		env = append(env, variable)
	}
	set := func(name, value string) { env = append(env, name+"="+value) } // of two values, os/exec takes the last
	if s.Proxy != nil {
		direct := s.direct(environ)
		for name, value := range map[string]string{"HTTPS_PROXY": s.Proxy.String(), "HTTP_PROXY": s.Proxy.String(), "NO_PROXY": direct} {
			set(name, value)
			set(strings.ToLower(name), value) // curl reads http_proxy in lower case only
		}
		set("NODE_USE_ENV_PROXY", "1") // without it, Node's own client ignores the variables
	}
	if s.Bundle != "" {
		for _, name := range caVariables {
			set(name, s.Bundle)
		}
	}
	slices.Sort(removed)
	return env, removed
}

// direct returns the hosts that the application must reach without the proxy: those on this machine, and those that environ
// excludes already, except the hosts of the sidecar.
func (s Settings) direct(environ []string) string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	separates := func(r rune) bool { return r == ',' || unicode.IsSpace(r) } // curl and others take spaces as well
	for _, entry := range strings.FieldsFunc(lookup(environ, "no_proxy", "NO_PROXY"), separates) {
		covers := func(host string) bool { return covers(entry, host) }
		if slices.Contains(hosts, entry) || slices.ContainsFunc(s.Hosts, covers) {
			continue
		}
		hosts = append(hosts, entry)
	}
	return strings.Join(hosts, ",")
}

// covers reports whether an entry of NO_PROXY would keep requests for a host, or for a host below "*.", from the proxy.
func covers(entry, host string) bool {
	if entry == "*" {
		return true
	}
	name, _, _ := strings.Cut(strings.ToLower(entry), ":") // an entry can have a port; an IPv6 address covers no name
	name = strings.TrimPrefix(strings.TrimPrefix(name, "*"), ".")
	host = strings.ToLower(host)
	below, wildcard := strings.CutPrefix(host, "*.")
	return name == host || strings.HasSuffix(host, "."+name) || wildcard && (name == below || strings.HasSuffix(name, "."+below))
}

// lookup returns the value of the first of the variables that has one.
func lookup(environ []string, names ...string) string {
	for _, name := range names {
		for _, variable := range environ {
			if value, ok := strings.CutPrefix(variable, name+"="); ok && value != "" {
				return value
			}
		}
	}
	return ""
}
