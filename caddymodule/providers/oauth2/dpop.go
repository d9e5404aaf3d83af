package oauth2

import (
	"errors"
	"fmt"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// The values of Provider.DPoP.
const (
	dpopOn       = "on"
	dpopOptional = "optional"
)

// proofKey is the key that tokens are bound to, as the options dpop, dpop_key and dpop_alg set it.
type proofKey struct {
	mode, alg string
	reader    *option.Reader // dpop_key; nil without it
}

// newProofKey checks the options, and that the key can be read and fits the algorithm.
func newProofKey(mode string, source option.Source, alg string) (k proofKey, err error) {
	switch mode {
	case dpopOn, dpopOptional:
	case "":
		if source != "" {
			return k, errors.New("dpop_key: needs dpop")
		}
		if alg != "" {
			return k, errors.New("dpop_alg: needs dpop")
		}
		return k, nil
	default:
		return k, fmt.Errorf("dpop: unknown value, must be %s or %s", dpopOn, dpopOptional)
	}
	k.mode, k.alg = mode, alg
	if source == "" {
		if err := oauth.CheckAlg(alg); err != nil {
			return k, fmt.Errorf("dpop_alg: %w", err)
		}
		return k, nil
	}
	reader, err := option.NewReader(string(source))
	if err != nil {
		return k, fmt.Errorf("dpop_key: %w", err)
	}
	k.reader = &reader
	secrets := make(provider.Secrets)
	if err := k.read(secrets); err != nil {
		return k, err
	}
	_, err = k.parse(secrets)
	return k, err
}

// read reads the key into the secrets.
func (k proofKey) read(into provider.Secrets) (err error) {
	if k.reader == nil {
		return nil
	}
	if into["dpop_key"], err = k.reader.ReadLines(); err != nil {
		return fmt.Errorf("dpop_key: %w", err)
	}
	return nil
}

// parse returns how tokens are bound, by the secrets that read has read. It returns nil if they are not.
func (k proofKey) parse(secrets provider.Secrets) (*provider.DPoP, error) {
	if k.mode == "" {
		return nil, nil
	}
	d := &provider.DPoP{Key: secrets["dpop_key"], Alg: k.alg, Optional: k.mode == dpopOptional}
	if k.reader == nil {
		return d, nil
	}
	key, err := oauth.ParseSigningKey(d.Key.Reveal()) // the app parses it again; its errors do not name the option
	if err != nil {
		return nil, fmt.Errorf("dpop_key: %w", err)
	}
	if d.Alg == "" {
		return d, nil
	}
	if _, err := key.WithAlg(d.Alg); err != nil {
		return nil, fmt.Errorf("dpop_alg: %w", err)
	}
	return d, nil
}
