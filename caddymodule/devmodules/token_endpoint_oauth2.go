package devmodules

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// devOAuth2Options are the targets for devOptions of what the dialect oauth2 has alone. Syntax:
//
//	client_auth           client_secret_basic|client_secret_post|client_secret_jwt|private_key_jwt|tls_client_auth|self_signed_tls_client_auth|none
//	basic_encoding        form|raw
//	client_id_param       <name>               # "" for none
//	client_secret_param   <name>
//	client_key            <PEM or JWK>|{file./path}
//	signing_alg           <algorithm>
//	assertion_audience    <text>
//	assertion_typ         <text>               # "" for none
//	assertion_claim       <name> <value>       # repeatable; "" for a claim that must be absent
//	client_assertion      <text>|{file./path}
//	client_assertion_type <text>
//	client_certificate    <PEM>|{file./path}
//	method                POST|GET
//	encoding              form|json|query
//	grant                 <name>               # "" for none
//	scope                 <scopes in quotes>
//	param                 <name> [<value>]     # repeatable
//	json_param            <name> <json>        # repeatable; JSON in backticks
//	header                <name> [<value>]     # repeatable
//	answer                <json>               # in backticks, with $token, $expires_in and others
//	failure               <json>               # in backticks, with $code
//	issuer                <url>
//	token_endpoint        <url>
//	mtls_token_endpoint   <url>
func devOAuth2Options(d *caddyfile.Dispenser, o *devserver.Demands) map[string]any {
	return map[string]any{
		"client_auth":           &o.ClientAuth,
		"basic_encoding":        &o.BasicEncoding,
		"client_id_param":       func() bool { return textArg(d, &o.ClientIDParam) },
		"client_secret_param":   &o.ClientSecretParam,
		"client_key":            &o.ClientKey,
		"signing_alg":           &o.SigningAlg,
		"assertion_audience":    &o.AssertionAudience,
		"assertion_typ":         func() bool { return textArg(d, &o.AssertionTyp) },
		"assertion_claim":       repeatable(func() bool { return fieldArgs(d, &o.AssertionClaims) }),
		"client_assertion":      &o.ClientAssertion,
		"client_assertion_type": &o.ClientAssertionType,
		"client_certificate":    &o.ClientCertificate,
		"method":                &o.Method,
		"encoding":              &o.Encoding,
		"grant":                 func() bool { return textArg(d, &o.Grant) },
		"scope":                 &o.Scope,
		"param":                 repeatable(func() bool { return fieldArgs(d, &o.Params) }),
		"json_param":            repeatable(func() bool { return jsonFieldArgs(d, &o.JSONParams) }),
		"header":                repeatable(func() bool { return fieldArgs(d, &o.Headers) }),
		"answer":                &o.Answer,
		"failure":               &o.Failure,
		"issuer":                &o.Issuer,
		"token_endpoint":        &o.TokenURL,
		"mtls_token_endpoint":   &o.MTLSTokenURL,
	}
}

// textArg reads one value, which may be empty.
func textArg(d *caddyfile.Dispenser, into **string) bool {
	*into = new(string)
	return d.AllArgs(*into)
}

func fieldArgs(d *caddyfile.Dispenser, into *[]devserver.Field) bool {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return false
	}
	field := devserver.Field{Name: args[0]}
	if len(args) == 2 {
		field.Value = &args[1]
	}
	*into = append(*into, field)
	return true
}

func jsonFieldArgs(d *caddyfile.Dispenser, into *[]devserver.JSONField) bool {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return false
	}
	*into = append(*into, devserver.JSONField{Name: name, Value: json.RawMessage(value)})
	return true
}

// devFiles are the options that may be {file./path}, by name.
func devFiles(o *devserver.Demands) map[string]*string {
	return map[string]*string{
		"client_key":         &o.ClientKey,
		"client_assertion":   &o.ClientAssertion,
		"client_certificate": &o.ClientCertificate,
	}
}

// devFile returns the path if a value is in a file.
func devFile(value string) (path string, ok bool) {
	m := option.WholePlaceholder.FindStringSubmatch(value)
	if m == nil || m[1] != "file" {
		return "", false
	}
	return m[2], true
}

// readDevFiles puts what is in files into the place of their names. Unlike a credential's they are read only once.
func readDevFiles(o *devserver.Demands) error {
	for name, value := range devFiles(o) {
		path, ok := devFile(*value)
		if !ok {
			continue
		}
		content, err := option.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*value = strings.TrimSpace(content)
	}
	return nil
}

// validateKeys checks keys and certificates. The Caddyfile adapter validates without Provision, and so without files.
func (de *TokenEndpoint) validateKeys() error {
	if de.endpoint != nil {
		return de.endpoint.ValidateKeys()
	}
	unread := de.newEndpoint()
	for _, value := range devFiles(&unread.Demands) {
		if _, ok := devFile(*value); ok {
			*value = ""
		}
	}
	return unread.ValidateKeys()
}
