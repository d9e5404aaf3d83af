package oauth2

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// clientAuthMethods are the values of Provider.ClientAuth.
var clientAuthMethods = []string{
	oauth.ClientSecretBasic,
	oauth.ClientSecretPost,
	oauth.ClientSecretJWT,
	oauth.PrivateKeyJWT,
	oauth.TLSClientAuth,
	oauth.SelfSignedTLSClientAuth,
	oauth.BearerJWT,
	oauth.NoClientAuth,
	authAuto,
}

// authAuto is the value of Provider.ClientAuth that leaves the method to the metadata of the issuer.
const authAuto = "auto"

// The values of Provider.BasicEncoding.
const (
	basicForm = "form"
	basicRaw  = "raw"
)

// possibleMethods returns the methods that a token request may use, in the order of preference. They are more than one only
// with auto.
func (o *Provider) possibleMethods() []string {
	switch {
	case o.ClientAuth != authAuto:
		return []string{cmp.Or(o.ClientAuth, oauth.ClientSecretBasic)}
	case o.ClientAssertionFile != "" || o.SigningKey != "" && o.grant() != oauth.GrantJWTBearer:
		return []string{oauth.PrivateKeyJWT}
	case o.ClientCertificate != "":
		return []string{oauth.TLSClientAuth, oauth.SelfSignedTLSClientAuth}
	default:
		return []string{oauth.ClientSecretBasic, oauth.ClientSecretPost, oauth.ClientSecretJWT}
	}
}

// mayUse reports whether a token request may use one of the methods.
func (o *Provider) mayUse(methods ...string) bool {
	return slices.ContainsFunc(methods, func(method string) bool { return slices.Contains(o.methods, method) })
}

func (o *Provider) mayUseTLS() bool {
	return o.mayUse(oauth.TLSClientAuth, oauth.SelfSignedTLSClientAuth)
}

func (o *Provider) mayUseAssertion() bool {
	return o.mayUse(oauth.ClientSecretJWT, oauth.PrivateKeyJWT)
}

// mayUseIDParam reports whether a token request may have the client id as a parameter.
func (o *Provider) mayUseIDParam() bool {
	return slices.ContainsFunc(o.methods, func(method string) bool {
		return method != oauth.ClientSecretBasic && method != oauth.BearerJWT
	})
}

// chooseAuth returns the client authentication of one token request. With auto, it takes the method from the metadata, which
// the request for the token endpoint has read. It never tries methods, because each attempt would show the secret and may
// lock the client.
func (o *Provider) chooseAuth() (oauth.ClientAuth, error) {
	auth := o.auth
	if o.ClientAuth != authAuto {
		return auth, nil
	}
	supported := o.discovery.AuthMethods()
	for _, method := range o.methods {
		if slices.Contains(supported, method) {
			auth.Method = method
			return auth, nil
		}
	}
	o.discovery.Doubt() // the issuer may list others soon
	return auth, fmt.Errorf("client_auth auto: the issuer's metadata list none of %s, which fit the configured proof; set client_auth to the method that the client is registered for",
		strings.Join(o.methods, ", "))
}

// provisionAuth checks the options of the client authentication method. It returns an error for an option that the method
// does not use, because the operator expects an effect.
func (o *Provider) provisionAuth() error {
	method := cmp.Or(o.ClientAuth, oauth.ClientSecretBasic)
	o.methods = o.possibleMethods()
	switch {
	case !slices.Contains(clientAuthMethods, method):
		return fmt.Errorf("client_auth: unknown method, must be one of %s", strings.Join(clientAuthMethods, ", "))
	case !slices.Contains([]string{"", basicForm, basicRaw}, o.BasicEncoding):
		return fmt.Errorf("basic_encoding: unknown value, must be %s or %s", basicForm, basicRaw)
	case o.BasicEncoding != "" && !o.mayUse(oauth.ClientSecretBasic):
		return fmt.Errorf("basic_encoding: client_auth %s does not use it", method)
	case o.ClientIDParam != nil && !o.mayUseIDParam():
		return fmt.Errorf("client_id_param: client_auth %s does not use it", method)
	case o.ClientSecretParam != "" && !o.mayUse(oauth.ClientSecretPost):
		return fmt.Errorf("client_secret_param: client_auth %s does not use it", method)
	case o.ClientAssertionType != "" && !o.mayUseAssertion():
		return fmt.Errorf("client_assertion_type: client_auth %s does not use it", method)
	case method == authAuto && o.Issuer == "":
		return errors.New("client_auth: auto needs issuer, because only its metadata list the methods")
	case o.mayUseTLS() && !strings.HasPrefix(strings.ToLower(o.endpoint), "https:"):
		return fmt.Errorf("client_auth: %s needs https", method)
	}
	o.auth = oauth.ClientAuth{
		Method:        method,
		RawBasic:      o.BasicEncoding == basicRaw,
		IDParam:       "client_id",
		SecretParam:   cmp.Or(o.ClientSecretParam, "client_secret"),
		AssertionType: cmp.Or(o.ClientAssertionType, oauth.AssertionJWTBearer),
	}
	if o.ClientIDParam != nil {
		o.auth.IDParam = *o.ClientIDParam
	}
	return nil
}

