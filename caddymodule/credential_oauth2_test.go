package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/oauth2"
)

// oauth2Trip is a token request that a server demands and gets, and others that it must refuse: else it would prove
// nothing.
type oauth2Trip struct {
	id, secret string // of the client; if there is no id, both are the odd ones
	noSecret   bool   // the method needs none
	tls        bool
	demands    devserver.Demands
	options    options
	wrong      []wrongTrip
}

// wrongTrip differs from a right one in these options, or in the secret.
type wrongTrip struct {
	options options
	secret  string // "-" is for none
	code    string
	refusal string // in what the server says of it
}

// wrong is a wrongTrip with other options.
func wrong(code, refusal string, o options) wrongTrip {
	return wrongTrip{options: o, code: code, refusal: refusal}
}

func (trip oauth2Trip) run(t *testing.T) {
	if trip.id == "" {
		trip.id, trip.secret = oddID, oddSecret
	}
	s := newOAuth2Server(t, trip.tls, trip.id, trip.secret, trip.demands)
	secret := trip.secret
	if trip.noSecret {
		secret = ""
	}
	here := options{"token_url": s.URL + "/token"}
	_, c, _ := provisionCredential(t, oauth2JSON(trip.id, secret, trip.options.with(here), s.transport()))
	for range 2 { // a jti must not be used twice
		issued, err := fetchOnce(t, c)
		if _, refusal := s.last(t); err != nil || refusal != "" {
			t.Fatalf("got %v; the server says %q", err, refusal)
		}
		if !s.knows(issued) || issued.Lifetime != time.Hour || issued.Note != "" {
			t.Errorf("got %+v", issued)
		}
	}
	if s.calls() != 2 {
		t.Errorf("two tokens took %d requests", s.calls())
	}
	for _, w := range trip.wrong {
		other := secret
		switch w.secret {
		case "":
		case "-":
			other = ""
		default:
			other = w.secret
		}
		_, c, _ := provisionCredential(t, oauth2JSON(trip.id, other, trip.options.with(here).with(w.options), s.transport()))
		_, err := fetchOnce(t, c)
		e := wantTokenError(t, err, token.Refused)
		if _, refusal := s.last(t); e.Code != w.code || !strings.Contains(refusal, w.refusal) || refusal == "" {
			t.Errorf("%v, secret %q: got %v, and the server says %q; want %s and %q", w.options, w.secret, err, refusal, w.code, w.refusal)
		}
	}
}

func text(s string) *string { return &s }

// Each method of client authentication, at a server that demands it and nothing else, with an id and a secret that
// show whether they are encoded as they must be.
func TestOAuth2ClientAuth(t *testing.T) {
	const (
		long512  = "p%&+ü /~* and so long that HS512 can sign with it, which needs 64 bytes"
		otherOne = "p%&+ü /~* and so long that HS512 can sign with it, which needs 64 BYTES"
	)
	rsaKey, otherRSA := signingKeyOf("RSA"), anotherKeyOf("RSA")
	certificate, other := newTestCertificate(t, signingKeyOf("P-256"), 2*time.Hour), newTestCertificate(t, signingKeyOf("P-256"), 2*time.Hour)
	forRSA := newTestCertificate(t, rsaKey, 2*time.Hour)
	shown := options{"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}
	shownOther := options{"client_certificate": other.certificate, "client_certificate_key": other.key}
	assertionFile, otherFile := secretPath(t, "an.assertion.of-somebody\n"), secretPath(t, "another.assertion.of-somebody\n")
	trips := map[string]oauth2Trip{
		"client_secret_basic": {
			wrong: []wrongTrip{
				{secret: oddSecret + "!", code: "invalid_client", refusal: "secret in Basic is wrong"},
				{secret: "p%25", code: "invalid_client", refusal: "secret in Basic is wrong"},
				wrong("invalid_client", "not form-encoded", options{"basic_encoding": "raw"}),
				wrong("invalid_client", "by [client_secret]", options{"client_auth": "client_secret_post"}),
				{secret: "-", options: options{"client_auth": "none"}, code: "invalid_client", refusal: "by []"},
				wrong("invalid_request", "client_id", options{"params": options{"client_id": oddID}}),
			},
		},
		"client_secret_basic, said": {
			demands: devserver.Demands{ClientAuth: "client_secret_basic", BasicEncoding: "form"},
			options: options{"client_auth": "client_secret_basic", "basic_encoding": "form"},
		},
		"client_secret_basic, raw": {
			id: "b c%26", secret: oddSecret,
			demands: devserver.Demands{BasicEncoding: "raw"}, options: options{"basic_encoding": "raw"},
			wrong: []wrongTrip{
				wrong("invalid_client", "wrong", options{"basic_encoding": nil}),
				wrong("invalid_client", "wrong", options{"basic_encoding": "form"}),
			},
		},
		"client_secret_post": {
			demands: devserver.Demands{ClientAuth: "client_secret_post"}, options: options{"client_auth": "client_secret_post"},
			wrong: []wrongTrip{
				{secret: "p%25&+ü /~*", code: "invalid_client", refusal: "client_secret is wrong"},
				wrong("invalid_client", "by [Authorization]", options{"client_auth": nil}),
				wrong("invalid_client", "by []", options{"client_secret_param": "secret"}),
				wrong("invalid_client", "client_id is missing", options{"client_id_param": "id"}),
				wrong("invalid_client", "client_id is missing", options{"client_id_param": ""}),
			},
		},
		"client_secret_post, names of its own": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", ClientIDParam: text("app key"), ClientSecretParam: "app secret"},
			options: options{"client_auth": "client_secret_post", "client_id_param": "app key", "client_secret_param": "app secret"},
			wrong: []wrongTrip{
				wrong("invalid_client", "app key is missing", options{"client_id_param": nil}),
				wrong("invalid_client", "by []", options{"client_secret_param": nil}),
			},
		},
		"client_secret_post, without the id": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", ClientIDParam: text("")},
			options: options{"client_auth": "client_secret_post", "client_id_param": ""},
			wrong:   []wrongTrip{wrong("invalid_request", "client_id is not described", options{"client_id_param": nil})},
		},
		"private_key_jwt, with the thumbprint of a certificate": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: forRSA.certificate},
			options: options{"client_auth": "private_key_jwt", "signing_key": forRSA.key,
				"client_certificate": forRSA.certificate, "client_certificate_key": forRSA.key},
			wrong: []wrongTrip{
				wrong("invalid_client", "x5t#S256", options{"client_certificate": nil, "client_certificate_key": nil}),
				wrong("invalid_client", "x5t#S256", shown),
			},
		},
		"private_key_jwt, details": {
			noSecret: true,
			demands: devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(rsaKey), SigningAlg: "PS384",
				AssertionAudience: "https://issuer.example", AssertionTyp: text("JWT"), ClientAssertionType: "urn:example:own", ClientIDParam: text("")},
			options: options{"client_auth": "private_key_jwt", "signing_key": pkcs8(rsaKey), "signing_alg": "PS384",
				"assertion_audience": "https://issuer.example", "assertion_typ": "JWT", "client_assertion_type": "urn:example:own", "client_id_param": ""},
			wrong: []wrongTrip{
				wrong("invalid_client", "alg is not one of [PS384]", options{"signing_alg": nil}),
				wrong("invalid_client", "alg is not one of [PS384]", options{"signing_alg": "PS256"}),
				wrong("invalid_client", "aud is not", options{"assertion_audience": nil}),
				wrong("invalid_client", "aud is not", options{"assertion_audience": "https://issuer.example/"}),
				wrong("invalid_client", "typ is not", options{"assertion_typ": nil}),
				wrong("invalid_client", "typ is missing", options{"assertion_typ": ""}),
				wrong("invalid_client", "client_assertion_type", options{"client_assertion_type": nil}),
				wrong("invalid_request", "client_id is not described", options{"client_id_param": nil}),
				wrong("invalid_client", "signature is wrong", options{"signing_key": pkcs8(otherRSA)}),
			},
		},
		"private_key_jwt, without typ": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(rsaKey), AssertionTyp: text("")},
			options:  options{"client_auth": "private_key_jwt", "signing_key": pkcs8(rsaKey), "assertion_typ": ""},
			wrong:    []wrongTrip{wrong("invalid_client", "typ must be absent", options{"assertion_typ": nil})},
		},
		"private_key_jwt, another id": { // the server knows the key, but of another client
			id: "somebody", secret: "s", noSecret: true,
			demands: devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(rsaKey)},
			options: options{"client_auth": "private_key_jwt", "signing_key": pkcs8(rsaKey)},
			wrong: []wrongTrip{
				{secret: "p", options: options{"client_auth": nil, "signing_key": nil}, code: "invalid_client", refusal: "by [Authorization]"},
			},
		},
		"private_key_jwt, from a file": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientAssertion: "an.assertion.of-somebody"},
			options:  options{"client_auth": "private_key_jwt", "client_assertion_file": assertionFile},
			wrong: []wrongTrip{
				wrong("invalid_client", "client_assertion: is missing or wrong", options{"client_assertion_file": otherFile}),
				wrong("invalid_client", "client_assertion: is missing or wrong", options{"client_assertion_file": nil, "signing_key": pkcs8(rsaKey)}),
			},
		},
		"tls_client_auth": {
			noSecret: true, tls: true,
			demands: devserver.Demands{ClientAuth: "tls_client_auth", ClientCertificate: certificate.certificate},
			options: options{"client_auth": "tls_client_auth"}.with(shown),
			wrong: []wrongTrip{
				wrong("invalid_client", "wrong client certificate", shownOther),
				wrong("invalid_client", "no client certificate", options{"client_auth": "none", "client_certificate": nil, "client_certificate_key": nil}),
				wrong("invalid_client", "client_id is missing", options{"client_id_param": ""}),
				{secret: oddSecret, options: options{"client_auth": "client_secret_post"}, code: "invalid_client", refusal: "by [client_secret]"},
			},
		},
		"self_signed_tls_client_auth": {
			noSecret: true, tls: true,
			demands: devserver.Demands{ClientAuth: "self_signed_tls_client_auth", ClientCertificate: certificate.certificate},
			options: options{"client_auth": "self_signed_tls_client_auth"}.with(shown),
			wrong:   []wrongTrip{wrong("invalid_client", "wrong client certificate", shownOther)},
		},
		"a secret and a certificate": {
			tls:     true,
			demands: devserver.Demands{ClientCertificate: certificate.certificate},
			options: shown,
			wrong: []wrongTrip{
				wrong("invalid_client", "no client certificate", options{"client_certificate": nil, "client_certificate_key": nil}),
				wrong("invalid_client", "wrong client certificate", shownOther),
				{secret: "p", code: "invalid_client", refusal: "secret in Basic is wrong"},
			},
		},
		"none": {
			noSecret: true, demands: devserver.Demands{ClientAuth: "none"}, options: options{"client_auth": "none"},
			wrong: []wrongTrip{
				{secret: oddSecret, options: options{"client_auth": nil}, code: "invalid_client", refusal: "by [Authorization]"},
				wrong("invalid_client", "client_id is missing", options{"client_id_param": "id"}),
			},
		},
		"none, with an Authorization of its own": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "none", ClientIDParam: text(""), Headers: []devserver.Field{{Name: "Authorization", Value: text("SSWS abc")}}},
			options:  options{"client_auth": "none", "client_id_param": "", "headers": options{"authorization": inFile(secretPath(t, "SSWS abc\n"))}},
			wrong:    []wrongTrip{wrong("invalid_request", "Authorization has the wrong value", options{"headers": options{"authorization": "SSWS abd"}})},
		},
	}
	for _, alg := range []string{"HS256", "HS384", "HS512"} {
		said := options{"client_auth": "client_secret_jwt", "signing_alg": alg}
		another := map[string]string{"HS256": "HS384", "HS384": "HS512", "HS512": "HS256"}[alg]
		trips["client_secret_jwt, "+alg] = oauth2Trip{
			id: oddID, secret: long512,
			demands: devserver.Demands{ClientAuth: "client_secret_jwt", SigningAlg: alg}, options: said,
			wrong: []wrongTrip{
				{secret: otherOne, code: "invalid_client", refusal: "signature is wrong"},
				wrong("invalid_client", "alg is not", options{"signing_alg": another}),
				wrong("invalid_client", "by [client_secret]", options{"client_auth": "client_secret_post", "signing_alg": nil}),
				wrong("invalid_client", "aud is not", options{"assertion_audience": "https://other.example"}),
				wrong("invalid_client", "typ is not", options{"assertion_typ": "JWT"}),
				{secret: "-", options: options{"client_auth": "private_key_jwt", "signing_alg": nil, "signing_key": pkcs8(rsaKey)}, code: "invalid_client", refusal: "alg is not"},
			},
		}
	}
	trips["client_secret_jwt"] = oauth2Trip{id: oddID, secret: long512,
		demands: devserver.Demands{ClientAuth: "client_secret_jwt"}, options: options{"client_auth": "client_secret_jwt"}}
	for name, trip := range trips {
		t.Run(name, trip.run)
	}
}

