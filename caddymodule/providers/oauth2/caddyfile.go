package oauth2

import (
	"encoding/json"
	"net/http"
	"net/textproto"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// UnmarshalCaddyfile sets up the provider from Caddyfile tokens. Syntax:
//
//	provider oauth2 {
//	    token_url <url>
//	    issuer    <url>
//
//	    client_auth            client_secret_basic|client_secret_post|client_secret_jwt|private_key_jwt|tls_client_auth|self_signed_tls_client_auth|bearer_jwt|none|auto
//	    basic_encoding         form|raw
//	    client_id_param        <name>|""
//	    client_secret_param    <name>
//	    signing_key            {file./path}|{env.NAME}
//	    signing_key_id         <kid>
//	    signing_alg            <alg>
//	    assertion_audience     <audience>
//	    assertion_typ          <typ>|""
//	    assertion_certificate  x5t#S256|x5t|x5c...
//	    assertion_claim        <name> <value>|"" [json]
//	    client_assertion_file  <path>
//	    client_assertion_type  <type>
//	    client_certificate     {file./path}|{env.NAME}
//	    client_certificate_key {file./path}|{env.NAME}
//	    dpop                   on|optional
//	    dpop_key               {file./path}|{env.NAME}
//	    dpop_alg               <alg>
//
//	    grant           <grant>|""
//	    scope           <scopes...>
//	    scope_separator <text>
//	    audience        <audience>
//	    resource        <uris...>
//	    param           <name> <value>|{env.NAME}|{file./path}|{uuid}
//	    json_param      <name> <json>
//	    header          <name> <value>|{env.NAME}|{file./path}|{uuid}
//	    method          POST|GET
//	    encoding        form|json|query
//
//	    response {
//	        token       <paths...>
//	        token_type  <types...>|any
//	        expires_in  <path> [s|ms|min|h]
//	        expires_at  <path> [s|ms|rfc3339]
//	        refresh_in  <path>
//	        default     <duration>
//	        keep        <name> <path>
//	        error       <paths...>
//	        retry       <error codes and statuses...>
//	        retry_text  <text>
//	        retry_after <path>
//	    }
//	}
//
// The options assertion_claim, json_param, header and keep are repeatable with different names. The options param and audience
// are repeatable. The request has a parameter once for each value.
func (o *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the provider's name
	if d.NextArg() {
		return d.Err("provider oauth2 takes no value on its line, only options in its block")
	}
	seen, err := option.Block(d, o.unmarshalOption, "assertion_claim", "audience", "param", "header", "json_param")
	if err != nil {
		return err
	}
	if seen["token_url"] == seen["issuer"] {
		return d.Err("provider oauth2 needs either token_url or issuer")
	}
	return nil
}

// unmarshalParam adds a value to a parameter, which the request has once for each value.
func (o *Provider) unmarshalParam(d *caddyfile.Dispenser) error {
	var parsed map[string]option.Source
	if err := unmarshalNamed(d, &parsed, parseRequestValue); err != nil {
		return err
	}
	if o.Params == nil {
		o.Params = make(map[string]Values[option.Source])
	}
	for name, value := range parsed {
		o.Params[name] = append(o.Params[name], value)
	}
	return nil
}

func (o *Provider) unmarshalHeader(d *caddyfile.Dispenser) error {
	if err := unmarshalNamed(d, &o.Headers, parseRequestValue); err != nil {
		return err
	}
	spellings := make(map[string]string)
	for name := range o.Headers {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if _, ok := spellings[canonical]; ok {
			return d.Errf("header %s is already specified, in another spelling", canonical)
		}
		spellings[canonical] = name
	}
	return nil
}

// parseAny accepts every value.
func parseAny(value string) (string, error) { return value, nil }

func parseRequestValue(value string) (option.Source, error) {
	if option.WholePlaceholder.MatchString(value) {
		_, err := option.NewReader(value)
		return option.Source(value), err
	}
	return option.Source(value), nil
}

// unmarshalNamed parses a name and a value into a map that does not have the name yet. Its errors do not quote the value.
func unmarshalNamed[V any](d *caddyfile.Dispenser, into *map[string]V, parse func(string) (V, error)) error {
	of := d.Val()
	name, text, err := option.Named(d)
	if err != nil {
		return err
	}
	if _, ok := (*into)[name]; ok {
		return d.Errf("%s %s is already specified", of, name)
	}
	value, err := parse(text)
	if err != nil {
		return d.Errf("%s %s: the value is not valid", of, name)
	}
	if *into == nil {
		*into = make(map[string]V)
	}
	(*into)[name] = value
	return nil
}

func (o *Provider) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "token_url":
		return option.Checked(d, &o.TokenURL, oauth.CheckEndpoint)
	case "issuer":
		return option.Checked(d, &o.Issuer, oauth.CheckEndpoint)
	case "client_auth":
		return option.Choice(d, &o.ClientAuth, clientAuthMethods...)
	case "basic_encoding":
		return option.Choice(d, &o.BasicEncoding, basicForm, basicRaw)
	case "client_id_param":
		return unmarshalOptional(d, &o.ClientIDParam)
	case "client_secret_param":
		return option.String(d, &o.ClientSecretParam)
	case "signing_key":
		return option.Secret(d, (*string)(&o.SigningKey))
	case "signing_key_id":
		return option.String(d, &o.SigningKeyID)
	case "signing_alg":
		return option.String(d, &o.SigningAlg)
	case "assertion_audience":
		return option.String(d, &o.AssertionAudience)
	case "assertion_typ":
		return unmarshalOptional(d, &o.AssertionTyp)
	case "assertion_claim":
		return o.unmarshalClaim(d)
	case "assertion_certificate":
		if err := unmarshalList(d, &o.AssertionCertificate); err != nil {
			return err
		}
		if err := checkCertificateFields(o.AssertionCertificate); err != nil {
			return d.Errf("assertion_certificate: %v", err)
		}
		return nil
	case "client_assertion_file":
		return option.String(d, &o.ClientAssertionFile)
	case "client_assertion_type":
		return option.String(d, &o.ClientAssertionType)
	case "client_certificate":
		return option.Secret(d, (*string)(&o.ClientCertificate))
	case "client_certificate_key":
		return option.Secret(d, (*string)(&o.ClientCertificateKey))
	case "dpop":
		return option.Choice(d, &o.DPoP, dpopOn, dpopOptional)
	case "dpop_key":
		return option.Secret(d, (*string)(&o.DPoPKey))
	case "dpop_alg":
		return option.String(d, &o.DPoPAlg)
	default:
		return o.unmarshalRequestOption(d)
	}
}

