package devserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
)

// isObject reports whether a text is a JSON object.
func isObject(text []byte) bool {
	var object map[string]any
	return json.Unmarshal(text, &object) == nil && object != nil
}

// satisfies reports whether claims, as a client sent them, have all that the wanted claims have. They may have more, because
// the client merges the wanted claims with its own.
func satisfies(claims string, wanted json.RawMessage) bool {
	var got, want any
	return json.Unmarshal([]byte(claims), &got) == nil && json.Unmarshal(wanted, &want) == nil && covers(got, want)
}

func covers(got, want any) bool {
	wantObject, ok := want.(map[string]any)
	if !ok {
		return reflect.DeepEqual(got, want)
	}
	gotObject, ok := got.(map[string]any)
	if !ok {
		return false
	}
	for name, value := range wantObject {
		if inner, there := gotObject[name]; !there || !covers(inner, value) {
			return false
		}
	}
	return true
}

// claimsChallenge returns the challenge of an API of Microsoft Entra that evaluates access continuously. Its claims are in
// base64 with padding.
func claimsChallenge(scheme string, claims json.RawMessage) string {
	return fmt.Sprintf(`%s realm="", error="insufficient_claims", claims="%s"`, scheme, base64.StdEncoding.EncodeToString(claims))
}