// Keys in every form that they are stored in, with every algorithm.
func TestOAuth2SigningKeys(t *testing.T) {
	sec1 := func(kind string) string {
		der, err := x509.MarshalECPrivateKey(signingKeyOf(kind).(*ecdsa.PrivateKey))
		return pemText("EC PRIVATE KEY", der, err)
	}
	curveParameters := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" // as openssl writes before the key
	pkcs1 := pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(signingKeyOf("RSA").(*rsa.PrivateKey)), nil)
	for _, tc := range []struct{ name, kind, key, alg, wantAlg string }{
		{"RSA, PKCS #8", "RSA", pkcs8(signingKeyOf("RSA")), "", "RS256"},
		{"RSA, PKCS #1", "RSA", pkcs1, "RS256", "RS256"},
		{"RSA, RS384", "RSA", pkcs1, "RS384", "RS384"},
		{"RSA, RS512", "RSA", pkcs1, "RS512", "RS512"},
		{"RSA, PS256", "RSA", pkcs1, "PS256", "PS256"},
		{"RSA, PS384", "RSA", pkcs1, "PS384", "PS384"},
		{"RSA, PS512", "RSA", pkcs1, "PS512", "PS512"},
		{"RSA, JWK", "RSA", jwkOf(signingKeyOf("RSA"), "", ""), "", "RS256"},
		{"RSA, JWK with alg", "RSA", jwkOf(signingKeyOf("RSA"), "", "PS256"), "", "PS256"},
		{"RSA, JWK with another alg", "RSA", jwkOf(signingKeyOf("RSA"), "", "PS256"), "RS512", "RS512"},
		{"RSA, Google's key file", "RSA", googleKeyFile(signingKeyOf("RSA"), ""), "", "RS256"},
		{"P-256, PKCS #8", "P-256", pkcs8(signingKeyOf("P-256")), "", "ES256"},
		{"P-256, SEC 1", "P-256", sec1("P-256"), "", "ES256"},
		{"P-256, as openssl writes it", "P-256", curveParameters + sec1("P-256"), "", "ES256"},
		{"P-256, JWK", "P-256", jwkOf(signingKeyOf("P-256"), "", ""), "ES256", "ES256"},
		{"P-384, SEC 1", "P-384", sec1("P-384"), "", "ES384"},
		{"P-384, JWK", "P-384", jwkOf(signingKeyOf("P-384"), "", "ES384"), "", "ES384"},
		{"P-521, PKCS #8", "P-521", pkcs8(signingKeyOf("P-521")), "", "ES512"},
		{"P-521, JWK", "P-521", jwkOf(signingKeyOf("P-521"), "", ""), "ES512", "ES512"},
		{"Ed25519, PKCS #8", "Ed25519", pkcs8(signingKeyOf("Ed25519")), "", "EdDSA"},
		{"Ed25519, JWK", "Ed25519", jwkOf(signingKeyOf("Ed25519"), "", ""), "EdDSA", "EdDSA"},
	} {
		said := options{"client_auth": "private_key_jwt", "signing_key": inFile(secretPath(t, tc.key))}
		if tc.alg != "" {
			said["signing_alg"] = tc.alg
		}
		another := options{"signing_key": pkcs8(anotherKeyOf(tc.kind)), "signing_alg": tc.wantAlg}
		ofAnotherKind := map[string]string{"RSA": "P-256", "P-256": "RSA", "P-384": "P-256", "P-521": "Ed25519", "Ed25519": "RSA"}[tc.kind]
		t.Run(tc.name, oauth2Trip{
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(signingKeyOf(tc.kind)), SigningAlg: tc.wantAlg},
			options:  said,
			wrong: []wrongTrip{
				wrong("invalid_client", "signature is wrong", another),
				wrong("invalid_client", "alg is not one of", options{"signing_key": pkcs8(signingKeyOf(ofAnotherKind)), "signing_alg": nil}),
			},
		}.run)
	}
	t.Run("kid", func(t *testing.T) {
		key := signingKeyOf("P-256")
		known := devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: jwkOf(key.Public(), "2026", "")}
		said := options{"client_auth": "private_key_jwt", "signing_key": jwkOf(key, "2026", "")}
		t.Run("of the JWK", oauth2Trip{noSecret: true, demands: known, options: said, wrong: []wrongTrip{
			wrong("invalid_client", "kid", options{"signing_key_id": "2025"}),
			wrong("invalid_client", "kid", options{"signing_key": jwkOf(key, "2025", "")}),
		}}.run)
		t.Run("signing_key_id wins", oauth2Trip{noSecret: true, demands: known,
			options: said.with(options{"signing_key": jwkOf(key, "2025", ""), "signing_key_id": "2026"})}.run)
		t.Run("of Google's key file", oauth2Trip{
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: jwkOf(signingKeyOf("RSA").Public(), "g-1", "")},
			options:  options{"client_auth": "private_key_jwt", "signing_key": googleKeyFile(signingKeyOf("RSA"), "g-1")},
			wrong:    []wrongTrip{wrong("invalid_client", "kid", options{"signing_key": googleKeyFile(signingKeyOf("RSA"), "g-2")})},
		}.run)
		t.Run("none", func(t *testing.T) {
			s := newOAuth2Server(t, false, "id", "s", devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key)})
			_, c, _ := provisionCredential(t, oauth2JSON("id", "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "signing_key": pkcs8(key)}))
			if _, err := fetchOnce(t, c); err != nil {
				t.Fatal(err)
			}
			r, _ := s.last(t)
			if header, _ := jwtParts(t, r.form(t).Get("client_assertion")); len(header) != 2 {
				t.Errorf("the header is %v, want alg and typ alone", header)
			}
		})
	})
}

// form returns the parameters of a body.
func (r capturedRequest) form(t *testing.T) url.Values {
	t.Helper()
	form, err := url.ParseQuery(r.body)
	if err != nil {
		t.Fatal(err)
	}
	return form
}

// jwtParts decodes a JWT, which it does not verify.
func jwtParts(t *testing.T, jwt string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", jwt)
	}
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// fields are what a development server demands: a name and a value in turn.
func fields(namesAndValues ...string) (list []devserver.Field) {
	for pair := range slices.Chunk(namesAndValues, 2) {
		list = append(list, devserver.Field{Name: pair[0], Value: &pair[1]})
	}
	return list
}

