package devserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"time"
)

// ownURL returns the URL of a request, without its query.
func ownURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + r.URL.EscapedPath()
}

// compactJWS matches a JWT in compact form. The base64 decoder is less strict: it accepts line breaks.
var compactJWS = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// decodePart decodes the header or the claims of a JWT. It returns nil for a part that is not a JSON object.
func decodePart(part string) (object map[string]any) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil || json.Unmarshal(raw, &object) != nil {
		return nil
	}
	return object
}

// checkMember demands the value want, or with an empty text that the member is absent. It refuses a list that contains a wanted
// text, because aud must be a single value (draft-ietf-oauth-rfc7523bis).
func checkMember(object map[string]any, name string, want any) error {
	got, there := object[name]
	_, wantsText := want.(string)
	switch {
	case want == "" && there:
		return fmt.Errorf("%s must be absent", name)
	case want == "":
		return nil
	case !there:
		return fmt.Errorf("%s is missing", name)
	case reflect.DeepEqual(got, want):
		return nil
	case wantsText:
		return fmt.Errorf("%s is not the required string", name)
	}
	return fmt.Errorf("%s is not the required value", name)
}

// timeClaim returns a NumericDate (RFC 7519, section 2), to the millisecond.
func timeClaim(payload map[string]any, name string) (time.Time, bool) {
	seconds, ok := payload[name].(float64)
	if !ok || seconds < 0 || seconds > 1e11 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)), true
}
