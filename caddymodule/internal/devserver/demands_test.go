package devserver

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestDemandsValidate(t *testing.T) {
	bearer := new(grantJWTBearer)
	tests := []struct {
		demands Demands
		want    string // the start of the error, or empty if the demands are valid
	}{
		{Demands{}, ""},
		{Demands{ClientAuth: "x"}, `client_auth "x"`},
		{Demands{BasicEncoding: "x"}, `basic_encoding "x"`},
		{Demands{ClientAuth: authSecretJWT, SigningAlg: "none"}, `signing_alg "none"`},
		{Demands{Method: "PUT"}, `method "PUT"`},
		{Demands{Encoding: "xml"}, `encoding "xml"`},
		{Demands{Method: "GET", Encoding: "query"}, ""},
		{Demands{Method: "GET", Encoding: "form"}, "method GET"},

		{Demands{ClientAuth: authPost, BasicEncoding: "form"}, "basic_encoding: only"},
		{Demands{ClientIDParam: new("x")}, "client_id_param: "},
		{Demands{ClientSecretParam: "x"}, "client_secret_param: only"},
		{Demands{ClientAssertion: "x"}, "client_assertion: only"},
		{Demands{ClientAssertionType: "x"}, "client_assertion_type: only"},
		{Demands{ClientAuth: authSecretJWT, ClientAssertionType: "x"}, ""},
		{Demands{ClientAuth: authTLS}, "client_auth tls_client_auth: needs client_certificate"},
		{Demands{ClientAuth: authSelfSignedTLS}, "client_auth self_signed_tls_client_auth: needs client_certificate"},

		{Demands{ClientAuth: authKeyJWT}, "client_auth private_key_jwt: needs client_key or client_assertion"},
		{Demands{ClientAuth: authKeyJWT, ClientKey: "x"}, ""},
		{Demands{ClientAuth: authKeyJWT, ClientAssertion: "x"}, ""},
		{Demands{ClientAuth: authKeyJWT, ClientAssertion: "x", ClientKey: "x"}, "client_key: "},
		{Demands{ClientAuth: authKeyJWT, ClientAssertion: "x", ClientKey: "x", Grant: bearer}, ""},
		{Demands{ClientKey: "x"}, "client_key: "},
		{Demands{Grant: bearer}, "grant jwt-bearer: needs client_key"},
		{Demands{SigningAlg: "RS256"}, "signing_alg: "},
		{Demands{ClientAuth: authKeyJWT, ClientKey: "x", SigningAlg: "HS256"}, "signing_alg HS256: "},
		{Demands{ClientAuth: authSecretJWT, SigningAlg: "RS256"}, "signing_alg RS256: "},
		{Demands{AssertionAudience: "x"}, "assertion_audience: "},
		{Demands{AssertionTyp: new("")}, "assertion_typ: "},
		{Demands{AssertionClaims: []Field{{"a", new("b")}}}, "assertion_claim: the request has no signed JWT"},
		{Demands{AssertionJSONClaims: []JSONField{{"a", []byte("1")}}}, "assertion_claim: the request has no signed JWT"},
		{Demands{ClientAuth: authSecretJWT, AssertionJSONClaims: []JSONField{{"a", []byte("{")}}}, "assertion_claim: needs a name and a value in JSON"},
		{Demands{ClientAuth: authSecretJWT, AssertionCertificate: []string{"x5t"}}, "assertion_certificate: client_key verifies no JWT"},
		{Demands{ClientAuth: authKeyJWT, ClientKey: "k", AssertionCertificate: []string{"x5u"}}, "assertion_certificate: must be"},
		{Demands{ClientAuth: authBearerJWT}, "client_auth bearer_jwt: needs client_key"},
		{Demands{ClientAuth: authBearerJWT, ClientKey: "k", ClientIDParam: new("id")}, "client_id_param: bearer_jwt sends"},
		{Demands{AnswerStatus: 302}, "answer_status: must be 200 to 299"},
		{Demands{Grant: bearer, ClientKey: "x", AssertionClaims: []Field{{"a", nil}}}, "assertion_claim: needs"},

		{Demands{Params: []Field{{"", nil}}}, "param: "},
		{Demands{Params: []Field{{"a", nil}, {"a", nil}}}, ""},
		{Demands{Encoding: "json", Params: []Field{{"a", nil}, {"a", nil}}}, "param a: "},
		{Demands{JSONParams: []JSONField{{"a", json.RawMessage("1")}}}, "json_param: needs encoding json"},
		{Demands{Encoding: "json", JSONParams: []JSONField{{"a", json.RawMessage("1")}}}, ""},
		{Demands{Encoding: "json", JSONParams: []JSONField{{"a", json.RawMessage("x")}}}, "json_param a: "},
		{Demands{Encoding: "json", JSONParams: []JSONField{{"", json.RawMessage("1")}}}, "json_param: the name"},
		{Demands{Encoding: "json", JSONParams: []JSONField{{"a", json.RawMessage("1")}, {"a", json.RawMessage("1")}}}, "json_param a: "},
		{Demands{Headers: []Field{{"", nil}}}, "header: "},

		{Demands{Answer: `{"access_token":$token}`}, "answer: "},
		{Demands{Answer: `{"access_token":"$token"`}, "answer: "},
		{Demands{Answer: `"$token"`}, ""},
		{Demands{Failure: `{"error":$code}`}, "failure: "},

		{Demands{Issuer: "as.example"}, "issuer: "},
		{Demands{DPoP: DPoP{Mode: "on"}}, `dpop "on": must be off, optional or required`},
		{Demands{DPoP: DPoP{Mode: dpopOff}}, ""},
		{Demands{DPoP: DPoP{Nonce: true}}, "dpop: nonce needs"},
		{Demands{DPoP: DPoP{Mode: dpopOff, Nonce: true}}, "dpop: nonce needs"},
		{Demands{DPoP: DPoP{Mode: dpopOptional, Nonce: true, Algs: []string{"ES256", "PS256"}}}, ""},
		{Demands{DPoP: DPoP{Algs: []string{"ES256"}}}, "dpop_algs: needs dpop"},
		{Demands{DPoP: DPoP{Mode: dpopRequired, Algs: []string{"HS256"}}}, `dpop_algs "HS256": must be some of RS256, `},
		{Demands{DPoP: DPoP{Mode: dpopRequired, Algs: []string{"none"}}}, `dpop_algs "none": must be some of RS256, `},
		{Demands{AcceptClaims: true}, ""},
		{Demands{AcceptClaims: true, Params: []Field{{"claims", nil}}}, "accept_claims: contradicts"},
		{Demands{AcceptClaims: true, Encoding: "json", JSONParams: []JSONField{{"claims", []byte("{}")}}}, "accept_claims: contradicts"},

		{Demands{TokenURL: "https://as.example/token"}, "token_endpoint: needs issuer"},
		{Demands{MTLSTokenURL: "https://as.example/token"}, "mtls_token_endpoint: needs issuer"},
		{Demands{Issuer: "https://as.example", TokenURL: "/token"}, "token_endpoint: must be a URL"},
	}
	for _, tc := range tests {
		checkError(t, oauth2Endpoint(tc.demands).Validate(), tc.want)
	}
	colon := oauth2Endpoint(Demands{BasicEncoding: basicRaw})
	colon.ClientID = "a:b"
	checkError(t, colon.Validate(), "basic_encoding raw: ")
	checkError(t, (&TokenEndpoint{Dialect: OAuth2, Wrapped: true}).Validate(), "wrapped: ")
	checkError(t, (&TokenEndpoint{Dialect: OAuth2, EnforceForm: true}).Validate(), "enforce_content_type: ")
}