func TestOAuth2Grants(t *testing.T) {
	const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	rsaKey := signingKeyOf("RSA")
	t.Setenv("TOKEN_PROXY_TEST_SUBJECT", "admin@example.com")
	google := options{"client_auth": "none", "client_id_param": "", "grant": jwtBearer, "signing_key": googleKeyFile(rsaKey, "g-1"),
		"assertion_audience": "https://oauth2.googleapis.com/token",
		"assertion_claims":   options{"scope": "https://www.googleapis.com/auth/cloud-platform", "sub": "{env.TOKEN_PROXY_TEST_SUBJECT}"}}
	subjectToken := secretPath(t, "s.u.b\n")
	exchange := options{"grant": "urn:ietf:params:oauth:grant-type:token-exchange", "params": options{
		"subject_token": inFile(subjectToken), "subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}}
	for name, trip := range map[string]oauth2Trip{
		"jwt-bearer": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "none", Grant: text(jwtBearer), ClientKey: publicPEM(rsaKey)},
			options:  options{"client_auth": "none", "grant": jwtBearer, "signing_key": pkcs8(rsaKey)},
			wrong: []wrongTrip{
				wrong("invalid_grant", "signature is wrong", options{"signing_key": pkcs8(anotherKeyOf("RSA"))}),
				wrong("invalid_grant", "typ is not", options{"assertion_typ": "client-authentication+jwt"}),
				wrong("invalid_grant", "typ is missing", options{"assertion_typ": ""}),
				wrong("invalid_grant", "aud is not", options{"assertion_audience": "https://other.example"}),
				wrong("invalid_grant", "sub is missing", options{"assertion_claims": options{"sub": ""}}),
				wrong("invalid_grant", "iss is not", options{"assertion_claims": options{"iss": "somebody"}}),
				wrong("unsupported_grant_type", "grant_type", options{"grant": nil, "signing_key": nil}),
			},
		},
		"jwt-bearer, as Google has it": {
			noSecret: true,
			demands: devserver.Demands{ClientAuth: "none", ClientIDParam: text(""), Grant: text(jwtBearer), ClientKey: jwkOf(rsaKey.Public(), "g-1", ""),
				AssertionAudience: "https://oauth2.googleapis.com/token",
				AssertionClaims:   fields("scope", "https://www.googleapis.com/auth/cloud-platform", "sub", "admin@example.com")},
			options: google,
			wrong: []wrongTrip{
				wrong("invalid_grant", "scope is missing", options{"assertion_claims": options{"sub": "admin@example.com"}}),
				wrong("invalid_grant", "sub is not", options{"assertion_claims": options{"scope": "https://www.googleapis.com/auth/cloud-platform"}}),
				wrong("invalid_grant", "kid", options{"signing_key": googleKeyFile(rsaKey, "g-2")}),
				wrong("invalid_request", "client_id is not described", options{"client_id_param": nil}),
			},
		},
		"jwt-bearer, a claim left out, and the client authenticates too": {
			demands: devserver.Demands{Grant: text(jwtBearer), ClientKey: publicPEM(rsaKey), AssertionClaims: fields("sub", "", "urn:x", "ü \" y")},
			options: options{"grant": jwtBearer, "signing_key": pkcs8(rsaKey), "assertion_claims": options{"sub": "", "urn:x": "ü \" y"}},
			wrong: []wrongTrip{
				wrong("invalid_grant", "sub must be absent", options{"assertion_claims": options{"urn:x": "ü \" y"}}),
				{secret: "x", code: "invalid_client", refusal: "secret in Basic is wrong"},
			},
		},
		"jwt-bearer, both assertions by one key": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", Grant: text(jwtBearer), ClientKey: publicPEM(rsaKey), AssertionTyp: text("JWT")},
			options:  options{"client_auth": "private_key_jwt", "grant": jwtBearer, "signing_key": pkcs8(rsaKey), "assertion_typ": "JWT"},
			wrong:    []wrongTrip{wrong("invalid_client", "typ is not", options{"assertion_typ": nil})},
		},
		"token exchange": {
			demands: devserver.Demands{Grant: text("urn:ietf:params:oauth:grant-type:token-exchange"),
				Params: fields("subject_token", "s.u.b", "subject_token_type", "urn:ietf:params:oauth:token-type:jwt")},
			options: exchange,
			wrong: []wrongTrip{
				wrong("invalid_request", "subject_token has the wrong value", options{"params": options{
					"subject_token": "x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}}),
				wrong("unsupported_grant_type", "", options{"grant": nil}),
			},
		},
		"a grant of its own": {
			demands: devserver.Demands{Grant: text("account_credentials"), Params: fields("account_id", "A+1")},
			options: options{"grant": "account_credentials", "params": options{"account_id": "A+1"}},
			wrong: []wrongTrip{
				wrong("unsupported_grant_type", "", options{"grant": nil}),
				wrong("invalid_request", "account_id occurs 0 times", options{"params": nil}),
			},
		},
		"no grant": {
			demands: devserver.Demands{Grant: text("")}, options: options{"grant": ""},
			wrong: []wrongTrip{wrong("invalid_request", "grant_type is not described", options{"grant": nil})},
		},
	} {
		t.Run(name, trip.run)
	}
	t.Run("a subject token that is replaced", func(t *testing.T) {
		s := newOAuth2Server(t, false, "id", "secret", devserver.Demands{})
		_, c, _ := provisionCredential(t, oauth2JSON("id", "secret", exchange.with(options{"token_url": s.URL + "/token"})))
		for _, now := range []string{"first.subject.token", "second.subject.token"} {
			writeFile(t, subjectToken, now+"\n")
			_, _ = fetchOnce(t, c)
			if r, _ := s.last(t); r.form(t).Get("subject_token") != now {
				t.Errorf("got %q, want %q", r.form(t).Get("subject_token"), now)
			}
		}
	})
}

func TestOAuth2Requests(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_PARAM", "from the environment & more")
	inFile := inFile(secretPath(t, "from a file=1\n"))
	for name, trip := range map[string]oauth2Trip{
		"scope, audience and resource": {
			demands: devserver.Demands{Scope: "a b:c d", Params: fields("audience", "https://a.example/?x=y&z", "resource", "https://r.example/1", "resource", "https://r.example/2")},
			options: options{"scope": []string{"a", "b:c", "d"}, "audience": "https://a.example/?x=y&z", "resource": []string{"https://r.example/1", "https://r.example/2"}},
			wrong: []wrongTrip{
				wrong("invalid_scope", "scope", options{"scope": []string{"a", "d", "b:c"}}),
				wrong("invalid_scope", "scope", options{"scope": nil}),
				wrong("invalid_scope", "scope", options{"scope_separator": ","}),
				wrong("invalid_request", "audience", options{"audience": nil}),
				wrong("invalid_request", "resource occurs 1 times", options{"resource": []string{"https://r.example/1"}}),
				wrong("invalid_request", "resource has the wrong value", options{"resource": []string{"https://r.example/2", "https://r.example/1"}}),
			},
		},
		"no scope": {wrong: []wrongTrip{wrong("invalid_request", "scope is not described", options{"scope": []string{"a"}})}},
		"scopes with commas": {
			demands: devserver.Demands{Scope: "a,b"}, options: options{"scope": []string{"a", "b"}, "scope_separator": ","},
			wrong: []wrongTrip{wrong("invalid_scope", "scope", options{"scope_separator": nil})},
		},
		"parameters": {
			demands: devserver.Demands{Params: fields("empty", "", "env", "from the environment & more", "file", "from a file=1", "odd name&", "ü+%", "client_id", "x", "mixed", "<from the environment & more>")},
			options: options{"params": options{"empty": "", "env": "{env.TOKEN_PROXY_TEST_PARAM}", "file": inFile, "odd name&": "ü+%", "client_id": "x", "mixed": "<{env.TOKEN_PROXY_TEST_PARAM}>"}},
			wrong:   []wrongTrip{wrong("invalid_request", "empty occurs 0 times", options{"params": nil})},
		},
		"headers": {
			demands: devserver.Demands{Headers: append(fields("X-Literal", "a  b", "X-Env", "from the environment & more", "X-File", "from a file=1", "X-Empty", "", "Accept", "application/jwt", "User-Agent", "me"), devserver.Field{Name: "X-Id"})},
			options: options{"headers": options{"x-literal": "a  b", "X-Env": "{env.TOKEN_PROXY_TEST_PARAM}", "X-File": inFile, "X-Empty": "", "X-Id": "{uuid}", "accept": "application/jwt", "User-Agent": "me"}},
			wrong:   []wrongTrip{wrong("invalid_request", "X-Literal occurs 0 times", options{"headers": nil})},
		},
		"JSON": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", Encoding: "json", Scope: "a b", Params: fields("p", `"\ü`),
				JSONParams: []devserver.JSONField{{Name: "n", Value: []byte(`12345`)}, {Name: "null", Value: []byte(`null`)}, {Name: "o", Value: []byte(`{"a":[1,"x",true]}`)}, {Name: "resource", Value: []byte(`["u:1","u:2"]`)}}},
			options: options{"client_auth": "client_secret_post", "encoding": "json", "scope": []string{"a", "b"}, "params": options{"p": `"\ü`}, "resource": []string{"u:1", "u:2"},
				"json_params": options{"n": 12345, "null": json.RawMessage(`null`), "o": json.RawMessage(`{"a":[1,"x",true]}`)}},
			wrong: []wrongTrip{
				{secret: "x", code: "invalid_client", refusal: "client_secret is wrong"},
				wrong("invalid_request", "the content type", options{"encoding": nil, "json_params": nil}),
				wrong("invalid_request", "the member n", options{"json_params": options{"n": "12345", "null": json.RawMessage(`null`), "o": json.RawMessage(`{"a":[1,"x",true]}`)}}),
				wrong("invalid_request", "the content type", options{"encoding": "query", "json_params": nil}),
			},
		},
		"JSON and Basic": {
			demands: devserver.Demands{Encoding: "json"}, options: options{"encoding": "json"},
			wrong: []wrongTrip{wrong("invalid_request", "the content type", options{"encoding": "form"})},
		},
		"query, POST": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", Encoding: "query", Params: fields("resource", "u:1", "resource", "u:2&")},
			options: options{"client_auth": "client_secret_post", "encoding": "query", "resource": []string{"u:1", "u:2&"}},
			wrong: []wrongTrip{
				{secret: "x", code: "invalid_client", refusal: "client_secret is wrong"},
				wrong("invalid_request", "method", options{"method": "GET"}),
				wrong("invalid_request", "the request has a body", options{"encoding": "form"}),
				wrong("invalid_request", "the request has a body", options{"encoding": "json"}),
			},
		},
		"query, GET": {
			demands: devserver.Demands{Method: "GET"}, options: options{"method": "GET", "encoding": "query"},
			wrong: []wrongTrip{wrong("invalid_request", "method", options{"method": nil})},
		},
		"query, GET, and a key signs": {
			noSecret: true,
			demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(signingKeyOf("P-256")), Method: "GET"},
			options:  options{"client_auth": "private_key_jwt", "signing_key": pkcs8(signingKeyOf("P-256")), "method": "GET", "encoding": "query"},
			wrong:    []wrongTrip{wrong("invalid_client", "signature", options{"signing_key": pkcs8(anotherKeyOf("P-256"))})},
		},
	} {
		t.Run(name, trip.run)
	}
}

// A query that the token URL has is kept, in every encoding; what is fresh is fresh each time.
func TestOAuth2RequestsInDetail(t *testing.T) {
	capture := func(t *testing.T, o options) (requests []capturedRequest) {
		t.Helper()
		srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			requests = append(requests, capturedRequest{r, string(body)})
			_, _ = io.WriteString(w, goodAnswer(""))
		}))
		_, c, _ := provisionCredential(t, oauth2JSON("id", "secret", o.with(options{"token_url": srv.URL + "/t?tenant=a+b&n="})))
		for range 2 {
			if _, err := fetchOnce(t, c); err != nil {
				t.Fatal(err)
			}
		}
		return requests
	}
	t.Run("the URL's own query", func(t *testing.T) {
		for encoding, want := range map[string]string{
			"form": "tenant=a+b&n=", "json": "tenant=a+b&n=", "query": "grant_type=client_credentials&n=&tenant=a+b",
		} {
			if got := capture(t, options{"encoding": encoding})[0].URL; got.Path != "/t" || got.RawQuery != want {
				t.Errorf("%s: got %s", encoding, got)
			}
		}
	})
	t.Run("fresh UUIDs", func(t *testing.T) {
		got := capture(t, options{"params": options{"nonce": "{uuid}", "other": "{uuid}"}, "headers": options{"X-Request-Id": "{uuid}"}})
		seen := make(map[string]bool)
		for _, r := range got {
			for _, value := range []string{r.form(t).Get("nonce"), r.form(t).Get("other"), r.Header.Get("X-Request-Id")} {
				if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(value) || seen[value] {
					t.Errorf("%q is no fresh UUID", value)
				}
				seen[value] = true
			}
		}
	})
	t.Run("nothing that was not asked for", func(t *testing.T) {
		r := capture(t, nil)[0]
		names := slices.Sorted(maps.Keys(r.Header))
		want := []string{"Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "User-Agent"}
		if r.body != "grant_type=client_credentials" || !slices.Equal(names, want) {
			t.Errorf("got %s with %s", names, r.body)
		}
	})
	t.Run("JSON is exact", func(t *testing.T) {
		r := capture(t, options{"encoding": "json", "scope": []string{"a<b"}, "json_params": options{"n": json.RawMessage(`-1.5`)}})[0]
		if want := `{"grant_type":"client_credentials","n":-1.5,"scope":"a\u003cb"}`; r.body != want {
			t.Errorf("got %s, want %s", r.body, want)
		}
	})
}

