package devserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// validate returns an error that names the first wrong option. It does not parse ClientKey and ClientCertificate; see
// validateKeys.
func (d *Demands) validate(clientID string) error {
	for _, check := range []func() error{
		d.validateWords, d.validateClient, d.validateAssertion, d.validateFields, d.validateTemplates, d.validateMetadata,
		d.DPoP.validate, d.validateClaims,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if d.BasicEncoding == basicRaw && strings.Contains(clientID, ":") { // RFC 7617, section 2
		return fmt.Errorf("basic_encoding %s: the client_id must not contain a colon", basicRaw)
	}
	return nil
}

func (d *Demands) validateWords() error {
	for _, option := range []struct {
		name, value string
		words       []string
	}{
		{"client_auth", d.ClientAuth, authMethods},
		{"basic_encoding", d.BasicEncoding, []string{encodingForm, basicRaw}},
		{"signing_alg", d.SigningAlg, signingAlgs},
		{"method", d.Method, []string{http.MethodPost, http.MethodGet}},
		{"encoding", d.Encoding, []string{encodingForm, encodingJSON, encodingQuery}},
	} {
		if option.value != "" && !slices.Contains(option.words, option.value) {
			return fmt.Errorf("%s %q: must be one of %s", option.name, option.value, strings.Join(option.words, ", "))
		}
	}
	if d.method() == http.MethodGet && d.encoding() != encodingQuery {
		return fmt.Errorf("method GET: has no body, so encoding must be %s", encodingQuery)
	}
	return nil
}

// validateClient checks that the method of client authentication has the options that it needs, and no others.
func (d *Demands) validateClient() error {
	auth := d.clientAuth()
	switch {
	case d.BasicEncoding != "" && auth != authBasic:
		return fmt.Errorf("basic_encoding: only %s has this option", authBasic)
	case d.ClientIDParam != nil && (auth == authBasic || auth == authBearerJWT):
		return fmt.Errorf("client_id_param: %s sends the client id in the header", auth)
	case d.ClientSecretParam != "" && auth != authPost:
		return fmt.Errorf("client_secret_param: only %s has this option", authPost)
	case d.ClientAssertion != "" && auth != authKeyJWT:
		return fmt.Errorf("client_assertion: only %s has this option", authKeyJWT)
	case d.ClientAssertionType != "" && auth != authKeyJWT && auth != authSecretJWT:
		return fmt.Errorf("client_assertion_type: only %s and %s have this option", authKeyJWT, authSecretJWT)
	case d.ClientCertificate == "" && (auth == authTLS || auth == authSelfSignedTLS):
		return fmt.Errorf("client_auth %s: needs client_certificate", auth)
	}
	return nil
}

func (d *Demands) validateAssertion() error {
	switch {
	case d.ClientKey == "" && d.grant() == grantJWTBearer:
		return errors.New("grant jwt-bearer: needs client_key")
	case d.ClientKey == "" && d.clientAuth() == authBearerJWT:
		return fmt.Errorf("client_auth %s: needs client_key", authBearerJWT)
	case d.ClientKey == "" && d.usesKey():
		return fmt.Errorf("client_auth %s: needs client_key or client_assertion", d.clientAuth())
	case d.ClientKey != "" && !d.usesKey():
		return fmt.Errorf("client_key: only the grant jwt-bearer, and %s without client_assertion, use it", authKeyJWT)
	case d.SigningAlg != "" && !d.signs():
		return errors.New("signing_alg: the request has no signed JWT")
	case isHMAC(d.SigningAlg) && d.clientAuth() != authSecretJWT:
		return fmt.Errorf("signing_alg %s: only %s signs with the secret", d.SigningAlg, authSecretJWT)
	case d.SigningAlg != "" && !isHMAC(d.SigningAlg) && !d.usesKey():
		return fmt.Errorf("signing_alg %s: %s signs with the secret", d.SigningAlg, authSecretJWT)
	case d.AssertionAudience != "" && !d.signs():
		return errors.New("assertion_audience: the request has no signed JWT")
	case d.AssertionTyp != nil && !d.signs():
		return errors.New("assertion_typ: the request has no signed JWT")
	case (d.AssertionClaims != nil || d.AssertionJSONClaims != nil) && !d.signs():
		return errors.New("assertion_claim: the request has no signed JWT")
	case d.AssertionCertificate != nil && !d.usesKey():
		return errors.New("assertion_certificate: client_key verifies no JWT")
	}
	return nil
}

func (d *Demands) validateFields() error {
	var seen []string
	for _, p := range d.Params {
		if p.Name == "" {
			return errors.New("param: the name is empty")
		}
		if d.encoding() == encodingJSON && slices.Contains(seen, p.Name) {
			return fmt.Errorf("param %s: a JSON object has each name only once; use json_param to demand a list", p.Name)
		}
		seen = append(seen, p.Name)
	}
	for _, p := range d.JSONParams {
		switch {
		case d.encoding() != encodingJSON:
			return fmt.Errorf("json_param: needs encoding %s", encodingJSON)
		case p.Name == "":
			return errors.New("json_param: the name is empty")
		case !json.Valid(p.Value):
			return fmt.Errorf("json_param %s: the value is not JSON", p.Name)
		case slices.Contains(seen, p.Name):
			return fmt.Errorf("json_param %s: the name is already specified", p.Name)
		}
		seen = append(seen, p.Name)
	}
	for _, h := range d.Headers {
		if h.Name == "" {
			return errors.New("header: the name is empty")
		}
	}
	for _, c := range d.AssertionClaims {
		if c.Name == "" || c.Value == nil {
			return errors.New("assertion_claim: needs a name and a value")
		}
	}
	for _, c := range d.AssertionJSONClaims {
		if c.Name == "" || !json.Valid(c.Value) {
			return errors.New("assertion_claim: needs a name and a value in JSON")
		}
	}
	for _, field := range d.AssertionCertificate {
		if certificateFields[field] == nil {
			return errors.New("assertion_certificate: must be x5t#S256, x5t or x5c")
		}
	}
	return nil
}

func (d *Demands) validateClaims() error {
	isClaims := func(name string) bool { return name == "claims" }
	if d.AcceptClaims && (slices.ContainsFunc(d.Params, func(p Field) bool { return isClaims(p.Name) }) ||
		slices.ContainsFunc(d.JSONParams, func(p JSONField) bool { return isClaims(p.Name) })) {
		return errors.New("accept_claims: contradicts a param that demands claims")
	}
	return nil
}

func (d *Demands) validateTemplates() error {
	if !json.Valid(d.answer(Token{}, Fault{})) {
		return errors.New("answer: must be JSON once its variables are replaced")
	}
	if d.AnswerStatus != 0 && d.AnswerStatus/100 != 2 {
		return errors.New("answer_status: must be 200 to 299")
	}
	if !json.Valid(d.failure("invalid_client")) {
		return errors.New("failure: must be JSON once $code is replaced")
	}
	return nil
}

func (d *Demands) validateMetadata() error {
	for _, option := range []struct{ name, value string }{
		{"issuer", d.Issuer}, {"token_endpoint", d.TokenURL}, {"mtls_token_endpoint", d.MTLSTokenURL},
	} {
		if option.value == "" {
			continue
		}
		if u, err := url.Parse(option.value); err != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Errorf("%s: must be a URL", option.name)
		}
		if d.Issuer == "" {
			return fmt.Errorf("%s: needs issuer", option.name)
		}
	}
	return nil
}

