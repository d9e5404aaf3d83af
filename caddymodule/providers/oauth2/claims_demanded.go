package oauth2

import (
	"bytes"
	"encoding/json"
	"maps"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
)

// paramClaims is the parameter for the claims of the token (OpenID Connect Core section 5.5).
const paramClaims = "claims"

// addClaims adds the claims that the API demands to those that the configuration asks for.
func addClaims(r *oauth.TokenRequest, demanded string) {
	if demanded == "" {
		return
	}
	if own, ok := r.JSONParams[paramClaims]; ok {
		r.JSONParams = maps.Clone(r.JSONParams)
		r.JSONParams[paramClaims] = json.RawMessage(mergeClaims(string(own), demanded))
		return
	}
	r.Params.Set(paramClaims, mergeClaims(r.Params.Get(paramClaims), demanded))
}

// mergeClaims returns a JSON object with the members of both. Where both have a member, that of demanded counts. Text that is not
// a JSON object is left out.
func mergeClaims(own, demanded string) string {
	merged, isObject := parseObject(own)
	additional, ok := parseObject(demanded)
	switch {
	case !ok:
		return own
	case !isObject:
		return demanded
	}
	text, err := json.Marshal(mergeObjects(merged, additional))
	if err != nil {
		return demanded
	}
	return string(text)
}

func parseObject(text string) (object map[string]any, ok bool) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber() // a float64 would change a large number
	err := d.Decode(&object)
	return object, err == nil && object != nil
}

func mergeObjects(into, from map[string]any) map[string]any {
	for name, value := range from {
		inner, isObject := value.(map[string]any)
		if own, both := into[name].(map[string]any); both && isObject {
			value = mergeObjects(own, inner)
		}
		into[name] = value
	}
	return into
}
