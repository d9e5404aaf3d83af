package oauth2

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

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

// parseJSONValue parses a JSON value. It returns an error for an integer beyond 2^53, because Caddy decodes configurations
// with float64 and would change the integer.
func parseJSONValue(value string) (json.RawMessage, error) {
	if !json.Valid([]byte(value)) {
		return nil, errors.New("the value is not JSON")
	}
	tokens := json.NewDecoder(strings.NewReader(value))
	tokens.UseNumber()
	for {
		t, err := tokens.Token()
		if err != nil { // the end
			return json.RawMessage(value), nil
		}
		number, ok := t.(json.Number)
		if !ok || strings.ContainsAny(number.String(), ".eE") {
			continue
		}
		if n, err := number.Int64(); err != nil || n > 1<<53 || n < -1<<53 {
			return nil, errors.New("a number is too large")
		}
	}
}