// validateKeys returns an error that names the first option whose key or certificate is wrong.
func (d *Demands) validateKeys() error {
	if d.ClientKey != "" {
		key, err := parseKey(d.ClientKey)
		if err != nil {
			return fmt.Errorf("client_key: %w", err)
		}
		if d.SigningAlg != "" && !isHMAC(d.SigningAlg) && !slices.Contains(key.algs(), d.SigningAlg) {
			return fmt.Errorf("signing_alg %s: client_key fits only %s", d.SigningAlg, strings.Join(key.algs(), ", "))
		}
	}
	if d.ClientCertificate != "" {
		if _, err := parseCertificate(d.ClientCertificate); err != nil {
			return fmt.Errorf("client_certificate: %w", err)
		}
	}
	return nil
}

// firstSet returns the name of the first option that is set, as the Caddyfile calls it, or "".
func (d *Demands) firstSet() string {
	fields := reflect.ValueOf(*d)
	for i := range fields.NumField() {
		if fields.Field(i).IsZero() {
			continue
		}
		name, _, _ := strings.Cut(fields.Type().Field(i).Tag.Get("json"), ",")
		if fields.Field(i).Kind() == reflect.Slice {
			return strings.TrimSuffix(name, "s") // the Caddyfile has param for each of params
		}
		return name
	}
	return ""
}