// assertions signs the assertions of token requests or reads them from a file.
type assertions struct {
	key  *option.Reader // signing_key; nil without it
	file *option.Reader // client_assertion_file; nil without it
	alg  string
	id   string

	// grant is true if the authorization grant is an assertion that the key signs.
	grant bool
}

func (o *Provider) provisionAssertions() error {
	a := assertions{alg: o.SigningAlg, id: o.SigningKeyID}
	if o.SigningKey != "" {
		key, err := option.NewReader(string(o.SigningKey))
		if err != nil {
			return fmt.Errorf("signing_key: %w", err)
		}
		a.key = &key
	}
	if o.ClientAssertionFile != "" {
		file := option.FromFile(o.ClientAssertionFile)
		a.file = &file
	}
	a.grant = a.key != nil && o.grant() == oauth.GrantJWTBearer
	if err := o.checkAssertions(a); err != nil {
		return err
	}
	o.assertions = a
	if a.file != nil {
		option.WarnOfFile(o.logger, "client_assertion_file", *a.file)
	}
	if a.key == nil {
		return nil
	}
	secrets := make(provider.Secrets)
	if err := a.read(secrets); err != nil {
		return err
	}
	if _, err := a.signingKey(secrets); err != nil {
		return err
	}
	option.WarnOfKey(o.logger, "signing_key", *a.key)
	return nil
}

// checkAssertions returns an error for options that are missing, without effect, or contradictory.
func (o *Provider) checkAssertions(a assertions) error {
	method := o.auth.Method
	private := o.mayUse(oauth.PrivateKeyJWT)
	bearer := o.mayUse(oauth.BearerJWT)
	signed := a.key != nil || o.mayUse(oauth.ClientSecretJWT)
	switch {
	case bearer && a.key == nil:
		return fmt.Errorf("client_auth: %s needs signing_key", method)
	case bearer && a.grant:
		return fmt.Errorf("client_auth: %s and grant %s exclude each other; use client_auth %s for the grant", method, oauth.GrantJWTBearer, oauth.NoClientAuth)
	case private && a.key == nil && a.file == nil:
		return fmt.Errorf("client_auth: %s needs signing_key or client_assertion_file", method)
	case private && a.key != nil && a.file != nil && !a.grant:
		return errors.New("client_assertion_file: signing_key is also set; set only one of them")
	case a.file != nil && !private:
		return fmt.Errorf("client_assertion_file: needs client_auth %s", oauth.PrivateKeyJWT)
	case a.key != nil && !private && !bearer && !a.grant:
		return fmt.Errorf("signing_key: neither client_auth %s nor the grant uses it", method)
	case o.SigningKeyID != "" && a.key == nil:
		return errors.New("signing_key_id: needs signing_key")
	case o.SigningAlg != "" && !signed:
		return errors.New("signing_alg: needs signing_key or client_auth client_secret_jwt")
	case o.AssertionAudience != "" && !signed:
		return errors.New("assertion_audience: needs signing_key or client_auth client_secret_jwt")
	case o.AssertionTyp != nil && !signed:
		return errors.New("assertion_typ: needs signing_key or client_auth client_secret_jwt")
	case len(o.AssertionClaims) > 0 && !signed:
		return errors.New("assertion_claim: needs signing_key or client_auth client_secret_jwt")
	}
	return o.checkAssertionCertificate(a)
}

