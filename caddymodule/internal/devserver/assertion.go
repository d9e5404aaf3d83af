package devserver

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxAssertionLife is the longest lifetime of a JWT. RFC 7523, section 3, allows a server to refuse an exp that is
// unreasonably far in the future.
const maxAssertionLife = time.Hour

func (o oauth2) checkClientAssertion(r *http.Request, s sent) *refusal {
	kind, _, why := s.takeOne("client_assertion_type")
	if why != nil {
		return why
	}
	if kind != cmp.Or(o.ClientAssertionType, assertionJWTBearer) {
		return refuse(invalidClient, "client_assertion_type is missing or wrong")
	}
	assertion, _, why := s.takeOne("client_assertion")
	if why != nil {
		return why
	}
	if err := o.verifyClientAssertion(r, assertion); err != nil {
		return refuse(invalidClient, "client_assertion: %v", err)
	}
	return nil
}

func (o oauth2) verifyClientAssertion(r *http.Request, assertion string) error {
	if o.ClientAssertion != "" {
		if assertion != o.ClientAssertion {
			return errors.New("is missing or wrong")
		}
		return nil
	}
	check := o.verifyWithKey
	if o.clientAuth() == authSecretJWT {
		check = o.verifyWithSecret
	}
	return o.verify(assertion, "client-authentication+jwt", o.clientClaims(r), check)
}

// checkBearer checks the JWT in Authorization, which is the proof of the method bearer_jwt.
func (o oauth2) checkBearer(r *http.Request) *refusal {
	scheme, assertion, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "Bearer" {
		return refuse(invalidClient, "Authorization is not Bearer")
	}
	if err := o.verify(assertion, "JWT", o.clientClaims(r), o.verifyWithKey); err != nil {
		return refuse(invalidClient, "the JWT in Authorization: %v", err)
	}
	return nil
}

// checkGrantAssertion follows RFC 7523, section 2.1.
func (o oauth2) checkGrantAssertion(r *http.Request, s sent) *refusal {
	assertion, _, why := s.takeOne("assertion")
	if why != nil {
		return why
	}
	if err := o.verify(assertion, "JWT", o.describedClaims(r), o.verifyWithKey); err != nil {
		return refuse(invalidGrant, "assertion: %v", err)
	}
	return nil
}

// claims returns the claims that each JWT must have.
func (o oauth2) claims(r *http.Request) map[string]any {
	id := o.client.id
	return map[string]any{
		"iss": id, "sub": id, "aud": cmp.Or(o.AssertionAudience, o.Issuer, ownURL(r)),
	}
}

// describedClaims returns the claims that the JWT with the described claims must have.
func (o oauth2) describedClaims(r *http.Request) map[string]any {
	want := o.claims(r)
	for _, c := range o.AssertionClaims {
		want[c.Name] = *c.Value
	}
	for _, c := range o.AssertionJSONClaims {
		var value any
		_ = json.Unmarshal(c.Value, &value) // validateFields accepts only valid JSON
		want[c.Name] = value
	}
	return want
}

// clientClaims returns the claims that the JWT that proves the client must have. The described claims belong to the JWT of the
// grant if the request has one.
func (o oauth2) clientClaims(r *http.Request) map[string]any {
	if o.grant() == grantJWTBearer {
		return o.claims(r)
	}
	return o.describedClaims(r)
}

// signatureCheck verifies the signature of a JWT. header is the decoded header of the JWT.
type signatureCheck func(compact string, header map[string]any) error

// verify checks the form, signature, typ, claims and times of a JWT, and that its jti is new. Its errors do not repeat
// any part of the JWT.
func (o oauth2) verify(compact, typ string, want map[string]any, signature signatureCheck) error {
	if !compactJWS.MatchString(compact) {
		return errors.New("is missing or not a signed JWT")
	}
	parts := strings.Split(compact, ".")
	header, payload := decodePart(parts[0]), decodePart(parts[1])
	switch {
	case header == nil || payload == nil:
		return errors.New("the header or the claims are not a JSON object")
	case header["crit"] != nil:
		return errors.New("crit is not supported") // RFC 7515, section 4.1.11
	}
	if err := signature(compact, header); err != nil {
		return err
	}
	if err := checkMember(header, "typ", orDefault(o.AssertionTyp, typ)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := checkMember(payload, name, want[name]); err != nil {
			return err
		}
	}
	return o.checkFresh(payload, want)
}

