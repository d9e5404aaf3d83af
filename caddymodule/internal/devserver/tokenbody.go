package devserver

import "encoding/json"

// tokenBody is the body with a token of Optoro and ElasticPath. The order of its fields is that of both services.
// ExpiresIn is raw JSON, so that a Fault can send any value.
type tokenBody struct {
	AccessToken string          `json:"access_token,omitempty"`
	TokenType   string          `json:"token_type"`
	ExpiresIn   json.RawMessage `json:"expires_in,omitempty"`
	Scope       string          `json:"scope,omitempty"`
	CreatedAt   int64           `json:"created_at,omitempty"`
	Expires     int64           `json:"expires,omitempty"`
	Identifier  string          `json:"identifier,omitempty"`
}

// spoil applies the fault to the fields of a good answer.
func (f Fault) spoil(t tokenBody) tokenBody {
	switch f.Garbage {
	case GarbageNoToken:
		t.AccessToken = ""
	case GarbageControlChars:
		t.AccessToken += "\r\nX-Injected: 1"
	case GarbageWrongType:
		t.TokenType = "mac"
	}
	switch f.ExpiresIn {
	case "":
	case ExpiresInMissing:
		t.ExpiresIn = nil
	default:
		t.ExpiresIn = json.RawMessage(f.ExpiresIn)
	}
	return t
}