// What a client assertion says, beyond what the development server demands, and that each attempt has one of its own.
func TestOAuth2Assertions(t *testing.T) {
	key := signingKeyOf("P-256")
	s := newOAuth2Server(t, false, oddID, "s", devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key)})
	_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "signing_key": pkcs8(key)}))
	seen := make(map[any]bool)
	for range 3 {
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		r, _ := s.last(t)
		_, claims := jwtParts(t, r.form(t).Get("client_assertion"))
		if seen[claims["jti"]] {
			t.Error("a jti is used again")
		}
		seen[claims["jti"]] = true
		if got := claims["exp"].(float64) - claims["iat"].(float64); got != 60 {
			t.Errorf("it lives for %v s", got)
		}
		if claims["iss"] != oddID || claims["sub"] != oddID || claims["aud"] != s.URL+"/token" || len(claims) != 6 {
			t.Errorf("the claims are %v", claims)
		}
	}
	t.Run("one that is sent again is refused", func(t *testing.T) {
		r, _ := s.last(t)
		again := newRequest(t, http.MethodPost, s.URL+"/token", strings.NewReader(r.body), "Content-Type", r.Header.Get("Content-Type"))
		a := ask(t, testClient(t), again)
		if a.wantStatus(t, http.StatusUnauthorized); !strings.Contains(a.Header.Get(devserver.RefusalHeader), "jti was used before") {
			t.Errorf("the server says %q", a.Header.Get(devserver.RefusalHeader))
		}
	})
	t.Run("a second attempt of one call", func(t *testing.T) {
		before := s.calls()
		s.endpoint.SetFault(devserver.Fault{Status: 503, Count: 1})
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.calls() - before; n != 2 {
			t.Errorf("the endpoint got %d calls, want 2", n)
		}
		for _, r := range s.requests[before:] {
			_, claims := jwtParts(t, r.form(t).Get("client_assertion"))
			if seen[claims["jti"]] {
				t.Error("a jti is used again")
			}
			seen[claims["jti"]] = true
		}
	})
}

// Several configurations, and checks, may ask for requests at the same time.
func TestOAuth2RequestsAtTheSameTime(t *testing.T) {
	_, c, _ := provisionCredential(t, oauth2JSON("id", "", options{"token_url": "https://login.example/token", "client_auth": "private_key_jwt",
		"signing_key": pkcs8(signingKeyOf("P-256")), "params": options{"nonce": "{uuid}"}, "headers": options{"X-Id": "{uuid}"}}))
	var group sync.WaitGroup
	var seen sync.Map
	for range 8 {
		group.Go(func() {
			for range 20 {
				read, err := c.readSecrets()
				if err != nil {
					t.Error(err)
					return
				}
				req, err := c.provider.NewRequest(t.Context(), read.client)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(req.Body)
				form, _ := url.ParseQuery(string(body))
				for _, value := range []string{form.Get("nonce"), form.Get("client_assertion"), req.Header.Get("X-Id")} {
					if _, twice := seen.LoadOrStore(value, true); twice || value == "" {
						t.Errorf("%q is there twice", value)
					}
				}
			}
		})
	}
	group.Wait()
}

func TestOAuth2Discovery(t *testing.T) {
	key := signingKeyOf("P-256")
	certificate := newTestCertificate(t, key, time.Hour)
	shown := options{"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}
	newIssuer := func(t *testing.T, path string, withTLS bool, demands func(url string) devserver.Demands) *oauth2Server {
		t.Helper()
		s := newOAuth2Server(t, withTLS, oddID, oddSecret, devserver.Demands{})
		d := demands(s.URL)
		d.Issuer = s.URL + path
		s.demand(t, oddID, oddSecret, d)
		return s
	}
	paths := func(s *oauth2Server) (paths []string) {
		for _, r := range s.requests {
			paths = append(paths, r.Method+" "+r.URL.Path)
		}
		return paths
	}
	t.Run("asked once, and the issuer is the audience", func(t *testing.T) {
		s := newIssuer(t, "/realms/a", false, func(string) devserver.Demands {
			return devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key)}
		})
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"issuer": s.URL + "/realms/a", "client_auth": "private_key_jwt", "signing_key": pkcs8(key)}))
		if s.calls() != 0 {
			t.Error("the issuer is asked while the configuration is loaded")
		}
		for range 2 {
			if _, err := fetchOnce(t, c); err != nil {
				_, refusal := s.last(t)
				t.Fatalf("%v: %s", err, refusal)
			}
		}
		want := []string{"GET /.well-known/oauth-authorization-server/realms/a", "POST /realms/a/token", "POST /realms/a/token"}
		if got := paths(s); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r := s.requests[1]
		if _, claims := jwtParts(t, r.form(t).Get("client_assertion")); claims["aud"] != s.URL+"/realms/a" {
			t.Errorf("the audience is %v", claims["aud"])
		}
	})
	t.Run("the audience can be another", func(t *testing.T) {
		s := newIssuer(t, "", false, func(string) devserver.Demands {
			return devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key), AssertionAudience: "urn:a"}
		})
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"issuer": s.URL, "client_auth": "private_key_jwt", "signing_key": pkcs8(key), "assertion_audience": "urn:a"}))
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
	})
	t.Run("another host, another path", func(t *testing.T) {
		tokens := newOAuth2Server(t, false, oddID, oddSecret, devserver.Demands{})
		s := newIssuer(t, "", false, func(string) devserver.Demands { return devserver.Demands{TokenURL: tokens.URL + "/elsewhere"} })
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"issuer": s.URL}))
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		if got := paths(tokens); !slices.Equal(got, []string{"POST /elsewhere"}) {
			t.Errorf("got %q", got)
		}
	})
	for name, tc := range map[string]struct {
		options options
		demands devserver.Demands
		want    string
	}{
		"tls_client_auth": {shown.with(options{"client_auth": "tls_client_auth"}),
			devserver.Demands{ClientAuth: "tls_client_auth", ClientCertificate: certificate.certificate}, "POST /mtls"},
		"self_signed_tls_client_auth": {shown.with(options{"client_auth": "self_signed_tls_client_auth"}),
			devserver.Demands{ClientAuth: "self_signed_tls_client_auth", ClientCertificate: certificate.certificate}, "POST /mtls"},
		"no certificate": {options{"client_auth": "none"}, devserver.Demands{ClientAuth: "none"}, "POST /token"},
	} {
		t.Run("the endpoint for certificates: "+name, func(t *testing.T) {
			s := newIssuer(t, "", true, func(url string) devserver.Demands {
				d := tc.demands
				d.MTLSTokenURL = url + "/mtls"
				return d
			})
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", tc.options.with(options{"issuer": s.URL}), s.transport()))
			if _, err := fetchOnce(t, c); err != nil {
				t.Fatal(err)
			}
			if got := paths(s); got[len(got)-1] != tc.want {
				t.Errorf("got %q, want %s", got, tc.want)
			}
		})
	}
	t.Run("what the issuer says is not believed blindly", func(t *testing.T) {
		for name, metadata := range map[string]string{
			"another issuer":           `{"issuer":"https://evil.example","token_endpoint":"ELSEWHERE"}`,
			"no issuer":                `{"token_endpoint":"ELSEWHERE"}`,
			"a slash more":             `{"issuer":"ISSUER/","token_endpoint":"ELSEWHERE"}`,
			"no endpoint":              `{"issuer":"ISSUER"}`,
			"plaintext beyond here":    `{"issuer":"ISSUER","token_endpoint":"http://token.example/"}`,
			"an endpoint with a query": `{"issuer":"ISSUER","token_endpoint":"https://token.example/?client_secret=c4n4ry"}`,
			"no metadata":              `<html>c4n4ry</html>`,
		} {
			elsewhere := newRecordingAPI(t, sendAnswer(200, "application/json", goodAnswer("")))
			var issuer string
			srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.Header.Get("Authorization") != "" || r.URL.RawQuery != "" {
					t.Errorf("%s: the issuer got %s %s", name, r.Method, r.URL)
				}
				_, _ = io.WriteString(w, strings.NewReplacer("ISSUER", issuer, "ELSEWHERE", elsewhere.URL).Replace(metadata))
			}))
			issuer = srv.URL
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"issuer": issuer}))
			_, err := fetchOnce(t, c)
			e := wantTokenError(t, err, token.Refused)
			if elsewhere.connectionCount() != 0 || strings.Contains(e.Error(), "c4n4ry") {
				t.Errorf("%s: %d connections elsewhere, %v", name, elsewhere.connectionCount(), e)
			}
		}
	})
	t.Run("an issuer that is not there", func(t *testing.T) {
		srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"issuer": srv.URL}))
		_, err := fetchOnce(t, c)
		wantTokenError(t, err, token.Unavailable)
	})
}

