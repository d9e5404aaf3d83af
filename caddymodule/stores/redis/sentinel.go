package redis

import (
	"context"
	"errors"
	"net"

	goredis "github.com/redis/go-redis/v9"
)

// dialPrimary connects to the server that Sentinel knows as the primary. It asks for each connection, and keeps none to a
// Sentinel, because a Sentinel that makes another server the primary ends the connections of clients to the old one. (The client
// of go-redis keeps a subscription instead, with a probe every three seconds, and the password that it began with.)
func (s *Store) dialPrimary(ctx context.Context, network, _ string) (net.Conn, error) {
	address, err := s.primary(ctx)
	if err != nil {
		return nil, harmless(err)
	}
	return s.dial(ctx, network, address)
}

// primary asks all Sentinels at once, because one that does not answer would use up the time, and returns the first answer.
func (s *Store) primary(ctx context.Context) (address string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		address string
		err     error
	}
	answers := make(chan answer, len(s.Addresses))
	for _, sentinel := range s.Addresses {
		go func() {
			address, err := s.ask(ctx, sentinel)
			answers <- answer{address, err}
		}()
	}
	for range s.Addresses {
		a := <-answers
		if a.err == nil {
			return a.address, nil
		}
		err = a.err
	}
	return "", failed("Sentinel", err)
}

// ask asks one Sentinel for the address of the primary.
func (s *Store) ask(ctx context.Context, sentinel string) (string, error) {
	o := s.options().Simple()
	o.Addr = sentinel
	o.DB = 0
	o.CredentialsProviderContext = s.sentinel.credentials
	o.MaxRetries = -1
	client := goredis.NewSentinelClient(o)
	defer client.Close()
	answer, err := client.GetMasterAddrByName(ctx, s.MasterName).Result()
	if err != nil {
		return "", err
	}
	if len(answer) != 2 {
		return "", errors.New("it is not an address")
	}
	return net.JoinHostPort(answer[0], answer[1]), nil
}