func (o *Provider) unmarshalRequestOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "grant":
		return unmarshalOptional(d, &o.Grant)
	case "scope":
		return unmarshalList(d, &o.Scope)
	case "scope_separator":
		return option.String(d, &o.ScopeSeparator)
	case "audience":
		var audience string
		err := option.String(d, &audience)
		o.Audience = append(o.Audience, audience)
		return err
	case "resource":
		return unmarshalList(d, &o.Resource)
	case "param":
		return o.unmarshalParam(d)
	case "json_param":
		return unmarshalNamed(d, &o.JSONParams, parseJSONValue)
	case "header":
		return o.unmarshalHeader(d)
	case "method":
		return option.Choice(d, &o.Method, http.MethodPost, http.MethodGet)
	case "encoding":
		return option.Choice(d, &o.Encoding, string(oauth.Form), string(oauth.JSON), string(oauth.Query))
	case "response":
		if err := option.NoValue(d); err != nil {
			return err
		}
		o.Response = new(Response)
		_, err := option.Block(d, o.Response.unmarshalOption, "keep")
		return err
	default:
		return option.Unrecognized(d, option.OfOAuth2)
	}
}

func (r *Response) unmarshalOption(d *caddyfile.Dispenser) error {
	if err := r.unmarshalValue(d); err != nil {
		return err
	}
	if err := r.check(); err != nil { // check here, so that the error has the line
		return d.Errf("response: %v", err)
	}
	return nil
}

func (r *Response) unmarshalValue(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "keep":
		return unmarshalNamed(d, &r.Keep, parseAny)
	case "token":
		return unmarshalList(d, &r.Token)
	case "token_type":
		return unmarshalList(d, &r.TokenType)
	case "expires_in":
		return unmarshalTimeField(d, &r.ExpiresIn)
	case "expires_at":
		return unmarshalTimeField(d, &r.ExpiresAt)
	case "refresh_in":
		return option.String(d, &r.RefreshIn)
	case "default":
		return option.Duration(d, &r.Default)
	case "error":
		return unmarshalList(d, &r.Error)
	case "retry":
		return unmarshalList(d, &r.Retry)
	case "retry_text":
		return option.String(d, &r.RetryText)
	case "retry_after":
		return option.String(d, &r.RetryAfter)
	default:
		return option.Unrecognized(d, option.OfResponse)
	}
}

func unmarshalTimeField(d *caddyfile.Dispenser, into **TimeField) error {
	option := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 || slices.Contains(args, "") {
		return d.Errf("%s takes a path and optionally a unit", option)
	}
	*into = &TimeField{Path: args[0]}
	if len(args) == 2 {
		(*into).Unit = args[1]
	}
	return nil
}

// unmarshalOptional parses an option that takes exactly one value. An empty value has a meaning of its own.
func unmarshalOptional(d *caddyfile.Dispenser, into **string) error {
	var value string
	err := option.Value(d, &value)
	*into = &value
	return err
}

// unmarshalList parses an option that takes one or more values.
func unmarshalList(d *caddyfile.Dispenser, into *[]string) error {
	name := d.Val()
	values, err := option.Values(d)
	if err == nil && slices.Contains(values, "") {
		err = d.Errf("%s: a value is empty", name)
	}
	*into = values
	return err
}

// unmarshalClaim parses the name and the value of a claim. The value is text unless the word json follows it.
func (o *Provider) unmarshalClaim(d *caddyfile.Dispenser) error {
	args, err := option.Values(d)
	if err != nil {
		return err
	}
	isJSON := len(args) == 3 && args[2] == "json"
	if len(args) != 2 && !isJSON || args[0] == "" {
		return d.Err("assertion_claim takes a name and a value, and the word json after a value in JSON; quote a value with spaces")
	}
	name, text := args[0], args[1]
	if _, ok := o.AssertionClaims[name]; ok {
		return d.Errf("assertion_claim %s is already specified", name)
	}
	value, err := json.Marshal(text)
	if isJSON {
		value, err = parseJSONValue(text)
	}
	if err != nil {
		return d.Errf("assertion_claim %s: the value is not JSON, or has an integer beyond 2^53", name)
	}
	if o.AssertionClaims == nil {
		o.AssertionClaims = make(map[string]json.RawMessage)
	}
	o.AssertionClaims[name] = value
	return nil
}