// What is in files is used as it is at the next request, without a reload.
func TestOAuth2Rotation(t *testing.T) {
	t.Run("signing key", func(t *testing.T) {
		file := secretPath(t, pkcs8(signingKeyOf("P-256")))
		known := func(key string) devserver.Demands {
			return devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: key}
		}
		s := newOAuth2Server(t, false, oddID, "s", known(publicPEM(signingKeyOf("P-256"))))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "signing_key": inFile(file)}))
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		s.demand(t, oddID, "s", known(jwkOf(signingKeyOf("RSA").Public(), "new", "")))
		_, err := c.source.Acquire(t.Context())
		wantTokenError(t, err, token.Refused)
		writeFile(t, file, jwkOf(signingKeyOf("RSA"), "new", ""))
		if _, err := c.source.Acquire(t.Context()); err != nil { // although the refusal of the old key holds for a while
			t.Error(err)
		}
		writeFile(t, file, "nothing that signs c4n4ry")
		_, err = fetchOnce(t, c)
		if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, "signing_key") || strings.Contains(e.Error(), "c4n4ry") {
			t.Errorf("got %v", e)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		calls := s.calls()
		_, err = fetchOnce(t, c)
		if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, "signing_key") || !strings.Contains(e.Reason, file) || s.calls() != calls {
			t.Errorf("got %v, %d calls", e, s.calls()-calls)
		}
	})
	t.Run("signing key of a grant", func(t *testing.T) {
		file := secretPath(t, pkcs8(signingKeyOf("P-256")))
		s := newOAuth2Server(t, false, oddID, "s", devserver.Demands{ClientAuth: "none", Grant: text(oauth.GrantJWTBearer), ClientKey: publicPEM(signingKeyOf("P-256"))})
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "none", "grant": oauth.GrantJWTBearer, "signing_key": inFile(file)}))
		writeFile(t, file, "nothing that signs c4n4ry")
		_, err := fetchOnce(t, c)
		if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, "signing_key") || strings.Contains(e.Error(), "c4n4ry") || s.calls() != 0 {
			t.Errorf("got %v, %d calls", e, s.calls())
		}
		writeFile(t, file, pkcs8(signingKeyOf("P-256")))
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
	})
	t.Run("client assertion", func(t *testing.T) {
		file := secretPath(t, "old.client.assertion")
		known := func(assertion string) devserver.Demands {
			return devserver.Demands{ClientAuth: "private_key_jwt", ClientAssertion: assertion}
		}
		s := newOAuth2Server(t, false, oddID, "s", known("old.client.assertion"))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "client_assertion_file": file}))
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		s.demand(t, oddID, "s", known("new.client.assertion"))
		_, err := c.source.Acquire(t.Context())
		wantTokenError(t, err, token.Refused)
		writeFile(t, file, "new.client.assertion\n")
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("parameter and header", func(t *testing.T) {
		param, header := secretPath(t, "old-param"), secretPath(t, "old-header")
		known := func(param, header string) devserver.Demands {
			return devserver.Demands{Params: fields("p", param), Headers: fields("X-H", header)}
		}
		s := newOAuth2Server(t, false, oddID, oddSecret, known("old-param", "old-header"))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"token_url": s.URL + "/token", "params": options{"p": inFile(param)}, "headers": options{"X-H": inFile(header)}}))
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct{ file, content, param, header string }{{param, "new-param", "new-param", "old-header"}, {header, "new-header", "new-param", "new-header"}} {
			s.demand(t, oddID, oddSecret, known(step.param, step.header))
			_, err := fetchOnce(t, c)
			wantTokenError(t, err, token.Refused)
			before := (&fetcher{caller: &c.caller}).Prepare().Proof.Reveal()
			writeFile(t, step.file, step.content)
			if _, err := fetchOnce(t, c); err != nil || (&fetcher{caller: &c.caller}).Prepare().Proof.Reveal() == before {
				t.Errorf("%s: %v", step.content, err)
			}
		}
		for file, option := range map[string]string{param: "param p", header: "header X-H"} {
			content, err := os.ReadFile(file)
			if err == nil {
				err = os.Remove(file)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = fetchOnce(t, c)
			if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, option) || !strings.Contains(e.Reason, file) {
				t.Errorf("got %v", e)
			}
			writeFile(t, file, string(content))
		}
	})
	t.Run("certificate and key", func(t *testing.T) {
		first, second := newTestCertificate(t, signingKeyOf("P-256"), time.Hour), newTestCertificate(t, anotherKeyOf("P-256"), time.Hour)
		certificate, key := secretPath(t, first.certificate), secretPath(t, first.key)
		known := func(c testCertificate) devserver.Demands {
			return devserver.Demands{ClientAuth: "tls_client_auth", ClientCertificate: c.certificate}
		}
		s := newOAuth2Server(t, true, oddID, "s", known(first))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "tls_client_auth",
			"client_certificate": inFile(certificate), "client_certificate_key": inFile(key)}, s.transport()))
		if _, err := fetchOnce(t, c); err != nil {
			t.Fatal(err)
		}
		s.demand(t, oddID, "s", known(second))
		_, err := c.source.Acquire(t.Context())
		wantTokenError(t, err, token.Refused)
		writeFile(t, certificate, second.certificate)
		calls := s.calls()
		_, err = fetchOnce(t, c) // the one file is there already, the other is not
		if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, "client_certificate_key") || s.calls() != calls {
			t.Errorf("got %v, %d calls", e, s.calls()-calls)
		}
		writeFile(t, key, second.key)
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("certificate authority", func(t *testing.T) {
		s := newOAuth2Server(t, true, oddID, oddSecret, devserver.Demands{})
		authority := secretPath(t, newTestCertificate(t, signingKeyOf("P-256"), time.Hour).certificate)
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"token_url": s.URL + "/token"}, options{"transport": options{"ca": inFile(authority)}}))
		_, err := fetchOnce(t, c)
		if e := wantTokenError(t, err, token.Unavailable); !strings.Contains(e.Reason, "not trusted") {
			t.Errorf("got %v", e)
		}
		writeFile(t, authority, pemText("CERTIFICATE", s.Certificate().Raw, nil))
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
		writeFile(t, authority, "c4n4ry")
		_, err = fetchOnce(t, c)
		if e := wantTokenError(t, err, token.Refused); !strings.Contains(e.Reason, "transport: ca") || strings.Contains(e.Error(), "c4n4ry") {
			t.Errorf("got %v", e)
		}
	})
	t.Run("across the links of Kubernetes", func(t *testing.T) {
		dir := t.TempDir()
		for version, key := range map[string]string{"..1": pkcs8(anotherKeyOf("P-256")), "..2": pkcs8(signingKeyOf("P-256"))} {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, version, "key.pem"), key)
		}
		link := func(target string) {
			next := filepath.Join(dir, "..next")
			if err := os.Symlink(target, next); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		link("..1")
		s := newOAuth2Server(t, false, oddID, "s", devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(signingKeyOf("P-256"))})
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "signing_key": inFile(dir + "/..data/key.pem")}))
		_, err := fetchOnce(t, c)
		wantTokenError(t, err, token.Refused)
		link("..2")
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
	})
}

// A token that is bound to a certificate is of no use when the certificate has expired.
func TestOAuth2TokenEndsWithCertificate(t *testing.T) {
	for name, tc := range map[string]struct {
		life   time.Duration
		answer string
		more   options
		least  time.Duration
		most   time.Duration
	}{
		"before the token does":       {30 * time.Minute, `{"access_token":"$token","expires_in":$expires_in}`, nil, 29 * time.Minute, 30 * time.Minute},
		"after the token does":        {30 * time.Hour, `{"access_token":"$token","expires_in":$expires_in}`, nil, time.Hour, time.Hour},
		"before a token without end":  {30 * time.Minute, `{"access_token":"$token"}`, nil, 29 * time.Minute, 30 * time.Minute},
		"after a token without end":   {30 * time.Hour, `{"access_token":"$token"}`, nil, token.UnknownLifetime, token.UnknownLifetime},
		"before the default lifetime": {2 * time.Hour, `{"access_token":"$token"}`, options{"default_lifetime": "9h"}, 119 * time.Minute, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			certificate := newTestCertificate(t, signingKeyOf("P-256"), tc.life)
			s := newOAuth2Server(t, true, oddID, "s", devserver.Demands{ClientAuth: "tls_client_auth", ClientCertificate: certificate.certificate, Answer: tc.answer})
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "tls_client_auth",
				"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}, s.transport(), tc.more))
			issued, err := fetchOnce(t, c)
			if err != nil || issued.Certificate == nil || issued.Lifetime < tc.least || issued.Lifetime > tc.most {
				t.Errorf("got %+v, %v", issued, err)
			}
		})
	}
}

// What the options of response do, at a server that answers so.
func TestOAuth2Response(t *testing.T) {
	for name, tc := range map[string]struct {
		answer   string
		response options
		lifetime time.Duration
		refresh  time.Duration
		kept     map[string]string
	}{
		"the standard":         {`{"access_token":"$token","expires_in":$expires_in,"refresh_in":60}`, nil, time.Hour, time.Minute, nil},
		"elsewhere":            {`{"data":[{"t":"$token","e":$expires_in_ms,"r":60}]}`, options{"token": []string{"x", "data.0.t"}, "expires_in": options{"path": "data.0.e", "unit": "ms"}, "refresh_in": "data.0.r"}, time.Hour, time.Minute, nil},
		"the whole body":       {`"$token"`, options{"token": []string{"$"}, "default": "10m"}, 10 * time.Minute, 0, nil},
		"an expiry":            {`{"access_token":"$token","at":$expires_at}`, options{"expires_at": options{"path": "at"}}, time.Hour, 0, nil},
		"an expiry in ms":      {`{"access_token":"$token","at":$expires_at_ms}`, options{"expires_at": options{"path": "at", "unit": "ms"}}, time.Hour, 0, nil},
		"an expiry as text":    {`{"access_token":"$token","at":"$expires_at_rfc3339"}`, options{"expires_at": options{"path": "at", "unit": "rfc3339"}}, time.Hour, 0, nil},
		"a default":            {`{"access_token":"$token"}`, options{"default": "10m"}, 10 * time.Minute, 0, nil},
		"a default not needed": {`{"access_token":"$token","expires_in":$expires_in}`, options{"default": "10m"}, time.Hour, 0, nil},
		"no lifetime":          {`{"access_token":"$token"}`, nil, token.UnknownLifetime, 0, nil},
		"kept": {`{"access_token":"$token","instance_url":"https://a.example","id":7,"n":{"x":[{"y":"z"}]},"secret":"a\nb","self":"$token","list":[],"empty":""}`,
			options{"keep": options{"instance_url": "instance_url", "id": "id", "deep": "n.x.0.y", "ctl": "secret", "self": "self", "list": "list", "empty": "empty", "no": "none"}},
			token.UnknownLifetime, 0, map[string]string{"instance_url": "https://a.example", "id": "7", "deep": "z"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newOAuth2Server(t, false, oddID, oddSecret, devserver.Demands{Answer: tc.answer})
			o := options{"token_url": s.URL + "/token"}
			if tc.response != nil {
				o["response"] = tc.response
			}
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, o))
			issued, err := fetchOnce(t, c)
			if err != nil || !s.knows(issued) || issued.RefreshIn != tc.refresh || !maps.Equal(issued.Kept, tc.kept) {
				t.Fatalf("got %+v, %v", issued, err)
			}
			if diff := (issued.Lifetime - tc.lifetime).Abs(); diff > 2*time.Second || tc.lifetime == token.UnknownLifetime && diff != 0 {
				t.Errorf("got lifetime %s, want %s", issued.Lifetime, tc.lifetime)
			}
		})
	}
	t.Run("failures", func(t *testing.T) {
		for name, tc := range map[string]struct {
			status   int
			body     string
			response options
			kind     token.Kind
			code     string
			wait     time.Duration
		}{
			"the standard":                    {400, `{"error":"invalid_scope"}`, nil, token.Refused, "invalid_scope", 0},
			"errors in a list":                {400, `{"errors":[{"code":"E100"}]}`, nil, token.Refused, "E100", 0},
			"errors in an object":             {400, `{"errors":{"code":"E100"}}`, nil, token.Refused, "E100", 0},
			"errors in a response":            {400, `{"response":{"errors":[{"code":"250001"}]}}`, nil, token.Refused, "250001", 0},
			"errorcode":                       {400, `{"errorcode":"x_y"}`, nil, token.Refused, "x_y", 0},
			"elsewhere":                       {400, `{"error":"invalid_scope","fault":{"name":"quota"}}`, options{"error": []string{"fault.name"}}, token.Refused, "quota", 0},
			"a success that is none":          {200, `{"fault":"quota","access_token":"T"}`, options{"error": []string{"fault"}}, token.Refused, "quota", 0},
			"a code to retry":                 {400, `{"error":"quota"}`, options{"retry": []string{"busy", "quota"}}, token.Unavailable, "quota", 0},
			"a code that is a number":         {400, `{"error":1302}`, options{"retry": []string{"1302"}}, token.Unavailable, "1302", 0},
			"a status to retry":               {403, `{}`, options{"retry": []string{"403"}}, token.Unavailable, "", 0},
			"another status":                  {403, `{}`, options{"retry": []string{"409"}}, token.Refused, "", 0},
			"text to retry":                   {400, `{"error":"x","m":"token request already in flight"}`, options{"retry_text": "already in flight"}, token.Unavailable, "x", 0},
			"other text":                      {400, `{"error":"x","m":"no"}`, options{"retry_text": "already in flight"}, token.Refused, "x", 0},
			"when to retry":                   {429, `{"error":{"wait":7}}`, options{"retry_after": "error.wait"}, token.Unavailable, "", 7 * time.Second},
			"when to retry, but nobody asked": {429, `{"wait":7}`, nil, token.Unavailable, "", 0},
			"5xx":                             {502, `<html>`, options{"retry": []string{"x"}}, token.Unavailable, "", 0},
		} {
			t.Run(name, func(t *testing.T) {
				srv := serveHTTP(t, sendAnswer(tc.status, "application/json", tc.body))
				o := options{"token_url": srv.URL}
				if tc.response != nil {
					o["response"] = tc.response
				}
				_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, o))
				_, err := fetchOnce(t, c)
				if e := wantTokenError(t, err, tc.kind); e.Code != tc.code || e.Status != tc.status || e.RetryAfter != tc.wait {
					t.Errorf("got %+v", e)
				}
			})
		}
	})
	t.Run("a narrower scope is told", func(t *testing.T) {
		srv := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"T","expires_in":60,"scope":"read other"}`))
		_, c, log := provisionCredential(t, oauth2JSON(newClientID(), oddSecret, options{"token_url": srv.URL, "scope": []string{"read", "write"}}))
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), `"level":"warn"`) || !strings.Contains(log.String(), `without \"write\"`) || strings.Contains(log.String(), "other") {
			t.Errorf("got %s", log)
		}
	})
}

