package caddymodule

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// caller makes the token requests of one client, which is that of a credential or that of a tenant.
type caller struct {
	*Credential
	provider provider.Provider
	id       option.Reader
	secret   option.Reader // empty if the provider needs no secret

	// certificate is the client certificate of the latest token request; nil if there is none.
	certificate *atomic.Pointer[tls.Certificate]

	// binds reports whether tokens are bound to a key, and ownKey that this process has generated it.
	binds, ownKey bool

	// source is the source of the tokens. It is nil while a configuration is loaded, and in a check.
	source *token.Source
}

// secrets are the contents of the files and variables for one token request, read once. The request, the proof, and the list of
// what no text may show all come from this one snapshot, so that they cannot disagree while a file is replaced.
type secrets struct {
	client    provider.Client
	transport transportFiles
}

// readSecrets reads the id, the secret, and the files and variables of the provider and the transport, as they are now. A
// certificate and its key, or an id and its secret, can be replaced between two reads. So it reads until two rounds agree, but
// at most three times. A file that never rests is for the token endpoint to judge.
func (c *caller) readSecrets() (secrets, error) {
	s, err := c.readSecretsOnce()
	for range 2 {
		again, errAgain := c.readSecretsOnce()
		agree := err == nil && errAgain == nil && s.proof(false).Equal(again.proof(false))
		if s, err = again, errAgain; agree {
			break
		}
	}
	return s, err
}

func (c *caller) readSecretsOnce() (secrets, error) {
	var s secrets
	var err error
	if s.client, err = c.readClient(); err != nil {
		return s, err
	}
	if holder, ok := c.provider.(provider.SecretHolder); ok {
		if s.client.Secrets, err = holder.Secrets(); err != nil {
			return s, err
		}
	}
	if s.transport, err = c.Transport.read(); err != nil {
		return s, fmt.Errorf("transport: %w", err)
	}
	return s, nil
}

// readClient reads the id and, if the provider needs it, the secret.
func (c *caller) readClient() (provider.Client, error) {
	id, err := c.id.Read()
	if err != nil {
		return provider.Client{}, fmt.Errorf("client_id: %w", err)
	}
	if !c.provider.NeedsSecret() {
		return provider.Client{ID: id.Reveal()}, nil
	}
	secret, err := c.secret.Read()
	if err != nil {
		return provider.Client{}, fmt.Errorf("client_secret: %w", err)
	}
	return provider.Client{ID: id.Reveal(), Secret: secret}, nil
}

// all returns the secrets that no text may show.
func (s secrets) all() []provider.Secret {
	all := []provider.Secret{s.client.Secret}
	for _, secret := range s.client.Secrets {
		all = append(all, secret)
	}
	return all
}

// proof returns the text for token.Call.Proof: all secrets, and whether they may travel in the clear. Two sets of secrets
// have the same proof only if they are the same.
func (s secrets) proof(plaintext bool) provider.Secret {
	values := []string{strconv.FormatBool(plaintext), s.client.ID, s.client.Secret.Reveal(), s.transport.ca.Reveal(), s.transport.proxy.Reveal()}
	for _, option := range slices.Sorted(maps.Keys(s.client.Secrets)) {
		values = append(values, option, s.client.Secrets[option].Reveal())
	}
	return provider.NewSecret(fmt.Sprintf("%q", values))
}

// httpClient returns the HTTP client that sends one token request, and the client certificate that it uses, if any.
func (c *caller) httpClient(s secrets) (*oauth.Client, *tls.Certificate, error) {
	options, err := c.Transport.options(s.transport)
	if err != nil {
		return nil, nil, fmt.Errorf("transport: %w", err)
	}
	if holder, ok := c.provider.(provider.CertificateHolder); ok {
		if options.Certificate, err = holder.Certificate(s.client.Secrets); err != nil {
			return nil, nil, err
		}
		if err := withLeaf(options.Certificate); err != nil {
			return nil, nil, err
		}
	}
	options.AllowPlaintext = c.AllowPlaintext
	return oauth.NewClient(options), options.Certificate, nil
}

// withLeaf sets the Leaf of a certificate, if it is not set.
func withLeaf(certificate *tls.Certificate) error {
	if certificate == nil || certificate.Leaf != nil {
		return nil
	}
	if len(certificate.Certificate) == 0 {
		return errors.New("the client certificate is empty")
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	certificate.Leaf = leaf
	return err
}
