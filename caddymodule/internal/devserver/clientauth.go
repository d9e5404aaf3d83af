package devserver

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// checkClient demands the method of client authentication, and no other method. RFC 6749, section 5.2, has
// invalid_request for more than one method. Here the code is invalid_client in both cases.
func (o oauth2) checkClient(r *http.Request, s sent) *refusal {
	if got, want := o.presented(r, s), o.wanted(); !slices.Equal(got, want) {
		return refuse(invalidClient, "the client authenticates by [%s], but client_auth %s demands [%s]",
			strings.Join(got, ", "), o.clientAuth(), strings.Join(want, ", "))
	}
	switch o.clientAuth() {
	case authBasic:
		return o.checkBasic(r)
	case authPost:
		return o.checkPost(s)
	case authBearerJWT:
		return o.checkBearer(r)
	case authSecretJWT, authKeyJWT:
		if why := o.checkClientAssertion(r, s); why != nil {
			return why
		}
		return o.checkClientID(s, false) // RFC 7521, section 4.2
	}
	return o.checkClientID(s, true) // RFC 8705, section 2; RFC 6749, section 3.2.1
}

// wanted returns the places in the request where the method has its proof. The methods with TLS, and none, have no such
// place.
func (o oauth2) wanted() []string {
	switch o.clientAuth() {
	case authBasic, authBearerJWT:
		return []string{"Authorization"}
	case authPost:
		return []string{o.clientSecretParam()}
	case authSecretJWT, authKeyJWT:
		return []string{"client_assertion"}
	}
	return nil
}

// presented returns the places where the request has a proof, in a fixed order.
func (o oauth2) presented(r *http.Request, s sent) (places []string) {
	described := slices.ContainsFunc(o.Headers, func(h Field) bool { return strings.EqualFold(h.Name, "Authorization") })
	for range r.Header.Values("Authorization") {
		if !described { // otherwise checkHeaders has compared it
			places = append(places, "Authorization")
		}
	}
	if s.has(o.clientSecretParam()) {
		places = append(places, o.clientSecretParam())
	}
	if s.has("client_assertion") || s.has("client_assertion_type") {
		places = append(places, "client_assertion")
	}
	return places
}

func (o oauth2) checkBasic(r *http.Request) *refusal {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return refuse(invalidClient, "Authorization is not Basic")
	}
	if o.BasicEncoding != basicRaw {
		var okID, okSecret bool
		id, okID = formDecode(id)
		secret, okSecret = formDecode(secret)
		if !okID || !okSecret {
			return refuse(invalidClient, "the client id and secret in Basic are not form-encoded")
		}
	}
	if !o.client.knows(id, secret) {
		return refuse(invalidClient, "the client id or secret in Basic is wrong")
	}
	return nil
}

// formEncoded matches a text without characters that every form encoder escapes. Encoders differ in '*' and '~'.
var formEncoded = regexp.MustCompile(`^(?:[A-Za-z0-9*._~+-]|%[0-9A-Fa-f]{2})*$`)

func formDecode(s string) (string, bool) {
	if !formEncoded.MatchString(s) {
		return "", false
	}
	decoded, err := url.QueryUnescape(s)
	return decoded, err == nil
}

func (o oauth2) checkPost(s sent) *refusal {
	secret, _, why := s.takeOne(o.clientSecretParam())
	if why != nil {
		return why
	}
	if !o.client.knows(o.client.id, secret) {
		return refuse(invalidClient, "%s is wrong", o.clientSecretParam())
	}
	return o.checkClientID(s, true)
}

func (o oauth2) checkClientID(s sent, required bool) *refusal {
	if o.clientIDParam() == "" {
		return nil // refuseRest finds a client id
	}
	id, there, why := s.takeOne(o.clientIDParam())
	switch {
	case why != nil:
		return why
	case !there && !required:
		return nil
	case id != o.client.id:
		return refuse(invalidClient, "%s is missing or wrong", o.clientIDParam())
	}
	return nil
}

// checkCertificate compares the client certificate of the connection. It ignores the issuer of the certificate, so
// tls_client_auth and self_signed_tls_client_auth are the same.
func (o oauth2) checkCertificate(r *http.Request, _ sent) *refusal {
	if o.ClientCertificate == "" {
		return nil
	}
	want, err := parseCertificate(o.ClientCertificate)
	switch {
	case err != nil:
		return misconfigured("client_certificate")
	case r.TLS == nil || len(r.TLS.PeerCertificates) == 0:
		return refuse(invalidClient, "the connection has no client certificate")
	case sha256.Sum256(r.TLS.PeerCertificates[0].Raw) != sha256.Sum256(want.Raw):
		return refuse(invalidClient, "the connection has the wrong client certificate")
	}
	return nil
}