// The server's advice when to refresh is followed, and no request notices.
func TestOAuth2RefreshAdvice(t *testing.T) {
	for answer, want := range map[string]int{
		`{"access_token":"$token","expires_in":$expires_in}`:                                 1,
		`{"access_token":"$token","expires_in":$expires_in,"refresh_in":1800}`:               2,
		`{"access_token":"$token","expires_in":$expires_in,"advice":{"refresh_after":1800}}`: 2,
	} {
		synctest.Test(t, func(t *testing.T) {
			provider := &oauth2.Provider{TokenURL: "http://127.0.0.1/token"}
			if strings.Contains(answer, "advice") {
				provider.Response = &oauth2.Response{RefreshIn: "advice.refresh_after"}
			}
			endpoint := &devserver.TokenEndpoint{Dialect: devserver.OAuth2, Demands: devserver.Demands{Answer: answer}}
			s := newInProcessSource(t, provider, endpoint, token.Policy{})
			if _, failed := demand(t, s, time.Second, 35*time.Minute); failed != 0 || endpoint.Calls() != want {
				t.Errorf("%s: %d failures, %d calls, want %d", answer, failed, endpoint.Calls(), want)
			}
		})
	}
}

// A certificate is read for the connection, and the connection is made for each request.
func TestOAuth2Transport(t *testing.T) {
	s := newOAuth2Server(t, true, oddID, oddSecret, devserver.Demands{})
	authority := pemText("CERTIFICATE", s.Certificate().Raw, nil)
	for name, tc := range map[string]struct {
		transport options
		want      string // in the reason; "" for success
	}{
		"own authority":                        {options{"ca": authority}, ""},
		"the system's authority":               {nil, "not trusted"},
		"own name":                             {options{"ca": authority, "server_name": "example.com"}, ""},
		"wrong name":                           {options{"ca": authority, "server_name": "token.example"}, "for another host"},
		"proxy none":                           {options{"ca": authority, "proxy": "none"}, ""},
		"a proxy, which loopback does not use": {options{"ca": authority, "proxy": "http://127.0.0.1:1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"token_url": s.URL + "/token"}, options{"transport": tc.transport}))
			_, err := fetchOnce(t, c)
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if e := wantTokenError(t, err, token.Unavailable); !strings.Contains(e.Reason, tc.want) {
				t.Errorf("got %v", e)
			}
		})
	}
	t.Run("options", func(t *testing.T) {
		for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
			_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"token_url": s.URL}, options{"transport": options{
				"proxy": scheme + "://user:pass@proxy.example:1", "dial_timeout": "7s"}}))
			files, err := c.Transport.read()
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Transport.options(files)
			if err != nil || got.Proxy.String() != scheme+"://user:pass@proxy.example:1" || got.NoProxy || got.DialTimeout != 7*time.Second {
				t.Errorf("got %+v, %v", got, err)
			}
		}
	})
	t.Run("proxy", func(t *testing.T) {
		var asked []string
		proxy := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.RequestURI)
			w.WriteHeader(http.StatusBadGateway)
		}))
		t.Setenv("TOKEN_PROXY_TEST_PROXY", strings.Replace(proxy.URL, "://", "://user:pr0xy-canary@", 1))
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, oddSecret, options{"token_url": "https://token.example/t"}, options{"transport": options{"proxy": "{env.TOKEN_PROXY_TEST_PROXY}"}}))
		_, err := fetchOnce(t, c)
		e := wantTokenError(t, err, token.Unavailable)
		if !slices.Equal(asked, []string{"CONNECT token.example:443"}) || strings.Contains(e.Error(), "canary") {
			t.Errorf("the proxy was asked %q: %v", asked, e)
		}
	})
}

