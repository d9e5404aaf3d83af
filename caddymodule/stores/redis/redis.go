// Package redis keeps what replicas share in Redis or Valkey.
package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

func init() {
	caddy.RegisterModule(Store{})
}

// Store keeps what replicas share in Redis 6.2 or later, or in Valkey. That is one server, servers behind Redis Sentinel, or a
// cluster. Everything expires by itself, and the server decides a claim.
//
// A user of Redis needs few rights. This one has no others:
//
//	ACL SETUSER app on >password ~token_proxy/* -@all +getrange +get +set +del +eval
//
// With a Database other than 0, it needs +select as well. In a cluster, it needs +cluster|slots and +asking. A user of Sentinel
// needs +sentinel|get-master-addr-by-name alone.
//
// Every value may be {env.NAME} or {file./path}. A file with a user name, a password or a certificate is read again for
// each connection, so that it can be replaced without a reload. A connection that is open stays.
type Store struct {
	// Addresses are where the servers listen, each as host:port. One address is that of a single server, which can also be
	// a unix socket (unix//run/redis.sock). Several addresses are those of a cluster, of which not all must be known. With
	// MasterName, the addresses are those of the Sentinels. Required.
	Addresses []string `json:"addresses,omitempty"`

	// Cluster is true if the one address leads to a cluster, as the configuration endpoint of a managed cluster does.
	// Default: false.
	Cluster bool `json:"cluster,omitempty"`

	// Username is the name of an ACL user. Default: none, which stands for the user "default".
	Username string `json:"username,omitempty"`

	// Password is the user's password. Default: none.
	Password option.Source `json:"password,omitempty"`

	// Database is the number of the database, which a cluster does not have. Default: 0.
	Database int `json:"database,omitempty"`

	// MasterName is the name by which the Sentinels know the primary server. Default: none, no Sentinel is asked.
	MasterName string `json:"master_name,omitempty"`

	// SentinelUsername is the name of an ACL user of the Sentinels. Default: none.
	SentinelUsername string `json:"sentinel_username,omitempty"`

	// SentinelPassword is the password for the Sentinels. Default: none.
	SentinelPassword option.Source `json:"sentinel_password,omitempty"`

	// TLS encrypts the connections to the servers and to the Sentinels. Default: none, the connections are in the clear.
	TLS *TLS `json:"tls,omitempty"`

	user, sentinel login
}

// CaddyModule returns the Caddy module information.
func (Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.stores.redis",
		New: func() caddy.Module { return new(Store) },
	}
}

// Provision checks all that can be checked without a network.
func (s *Store) Provision(ctx caddy.Context) error {
	if err := s.replacePlaceholders(); err != nil {
		return err
	}
	for _, address := range s.Addresses {
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	if err := s.check(); err != nil {
		return err
	}
	var err error
	if s.user, err = newLogin("", s.Username, s.Password); err != nil {
		return err
	}
	if s.sentinel, err = newLogin("sentinel_", s.SentinelUsername, s.SentinelPassword); err != nil {
		return err
	}
	if s.TLS != nil {
		if err := s.TLS.provision(); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	s.hideSecrets(ctx.Logger())
	return nil
}

func (s *Store) replacePlaceholders() error {
	for i := range s.Addresses {
		if err := option.ReplaceGlobal("address", &s.Addresses[i]); err != nil {
			return err
		}
	}
	return option.ReplaceGlobal("master_name", &s.MasterName)
}

// check returns an error if options are missing or contradict each other.
func (s *Store) check() error {
	local := slices.ContainsFunc(s.Addresses, isSocket)
	switch {
	case len(s.Addresses) == 0:
		return errors.New("store redis needs an address")
	case repeated(s.Addresses):
		return errors.New("address: the same address stands twice")
	case s.Cluster && s.MasterName != "":
		return errors.New("cluster: Sentinel, which master_name is for, knows no clusters")
	case s.isCluster() && s.Database != 0:
		return errors.New("database: a cluster has the database 0 only; with Sentinel, several addresses need master_name")
	case s.Database < 0:
		return errors.New("database: the number is negative")
	case local && (s.isCluster() || s.MasterName != ""):
		return errors.New("address: a unix socket is the address of a single server")
	case local && s.TLS != nil:
		return errors.New("tls: a unix socket has no use for it")
	case s.Username != "" && s.Password == "":
		return errors.New("username: it needs a password")
	case s.SentinelUsername != "" && s.SentinelPassword == "":
		return errors.New("sentinel_username: it needs sentinel_password")
	case s.SentinelPassword != "" && s.MasterName == "":
		return errors.New("sentinel_password: it needs master_name")
	}
	return nil
}

func (s *Store) isCluster() bool {
	return s.Cluster || s.MasterName == "" && len(s.Addresses) > 1
}

// hideSecrets warns of secrets that are not well kept, and removes those that stand in the configuration from what code could
// print or marshal.
func (s *Store) hideSecrets(logger *zap.Logger) {
	hideSecret(logger, "password", s.user.password, &s.Password, option.WarnOfSecret)
	hideSecret(logger, "sentinel_password", s.sentinel.password, &s.SentinelPassword, option.WarnOfSecret)
	if s.TLS == nil {
		return
	}
	hideSecret(logger, "client_certificate_key", s.TLS.key, &s.TLS.ClientCertificateKey, option.WarnOfKey)
	if s.TLS.ca != nil {
		option.WarnOfFile(logger, "ca", *s.TLS.ca)
	}
}

func hideSecret(logger *zap.Logger, name string, reader *option.Reader, value *option.Source, warn func(*zap.Logger, string, option.Reader, ...zap.Field)) {
	if reader == nil {
		return
	}
	warn(logger, name, *reader)
	if reader.IsLiteral() {
		*value = ""
	}
}

// Expires implements share.Expiring.
func (s *Store) Expires() bool { return true }

// Open implements share.Opener. It uses no network, because the first call connects.
func (s *Store) Open(ctx context.Context) (share.Store, error) {
	client := s.newClient()
	context.AfterFunc(ctx, func() { _ = client.Close() })
	return &engine{client}, nil
}

// Interface guards
var (
	_ share.Opener          = (*Store)(nil)
	_ share.Expiring        = (*Store)(nil)
	_ caddy.Provisioner     = (*Store)(nil)
	_ caddyfile.Unmarshaler = (*Store)(nil)
)
