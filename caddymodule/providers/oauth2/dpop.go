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

// provisionDPoP checks the options of DPoP, and that the key can be read and fits the algorithm.
func (o *Provider) provisionDPoP() error {
	switch o.DPoP {
	case dpopOn, dpopOptional:
	case "":
		if o.DPoPKey != "" {
			return errors.New("dpop_key: needs dpop")
		}
		if o.DPoPAlg != "" {
			return errors.New("dpop_alg: needs dpop")
		}
		return nil
	default:
		return fmt.Errorf("dpop: unknown value, must be %s or %s", dpopOn, dpopOptional)
	}
	if o.DPoPKey == "" {
		if err := oauth.CheckAlg(o.DPoPAlg); err != nil {
			return fmt.Errorf("dpop_alg: %w", err)
		}
		return nil
	}
	key, err := option.NewReader(string(o.DPoPKey))
	if err != nil {
		return fmt.Errorf("dpop_key: %w", err)
	}
	o.dpopKey = &key
	secrets := make(provider.Secrets)
	if err := o.readDPoPKey(secrets); err != nil {
		return err
	}
	if _, err := o.ProofOfPossession(secrets); err != nil {
		return err
	}
	o.warnOfReaders("dpop_key", key)
	return nil
}

// readDPoPKey reads the key into the secrets.
func (o *Provider) readDPoPKey(into provider.Secrets) (err error) {
	if o.dpopKey == nil {
		return nil
	}
	if into["dpop_key"], err = o.dpopKey.ReadLines(); err != nil {
		return fmt.Errorf("dpop_key: %w", err)
	}
	return nil
}

// ProofOfPossession implements provider.DPoPHolder.
func (o *Provider) ProofOfPossession(secrets provider.Secrets) (*provider.DPoP, error) {
	if o.DPoP == "" {
		return nil, nil
	}
	d := &provider.DPoP{Key: secrets["dpop_key"], Alg: o.DPoPAlg, Optional: o.DPoP == dpopOptional}
	if o.dpopKey == nil {
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
