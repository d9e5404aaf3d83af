package dpop

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Claims are what a proof is about (RFC 9449 section 4.2). Each proof also has a new jti, because servers accept it only once.
type Claims struct {
	// Method is htm, the method of the request.
	Method string

	// Target is htu, the URL of the request, as Target returns it.
	Target string

	// Time is iat. Proofs have whole seconds.
	Time time.Time

	// Token is the access token, of which ath is the digest. It is empty in a token request.
	Token string

	// Nonce is the value that the server has set for proofs, or "".
	Nonce string
}

// Proof returns a signed proof.
func (k *Key) Proof(c Claims) (string, error) {
	var room [512]byte
	payload := c.appendTo(k.appendID(room[:0]))

	encoding := base64.RawURLEncoding
	proof := make([]byte, 0, len(k.header)+encoding.EncodedLen(len(payload))+encoding.EncodedLen(512)+1) // 512 bytes are RSA with 4096 bits
	proof = append(proof, k.header...)
	proof = encoding.AppendEncode(proof, payload)
	signature, err := k.sign(proof)
	if err != nil {
		return "", err
	}
	proof = append(proof, '.')
	return string(encoding.AppendEncode(proof, signature)), nil
}

// appendID appends the beginning of the claims with a new jti: the random text of the key and a number.
func (k *Key) appendID(b []byte) []byte {
	b = append(b, `{"jti":"`...)
	b = append(b, k.series...)
	b = strconv.AppendUint(b, k.proofs.Add(1), 36)
	return append(b, '"')
}

// appendTo appends the other claims. This runs for each request, so it does without encoding/json.
func (c *Claims) appendTo(b []byte) []byte {
	b = append(b, `,"htm":`...)
	b = appendText(b, c.Method)
	b = append(b, `,"htu":`...)
	b = appendText(b, c.Target)
	b = append(b, `,"iat":`...)
	b = strconv.AppendInt(b, c.Time.Unix(), 10)
	if c.Token != "" {
		digest := sha256.Sum256([]byte(c.Token))
		b = append(b, `,"ath":"`...)
		b = base64.RawURLEncoding.AppendEncode(b, digest[:])
		b = append(b, '"')
	}
	if c.Nonce != "" {
		b = append(b, `,"nonce":`...)
		b = appendText(b, c.Nonce)
	}
	return append(b, '}')
}

// appendText appends a JSON string. Methods, URLs and nonces are visible ASCII without quotes and backslashes. Anything else is
// left to encoding/json.
func appendText(b []byte, s string) []byte {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) >= 0 {
		text, _ := json.Marshal(s) // a string never fails
		return append(b, text...)
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// In reports whether a text shows a proof. All proofs of this package begin alike.
func In(text string) bool { return strings.Contains(text, beginning) }

// beginning is `{"typ":"dpop+jwt",` in base64url.
const beginning = "eyJ0eXAiOiJkcG9wK2p3dCIs"
