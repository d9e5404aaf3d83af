package devserver

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// oauth2 is a token endpoint that accepts exactly the requests that its Demands describe.
type oauth2 struct {
	*Demands
	client client
	jtis   *usedJTIs
	proofs *proofs
}

func (o oauth2) check(r *http.Request, p params) (granted, *answer) {
	if wantsMetadata(r) {
		a := o.metadata(r)
		return granted{}, &a
	}
	g, why := o.judge(r, p)
	if why != nil {
		a := o.refuse(why.status, why.code)
		a.header[RefusalHeader] = why.reason
		if why.status == http.StatusMethodNotAllowed {
			a.header["Allow"] = o.method()
		}
		if _, _, basic := r.BasicAuth(); basic && why.status == http.StatusUnauthorized { // RFC 6749, section 5.2
			a.header["WWW-Authenticate"] = `Basic realm="development"`
		}
		return granted{}, &a
	}
	return g, nil
}

// judge returns what a request is granted, or why it gets no token. Each check takes its parameters. refuseRest refuses
// any others. The proof is checked last, so that the nonce is demanded of good requests only, and after the assertion of the
// client has been used.
func (o oauth2) judge(r *http.Request, p params) (g granted, why *refusal) {
	if r.Method != o.method() {
		return g, &refusal{http.StatusMethodNotAllowed, invalidRequest, "the method must be " + o.method()}
	}
	s, why := o.read(r, p)
	if why != nil {
		return g, why
	}
	for _, step := range []func(*http.Request, sent) *refusal{
		o.checkHeaders, o.checkCertificate, o.checkClient, o.checkGrant, o.checkScope, o.checkParams, o.checkJSONParams,
	} {
		if why := step(r, s); why != nil {
			return g, why
		}
	}
	g.grant = o.grant() + " " + o.Scope
	if g.claims, why = o.takeClaims(s); why != nil {
		return g, why
	}
	bound := o.takeThumbprint(s)
	if why := s.refuseRest(); why != nil {
		return g, why
	}
	g.thumbprint, why = o.checkProof(r, bound)
	return g, why
}

// takeThumbprint takes dpop_jkt, which a client may send to bind the token to the key of its proof (RFC 9449, section 10).
func (o oauth2) takeThumbprint(s sent) []string {
	if !o.DPoP.on() {
		return nil // refuseRest finds it
	}
	return s.take("dpop_jkt")
}

// checkProof returns the thumbprint that the token is bound to. It is empty for a bearer token.
func (o oauth2) checkProof(r *http.Request, bound []string) (string, *refusal) {
	if !o.DPoP.on() {
		return "", nil
	}
	thumbprint, why := o.proofs.check(&o.DPoP, r, "")
	if why == nil && len(bound) > 0 && !slices.Equal(bound, []string{thumbprint}) {
		why = refuse(invalidDPoPProof, "dpop_jkt is not the thumbprint of the proof's key")
	}
	return thumbprint, why
}

// takeClaims takes the parameter claims, if the request may have it.
func (o oauth2) takeClaims(s sent) (string, *refusal) {
	if !o.AcceptClaims {
		return "", nil // refuseRest finds it
	}
	if object, there := s.members["claims"]; there { // some servers take an object in a JSON body
		delete(s.members, "claims")
		s.texts.Set("claims", string(encode(object)))
	}
	claims, there, why := s.takeOne("claims")
	if why == nil && there && !isObject([]byte(claims)) {
		why = refuse(invalidRequest, "claims is not a JSON object")
	}
	return claims, why
}

func (o oauth2) checkHeaders(r *http.Request, _ sent) *refusal {
	names, wanted := grouped(o.Headers)
	for _, name := range names {
		if why := compare("the header field "+name, r.Header.Values(name), wanted[name]); why != nil {
			return why
		}
	}
	return nil
}

func (o oauth2) checkGrant(r *http.Request, s sent) *refusal {
	if o.grant() == "" {
		return nil // refuseRest finds a grant_type
	}
	grant, there, why := s.takeOne("grant_type")
	switch {
	case why != nil:
		return why
	case !there:
		return refuse(invalidRequest, "grant_type is missing")
	case grant != o.grant():
		return refuse(unsupportedGrantType, "grant_type is not %q", o.grant())
	case grant == grantJWTBearer:
		return o.checkGrantAssertion(r, s)
	}
	return nil
}

