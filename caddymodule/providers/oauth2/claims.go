package oauth2

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// replaceClaim returns the value of a claim with its global placeholders replaced, in all texts that it contains.
func replaceClaim(claim json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(claim))
	d.UseNumber() // a float64 would change a large number
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, errors.New("the value is not JSON")
	}
	if value == nil {
		return nil, errors.New(`the value is null; use "" to leave the claim out`)
	}
	value, err := replaceTexts(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func replaceTexts(value any) (any, error) {
	var err error
	switch value := value.(type) {
	case string:
		return option.ReplaceGlobals(value)
	case []any:
		for i := range value {
			if value[i], err = replaceTexts(value[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name := range value {
			if value[name], err = replaceTexts(value[name]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// unmarshalClaim parses the name and the value of a claim. The value is text unless the word json follows it.
func (o *Provider) unmarshalClaim(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	isJSON := len(args) == 3 && args[2] == "json"
	if len(args) != 2 && !isJSON || args[0] == "" {
		return d.Err("assertion_claim takes a name and a value, and the word json after a value in JSON; quote a value with spaces")
	}
	name, text := args[0], args[1]
	if _, ok := o.AssertionClaims[name]; ok {
		return d.Errf("assertion_claim %s is already specified", name)
	}
	value, err := json.Marshal(text)
	if isJSON {
		value, err = parseJSONValue(text)
	}
	if err != nil {
		return d.Errf("assertion_claim %s: the value is not JSON, or has an integer beyond 2^53", name)
	}
	if o.AssertionClaims == nil {
		o.AssertionClaims = make(map[string]json.RawMessage)
	}
	o.AssertionClaims[name] = value
	return nil
}
