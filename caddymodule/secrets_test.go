package caddymodule

import (
	"os"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// replacing is a provider whose secret is replaced together with client_secret, after client_secret was read.
type replacing struct {
	provider.Provider
	file   string
	values []string // for client_secret and for the provider's secret
	reads  int
}

func (r *replacing) Secrets() (provider.Secrets, error) {
	r.reads++
	value := r.values[min(r.reads, len(r.values))-1]
	if err := os.WriteFile(r.file, []byte(value), 0o600); err != nil {
		return nil, err
	}
	return provider.Secrets{"key": provider.NewSecret(value)}, nil
}

// Values that belong together are used together, although each is in a file of its own.
func TestSecretsReplacedWhileTheyAreRead(t *testing.T) {
	for name, tc := range map[string]struct {
		values      []string
		secret, key string
		reads       int
	}{
		"at rest":                      {values: []string{"first"}, secret: "first", key: "first", reads: 2},
		"replaced in the first round":  {values: []string{"second"}, secret: "second", key: "second", reads: 3},
		"replaced in every round":      {values: []string{"second", "third", "fourth"}, secret: "third", key: "fourth", reads: 3},
		"replaced in the second round": {values: []string{"first", "second", "second"}, secret: "second", key: "second", reads: 3},
	} {
		t.Run(name, func(t *testing.T) {
			file := secretPath(t, "first")
			_, c, _ := provisionCredential(t, credentialJSON("oauth2", "id", "{file."+file+"}", "token_url", "https://login.example/token"))
			r := &replacing{Provider: c.provider, file: file, values: tc.values}
			c.provider = r
			s, err := c.readSecrets()
			if err != nil {
				t.Fatal(err)
			}
			if secret, key := s.client.Secret.Reveal(), s.client.Secrets["key"].Reveal(); secret != tc.secret || key != tc.key {
				t.Errorf("read %q and %q, want %q and %q", secret, key, tc.secret, tc.key)
			}
			if r.reads != tc.reads {
				t.Errorf("%d rounds, want %d", r.reads, tc.reads)
			}
		})
	}
}