// Whoever gives an option expects it to matter, and whoever makes a mistake wants to know where. No error repeats what
// may be secret.
func TestOAuth2ConfigRefused(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_LINES", "CANARY\nCANARY")
	t.Setenv("TOKEN_PROXY_TEST_USER", "client:CANARY")
	key, another := pkcs8(signingKeyOf("P-256")), pkcs8(anotherKeyOf("P-256"))
	certificate := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	pemOf := func(kind string) string { return pemText(kind, []byte("CANARY CANARY CANARY"), nil) }
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ofKey := options{"client_auth": "private_key_jwt", "signing_key": key}
	bearer := options{"client_auth": "none", "grant": oauth.GrantJWTBearer, "signing_key": key}
	shown := options{"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}
	post := options{"client_auth": "client_secret_post"}
	response := func(o options) options { return options{"response": o} }
	unset, missing := "{env.TOKEN_PROXY_TEST_UNSET}", "{file./nonexistent/secret}"
	type refused struct {
		secret string
		o      options
		wants  []string
	}
	tests := map[string]refused{
		"no endpoint":                       {"CANARY", options{"token_url": nil}, []string{"token_url or issuer"}},
		"two endpoints":                     {"CANARY", options{"issuer": "https://login.example"}, []string{"token_url or issuer"}},
		"issuer with a query":               {"CANARY", options{"token_url": nil, "issuer": "https://login.example/?a=b"}, []string{"issuer", "query"}},
		"issuer with a user":                {"CANARY", options{"token_url": nil, "issuer": "https://client:CANARY@login.example/"}, []string{"issuer", "user name"}},
		"issuer with a user from elsewhere": {"CANARY", options{"token_url": nil, "issuer": "https://{env.TOKEN_PROXY_TEST_USER}@login.example/"}, []string{"issuer", "user name"}},
		"issuer without a scheme":           {"CANARY", options{"token_url": nil, "issuer": "login.example"}, []string{"issuer", "https://"}},
		"issuer in the clear":               {"CANARY", options{"token_url": nil, "issuer": "http://login.example"}, []string{"issuer", "allow_plaintext"}},
		"token_url in the clear":            {"CANARY", options{"token_url": "http://login.example"}, []string{"token_url", "allow_plaintext"}},
		"token_url with a secret":           {"CANARY", options{"token_url": "https://login.example/?client_secret=CANARY"}, []string{"token_url", "secret"}},
		"token_url of an unset variable":    {"CANARY", options{"token_url": unset}, []string{"token_url", "TOKEN_PROXY_TEST_UNSET"}},

		"client_auth unknown":                {"CANARY", options{"client_auth": "client_secret"}, []string{"client_auth", "unknown", "client_secret_basic"}},
		"basic_encoding unknown":             {"CANARY", options{"basic_encoding": "url"}, []string{"basic_encoding", "unknown", "raw"}},
		"basic_encoding without Basic":       {"CANARY", post.with(options{"basic_encoding": "form"}), []string{"basic_encoding", "client_secret_post"}},
		"client_id_param with Basic":         {"CANARY", options{"client_id_param": "id"}, []string{"client_id_param", "client_secret_basic"}},
		"client_secret_param with Basic":     {"CANARY", options{"client_secret_param": "secret"}, []string{"client_secret_param", "client_secret_basic"}},
		"client_secret_param without secret": {"", options{"client_auth": "none", "client_secret_param": "secret"}, []string{"client_secret_param", "none"}},
		"client_assertion_type without":      {"CANARY", options{"client_assertion_type": "urn:x"}, []string{"client_assertion_type", "client_secret_basic"}},
		"tls_client_auth in the clear":       {"", shown.with(options{"client_auth": "tls_client_auth", "token_url": "http://127.0.0.1"}), []string{"tls_client_auth", "https"}},
		"tls_client_auth in capitals":        {"", shown.with(options{"client_auth": "tls_client_auth", "token_url": "HTTP://127.0.0.1"}), []string{"tls_client_auth", "https"}},
		"self_signed_… in the clear":         {"", shown.with(options{"client_auth": "self_signed_tls_client_auth", "token_url": nil, "issuer": "http://127.0.0.1"}), []string{"self_signed_tls_client_auth", "https"}},
		"tls_client_auth without one":        {"", options{"client_auth": "tls_client_auth"}, []string{"tls_client_auth", "client_certificate", "client_certificate_key"}},
		"self_signed_… without one":          {"", options{"client_auth": "self_signed_tls_client_auth"}, []string{"self_signed_tls_client_auth", "client_certificate"}},
		"private_key_jwt without a key":      {"", options{"client_auth": "private_key_jwt"}, []string{"private_key_jwt", "signing_key", "client_assertion_file"}},
		"private_key_jwt with a secret":      {"CANARY", ofKey, []string{"client_secret", "remove"}},
		"none with a secret":                 {"CANARY", options{"client_auth": "none"}, []string{"client_secret", "remove"}},
		"Basic without a secret":             {"", nil, []string{"client_secret"}},
		"client_secret_jwt without a secret": {"", options{"client_auth": "client_secret_jwt"}, []string{"client_secret"}},
		"client_secret_jwt, 31 bytes":        {"CANARY-CANARY-CANARY-CANARY-CAN", options{"client_auth": "client_secret_jwt"}, []string{"client_secret", "too short", "HS256"}},
		"client_secret_jwt, HS512, 63 bytes": {strings.Repeat("CANARY-", 9), options{"client_auth": "client_secret_jwt", "signing_alg": "HS512"}, []string{"client_secret", "too short", "HS512"}},
		"client_secret_jwt with RS256":       {strings.Repeat("CANARY-", 9), options{"client_auth": "client_secret_jwt", "signing_alg": "RS256"}, []string{"signing_alg", "does not fit", "HS256"}},

		"key and assertion":                {"", ofKey.with(options{"client_assertion_file": secretPath(t, "CANARY")}), []string{"client_assertion_file", "signing_key"}},
		"assertion without use":            {"CANARY", options{"client_assertion_file": secretPath(t, "CANARY")}, []string{"client_assertion_file", "private_key_jwt"}},
		"assertion with a placeholder":     {"", options{"client_auth": "private_key_jwt", "client_assertion_file": inFile(secretPath(t, "CANARY"))}, []string{"client_assertion_file", "path alone"}},
		"assertion, part of a placeholder": {"", options{"client_auth": "private_key_jwt", "client_assertion_file": "/run/" + inFile(secretPath(t, "CANARY"))}, []string{"client_assertion_file", "path alone"}},
		"assertion missing":                {"", options{"client_auth": "private_key_jwt", "client_assertion_file": "/nonexistent/assertion"}, []string{"client_assertion_file", "/nonexistent/assertion"}},
		"assertion empty":                  {"", options{"client_auth": "private_key_jwt", "client_assertion_file": secretPath(t, "\n")}, []string{"client_assertion_file", "empty"}},
		"assertion of lines":               {"", options{"client_auth": "private_key_jwt", "client_assertion_file": secretPath(t, "CANARY\nCANARY")}, []string{"client_assertion_file", "line"}},
		"signing_key without use":          {"CANARY", options{"signing_key": key}, []string{"signing_key", "client_secret_basic", "grant"}},
		"signing_key_id without key":       {"CANARY", options{"signing_key_id": "1"}, []string{"signing_key_id", "signing_key"}},
		"signing_alg without key":          {"CANARY", options{"signing_alg": "RS256"}, []string{"signing_alg"}},
		"signing_alg that does not fit":    {"", ofKey.with(options{"signing_alg": "ES384"}), []string{"signing_alg", "does not fit", "ES256"}},
		"signing_alg none":                 {"", ofKey.with(options{"signing_alg": "none"}), []string{"signing_alg", "does not fit"}},
		"signing_alg of a secret":          {"", ofKey.with(options{"signing_alg": "HS256"}), []string{"signing_alg", "does not fit"}},
		"assertion_audience without":       {"CANARY", options{"assertion_audience": "a"}, []string{"assertion_audience"}},
		"assertion_audience with a file":   {"", options{"client_auth": "private_key_jwt", "client_assertion_file": secretPath(t, "CANARY"), "assertion_audience": "a"}, []string{"assertion_audience"}},
		"assertion_typ without":            {"CANARY", options{"assertion_typ": ""}, []string{"assertion_typ"}},
		"assertion_claim without":          {"CANARY", options{"assertion_claims": options{"sub": "CANARY"}}, []string{"assertion_claim", "signing_key", "client_secret_jwt"}},
		"assertion_claim without a key":    {"CANARY", options{"grant": oauth.GrantJWTBearer, "params": options{"assertion": "a"}, "assertion_claims": options{"sub": "x"}}, []string{"assertion_claim", "signing_key"}},
		"assertion_claim unset":            {"", bearer.with(options{"assertion_claims": options{"sub": unset}}), []string{"assertion_claim sub", "TOKEN_PROXY_TEST_UNSET"}},

		"certificate without key":   {"CANARY", options{"client_certificate": certificate.certificate}, []string{"client_certificate_key is missing"}},
		"key without certificate":   {"CANARY", options{"client_certificate_key": key}, []string{"client_certificate is missing"}},
		"certificate that is none":  {"CANARY", shown.with(options{"client_certificate": "CANARY"}), []string{"client_certificate:", "PEM"}},
		"certificate that is a key": {"CANARY", shown.with(options{"client_certificate": key}), []string{"client_certificate:", "PEM"}},
		"certificate's file":        {"CANARY", shown.with(options{"client_certificate": missing}), []string{"client_certificate:", "/nonexistent/secret"}},
		"certificate's variable":    {"CANARY", shown.with(options{"client_certificate": unset}), []string{"client_certificate:", "TOKEN_PROXY_TEST_UNSET"}},
		"another's key":             {"CANARY", shown.with(options{"client_certificate_key": another}), []string{"client_certificate_key", "does not belong"}},
		"key that is none":          {"CANARY", shown.with(options{"client_certificate_key": "CANARY"}), []string{"client_certificate_key:"}},
		"key that is a certificate": {"CANARY", shown.with(options{"client_certificate_key": certificate.certificate}), []string{"client_certificate_key:", "no private key"}},
		"key that is encrypted":     {"CANARY", shown.with(options{"client_certificate_key": pemOf("ENCRYPTED PRIVATE KEY")}), []string{"client_certificate_key:", "encrypted"}},
		"certificate key's file":    {"CANARY", shown.with(options{"client_certificate_key": missing}), []string{"client_certificate_key:", "/nonexistent/secret"}},
		"part of a placeholder":     {"CANARY", shown.with(options{"client_certificate_key": "{env.HOME}CANARY"}), []string{"client_certificate_key", "whole value"}},

		"encoding unknown":             {"CANARY", options{"encoding": "xml"}, []string{"encoding", "unknown", "query"}},
		"method unknown":               {"CANARY", options{"method": "PUT"}, []string{"method", "unknown", "POST"}},
		"GET and a form":               {"CANARY", options{"method": "GET"}, []string{"method", "encoding query"}},
		"GET and JSON":                 {"CANARY", options{"method": "GET", "encoding": "json"}, []string{"method", "encoding query"}},
		"json_param without JSON":      {"CANARY", options{"json_params": options{"a": 1}}, []string{"json_param", "encoding json"}},
		"scope_separator without":      {"CANARY", options{"scope_separator": ","}, []string{"scope_separator"}},
		"scope unset":                  {"CANARY", options{"scope": []string{"a", unset}}, []string{"scope", "TOKEN_PROXY_TEST_UNSET"}},
		"resource unset":               {"CANARY", options{"resource": []string{unset}}, []string{"resource", "TOKEN_PROXY_TEST_UNSET"}},
		"audience unset":               {"CANARY", options{"audience": unset}, []string{"audience", "TOKEN_PROXY_TEST_UNSET"}},
		"param without a name":         {"CANARY", options{"params": options{"": "CANARY"}}, []string{"param", "name"}},
		"param that is a secret":       {"CANARY", options{"params": options{"client_secret": "CANARY"}}, []string{"param client_secret", "client_auth"}},
		"param of a file that is gone": {"CANARY", options{"params": options{"p": missing}}, []string{"param p", "/nonexistent/secret"}},
		"param of an unset variable":   {"CANARY", options{"params": options{"p": unset}}, []string{"param p", "TOKEN_PROXY_TEST_UNSET"}},
		"param of lines":               {"CANARY", options{"params": options{"p": "{env.TOKEN_PROXY_TEST_LINES}"}}, []string{"param p", "line"}},
		"param, unknown placeholder":   {"CANARY", options{"params": options{"p": "{vault.CANARY}"}}, []string{"param p", "placeholder"}},
		"param with braces":            {"CANARY", options{"params": options{"p": "p{CANARY}ss"}}, []string{"param p", "placeholder"}},
		"param, part of it unset":      {"CANARY", options{"params": options{"p": "CANARY{env.TOKEN_PROXY_TEST_UNSET}"}}, []string{"param p", "TOKEN_PROXY_TEST_UNSET"}},
		"param and json_param":         {"CANARY", options{"encoding": "json", "params": options{"p": "CANARY"}, "json_params": options{"p": 1}}, []string{"json_param p", "param p"}},
		"json_param that is a secret":  {"CANARY", options{"encoding": "json", "json_params": options{"client_secret": "CANARY"}}, []string{"json_param client_secret", "client_auth"}},
		"json_param without a name":    {"CANARY", options{"encoding": "json", "json_params": options{"": "CANARY"}}, []string{"json_param", "name"}},
		"param that client_id is":      {"CANARY", post.with(options{"params": options{"client_id": "CANARY"}}), []string{"param client_id", "client_id is its value"}},
		"param with a name of its own": {"CANARY", post.with(options{"client_id_param": "app", "params": options{"app": "CANARY"}}), []string{"param app", "client_id"}},
		"param of the secret's name":   {"CANARY", post.with(options{"client_secret_param": "key", "params": options{"key": "CANARY"}}), []string{"param key", "client_auth"}},
		"param assertion":              {"", bearer.with(options{"params": options{"assertion": "CANARY"}}), []string{"param assertion", "signing_key"}},
		"id and secret of one name":    {"CANARY", post.with(options{"client_id_param": "x", "client_secret_param": "x"}), []string{"client_secret_param", "client_id_param"}},
		"id by the name of the grant":  {"CANARY", post.with(options{"client_id_param": "grant_type"}), []string{"client_id_param", "grant_type"}},
		"secret by that of the scope":  {"CANARY", post.with(options{"client_secret_param": "scope", "scope": []string{"a"}}), []string{"client_secret_param", "scope"}},
		"id by that of the assertion":  {"", ofKey.with(options{"client_id_param": "client_assertion"}), []string{"client_id_param", "client_assertion"}},
		"id by that of the grant's":    {"", bearer.with(options{"client_id_param": "assertion"}), []string{"client_id_param", "assertion"}},
		"header without a name":        {"CANARY", options{"headers": options{"": "CANARY"}}, []string{"header", "name"}},
		"header that is no name":       {"CANARY", options{"headers": options{"X H": "CANARY"}}, []string{"header:", "name"}},
		"header with a line break":     {"CANARY", options{"headers": options{"X-H": "CANARY\r\nX-Injected: 1"}}, []string{"header X-H", "characters"}},
		"header of lines":              {"CANARY", options{"headers": options{"X-H": "{env.TOKEN_PROXY_TEST_LINES}"}}, []string{"header X-H", "line"}},
		"header of a variable":         {"CANARY", options{"headers": options{"X-H": unset}}, []string{"header X-H", "TOKEN_PROXY_TEST_UNSET"}},
		"header of a file":             {"CANARY", options{"headers": options{"X-H": missing}}, []string{"header X-H", "/nonexistent/secret"}},
		"header, unknown placeholder":  {"CANARY", options{"headers": options{"X-H": "{vault.CANARY}"}}, []string{"header X-H", "placeholder"}},
		"header twice":                 {"CANARY", options{"headers": options{"X-H": "CANARY", "x-h": "CANARY"}}, []string{"X-H", "already"}},
		"Authorization beside Basic":   {"CANARY", options{"headers": options{"authorization": "CANARY"}}, []string{"header authorization", "client_auth", "none"}},
		"Authorization beside a JWT":   {"", ofKey.with(options{"headers": options{"Authorization": "CANARY"}}), []string{"header Authorization", "none"}},

		"token path":            {"CANARY", response(options{"token": []string{"a", "b..c"}}), []string{"response: token", "not a path"}},
		"token path empty":      {"CANARY", response(options{"token": []string{""}}), []string{"response: token"}},
		"error path":            {"CANARY", response(options{"error": []string{".a"}}), []string{"response: error", "not a path"}},
		"expires_in path":       {"CANARY", response(options{"expires_in": options{"path": "a."}}), []string{"response: expires_in", "not a path"}},
		"expires_in without":    {"CANARY", response(options{"expires_in": options{"unit": "s"}}), []string{"response: expires_in"}},
		"expires_in unit":       {"CANARY", response(options{"expires_in": options{"path": "a", "unit": "weeks"}}), []string{"response: expires_in", "unknown", "ms"}},
		"expires_in rfc3339":    {"CANARY", response(options{"expires_in": options{"path": "a", "unit": "rfc3339"}}), []string{"response: expires_in", "expires_at"}},
		"expires_at path":       {"CANARY", response(options{"expires_at": options{"path": "a..b"}}), []string{"response: expires_at", "not a path"}},
		"expires_at unit":       {"CANARY", response(options{"expires_at": options{"path": "a", "unit": "RFC3339"}}), []string{"response: expires_at", "unknown"}},
		"refresh_in path":       {"CANARY", response(options{"refresh_in": "a..b"}), []string{"response: refresh_in", "not a path"}},
		"retry_after path":      {"CANARY", response(options{"retry_after": "a..b"}), []string{"response: retry_after", "not a path"}},
		"keep path":             {"CANARY", response(options{"keep": options{"a": "b..c"}}), []string{"response: keep a", "not a path"}},
		"keep name":             {"CANARY", response(options{"keep": options{"a.b": "c"}}), []string{"response: keep", "letters"}},
		"keep without a name":   {"CANARY", response(options{"keep": options{"": "c"}}), []string{"response: keep"}},
		"default negative":      {"CANARY", response(options{"default": -1}), []string{"response: default"}},
		"response of no option": {"CANARY", response(options{"tokn": "a"}), []string{"tokn"}},
		"an unknown option":     {"CANARY", options{"client_secret": "CANARY"}, []string{"client_secret"}},
	}
	for name, content := range map[string]struct{ text, cause string }{
		"nothing":            {"\n", "empty"},
		"text":               {"CANARY", "neither a private key"},
		"JSON":               {`{"CANARY":"CANARY"}`, "neither a private key"},
		"another key file":   {`{"private_key":"CANARY"}`, "neither a private key"},
		"a broken JWK":       {`{"kty":"EC","crv":"P-256","x":"CANARY","y":"CANARY","d":"CANARY"}`, "neither a private key"},
		"a public JWK":       {jwkOf(signingKeyOf("P-256").Public(), "CANARY", ""), "no private key"},
		"a symmetric JWK":    {`{"kty":"oct","k":"Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ"}`, "cannot sign"},
		"an encrypted key":   {pemOf("ENCRYPTED PRIVATE KEY"), "encrypted"},
		"an old encrypted":   {string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("CANARY")})), "encrypted"},
		"a certificate":      {certificate.certificate, "no private key"},
		"a public key":       {publicPEM(signingKeyOf("RSA")), "no private key"},
		"a damaged key":      {pemOf("PRIVATE KEY"), "damaged"},
		"an OpenSSH key":     {pemOf("OPENSSH PRIVATE KEY"), "damaged"},
		"a small RSA key":    {pkcs8(small), "1024 bits"},
		"a key of no alg":    {pkcs8(p224), "P-256"},
		"a key that is long": {strings.Repeat("CANARY", 20_000), "64 KiB"},
	} {
		tests["signing_key is "+name] = refused{"", ofKey.with(options{"signing_key": inFile(secretPath(t, content.text))}), []string{"signing_key", content.cause}}
	}
	tests["signing_key's file"] = refused{"", ofKey.with(options{"signing_key": missing}), []string{"signing_key", "/nonexistent/secret"}}
	tests["signing_key's variable"] = refused{"", ofKey.with(options{"signing_key": unset}), []string{"signing_key", "TOKEN_PROXY_TEST_UNSET"}}
	tests["signing_key, part of a placeholder"] = refused{"", ofKey.with(options{"signing_key": "CANARY{env.HOME}"}), []string{"signing_key", "whole value"}}
	for option, name := range map[string]string{"grant_type": "grant_type", "scope": "scope", "audience": "audience", "resource": "resource"} {
		o := options{"scope": []string{"a"}, "audience": "a", "resource": []string{"a"}, "params": options{name: "CANARY"}}
		tests["param "+option+" beside its option"] = refused{"CANARY", o, []string{"param " + name, "option for it"}}
	}
	for _, name := range []string{"client_assertion", "client_assertion_type"} {
		tests["param "+name] = refused{"CANARY", options{"params": options{name: "CANARY"}}, []string{"param " + name, "client_auth"}}
	}
	for _, name := range []string{"Host", "host", "Content-Length", "Content-Type", "content-type", "Transfer-Encoding", "Connection", "Te", "Upgrade"} {
		tests["header "+name] = refused{"CANARY", options{"headers": options{name: "CANARY"}}, []string{"header " + name, "request itself"}}
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t)
			config := oauth2JSON("id", tc.secret, options{"token_url": "https://login.example/token"}.with(tc.o))
			for range 3 { // what is in maps comes in any order
				err := validateJSON(configJSON(nowhere, config, goodHandler))
				wantRefused(t, err, append(tc.wants, `"catalog"`)...)
				for _, secret := range []string{key, another, certificate.key} {
					wantNowhere(t, "a key", strings.Split(secret, "\n")[1], map[string]string{"the error": err.Error()})
				}
			}
		})
	}
	for name, tc := range map[string]struct {
		transport options
		wants     []string
	}{
		"ca that is none":       {options{"ca": "CANARY"}, []string{"ca", "PEM"}},
		"ca that is a key":      {options{"ca": key}, []string{"ca", "PEM"}},
		"ca's file":             {options{"ca": missing}, []string{"ca", "/nonexistent/secret"}},
		"ca's variable":         {options{"ca": unset}, []string{"ca", "TOKEN_PROXY_TEST_UNSET"}},
		"ca, partly":            {options{"ca": "{env.HOME}/ca.pem"}, []string{"ca", "whole value"}},
		"proxy without scheme":  {options{"proxy": "CANARY:3128"}, []string{"proxy", "URL"}},
		"proxy without host":    {options{"proxy": "http://"}, []string{"proxy", "URL"}},
		"proxy of another kind": {options{"proxy": "ftp://user:CANARY@proxy.example"}, []string{"proxy", "URL"}},
		"proxy that is no URL":  {options{"proxy": "http://user:CANARY@proxy.example:port"}, []string{"proxy", "URL"}},
		"proxy's variable":      {options{"proxy": unset}, []string{"proxy", "TOKEN_PROXY_TEST_UNSET"}},
		"proxy, partly":         {options{"proxy": "http://user:CANARY{env.HOME}@proxy.example"}, []string{"proxy", "whole value"}},
		"proxy NONE":            {options{"proxy": "NONE"}, []string{"proxy", "URL"}},
		"dial_timeout negative": {options{"dial_timeout": -1}, []string{"dial_timeout", "positive"}},
	} {
		t.Run("transport: "+name, func(t *testing.T) {
			wantSourcesBack(t)
			config := oauth2JSON("id", "CANARY", options{"token_url": "https://login.example/token"}, options{"transport": tc.transport})
			wantRefused(t, validateJSON(configJSON(nowhere, config, goodHandler)), append(tc.wants, "transport")...)
		})
	}
}

