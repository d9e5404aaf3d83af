package devserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestOAuth2Basic(t *testing.T) {
	const (
		id     = "a:b c"
		secret = "p%&+ü /~*"
	)
	tests := []struct {
		name        string
		encoding    string
		id          string // that the server expects
		credentials string // before base64
		want        string
	}{
		{"form", "", id, "a%3Ab+c:p%25%26%2B%C3%BC+%2F~%2A", ""},
		{"form by Go", "form", id, url.QueryEscape(id) + ":" + url.QueryEscape(secret), ""},
		{"form by WHATWG", "form", id, "a%3Ab+c:p%25%26%2B%C3%BC+%2F%7E*", ""},
		{"form with %20", "form", id, "a%3ab%20c:p%25%26%2b%c3%bc%20%2f~*", ""},
		{"form, raw colon", "form", id, "a:b+c:p%25%26%2B%C3%BC+%2F~*", "401 invalid_client: the client id and secret in Basic are not"},
		{"form, raw secret", "form", id, "a%3Ab+c:" + secret, "401 invalid_client: the client id and secret in Basic are not"},
		{"form, raw space", "form", id, "a%3Ab c:p%25%26%2B%C3%BC+%2F~*", "401 invalid_client: the client id and secret in Basic are not"},
		{"form, encoded twice", "form", id, url.QueryEscape(url.QueryEscape(id)) + ":p%25%26%2B%C3%BC+%2F~*", "401 invalid_client: the client id or secret"},
		{"form, wrong secret", "form", id, "a%3Ab+c:p", "401 invalid_client: the client id or secret"},
		{"raw", "raw", "b c", "b c:" + secret, ""},
		{"raw, form-encoded", "raw", "b c", "b+c:" + url.QueryEscape(secret), "401 invalid_client: the client id or secret"},
		{"raw, form-encoded secret", "raw", "b c", "b c:" + url.QueryEscape(secret), "401 invalid_client: the client id or secret"},
		{"no colon", "raw", "b c", "b c", "401 invalid_client: Authorization is not Basic"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			e := oauth2Endpoint(Demands{BasicEncoding: tc.encoding})
			e.ClientID, e.ClientSecret = tc.id, secret
			r := post("/token", formType, "grant_type=client_credentials")
			r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(tc.credentials)))
			checkJudgement(t, e, r, tc.want)
		})
	}
}

