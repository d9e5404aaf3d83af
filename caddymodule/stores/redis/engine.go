package redis

import (
	"context"
	"errors"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

// maxValue bounds what is read of a value, in bytes. A sealed record is never larger.
const maxValue = 64 << 10

// The scripts are sent whole, because they are short, and a server that was restarted knows no script by its digest.
const (
	// claimScript returns the value that is there afterwards.
	claimScript = `if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end
return redis.call('GETRANGE', KEYS[1], 0, ARGV[3])`

	// replaceScript returns 1 if the claim was there.
	replaceScript = `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`

	// removeScript returns 1 if the claim was there.
	removeScript = `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`
)

// engine is the open store. Each operation is one command on one key, as a cluster demands.
type engine struct {
	client goredis.UniversalClient
}

// Load implements share.Store.
func (e *engine) Load(ctx context.Context, name string) ([]byte, error) {
	value, err := e.client.GetRange(ctx, name, 0, maxValue).Bytes()
	return checked("GETRANGE", value, err)
}

// Save implements share.Store.
func (e *engine) Save(ctx context.Context, name string, value []byte, life time.Duration) error {
	return failed("SET", e.client.Set(ctx, name, value, max(life, time.Millisecond)).Err())
}

// Delete implements share.Store.
func (e *engine) Delete(ctx context.Context, name string) error {
	return failed("DEL", e.client.Del(ctx, name).Err())
}

// Claim implements share.Claimer.
func (e *engine) Claim(ctx context.Context, name string, claim []byte, life time.Duration) ([]byte, error) {
	text, err := e.client.Eval(ctx, claimScript, []string{name}, claim, milliseconds(life), maxValue).Text()
	return checked("EVAL", []byte(text), err)
}

// Replace implements share.Claimer. A call that go-redis repeats, because the connection ended before the answer, can
// report false although it did its work.
func (e *engine) Replace(ctx context.Context, name string, claim, next []byte, life time.Duration) (bool, error) {
	var done bool
	var err error
	if next == nil {
		done, err = e.client.Eval(ctx, removeScript, []string{name}, claim).Bool()
	} else {
		done, err = e.client.Eval(ctx, replaceScript, []string{name}, claim, next, milliseconds(life)).Bool()
	}
	return done, failed("EVAL", err)
}

// milliseconds is a life as Redis takes it: 0 would be refused.
func milliseconds(life time.Duration) int64 { return max(life.Milliseconds(), 1) }

// checked returns a value that has been read. Redis answers GETRANGE of nothing with an empty text.
func checked(command string, value []byte, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, failed(command, err)
	case len(value) == 0:
		return nil, nil
	case len(value) > maxValue:
		return nil, errors.New("redis: the value is larger than 64 KiB")
	}
	return value, nil
}

// Interface guards
var (
	_ share.Store   = (*engine)(nil)
	_ share.Claimer = (*engine)(nil)
)
