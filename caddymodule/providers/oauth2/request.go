package oauth2

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// requestTemplate is a token request without the values that each request reads or makes again.
type requestTemplate struct {
	fixed   oauth.TokenRequest
	params  map[string][]requestValue
	headers map[string]requestValue
}

// placeholderUUID is the value that stands for a new UUID in each token request.
const placeholderUUID = "{uuid}"

// requestValue is the value of a parameter or a header field. It is constant, a new UUID for each request, or read again for
// each request.
type requestValue struct {
	text   string         // the constant value
	hidden bool           // text contains the content of a file or a variable, so it is secret
	uuid   bool           // the value is a new UUID
	secret *option.Reader // reads the value; nil for the other kinds
}

func newRequestValue(configured string) (requestValue, error) {
	if configured == placeholderUUID {
		return requestValue{uuid: true}, nil
	}
	if option.WholePlaceholder.MatchString(configured) {
		secret, err := option.NewReader(configured)
		return requestValue{secret: &secret}, err
	}
	if configured == "" {
		return requestValue{}, nil
	}
	text, err := option.ReplaceGlobals(configured)
	if err != nil {
		return requestValue{}, err
	}
	return requestValue{text: text, hidden: option.PartPlaceholder.MatchString(configured)}, nil
}

// warnOfValue logs a warning if the value comes from a file that users other than the owner can change.
func (o *Provider) warnOfValue(name string, v requestValue) {
	if v.secret != nil {
		option.WarnOfFile(o.logger, name, *v.secret)
	}
}

// read adds the value to the secrets if it comes from a file or a variable.
func (v requestValue) read(into provider.Secrets, name string) (err error) {
	switch {
	case v.secret != nil:
		into[name], err = v.secret.Read()
	case v.hidden:
		into[name] = provider.NewSecret(v.text)
	}
	return err
}

// in returns the value for one request. It takes a value that was read from the secrets.
func (v requestValue) in(secrets provider.Secrets, name string) string {
	switch {
	case v.uuid:
		return uuid.NewString()
	case v.secret != nil:
		return secrets[name].Reveal()
	default:
		return v.text
	}
}

func (o *Provider) provisionRequest() error {
	if err := o.checkEncoding(); err != nil {
		return err
	}
	t := requestTemplate{
		fixed: oauth.TokenRequest{
			Method:     o.Method,
			Encoding:   oauth.Encoding(o.Encoding),
			Params:     o.standardParams(),
			JSONParams: o.JSONParams,
		},
		params:  make(map[string][]requestValue),
		headers: make(map[string]requestValue),
	}
	for _, check := range []func(url.Values) error{o.checkScope, o.checkClientParams, o.checkQuery, o.checkGrant} {
		if err := check(t.fixed.Params); err != nil {
			return err
		}
	}
	for name, values := range o.Params {
		if err := o.checkParam(name, t.fixed.Params); err != nil {
			return fmt.Errorf("param %s: %w", name, err)
		}
		if len(values) == 0 {
			return fmt.Errorf("param %s: the value is missing", name)
		}
		for _, value := range values {
			parsed, err := newRequestValue(string(value))
			if err != nil {
				return fmt.Errorf("param %s: %w", name, err)
			}
			t.params[name] = append(t.params[name], parsed)
			o.warnOfValue("param "+name, parsed)
		}
	}
	for name, value := range o.JSONParams {
		if option.LooksLikePlaceholder(string(value)) {
			return fmt.Errorf("json_param %s: the proxy would send the placeholder as text; use param, whose value can be a placeholder", name)
		}
		if _, ok := o.Params[name]; ok {
			return fmt.Errorf("json_param %s: param %s is also set", name, name)
		}
		if err := o.checkParam(name, t.fixed.Params); err != nil {
			return fmt.Errorf("json_param %s: %w", name, err)
		}
	}
	for name, value := range o.Headers {
		if !httpguts.ValidHeaderFieldName(name) { // the error does not quote the name, which may be a whole field with its value
			return errors.New("header: a name is not the name of a header field")
		}
		if err := o.checkHeader(name); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		parsed, err := newRequestValue(string(value))
		if err == nil && !httpguts.ValidHeaderFieldValue(parsed.text) {
			err = errors.New("the value has characters that a header field cannot carry")
		}
		if err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if _, ok := t.headers[canonical]; ok {
			return fmt.Errorf("header %s is already set in another spelling", canonical)
		}
		t.headers[canonical] = parsed
		o.warnOfValue("header "+canonical, parsed)
	}
	o.request = t
	return nil
}

