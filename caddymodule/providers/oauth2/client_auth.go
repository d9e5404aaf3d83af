package oauth2

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

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
	oauth.NoClientAuth,
}

// The values of Provider.BasicEncoding.
const (
	basicForm = "form"
	basicRaw  = "raw"
)

func usesTLS(method string) bool {
	return method == oauth.TLSClientAuth || method == oauth.SelfSignedTLSClientAuth
}

func usesAssertion(method string) bool {
	return method == oauth.ClientSecretJWT || method == oauth.PrivateKeyJWT
}

// provisionAuth refuses options that the method has no use for: whoever gives one expects it to matter.
func (o *Provider) provisionAuth() error {
	method := cmp.Or(o.ClientAuth, oauth.ClientSecretBasic)
	basic := method == oauth.ClientSecretBasic
	switch {
	case !slices.Contains(clientAuthMethods, method):
		return fmt.Errorf("client_auth: unknown method: it is one of %s", strings.Join(clientAuthMethods, ", "))
	case !slices.Contains([]string{"", basicForm, basicRaw}, o.BasicEncoding):
		return fmt.Errorf("basic_encoding: unknown value: it is %s or %s", basicForm, basicRaw)
	case o.BasicEncoding != "" && !basic:
		return fmt.Errorf("basic_encoding: client_auth %s has no use for it", method)
	case o.ClientIDParam != nil && basic:
		return fmt.Errorf("client_id_param: client_auth %s has no use for it", method)
	case o.ClientSecretParam != "" && method != oauth.ClientSecretPost:
		return fmt.Errorf("client_secret_param: client_auth %s has no use for it", method)
	case o.ClientAssertionType != "" && !usesAssertion(method):
		return fmt.Errorf("client_assertion_type: client_auth %s has no use for it", method)
	case usesTLS(method) && !strings.HasPrefix(strings.ToLower(o.endpoint), "https:"):
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

// assertions makes the JWTs that prove who asks, or reads them.
type assertions struct {
	key  *option.Reader // signing_key; nil if there is none
	file *option.Reader // client_assertion_file; nil if there is none
	alg  string
	id   string

	// grant says that the grant is an assertion signed by the key.
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
	o.warnOfReaders("signing_key", *a.key)
	return nil
}

// checkAssertions refuses what is missing, superfluous, or contradictory.
func (o *Provider) checkAssertions(a assertions) error {
	method := o.auth.Method
	private := method == oauth.PrivateKeyJWT
	signed := a.key != nil || method == oauth.ClientSecretJWT
	switch {
	case private && a.key == nil && a.file == nil:
		return fmt.Errorf("client_auth: %s needs signing_key or client_assertion_file", method)
	case private && a.key != nil && a.file != nil && !a.grant:
		return errors.New("client_assertion_file: there is a signing_key too: give the one or the other")
	case a.file != nil && !private:
		return fmt.Errorf("client_assertion_file: it needs client_auth %s", oauth.PrivateKeyJWT)
	case a.key != nil && !private && !a.grant:
		return fmt.Errorf("signing_key: neither client_auth %s nor the grant has a use for it", method)
	case o.SigningKeyID != "" && a.key == nil:
		return errors.New("signing_key_id: there is no signing_key")
	case o.SigningAlg != "" && !signed:
		return errors.New("signing_alg: nothing is signed")
	case o.AssertionAudience != "" && !signed:
		return errors.New("assertion_audience: nothing is signed")
	case o.AssertionTyp != nil && !signed:
		return errors.New("assertion_typ: nothing is signed")
	case len(o.AssertionClaims) > 0 && !a.grant:
		return fmt.Errorf("assertion_claim: it needs signing_key and grant %s", oauth.GrantJWTBearer)
	}
	return nil
}

// CheckSecret implements provider.SecretChecker: a secret that signs must be long enough (RFC 7518 section 3.2).
func (o *Provider) CheckSecret(secret provider.Secret) error {
	if o.auth.Method != oauth.ClientSecretJWT {
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

// signingKey parses the key.
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

// read reads what the assertions are made of.
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

// proof makes what proves the client's identity.
func (o *Provider) proof(client provider.Client, endpoint string) (oauth.Proof, error) {
	switch {
	case o.auth.Method == oauth.ClientSecretJWT:
		key, err := o.secretKey(client.Secret)
		if err != nil {
			return oauth.Proof{}, err
		}
		assertion, err := o.assertion(client, endpoint, oauth.TypeClientAuthentication).Sign(key)
		return oauth.Proof{Assertion: assertion}, err
	case o.auth.Method != oauth.PrivateKeyJWT:
		return oauth.Proof{Secret: client.Secret.Reveal()}, nil
	case o.assertions.file != nil:
		return oauth.Proof{Assertion: client.Secrets["client_assertion_file"].Reveal()}, nil
	default:
		assertion, err := o.sign(o.assertion(client, endpoint, oauth.TypeClientAuthentication), client.Secrets)
		return oauth.Proof{Assertion: assertion}, err
	}
}

// addAssertion adds the proof of the grant jwt-bearer (RFC 7523 section 2.1), if the key signs one.
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

// sign signs with the key. Servers that know the client by a certificate find the key by its thumbprint.
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
		a.Certificate = certificate.Leaf
	}
	return a.Sign(key)
}

// certificateReader reads the client certificate.
type certificateReader struct {
	certificate, key *option.Reader // nil if there is none
}

func (o *Provider) provisionCertificate() error {
	switch {
	case o.ClientCertificate == "" && o.ClientCertificateKey == "":
		if usesTLS(o.auth.Method) {
			return fmt.Errorf("client_auth: %s needs client_certificate and client_certificate_key", o.auth.Method)
		}
		return nil
	case o.ClientCertificate == "":
		return errors.New("client_certificate is missing: there is a client_certificate_key")
	case o.ClientCertificateKey == "":
		return errors.New("client_certificate_key is missing: there is a client_certificate")
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
	o.warnOfReaders("client_certificate_key", key)
	return nil
}

// parse makes the certificate of what has been read; nil if there is none.
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
		return nil, errors.New("client_certificate: there is no certificate in PEM in it")
	}
	if _, err := oauth.ParseSigningKey(string(key)); err != nil {
		return nil, fmt.Errorf("client_certificate_key: %w", err)
	}
	return nil, errors.New("client_certificate_key: the key does not belong to client_certificate")
}

// read reads the certificate and its key. The certificate is no secret, but another one is another proof.
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

// warnOfReaders warns of a private key that stands in the configuration, or that others can read.
func (o *Provider) warnOfReaders(name string, key option.Reader) {
	if key.IsLiteral() {
		o.logger.Warn(name + " stands in the configuration itself, where the admin API and autosave.json show it: use {file./path} or {env.NAME}")
		return
	}
	path, mode, err := key.Permissions()
	if err != nil || mode&0o077 == 0 {
		return
	}
	o.logger.Warn(name+": others than the owner can read the file: chmod 600, or mount it so",
		zap.String("file", path), zap.Stringer("mode", mode))
}