// A private key that others can read, or that stands in the configuration, gets a warning. It does not show the key.
func TestOAuth2KeyWarnings(t *testing.T) {
	certificate := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	file := secretPath(t, certificate.key)
	t.Setenv("TOKEN_PROXY_TEST_KEY", certificate.key)
	ofKey := options{"client_auth": "private_key_jwt"}
	ofCertificate := options{"client_auth": "tls_client_auth", "client_certificate": certificate.certificate}
	for name, tc := range map[string]struct {
		option string
		o      options
		value  string
		mode   os.FileMode
		want   string // in the warning
	}{
		"signing_key, mine":          {"signing_key", ofKey, inFile(file), 0o600, ""},
		"signing_key, read-only":     {"signing_key", ofKey, inFile(file), 0o400, ""},
		"signing_key, group":         {"signing_key", ofKey, inFile(file), 0o640, file},
		"signing_key, world":         {"signing_key", ofKey, inFile(file), 0o604, file},
		"signing_key, written":       {"signing_key", ofKey, inFile(file), 0o620, file},
		"signing_key, variable":      {"signing_key", ofKey, "{env.TOKEN_PROXY_TEST_KEY}", 0o644, ""},
		"signing_key, literal":       {"signing_key", ofKey, certificate.key, 0o600, "{file./path}"},
		"certificate key, mine":      {"client_certificate_key", ofCertificate, inFile(file), 0o600, ""},
		"certificate key, world":     {"client_certificate_key", ofCertificate, inFile(file), 0o644, file},
		"certificate key, literal":   {"client_certificate_key", ofCertificate, certificate.key, 0o600, "{file./path}"},
		"the certificate, literally": {"client_certificate", options{"client_auth": "tls_client_auth", "client_certificate_key": inFile(file)}, certificate.certificate, 0o600, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fileMode(t, file, tc.mode)
			config := oauth2JSON("id", "", tc.o.with(options{"token_url": "https://login.example/token", tc.option: tc.value}))
			s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
			if err := s.loadJSON([]byte(appsJSON(`"token_proxy": {"credentials": {"catalog": ` + config + `}}`))); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			warnings := warningsNaming(s, tc.option)
			if tc.want == "" && len(warnings) > 0 || tc.want != "" && (len(warnings) != 1 || !strings.Contains(s.logs(), tc.want)) {
				t.Errorf("got %q", warnings)
			}
			wantNowhere(t, "the key", strings.Split(certificate.key, "\n")[1], map[string]string{"the log": s.logs()})
		})
	}
	t.Run("a secret in the query", func(t *testing.T) {
		for auth, want := range map[string]bool{"client_secret_post": true, "client_secret_basic": false} {
			s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
			config := oauth2JSON("id", "{env.HOME}", options{"token_url": "https://login.example/token", "client_auth": auth, "encoding": "query"})
			if err := s.loadJSON([]byte(appsJSON(`"token_proxy": {"credentials": {"catalog": ` + config + `}}`))); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			if got := len(warningsNaming(s, "encoding query")) > 0; got != want {
				t.Errorf("%s: warned: %t", auth, got)
			}
		}
	})
}
