package share

import (
	"context"
	"time"
)

// Store is an engine in which replicas keep what they share. Its values are sealed: an engine sees neither tokens nor who
// they belong to, and what it returns is not trusted. A Store is safe for concurrent use.
//
// Every failure counts as a value that is not there, so that a Store need not tell one from the other. No text of an error is
// shown, except that of an [Error]. The package calls a Store in a goroutine of its own and waits for a short time only: a method that outlives its context holds up no request.
type Store interface {
	// Load returns the value of name. It returns nil and no error if there is none.
	Load(ctx context.Context, name string) ([]byte, error)

	// Save sets the value of name. A store that can lets the value expire after life.
	Save(ctx context.Context, name string, value []byte, life time.Duration) error

	// Delete removes name and its value. It is no error if there is none.
	Delete(ctx context.Context, name string) error
}

// Claimer is a Store that can decide by itself which of several replicas has a claim. For a Store that cannot, the package
// uses values and waiting times.
type Claimer interface {
	// Claim sets the value of name for life, unless there is one. It returns the value that is there afterwards: the claim
	// that was passed in if it was set.
	Claim(ctx context.Context, name string, claim []byte, life time.Duration) ([]byte, error)

	// Replace sets the value of name to next for life, if it is still the given claim. With a next of nil it removes the
	// value. It reports whether the claim was there.
	Replace(ctx context.Context, name string, claim, next []byte, life time.Duration) (bool, error)
}

// Opener makes a Store. A failed Open is tried again after a pause, so that a server that is down at the start delays
// nothing. The context ends when no configuration uses the store any more, and with it what the Store holds open.
type Opener interface {
	Open(ctx context.Context) (Store, error)
}

// OpenerFunc is a function that is an Opener.
type OpenerFunc func(ctx context.Context) (Store, error)

// Open implements Opener.
func (f OpenerFunc) Open(ctx context.Context) (Store, error) { return f(ctx) }

// Expiring is an Opener whose Store removes a value when its life is over.
type Expiring interface {
	// Expires reports whether it does.
	Expires() bool
}

// Keyed is an Opener that depends on more than its own configuration. Loaded configurations have a store in common if its
// configuration and its PoolKey are the same.
type Keyed interface {
	PoolKey() string
}