// checkAssertionCertificate checks the fields that name the client certificate. An assertion that the secret signs has none.
func (o *Provider) checkAssertionCertificate(a assertions) error {
	if len(o.AssertionCertificate) > 0 && (a.key == nil || o.ClientCertificate == "") {
		return errors.New("assertion_certificate: needs signing_key, client_certificate and client_certificate_key")
	}
	if err := checkCertificateFields(o.AssertionCertificate); err != nil {
		return fmt.Errorf("assertion_certificate: %w", err)
	}
	return nil
}

func checkCertificateFields(fields []string) error {
	known := []string{oauth.CertificateSHA256, oauth.CertificateSHA1, oauth.CertificateChain}
	for i, field := range fields {
		if !slices.Contains(known, field) {
			return fmt.Errorf("unknown field, must be one of %s", strings.Join(known, ", "))
		}
		if slices.Contains(fields[:i], field) {
			return fmt.Errorf("%s is repeated", field)
		}
	}
	return nil
}

// CheckSecret implements provider.SecretChecker. A secret that signs assertions must be long enough (RFC 7518 section 3.2).
func (o *Provider) CheckSecret(secret provider.Secret) error {
	if o.auth.Method != oauth.ClientSecretJWT { // with auto, the server may support another method
		return nil
	}
	key, err := o.secretKey(secret)
	if err != nil {
		return err
	}
	_, err = oauth.Assertion{}.Sign(key)
	return err
}

func (o *Provider) secretKey(secret provider.Secret) (oauth.SigningKey, error) {
	key := oauth.SecretKey(secret.Reveal())
	if o.SigningAlg == "" {
		return key, nil
	}
	key, err := key.WithAlg(o.SigningAlg)
	if err != nil {
		return key, fmt.Errorf("signing_alg: %w", err)
	}
	return key, nil
}

// signingKey parses the signing key among the secrets.
func (a assertions) signingKey(secrets provider.Secrets) (oauth.SigningKey, error) {
	key, err := oauth.ParseSigningKey(secrets["signing_key"].Reveal())
	if err != nil {
		return key, fmt.Errorf("signing_key: %w", err)
	}
	key.ID = cmp.Or(a.id, key.ID)
	if a.alg == "" {
		return key, nil
	}
	if key, err = key.WithAlg(a.alg); err != nil {
		return key, fmt.Errorf("signing_alg: %w", err)
	}
	return key, nil
}

// read reads the signing key and the client assertion into the secrets.
func (a assertions) read(into provider.Secrets) (err error) {
	if a.key != nil {
		if into["signing_key"], err = a.key.ReadLines(); err != nil {
			return fmt.Errorf("signing_key: %w", err)
		}
	}
	if a.file != nil {
		if into["client_assertion_file"], err = a.file.Read(); err != nil {
			return fmt.Errorf("client_assertion_file: %w", err)
		}
	}
	return nil
}

// proof returns the proof of the client for one token request.
func (o *Provider) proof(method string, client provider.Client, endpoint string) (oauth.Proof, error) {
	switch {
	case method == oauth.ClientSecretJWT:
		key, err := o.secretKey(client.Secret)
		if err != nil {
			return oauth.Proof{}, err
		}
		assertion, err := o.clientAssertion(client, endpoint, oauth.TypeClientAuthentication).Sign(key)
		return oauth.Proof{Assertion: assertion}, err
	case method == oauth.BearerJWT:
		assertion, err := o.sign(o.clientAssertion(client, endpoint, oauth.TypeJWT), client.Secrets)
		return oauth.Proof{Assertion: assertion}, err
	case method != oauth.PrivateKeyJWT:
		return oauth.Proof{Secret: client.Secret.Reveal()}, nil
	case o.assertions.file != nil:
		return oauth.Proof{Assertion: client.Secrets["client_assertion_file"].Reveal()}, nil
	default:
		assertion, err := o.sign(o.clientAssertion(client, endpoint, oauth.TypeClientAuthentication), client.Secrets)
		return oauth.Proof{Assertion: assertion}, err
	}
}

// clientAssertion returns the assertion that proves the client. The claims belong to the assertion of the grant if the request
// has one, because iss and sub of that one may differ from the client id.
func (o *Provider) clientAssertion(client provider.Client, endpoint, typ string) oauth.Assertion {
	a := o.assertion(client, endpoint, typ)
	if !o.assertions.grant {
		a.Claims = o.AssertionClaims
	}
	return a
}