func TestOAuth2ClientAuth(t *testing.T) {
	const (
		grant       = "grant_type=client_credentials"
		withJWT     = "&client_assertion=x&client_assertion_type=" + assertionJWTBearer
		wrongMethod = "401 invalid_client: the client authenticates by "
	)
	var (
		basic   = Demands{}
		posted  = Demands{ClientAuth: authPost}
		renamed = Demands{ClientAuth: authPost, ClientIDParam: new("username"), ClientSecretParam: "password"}
		noID    = Demands{ClientAuth: authPost, ClientIDParam: new("")}
		none    = Demands{ClientAuth: authNone}
		fixed   = Demands{ClientAuth: authKeyJWT, ClientAssertion: "x"}
		typed   = Demands{ClientAuth: authKeyJWT, ClientAssertion: "x", ClientAssertionType: "y"}
		sabre   = Demands{ClientAuth: authNone, ClientIDParam: new(""), Headers: []Field{{"authorization", new("Basic eA==")}}}
		header  = http.Header{"Authorization": {"Basic ZGV2LWNsaWVudDpkZXYtc2VjcmV0"}}
	)
	tests := []struct {
		name    string
		demands Demands
		body    string
		header  http.Header
		want    string
	}{
		{"basic", basic, grant, header, ""},
		{"basic missing", basic, grant, nil, wrongMethod + "[], but client_auth client_secret_basic demands [Authorization]"},
		{"basic twice", basic, grant, http.Header{"Authorization": append(header["Authorization"], header["Authorization"]...)}, wrongMethod + "[Authorization, Authorization]"},
		{"bearer", basic, grant, http.Header{"Authorization": {"Bearer x"}}, "401 invalid_client: Authorization is not Basic"},
		{"post for basic", basic, formGood, nil, wrongMethod + "[client_secret], but client_auth client_secret_basic demands [Authorization]"},
		{"basic and post", basic, formGood, header, wrongMethod + "[Authorization, client_secret]"},
		{"basic and assertion", basic, grant + withJWT, header, wrongMethod + "[Authorization, client_assertion]"},

		{"post", posted, formGood, nil, ""},
		{"post wrong", posted, strings.Replace(formGood, "dev-secret", "x", 1), nil, "401 invalid_client: client_secret is wrong"},
		{"post wrong id", posted, strings.Replace(formGood, "dev-client", "x", 1), nil, "401 invalid_client: client_id is missing or wrong"},
		{"post without id", posted, grant + "&client_secret=dev-secret", nil, "401 invalid_client: client_id is missing or wrong"},
		{"post secret twice", posted, formGood + "&client_secret=dev-secret", nil, "400 invalid_request: client_secret is repeated"},
		{"post id twice", posted, formGood + "&client_id=dev-client", nil, "400 invalid_request: client_id is repeated"},
		{"basic for post", posted, grant, header, wrongMethod + "[Authorization], but client_auth client_secret_post demands [client_secret]"},
		{"post and basic", posted, formGood, header, wrongMethod + "[Authorization, client_secret], but client_auth client_secret_post demands [client_secret]"},
		{"renamed", renamed, grant + "&username=dev-client&password=dev-secret", nil, ""},
		{"not renamed", renamed, formGood, nil, wrongMethod + "[], but client_auth client_secret_post demands [password]"},
		{"without id", noID, grant + "&client_secret=dev-secret", nil, ""},
		{"surplus id", noID, formGood, nil, "400 invalid_request: the parameter client_id is not described"},

		{"none", none, grant + "&client_id=dev-client", nil, ""},
		{"none without id", none, grant, nil, "401 invalid_client: client_id is missing or wrong"},
		{"none with secret", none, formGood, nil, wrongMethod + "[client_secret], but client_auth none demands []"},
		{"none with basic", none, grant + "&client_id=dev-client", header, wrongMethod + "[Authorization], but client_auth none demands []"},
		{"described Authorization", sabre, grant, http.Header{"Authorization": {"Basic eA=="}}, ""},
		{"described Authorization wrong", sabre, grant, header, "400 invalid_request: the header field authorization has the wrong"},

		{"assertion", fixed, grant + withJWT, nil, ""},
		{"assertion with id", fixed, grant + withJWT + "&client_id=dev-client", nil, ""},
		{"assertion with other id", fixed, grant + withJWT + "&client_id=x", nil, "401 invalid_client: client_id is missing or wrong"},
		{"assertion other", fixed, grant + strings.Replace(withJWT, "=x", "=z", 1), nil, "401 invalid_client: client_assertion: is missing or wrong"},
		{"assertion type missing", fixed, grant + "&client_assertion=x", nil, "401 invalid_client: client_assertion_type"},
		{"assertion missing", fixed, grant + "&client_assertion_type=" + assertionJWTBearer, nil, "401 invalid_client: client_assertion: is missing or wrong"},
		{"assertion twice", fixed, grant + withJWT + "&client_assertion=x", nil, "400 invalid_request: client_assertion is repeated"},
		{"assertion and secret", fixed, formGood + withJWT, nil, wrongMethod + "[client_secret, client_assertion]"},
		{"own type", typed, grant + "&client_assertion=x&client_assertion_type=y", nil, ""},
		{"not own type", typed, grant + withJWT, nil, "401 invalid_client: client_assertion_type"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := post("/token", formType, tc.body)
			for name, values := range tc.header {
				r.Header[name] = values
			}
			checkJudgement(t, oauth2Endpoint(tc.demands), r, tc.want)
		})
	}
}

// selfSigned returns a client certificate, and its PEM text.
func selfSigned(t *testing.T) (certificate tls.Certificate, text string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text
}

func TestOAuth2Certificate(t *testing.T) {
	certificate, text := selfSigned(t)
	other, _ := selfSigned(t)
	for _, method := range []string{authTLS, authSelfSignedTLS} {
		e := oauth2Endpoint(Demands{ClientAuth: method, ClientCertificate: text})
		if err := e.ValidateKeys(); err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(e)
		srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		ask := func(body string, certificates ...tls.Certificate) (int, string) {
			transport := srv.Client().Transport.(*http.Transport).Clone()
			transport.TLSClientConfig.Certificates = certificates
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Post(srv.URL+"/token", formType, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			return resp.StatusCode, resp.Header.Get(RefusalHeader)
		}
		const good = "grant_type=client_credentials&client_id=dev-client"
		if status, why := ask(good, certificate); status != 200 {
			t.Errorf("%s: got %d, %s", method, status, why)
		}
		if status, why := ask(good, other); status != 401 || !strings.Contains(why, "wrong client certificate") {
			t.Errorf("%s, wrong certificate: got %d, %s", method, status, why)
		}
		if status, why := ask(good); status != 401 || !strings.Contains(why, "no client certificate") {
			t.Errorf("%s, no certificate: got %d, %s", method, status, why)
		}
		wrongID := strings.Replace(good, "dev-client", "x", 1)
		if status, why := ask(wrongID, certificate); status != 401 || !strings.Contains(why, "client_id") {
			t.Errorf("%s, wrong id: got %d, %s", method, status, why)
		}
		if status, why := ask(formGood, certificate); status != 401 || !strings.Contains(why, "client_secret") {
			t.Errorf("%s, and a secret: got %d, %s", method, status, why)
		}
		checkJudgement(t, e, post("/token", formType, good), "401 invalid_client: the connection has no client certificate")
	}
}
