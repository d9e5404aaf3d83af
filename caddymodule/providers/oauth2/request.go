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
	params  map[string]requestValue
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
		params:  make(map[string]requestValue),
		headers: make(map[string]requestValue),
	}
	if err := o.checkClientParams(t.fixed.Params); err != nil {
		return err
	}
	for name, value := range o.Params {
		if err := o.checkParam(name, t.fixed.Params); err != nil {
			return fmt.Errorf("param %s: %w", name, err)
		}
		var err error
		if t.params[name], err = newRequestValue(string(value)); err != nil {
			return fmt.Errorf("param %s: %w", name, err)
		}
	}
	for name := range o.JSONParams {
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
	if oauth.Encoding(o.Encoding) == oauth.Query && o.auth.Method == oauth.ClientSecretPost {
		o.logger.Warn("encoding query puts the client secret into the URL, which servers and proxies log")
	}
	return nil
}

// standardParams returns the parameters that have options of their own, except those without a value.
func (o *Provider) standardParams() url.Values {
	params := make(url.Values)
	for name, value := range map[string]string{
		"grant_type": o.grant(),
		"scope":      strings.Join(o.Scope, cmp.Or(o.ScopeSeparator, " ")),
		"audience":   o.Audience,
	} {
		if value != "" {
			params.Set(name, value)
		}
	}
	if len(o.Resource) > 0 {
		params["resource"] = o.Resource
	}
	return params
}

// checkClientParams returns an error if the parameter for the client id or for the secret has the name of another parameter.
func (o *Provider) checkClientParams(standard url.Values) error {
	taken := func(name string) bool {
		return standard.Has(name) ||
			usesAssertion(o.auth.Method) && slices.Contains([]string{"client_assertion", "client_assertion_type"}, name) ||
			o.assertions.grant && name == "assertion"
	}
	switch post := o.auth.Method == oauth.ClientSecretPost; {
	case o.auth.Method != oauth.ClientSecretBasic && taken(o.auth.IDParam):
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
	case standard.Has(name):
		return errors.New("the request already has this parameter; use the option for it")
	case slices.Contains([]string{"client_secret", "client_assertion", "client_assertion_type", o.auth.SecretParam}, name):
		return errors.New("use client_auth to set how the client authenticates")
	case name == o.auth.IDParam && o.auth.Method != oauth.ClientSecretBasic:
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
	}
	return nil
}

// fill returns a token request with the secrets.
func (t requestTemplate) fill(secrets provider.Secrets) oauth.TokenRequest {
	r := t.fixed
	r.Params = maps.Clone(t.fixed.Params)
	r.Header = make(http.Header, len(t.headers)+1)
	for name, value := range t.params {
		r.Params.Set(name, value.in(secrets, "param "+name))
	}
	for name, value := range t.headers {
		r.Header.Set(name, value.in(secrets, "header "+name))
	}
	return r
}

// read reads the values that come from files and variables into the secrets.
func (t requestTemplate) read(into provider.Secrets) error {
	for _, values := range []struct {
		of     string
		values map[string]requestValue
	}{{"param ", t.params}, {"header ", t.headers}} {
		for name, value := range values.values {
			if err := value.read(into, values.of+name); err != nil {
				return fmt.Errorf("%s%s: %w", values.of, name, err)
			}
		}
	}
	return nil
}
