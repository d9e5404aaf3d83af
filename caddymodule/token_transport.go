package caddymodule

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// TokenTransport sets how token requests travel. Requests to the API use the transport of the handler.
type TokenTransport struct {
	// CA holds the certificates, in PEM, of the authorities to trust in place of the system's. It is {file./path},
	// {env.NAME}, or the certificates themselves. The app reads a file again for each token request. Default: the system's.
	CA string `json:"ca,omitempty"`

	// ServerName is the name that the token endpoint's certificate must be for. It may contain global placeholders. Default: the
	// URL's host.
	ServerName string `json:"server_name,omitempty"`

	// Proxy is the URL of a network proxy (http, https, socks5 or socks5h) for token requests, or "none". It may be a
	// placeholder {env.NAME} or {file./path}. Requests to token endpoints on loopback never use a network proxy. CA also
	// applies to an https proxy, and ServerName cannot be combined with one.
	// Default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
	Proxy option.Source `json:"proxy,omitempty"`

	// DialTimeout is the limit for opening a connection. Default: 5s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// TLSRenegotiation sets how often the server may start another TLS handshake on the connection: "never", "once" or
	// "freely". IIS asks for a client certificate that way, unless it negotiates the certificate at once. TLS 1.3 has no
	// renegotiation. Default: never.
	TLSRenegotiation string `json:"tls_renegotiation,omitempty"`

	ca, proxy option.Reader
}

// renegotiation has the values of TokenTransport.TLSRenegotiation.
var renegotiation = map[string]tls.RenegotiationSupport{
	"":       tls.RenegotiateNever,
	"never":  tls.RenegotiateNever,
	"once":   tls.RenegotiateOnceAsClient,
	"freely": tls.RenegotiateFreelyAsClient,
}

// proxyNone is the value of TokenTransport.Proxy for no network proxy.
const proxyNone = "none"

func (t *TokenTransport) provision() error {
	var err error
	if t.CA != "" {
		if t.ca, err = option.NewReader(t.CA); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	if t.Proxy != "" && t.Proxy != proxyNone {
		if t.proxy, err = option.NewReader(string(t.Proxy)); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	if err = option.ReplaceGlobal("server_name", &t.ServerName); err != nil {
		return err
	}
	if t.DialTimeout < 0 {
		return errors.New("dial_timeout: a duration must be positive")
	}
	if _, ok := renegotiation[t.TLSRenegotiation]; !ok {
		return errors.New("tls_renegotiation: unknown value, must be never, once or freely")
	}
	return nil
}

// warn logs a warning for each file that users other than its owner can change. They could make the proxy trust another server.
func (t *TokenTransport) warn(logger *zap.Logger, fields ...zap.Field) {
	option.WarnOfFile(logger, "ca", t.ca, fields...)
	option.WarnOfFile(logger, "proxy", t.proxy, fields...)
}

// transportFiles are the contents of the files and variables of a TokenTransport.
type transportFiles struct {
	ca, proxy provider.Secret
}

// read reads the files and variables as they are now.
func (t *TokenTransport) read() (files transportFiles, err error) {
	if t.CA != "" {
		if files.ca, err = t.ca.ReadLines(); err != nil {
			return files, fmt.Errorf("ca: %w", err)
		}
	}
	if t.Proxy != "" && t.Proxy != proxyNone {
		if files.proxy, err = t.proxy.Read(); err != nil {
			return files, fmt.Errorf("proxy: %w", err)
		}
	}
	return files, nil
}

// check reads the files and variables once, and checks what they hold.
func (t *TokenTransport) check() (oauth.Options, error) {
	files, err := t.read()
	if err != nil {
		return oauth.Options{}, fmt.Errorf("transport: %w", err)
	}
	options, err := t.options(files)
	if err != nil {
		err = fmt.Errorf("transport: %w", err)
	}
	return options, err
}

// options returns the options of the HTTP client that sends one token request.
func (t *TokenTransport) options(files transportFiles) (oauth.Options, error) {
	o := oauth.Options{
		ServerName:    t.ServerName,
		NoProxy:       t.Proxy == proxyNone,
		DialTimeout:   time.Duration(t.DialTimeout),
		Renegotiation: renegotiation[t.TLSRenegotiation],
	}
	if t.CA != "" {
		o.RootCAs = x509.NewCertPool()
		if !o.RootCAs.AppendCertsFromPEM([]byte(files.ca.Reveal())) {
			return o, errors.New("ca: it contains no certificate in PEM format")
		}
	}
	if t.Proxy == "" || o.NoProxy {
		return o, nil
	}
	var err error
	o.Proxy, err = url.Parse(files.proxy.Reveal())
	if err != nil || o.Proxy.Hostname() == "" || !oauth.ValidPort(o.Proxy.Port()) || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, o.Proxy.Scheme) {
		return o, errors.New("proxy: it is not the URL of a proxy, such as http://proxy.example.com:3128")
	}
	if o.Proxy.Scheme == "https" && t.ServerName != "" { // Go would require this name in the proxy's certificate as well
		return o, errors.New("proxy: an https proxy cannot be used together with server_name")
	}
	return o, nil
}

func (t *TokenTransport) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "ca":
		return option.Secret(d, &t.CA)
	case "server_name":
		return option.String(d, &t.ServerName)
	case "proxy":
		return option.Secret(d, (*string)(&t.Proxy))
	case "dial_timeout":
		return option.Duration(d, &t.DialTimeout)
	case "tls_renegotiation":
		return option.Choice(d, &t.TLSRenegotiation, "never", "once", "freely")
	default:
		return option.Unrecognized(d, option.OfTransport)
	}
}
