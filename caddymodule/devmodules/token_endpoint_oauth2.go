package devmodules

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// repeatableDemands are the options that may be repeated.
var repeatableDemands = []string{"assertion_claim", "assertion_json_claim", "param", "json_param", "header"}

// ofTokenEndpoint are the options of dev_token_endpoint.
var ofTokenEndpoint = option.NewPlace("a development server", `client_id client_secret mode lifetime wrapped
	enforce_content_type status error hang reset garbage expires_in retry_after latency count
	client_auth basic_encoding client_id_param client_secret_param client_key signing_alg assertion_audience assertion_typ
	assertion_claim assertion_json_claim assertion_certificate client_assertion client_assertion_type client_certificate
	method encoding grant scope param json_param header dpop dpop_algs accept_claims answer answer_status failure
	issuer token_endpoint mtls_token_endpoint`)

// unmarshalDemand parses an option that only the dialect oauth2 has. Syntax:
//
//	client_auth           client_secret_basic|client_secret_post|client_secret_jwt|private_key_jwt|
//	                      tls_client_auth|self_signed_tls_client_auth|bearer_jwt|none
//	basic_encoding        form|raw
//	client_id_param       <name>               # "" for none
//	client_secret_param   <name>
//	client_key            <PEM or JWK>|{file./path}
//	signing_alg           <algorithm>
//	assertion_audience    <text>
//	assertion_typ         <text>               # "" for none
//	assertion_claim       <name> <value>       # repeatable; "" for a claim that must be absent
//	assertion_json_claim  <name> <json>        # repeatable; JSON in backticks
//	assertion_certificate x5t#S256|x5t|x5c...
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
//	dpop                  off|optional|required [nonce]
//	dpop_algs             <algorithm...>
//	accept_claims
//	answer                <json>               # in backticks, with $token, $expires_in and others
//	answer_status         <status>
//	failure               <json>               # in backticks, with $code
//	issuer                <url>
//	token_endpoint        <url>
//	mtls_token_endpoint   <url>
func unmarshalDemand(d *caddyfile.Dispenser, demands *devserver.Demands) error {
	switch d.Val() {
	case "client_auth":
		return option.String(d, &demands.ClientAuth)
	case "basic_encoding":
		return option.String(d, &demands.BasicEncoding)
	case "client_id_param":
		return unmarshalOptional(d, &demands.ClientIDParam)
	case "client_secret_param":
		return option.String(d, &demands.ClientSecretParam)
	case "client_key":
		return option.String(d, &demands.ClientKey)
	case "signing_alg":
		return option.String(d, &demands.SigningAlg)
	case "assertion_audience":
		return option.String(d, &demands.AssertionAudience)
	case "assertion_typ":
		return unmarshalOptional(d, &demands.AssertionTyp)
	case "assertion_claim":
		return unmarshalField(d, &demands.AssertionClaims)
	case "assertion_json_claim":
		return unmarshalJSONField(d, &demands.AssertionJSONClaims)
	case "assertion_certificate":
		if demands.AssertionCertificate = d.RemainingArgs(); len(demands.AssertionCertificate) == 0 {
			return d.Err("assertion_certificate takes one or more fields of the header")
		}
		return nil
	case "client_assertion":
		return option.String(d, &demands.ClientAssertion)
	case "client_assertion_type":
		return option.String(d, &demands.ClientAssertionType)
	case "client_certificate":
		return option.String(d, &demands.ClientCertificate)
	case "method":
		return option.String(d, &demands.Method)
	case "encoding":
		return option.String(d, &demands.Encoding)
	case "grant":
		return unmarshalOptional(d, &demands.Grant)
	case "scope":
		return option.String(d, &demands.Scope)
	case "param":
		return unmarshalField(d, &demands.Params)
	case "json_param":
		return unmarshalJSONField(d, &demands.JSONParams)
	case "header":
		return unmarshalField(d, &demands.Headers)
	case "dpop":
		return unmarshalDPoP(d, &demands.DPoP)
	case "dpop_algs":
		return unmarshalDPoPAlgs(d, &demands.DPoP)
	case "accept_claims":
		return unmarshalFlag(d, &demands.AcceptClaims)
	case "answer":
		return option.String(d, &demands.Answer)
	case "answer_status":
		return unmarshalNumber(d, &demands.AnswerStatus)
	case "failure":
		return option.String(d, &demands.Failure)
	case "issuer":
		return option.String(d, &demands.Issuer)
	case "token_endpoint":
		return option.String(d, &demands.TokenURL)
	case "mtls_token_endpoint":
		return option.String(d, &demands.MTLSTokenURL)
	default:
		return option.Unrecognized(d, ofTokenEndpoint)
	}
}

// inFiles returns the options that may be {file./path}, by name.
func inFiles(demands *devserver.Demands) map[string]*string {
	return map[string]*string{
		"client_key":         &demands.ClientKey,
		"client_assertion":   &demands.ClientAssertion,
		"client_certificate": &demands.ClientCertificate,
	}
}

// filePath returns the path of a value that is {file./path}.
func filePath(value string) (path string, ok bool) {
	m := option.WholePlaceholder.FindStringSubmatch(value)
	if m == nil || m[1] != "file" {
		return "", false
	}
	return m[2], true
}

// readFiles replaces each {file./path} with the content of the file. It reads each file once, unlike a credential, which
// reads its files again.
func readFiles(demands *devserver.Demands) error {
	for name, value := range inFiles(demands) {
		path, ok := filePath(*value)
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

// leaveOutFiles clears the options whose values are in files.
func leaveOutFiles(demands *devserver.Demands) {
	for _, value := range inFiles(demands) {
		if _, ok := filePath(*value); ok {
			*value = ""
		}
	}
}
