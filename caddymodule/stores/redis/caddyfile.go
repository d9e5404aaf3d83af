package redis

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis {
//	    address           <host:port...>|unix/<path>
//	    cluster
//	    username          <name>
//	    password          {file./path}|{env.NAME}
//	    database          <number>
//	    master_name       <name>
//	    sentinel_username <name>
//	    sentinel_password {file./path}|{env.NAME}
//	    tls {
//	        ca                     {file./path}|{env.NAME}
//	        server_name            <name>
//	        client_certificate     {file./path}|{env.NAME}
//	        client_certificate_key {file./path}|{env.NAME}
//	    }
//	}
func (s *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if d.NextArg() {
		return d.Err("store redis takes no value: its options stand in its block")
	}
	if _, err := option.Block(d, s.unmarshalOption); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (s *Store) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "address":
		return s.unmarshalAddresses(d)
	case "cluster":
		s.Cluster = true
		return option.NoValue(d)
	case "username":
		return option.Secret(d, &s.Username)
	case "password":
		return option.Secret(d, (*string)(&s.Password))
	case "database":
		return s.unmarshalDatabase(d)
	case "master_name":
		return option.String(d, &s.MasterName)
	case "sentinel_username":
		return option.Secret(d, &s.SentinelUsername)
	case "sentinel_password":
		return option.Secret(d, (*string)(&s.SentinelPassword))
	case "tls":
		if err := option.NoValue(d); err != nil {
			return err
		}
		s.TLS = new(TLS)
		_, err := option.Block(d, s.TLS.unmarshalOption)
		return err
	default:
		return option.Unrecognized(d, option.OfRedis)
	}
}

func (s *Store) unmarshalAddresses(d *caddyfile.Dispenser) error {
	var err error
	if s.Addresses, err = option.Values(d); err != nil {
		return err
	}
	if slices.Contains(s.Addresses, "") {
		return d.Err("address: a value is empty; use an address such as redis.internal:6379")
	}
	for _, address := range s.Addresses {
		if strings.Contains(address, "{") { // a placeholder, which is replaced when the configuration is loaded
			continue
		}
		if err := checkAddress(address); err != nil {
			return d.Errf("address: %v", err)
		}
	}
	return nil
}

func (s *Store) unmarshalDatabase(d *caddyfile.Dispenser) error {
	var text string
	if err := option.String(d, &text); err != nil {
		return err
	}
	number, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return d.Err("database: it is not the number of a database, such as 0 or 1")
	}
	s.Database = int(number)
	return nil
}

func (t *TLS) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "ca":
		return option.Secret(d, &t.CA)
	case "server_name":
		return option.String(d, &t.ServerName)
	case "client_certificate":
		return option.Secret(d, (*string)(&t.ClientCertificate))
	case "client_certificate_key":
		return option.Secret(d, (*string)(&t.ClientCertificateKey))
	default:
		return option.Unrecognized(d, option.OfRedisTLS)
	}
}