// checkFresh demands a valid exp, iat and jti. It leaves out iat and jti if the demanded claims include them.
func (o oauth2) checkFresh(payload map[string]any, described map[string]any) error {
	now := time.Now()
	exp, ok := timeClaim(payload, "exp")
	switch {
	case !ok:
		return errors.New("exp is missing or not a number")
	case !exp.After(now):
		return errors.New("exp has passed")
	case exp.Sub(now) > maxAssertionLife:
		return fmt.Errorf("exp is more than %s in the future", maxAssertionLife)
	}
	iat, ok := timeClaim(payload, "iat")
	_, noIat := described["iat"]
	switch {
	case noIat:
	case !ok:
		return errors.New("iat is missing or not a number")
	case iat.After(now):
		return errors.New("iat is in the future")
	case exp.Sub(iat) > maxAssertionLife:
		return fmt.Errorf("iat and exp are more than %s apart", maxAssertionLife)
	}
	if nbf, ok := timeClaim(payload, "nbf"); payload["nbf"] != nil && (!ok || nbf.After(now)) {
		return errors.New("nbf is in the future or not a number")
	}
	if _, described := described["jti"]; described {
		return nil
	}
	jti, _ := payload["jti"].(string)
	if jti == "" {
		return errors.New("jti is missing or not a string")
	}
	if !o.jtis.firstUse(jti, exp) {
		return errors.New("jti was used before")
	}
	return nil
}

// verifyWithKey accepts only algorithms that fit the key, whatever the header of the JWT names (RFC 8725, section 3.1).
func (o oauth2) verifyWithKey(compact string, header map[string]any) error {
	key, err := parseKey(o.ClientKey)
	if err != nil {
		return errors.New("client_key of the development server is wrong")
	}
	var allowed []jose.SignatureAlgorithm
	for _, alg := range key.algs() {
		if o.SigningAlg == "" || isHMAC(o.SigningAlg) || alg == o.SigningAlg {
			allowed = append(allowed, jose.SignatureAlgorithm(alg))
		}
	}
	signed, err := jose.ParseSignedCompact(compact, allowed)
	if err != nil {
		return fmt.Errorf("is not a JWT, or alg is not one of %v", allowed)
	}
	if _, err := signed.Verify(key.public); err != nil {
		return errors.New("the signature is wrong")
	}
	if kid, there := header["kid"]; there && key.id != "" && kid != key.id {
		return errors.New("kid is not the id of client_key")
	}
	return o.checkCertificateFields(key, header)
}

// checkCertificateFields demands the fields of the header that name the certificate in client_key, and no others.
func (o oauth2) checkCertificateFields(key publicKey, header map[string]any) error {
	if key.certificate == nil {
		return nil
	}
	for _, name := range sortedKeys(certificateFields) {
		if _, there := header[name]; there && !slices.Contains(o.assertionCertificate(), name) {
			return fmt.Errorf("%s must be absent", name)
		}
	}
	for _, name := range o.assertionCertificate() {
		if !certificateFields[name](header[name], key.certificate) {
			return fmt.Errorf("%s does not name the certificate in client_key", name)
		}
	}
	return nil
}

// certificateFields report whether a field of a header names a certificate (RFC 7515, sections 4.1.6 to 4.1.8).
var certificateFields = map[string]func(value any, der []byte) bool{
	"x5t#S256": func(value any, der []byte) bool {
		sum := sha256.Sum256(der)
		return value == base64.RawURLEncoding.EncodeToString(sum[:])
	},
	"x5t": func(value any, der []byte) bool {
		sum := sha1.Sum(der)
		return value == base64.RawURLEncoding.EncodeToString(sum[:])
	},
	"x5c": func(value any, der []byte) bool {
		chain, _ := value.([]any)
		return len(chain) > 0 && chain[0] == base64.StdEncoding.EncodeToString(der)
	},
}

// verifyWithSecret does not use go-jose, which accepts no key that is shorter than the hash. RFC 7518, section 3.2,
// demands that length, but many client secrets are shorter.
func (o oauth2) verifyWithSecret(compact string, header map[string]any) error {
	alg := "HS256"
	if isHMAC(o.SigningAlg) {
		alg = o.SigningAlg
	}
	if header["alg"] != alg {
		return fmt.Errorf("alg is not %s", alg)
	}
	dot := strings.LastIndexByte(compact, '.')
	got, err := base64.RawURLEncoding.DecodeString(compact[dot+1:])
	mac := hmac.New(hmacHashes[alg], []byte(o.client.secret))
	mac.Write([]byte(compact[:dot]))
	if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return errors.New("the signature is wrong")
	}
	return nil
}
