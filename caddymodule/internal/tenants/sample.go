package tenants

import (
	"errors"
	"net/url"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// The names that stand for all tenants when a configuration is loaded.
const (
	SampleName  = "sample-tenant"
	otherSample = "another-sample"
)

// Sample returns a value of the configuration as it is for the sample tenant, without the boundaries of files. Without a
// template, it returns the value.
func (t *Template) Sample(text string) string {
	if t == nil {
		return text
	}
	return t.in(text, SampleName)
}

// SampleProvider makes a provider that stands for those of all tenants. It checks the configuration as far as that is possible
// without the files of a tenant.
func (t *Template) SampleProvider(ctx caddy.Context) (any, error) {
	var samples []provider.Provider
	for _, name := range []string{SampleName, otherSample} {
		p, end, err := t.Instance(ctx, name)
		if end != nil {
			defer end()
		}
		if err != nil && !option.IsMissing(err) {
			return nil, err
		}
		samples = append(samples, p)
		ctx = provider.Quiet(ctx) // so that no warning comes twice
	}
	return samples[0], checkEndpoints(samples[0], samples[1])
}

// Key returns the key of the tenants of a credential as a whole. It has the template as it was written as well, because a
// literal could be the sample's name.
func (t *Template) Key(b *token.KeyBuilder, credential string) token.Key {
	return b.Field("credential", credential).
		Secret("template", token.NewSecret(t.provider)).
		Secret("client_id template", token.NewSecret(t.clientID)).
		Secret("client_secret template", token.NewSecret(t.clientSecret)).
		Key()
}

// checkEndpoints returns an error if two tenants have token endpoints that differ in more than their paths.
func checkEndpoints(a, b provider.Provider) error {
	one, err := url.Parse(a.Endpoint())
	if err != nil {
		return errors.New("the token URL is not a URL")
	}
	other, err := url.Parse(b.Endpoint())
	if err != nil {
		return errors.New("the token URL is not a URL")
	}
	other.Path, other.RawPath = one.Path, one.RawPath
	if *one != *other {
		return errors.New("{tenant} changes more than the path of the token URL")
	}
	return nil
}
