package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
)

// Tenant makes a credential stand for many clients, the tenants. Each request names its tenant, and each tenant has a token
// of its own. In the values of some options, {tenant} stands for the name: in client_id, in scope, audience, resource, store,
// params and headers of the provider, in path segments of token_url, and as a path segment of the file that client_id,
// client_secret, signing_key, client_certificate, client_certificate_key, client_assertion_file, a parameter or a header
// field comes from. At least one of them must use it.
//
// A name has 1 to 64 of the characters a-z, 0-9, '-', '_' and '.'. Its first and its last are letters or digits, and two dots
// do not follow each other. To add a tenant, add its files. To remove a tenant, remove them. The proxy then does not renew the
// tenant's token.
type Tenant struct {
	// Name is the placeholder of the request that names the tenant, such as {http.request.header.X-Tenant},
	// {http.request.host.labels.2}, {http.request.uri.path.0} or {http.vars.tenant}. A header field must occur exactly once.
	// A name in the host is changed to lower case. A client that reaches the listener can act as every tenant whose name it can
	// put there, so the value must come from where clients cannot forge it, or all of them must be trusted.
	//
	// Or it is "basic". The credentials that a request has in Authorization: Basic are then the id and the secret of the
	// client, the credential has neither, and no value can use {tenant}. The proxy shows id and secret to the token endpoint
	// only. Required.
	Name string `json:"name,omitempty"`

	// Max is the number of tenants that have a place at a time. Without a free place, a tenant whose token has expired unused
	// makes room, or else the proxy denies the new tenant. Default: 10000.
	Max int `json:"max,omitempty"`

	// NewRate is the limit for token calls a second, for all tenants without a valid token together. In bursts it allows
	// those of two seconds. It does not limit refreshes. Default: 20.
	NewRate int `json:"new_rate,omitempty"`

	// KeepHeader sends the header field that names the tenant on to the API. Default: false, the proxy removes it.
	KeepHeader bool `json:"keep_header,omitempty"`

	header   string // canonical; empty if another part of the request names the tenant
	variable string // of the request, for the name in the header field
	value    string // the placeholder without braces
	host     bool
}

// The defaults and limits of Tenant.
const (
	defaultTenants    = 10_000
	mostTenants       = 1_000_000
	defaultTenantRate = 20
	mostTenantRate    = 10_000
)

var (
	errTenantPlaceholder = errors.New("the name must be one placeholder of the request with its full name, such as {http.request.header.X-Tenant}, or basic")
	errTenantMax         = errors.New("max: it must be between 1 and 1000000 tenants")
	errTenantRate        = errors.New("new_rate: it must be between 1 and 10000 token calls a second")

	// requestPlaceholder matches a placeholder of a request as a whole.
	requestPlaceholder = regexp.MustCompile(`^\{(http\.[^{}\s]+)\}$`)
)

// provision checks the options and sets the defaults.
func (t *Tenant) provision() error {
	if err := t.provisionName(); err != nil {
		return err
	}
	if t.KeepHeader && t.header == "" {
		return errors.New("keep: it needs a header field that names the tenant")
	}
	t.Max = cmp.Or(t.Max, defaultTenants)
	t.NewRate = cmp.Or(t.NewRate, defaultTenantRate)
	switch {
	case t.Max < 1 || t.Max > mostTenants:
		return errTenantMax
	case t.NewRate < 1 || t.NewRate > mostTenantRate:
		return errTenantRate
	}
	return nil
}

func (t *Tenant) provisionName() error {
	if t.basic() {
		return nil
	}
	m := requestPlaceholder.FindStringSubmatch(t.Name)
	if m == nil {
		return errTenantPlaceholder
	}
	t.value = m[1]
	t.host = strings.HasPrefix(t.value, "http.request.host") || t.value == "http.request.tls.server_name"
	if field, ok := strings.CutPrefix(t.value, "http.request.header."); ok {
		if !httpguts.ValidHeaderFieldName(field) {
			return errTenantPlaceholder
		}
		t.header = http.CanonicalHeaderKey(field)
		t.variable = "token_proxy.tenant." + t.header
	}
	return nil
}

// basic reports whether the credentials of a request are the client.
func (t *Tenant) basic() bool { return t != nil && t.Name == tenants.Basic }

// burst returns how many calls NewRate allows at once.
func (t *Tenant) burst() int { return 2 * t.NewRate }

// nameOf returns the name of the tenant that the request is for, and whether it is a name.
func (t *Tenant) nameOf(r *http.Request) (string, bool) {
	name := t.valueIn(r)
	if t.host {
		name = strings.ToLower(name)
	}
	return name, tenants.ValidName(name)
}

func (t *Tenant) valueIn(r *http.Request) string {
	if t.header != "" {
		if values := r.Header[t.header]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	value, _ := repl.GetString(t.value)
	return value
}

// removeFrom removes the header field that names the tenant, and every field that a server may take for it.
func (t *Tenant) removeFrom(r *http.Request) {
	if t == nil || t.header == "" || t.KeepHeader {
		return
	}
	t.deleteFrom(r.Header)
	filterTrailer(r, t)
}

func (t *Tenant) deleteFromTrailer(trailer http.Header) { t.deleteFrom(trailer) }

// deleteFrom deletes the field, and those that a server may take for it.
func (t *Tenant) deleteFrom(fields http.Header) {
	for name := range fields {
		if sameField(name, t.header) {
			delete(fields, name)
		}
	}
}

// basicIn returns the encoded credentials of the scheme Basic that a request has in its only Authorization, or "".
func (t *Tenant) basicIn(r *http.Request) string {
	values := r.Header["Authorization"]
	if !t.basic() || len(values) != 1 {
		return ""
	}
	scheme, encoded, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return ""
	}
	return strings.TrimLeft(encoded, " ") // RFC 9110 section 11.4 permits several
}