func (o *Provider) checkEncoding() error {
	switch {
	case !slices.Contains([]oauth.Encoding{"", oauth.Form, oauth.JSON, oauth.Query}, oauth.Encoding(o.Encoding)):
		return fmt.Errorf("encoding: unknown value, must be %s, %s or %s", oauth.Form, oauth.JSON, oauth.Query)
	case !slices.Contains([]string{"", http.MethodPost, http.MethodGet}, o.Method):
		return errors.New("method: unknown value, must be POST or GET")
	case o.Method == http.MethodGet && oauth.Encoding(o.Encoding) != oauth.Query:
		return errors.New("method: GET needs encoding query")
	case len(o.JSONParams) > 0 && oauth.Encoding(o.Encoding) != oauth.JSON:
		return errors.New("json_param: needs encoding json")
	case o.ScopeSeparator != "" && len(o.Scope) == 0:
		return errors.New("scope_separator: needs scope")
	}
	if oauth.Encoding(o.Encoding) == oauth.Query && o.mayUse(oauth.ClientSecretPost) {
		o.logger.Warn("encoding query puts the client secret into the URL, which servers and proxies log")
	}
	return nil
}

// standardParams returns the parameters that have options of their own, except those without a value.
func (o *Provider) standardParams() url.Values {
	params := make(url.Values)
	grant := o.grant()
	if o.Grant == nil && o.query.Has("grant_type") && grant != "client_credentials" {
		grant = "" // the URL has it, and a parameter must not occur twice (RFC 6749 section 3.2)
	}
	for name, value := range map[string]string{
		"grant_type": grant,
		"scope":      strings.Join(o.Scope, cmp.Or(o.ScopeSeparator, " ")),
	} {
		if value != "" {
			params.Set(name, value)
		}
	}
	audience := slices.DeleteFunc(slices.Clone(o.Audience), func(value string) bool { return value == "" })
	for name, values := range map[string][]string{"audience": audience, "resource": o.Resource} {
		if len(values) > 0 {
			params[name] = values
		}
	}
	return params
}

