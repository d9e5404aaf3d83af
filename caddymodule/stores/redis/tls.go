package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// TLS sets how connections to Redis are encrypted.
type TLS struct {
	// CA holds the certificates, in PEM, of the authorities to trust in place of the system's. Default: the system's.
	CA string `json:"ca,omitempty"`

	// ServerName is the name that the certificates of the servers and Sentinels must be for. Default: the host of each
	// address. Redis reports the servers of a cluster and the primary of Sentinel by their IP addresses, unless it is
	// configured to report names.
	ServerName string `json:"server_name,omitempty"`

	// ClientCertificate and ClientCertificateKey are the client's certificate and its key, in PEM. Default: none.
	ClientCertificate    option.Source `json:"client_certificate,omitempty"`
	ClientCertificateKey option.Source `json:"client_certificate_key,omitempty"`

	ca, certificate, key *option.Reader // nil if not configured
}

func (t *TLS) provision() error {
	if (t.ClientCertificate == "") != (t.ClientCertificateKey == "") {
		return errors.New("client_certificate and client_certificate_key need each other")
	}
	if err := option.ReplaceGlobal("server_name", &t.ServerName); err != nil {
		return err
	}
	for _, r := range []struct {
		name, value string
		into        **option.Reader
	}{
		{"ca", t.CA, &t.ca},
		{"client_certificate", string(t.ClientCertificate), &t.certificate},
		{"client_certificate_key", string(t.ClientCertificateKey), &t.key},
	} {
		if err := newReader(r.name, r.value, r.into); err != nil {
			return err
		}
	}
	_, err := t.config("")
	return err
}

// newReader sets a reader for an option that has a value.
func newReader(name, value string, into **option.Reader) error {
	if value == "" {
		return nil
	}
	reader, err := option.NewReader(value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*into = &reader
	return nil
}

// config returns the configuration of one connection, with the files as they are now.
func (t *TLS) config(address string) (*tls.Config, error) {
	config := &tls.Config{ServerName: t.ServerName}
	if t.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	if t.ca != nil {
		ca, err := t.ca.ReadLines()
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(ca.Reveal())) {
			return nil, errors.New("ca: no certificate in PEM is in it")
		}
	}
	if t.certificate == nil {
		return config, nil
	}
	pair, err := t.clientCertificate()
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// clientCertificate reads again if the key does not fit, because both files can be replaced between the two reads.
func (t *TLS) clientCertificate() (pair tls.Certificate, _ error) {
	for range 3 {
		certificate, err := t.certificate.ReadLines()
		if err != nil {
			return pair, fmt.Errorf("client_certificate: %w", err)
		}
		key, err := t.key.ReadLines()
		if err != nil {
			return pair, fmt.Errorf("client_certificate_key: %w", err)
		}
		if pair, err = tls.X509KeyPair([]byte(certificate.Reveal()), []byte(key.Reveal())); err == nil {
			return pair, nil
		}
	}
	// The text of crypto/tls could repeat a piece of the file.
	return pair, errors.New("client_certificate and client_certificate_key are not a certificate and its key in PEM")
}