func (o oauth2) checkScope(_ *http.Request, s sent) *refusal {
	if o.Scope == "" {
		return nil // refuseRest finds a scope
	}
	scope, _, why := s.takeOne("scope")
	if why == nil && scope != o.Scope {
		why = refuse(invalidScope, "scope is missing or wrong")
	}
	return why
}

func (o oauth2) checkParams(_ *http.Request, s sent) *refusal {
	names, wanted := grouped(o.Params)
	for _, name := range names {
		if why := compare("the parameter "+name, s.take(name), wanted[name]); why != nil {
			return why
		}
	}
	return nil
}

func (o oauth2) checkJSONParams(_ *http.Request, s sent) *refusal {
	for _, p := range o.JSONParams {
		got, there := s.members[p.Name]
		delete(s.members, p.Name)
		var want any
		_ = json.Unmarshal(p.Value, &want) // validateFields accepts only valid JSON
		if text := s.take(p.Name); len(text) == 1 {
			got, there = text[0], true
		}
		if !there || !reflect.DeepEqual(got, want) {
			return refuse(invalidRequest, "the member %s is missing or has the wrong value", p.Name)
		}
	}
	return nil
}

// grouped returns the names in order, and the values of each name.
func grouped(fields []Field) (names []string, values map[string][]*string) {
	values = make(map[string][]*string)
	for _, f := range fields {
		if values[f.Name] == nil {
			names = append(names, f.Name)
		}
		values[f.Name] = append(values[f.Name], f.Value)
	}
	return names, values
}

// compare refuses a request whose values are not those wanted, in order. A nil in want accepts any value.
func compare(what string, got []string, want []*string) *refusal {
	if len(got) != len(want) {
		return refuse(invalidRequest, "%s occurs %d times, not %d", what, len(got), len(want))
	}
	for i, value := range want {
		if value != nil && got[i] != *value {
			return refuse(invalidRequest, "%s has the wrong value", what)
		}
	}
	return nil
}

func (oauth2) mint() string {
	return urlsafeToken()
}

func (oauth2) lifetime() time.Duration {
	return time.Hour
}

func (o oauth2) success(t Token, _ string, f Fault) []byte {
	return o.answer(t, f)
}

// header follows RFC 6749, section 5.1.
func (o oauth2) header() map[string]string {
	header := o.proofs.header(&o.DPoP)
	header["Content-Type"], header["Cache-Control"], header["Pragma"] = typeJSON, "no-store", "no-cache"
	return header
}

func (o oauth2) refuse(status int, code string) answer {
	switch {
	case code == "" && status == http.StatusUnauthorized:
		code = invalidClient
	case code == "" && status == http.StatusBadRequest:
		code = invalidRequest
	case code == "":
		return empty(status, "")
	}
	return answer{status, o.header(), o.failure(code)}
}

func wantsMetadata(r *http.Request) bool {
	return slices.ContainsFunc([]string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"},
		func(place string) bool { return strings.Contains(r.URL.Path, place) })
}

// metadata follows RFC 8414, section 2.
func (o oauth2) metadata(r *http.Request) answer {
	if o.Issuer == "" || r.Method != http.MethodGet {
		a := empty(http.StatusNotFound, "")
		a.header[RefusalHeader] = "the metadata need the option issuer and the method GET"
		return a
	}
	all := map[string]any{
		"issuer":                                o.Issuer,
		"token_endpoint":                        o.tokenURL(),
		"token_endpoint_auth_methods_supported": []string{o.clientAuth()},
		"response_types_supported":              []string{},
	}
	if o.grant() != "" {
		all["grant_types_supported"] = []string{o.grant()}
	}
	if o.SigningAlg != "" {
		all["token_endpoint_auth_signing_alg_values_supported"] = []string{o.SigningAlg}
	}
	if o.DPoP.on() {
		all["dpop_signing_alg_values_supported"] = o.DPoP.algs() // RFC 9449, section 5.1
	}
	if o.MTLSTokenURL != "" {
		all["mtls_endpoint_aliases"] = map[string]string{"token_endpoint": o.MTLSTokenURL}
	}
	return answer{http.StatusOK, map[string]string{"Content-Type": typeJSON}, encode(all)}
}