// addAssertion adds the assertion of the grant jwt-bearer (RFC 7523 section 2.1), if the key signs one.
func (o *Provider) addAssertion(r *oauth.TokenRequest, client provider.Client) error {
	if !o.assertions.grant {
		return nil
	}
	a := o.assertion(client, r.URL, oauth.TypeJWT)
	a.Claims = o.AssertionClaims
	signed, err := o.sign(a, client.Secrets)
	r.Params.Set("assertion", signed)
	return err
}

func (o *Provider) assertion(client provider.Client, endpoint, typ string) oauth.Assertion {
	if o.AssertionTyp != nil {
		typ = *o.AssertionTyp
	}
	return oauth.Assertion{
		Type:     typ,
		Issuer:   client.ID,
		Subject:  client.ID,
		Audience: cmp.Or(o.AssertionAudience, o.Issuer, endpoint),
	}
}

// sign signs the assertion with the signing key. It names the client certificate, because some servers find the key by the
// certificate.
func (o *Provider) sign(a oauth.Assertion, secrets provider.Secrets) (string, error) {
	key, err := o.assertions.signingKey(secrets)
	if err != nil {
		return "", err
	}
	certificate, err := o.certificate.parse(secrets)
	if err != nil {
		return "", err
	}
	if certificate != nil {
		a.Chain = certificate.Certificate
		a.CertificateFields = orDefault(o.AssertionCertificate, oauth.CertificateSHA256)
	}
	return a.Sign(key)
}

// certificateReader reads the client certificate and its key.
type certificateReader struct {
	certificate, key *option.Reader // nil without a certificate
}

func (o *Provider) provisionCertificate() error {
	switch {
	case o.ClientCertificate == "" && o.ClientCertificateKey == "":
		if o.mayUseTLS() {
			return fmt.Errorf("client_auth: %s needs client_certificate and client_certificate_key", o.auth.Method)
		}
		return nil
	case o.ClientCertificate == "":
		return errors.New("client_certificate is missing, but client_certificate_key is set")
	case o.ClientCertificateKey == "":
		return errors.New("client_certificate_key is missing, but client_certificate is set")
	}
	certificate, err := option.NewReader(string(o.ClientCertificate))
	if err != nil {
		return fmt.Errorf("client_certificate: %w", err)
	}
	key, err := option.NewReader(string(o.ClientCertificateKey))
	if err != nil {
		return fmt.Errorf("client_certificate_key: %w", err)
	}
	o.certificate = certificateReader{&certificate, &key}
	secrets := make(provider.Secrets)
	if err := o.certificate.read(secrets); err != nil {
		return err
	}
	if _, err := o.certificate.parse(secrets); err != nil {
		return err
	}
	option.WarnOfKey(o.logger, "client_certificate_key", key)
	return nil
}

// parse returns the certificate among the secrets, or nil if the client has none.
func (c certificateReader) parse(secrets provider.Secrets) (*tls.Certificate, error) {
	if c.certificate == nil {
		return nil, nil
	}
	certificate, key := []byte(secrets["client_certificate"].Reveal()), []byte(secrets["client_certificate_key"].Reveal())
	pair, err := tls.X509KeyPair(certificate, key)
	if err == nil {
		return &pair, nil
	}
	if !x509.NewCertPool().AppendCertsFromPEM(certificate) {
		return nil, errors.New("client_certificate: the value contains no certificate in PEM")
	}
	if _, err := oauth.ParseSigningKey(string(key)); err != nil {
		return nil, fmt.Errorf("client_certificate_key: %w", err)
	}
	return nil, errors.New("client_certificate_key: the key does not belong to client_certificate")
}

// read reads the certificate and its key into the secrets. The certificate is not secret. It is among the secrets because a
// new certificate is a new proof.
func (c certificateReader) read(into provider.Secrets) (err error) {
	if c.certificate == nil {
		return nil
	}
	if into["client_certificate"], err = c.certificate.ReadLines(); err != nil {
		return fmt.Errorf("client_certificate: %w", err)
	}
	if into["client_certificate_key"], err = c.key.ReadLines(); err != nil {
		return fmt.Errorf("client_certificate_key: %w", err)
	}
	return nil
}