func TestValidateKeys(t *testing.T) {
	text := publicPEM(t, "p256")
	_, certificate := selfSigned(t)
	for _, tc := range []struct {
		demands Demands
		want    string
	}{
		{Demands{}, ""},
		{Demands{ClientKey: text}, ""},
		{Demands{ClientKey: certificate}, ""},
		{Demands{ClientKey: text, SigningAlg: "ES256"}, ""},
		{Demands{ClientKey: text, SigningAlg: "HS256"}, ""}, // signing_alg is that of the client assertion
		{Demands{ClientKey: text, SigningAlg: "ES384"}, "signing_alg ES384: client_key fits only ES256"},
		{Demands{ClientKey: "CANARY"}, "client_key: "},
		{Demands{ClientCertificate: certificate}, ""},
		{Demands{ClientCertificate: text}, "client_certificate: "},
		{Demands{ClientCertificate: "CANARY"}, "client_certificate: "},
	} {
		err := oauth2Endpoint(tc.demands).ValidateKeys()
		checkError(t, err, tc.want)
		if err != nil && strings.Contains(err.Error(), "CANARY") {
			t.Errorf("the error repeats the text: %v", err)
		}
	}
}

// The other dialects have no demands. The error names the option.
func TestDemandsOfOtherDialects(t *testing.T) {
	plural := map[string]string{
		"params": "param", "json_params": "json_param", "headers": "header", "assertion_claims": "assertion_claim",
		"assertion_json_claims": "assertion_json_claim",
	}
	for i := range reflect.TypeFor[Demands]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[Demands]().Field(i).Tag.Get("json"), ",")
		e := TokenEndpoint{Dialect: Optoro}
		switch field := reflect.ValueOf(&e.Demands).Elem().Field(i); {
		case field.Type() == reflect.TypeFor[string]():
			field.SetString("x")
		case field.Type() == reflect.TypeFor[*string]():
			field.Set(reflect.ValueOf(new("")))
		case field.Kind() == reflect.Int:
			field.SetInt(1)
		case field.Kind() == reflect.Bool:
			field.SetBool(true)
		case field.Type() == reflect.TypeFor[DPoP]():
			field.Set(reflect.ValueOf(DPoP{Mode: dpopOff}))
		default:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		}
		if option, ok := plural[name]; ok {
			name = option
		}
		checkError(t, e.Validate(), name+": only oauth2")
	}
}
