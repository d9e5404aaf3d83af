package redis

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// connections bounds the connections to each server. One call takes a millisecond.
	connections = 8

	// idleConnections is how many connections to each server stay open without a call.
	idleConnections = 1

	// idleTime is the age at which an unused connection is not trusted any more, because networks forget connections
	// without a word, and a call has no time to find out.
	idleTime = time.Minute

	// retries is how often a call is tried again when its connection has ended, or the server is not ready. The pauses
	// leave room for it within the time that a call has.
	retries       = 1
	shortestPause = 10 * time.Millisecond
	longestPause  = 50 * time.Millisecond

	// callTimeout bounds connecting, and each command whose context has no deadline.
	callTimeout = time.Second

	// bufferSize is the size of each of the two buffers of a connection. A sealed token has about 2 KB.
	bufferSize = 4 << 10
)

// routeLogOnce routes the lines of go-redis, whose logger is one for the process, to Caddy's log.
var routeLogOnce = sync.OnceFunc(func() { goredis.SetLogger(newLibraryLog()) })

// newClient returns a client that connects when it is first used.
func (s *Store) newClient() goredis.UniversalClient {
	routeLogOnce()
	o := s.options()
	if s.MasterName != "" {
		o.Dialer = s.dialPrimary
		return goredis.NewClient(o.Simple())
	}
	if !s.isCluster() {
		return goredis.NewClient(o.Simple())
	}
	cluster := o.Cluster()
	cluster.MaxRetries = -1               // the client of the cluster tries again by itself, at another server too
	cluster.DisableRoutingPolicies = true // they ask each server for a description of all its commands
	return goredis.NewClusterClient(cluster)
}

func (s *Store) options() *goredis.UniversalOptions {
	o := &goredis.UniversalOptions{
		DB:                         s.Database,
		CredentialsProviderContext: s.user.credentials,
		Dialer:                     s.dial,

		// Nothing is sent for a connection but its login, so that the user needs no rights for more.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},

		MaxRetries:      retries,
		MinRetryBackoff: shortestPause,
		MaxRetryBackoff: longestPause,

		ContextTimeoutEnabled: true,
		DialTimeout:           callTimeout,
		DialerRetries:         1,
		ReadTimeout:           callTimeout,
		WriteTimeout:          callTimeout,
		PoolTimeout:           callTimeout,

		PoolSize:         connections,
		PipelinePoolSize: -1, // no pipelines
		MaxIdleConns:     idleConnections,
		ConnMaxIdleTime:  idleTime,
		ReadBufferSize:   bufferSize,
		WriteBufferSize:  bufferSize,
	}
	for _, address := range s.Addresses {
		o.Addrs = append(o.Addrs, strings.TrimPrefix(address, socketPrefix)) // go-redis takes a path for a unix socket
	}
	return o
}

// dial connects in place of go-redis, whose TLS handshake does not end with the context, and whose certificates stay as
// they were at the start.
func (s *Store) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := s.connect(ctx, network, address)
	if err != nil {
		return nil, harmless(err)
	}
	return bound(conn), nil
}

func (s *Store) connect(ctx context.Context, network, address string) (net.Conn, error) {
	if s.TLS == nil {
		return dialer.DialContext(ctx, network, address)
	}
	config, err := s.TLS.config(address)
	if err != nil {
		return nil, err
	}
	secure := tls.Dialer{NetDialer: dialer, Config: config}
	return secure.DialContext(ctx, network, address)
}

// dialer sends no keep-alive probes, because a connection that is unused for long is not used again.
var dialer = &net.Dialer{KeepAlive: -1}