// checkScope returns an error for characters that a scope cannot have (RFC 6749 section 3.3). A value may contain several
// scopes. The separator is that of the vendor.
func (o *Provider) checkScope(url.Values) error {
	for _, scope := range o.Scope {
		if strings.TrimSpace(scope) == "" {
			return errors.New("scope: it is blank")
		}
		if strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			return errors.New(`scope: a scope consists of visible ASCII characters without " and \`)
		}
	}
	return nil
}

// checkQuery returns an error if the query of the token URL has a parameter with another value than the request. A parameter
// must not occur twice (RFC 6749 section 3.2).
func (o *Provider) checkQuery(standard url.Values) error {
	for _, name := range []string{"grant_type", "scope", "audience", "resource"} {
		if standard.Has(name) && o.query.Has(name) && !slices.Equal(standard[name], o.query[name]) {
			return fmt.Errorf("%s: token_url also has the parameter %s, with another value", strings.TrimSuffix(name, "_type"), name)
		}
	}
	for name := range o.Params {
		if o.query.Has(name) && oauth.Encoding(o.Encoding) == oauth.Query { // the request would have only one of the two
			return fmt.Errorf("param %s: token_url also has this parameter", name)
		}
	}
	return nil
}

// grantParams are the parameters that a grant consists of, by grant type (RFC 7523 section 2.1, RFC 7522 section 2.1, RFC 6749
// section 6).
var grantParams = map[string]string{
	oauth.GrantJWTBearer:                            "assertion",
	"urn:ietf:params:oauth:grant-type:saml2-bearer": "assertion",
	"refresh_token":                                 "refresh_token",
}

// checkGrant returns an error if the request does not have the grant itself.
func (o *Provider) checkGrant(url.Values) error {
	name, ok := grantParams[o.grant()]
	_, isParam := o.Params[name]
	_, isJSON := o.JSONParams[name]
	switch {
	case !ok, isParam, isJSON, o.assertions.grant:
		return nil
	case o.grant() == oauth.GrantJWTBearer:
		return errors.New("grant: this grant needs an assertion; set signing_key, or param assertion {file./path}")
	default:
		return fmt.Errorf("grant: this grant needs param %s {file./path}", name)
	}
}

// checkClientParams returns an error if the parameter for the client id or for the secret has the name of another parameter.
func (o *Provider) checkClientParams(standard url.Values) error {
	taken := func(name string) bool {
		return standard.Has(name) ||
			o.mayUseAssertion() && slices.Contains([]string{"client_assertion", "client_assertion_type"}, name) ||
			o.assertions.grant && name == "assertion"
	}
	switch post := o.mayUse(oauth.ClientSecretPost); {
	case o.mayUseIDParam() && taken(o.auth.IDParam):
		return fmt.Errorf("client_id_param: the request already has a parameter %s", o.auth.IDParam)
	case post && taken(o.auth.SecretParam):
		return fmt.Errorf("client_secret_param: the request already has a parameter %s", o.auth.SecretParam)
	case post && o.auth.SecretParam == o.auth.IDParam:
		return errors.New("client_secret_param: must differ from client_id_param")
	}
	return nil
}

// checkParam returns an error for a parameter that the request already has, or that would be a second proof of the client.
func (o *Provider) checkParam(name string, standard url.Values) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case option.LooksLikePlaceholder(name):
		return errors.New("the name cannot contain a placeholder")
	case standard.Has(name):
		return errors.New("the request already has this parameter; use the option for it")
	case slices.Contains([]string{"client_secret", "client_assertion", "client_assertion_type", o.auth.SecretParam}, name):
		return errors.New("use client_auth to set how the client authenticates")
	case name == o.auth.IDParam && o.mayUseIDParam():
		return errors.New("the request already has this parameter, and client_id is its value")
	case name == "assertion" && o.assertions.grant:
		return errors.New("the request already has this parameter, which signing_key signs")
	}
	return nil
}

func (o *Provider) checkHeader(name string) error {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	switch {
	case oauth.ReservedHeaders[canonical] || canonical == "Content-Type":
		return errors.New("this field is reserved for the request itself")
	case canonical == "Authorization" && o.auth.Method != oauth.NoClientAuth:
		return fmt.Errorf("needs client_auth %s, because a request must not authenticate in two ways", oauth.NoClientAuth)
	case canonical == "Dpop" && o.DPoP != "":
		return errors.New("remove it, because dpop adds a new proof to each token request")
	}
	return nil
}

// fill returns a token request with the secrets.
func (t requestTemplate) fill(secrets provider.Secrets) oauth.TokenRequest {
	r := t.fixed
	r.Params = maps.Clone(t.fixed.Params)
	r.Header = make(http.Header, len(t.headers)+1)
	for name, values := range t.params {
		for i, value := range values {
			r.Params.Add(name, value.in(secrets, paramSecret(name, i)))
		}
	}
	for name, value := range t.headers {
		r.Header.Set(name, value.in(secrets, "header "+name))
	}
	return r
}

// paramSecret returns the name of a parameter's value among the secrets.
func paramSecret(name string, i int) string { return fmt.Sprintf("param %s %d", name, i) }

// read reads the values that come from files and variables into the secrets.
func (t requestTemplate) read(into provider.Secrets) error {
	for name, values := range t.params {
		for i, value := range values {
			if err := value.read(into, paramSecret(name, i)); err != nil {
				return fmt.Errorf("param %s: %w", name, err)
			}
		}
	}
	for name, value := range t.headers {
		if err := value.read(into, "header "+name); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	return nil
}
