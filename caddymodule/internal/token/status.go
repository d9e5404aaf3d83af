package token

import (
	"context"
	"time"
)

// State is where in its life a source's token is.
type State string

// The states of a token.
const (
	// StateNone: there is no token.
	StateNone State = "none"

	// StateFresh: the token is served, and nothing else happens.
	StateFresh State = "fresh"

	// StateStale: the token is served, and due to be refreshed.
	StateStale State = "stale"

	// StateRejected: the API has rejected the token. It is served only where no other can be had.
	StateRejected State = "rejected"

	// StateExpired: the token has expired, and is not served.
	StateExpired State = "expired"
)

// Status is a picture of a source.
type Status struct {
	// State is the token's state.
	State State

	// Token is the token; empty in StateNone.
	Token Secret

	// Issued, RefreshAt and Expires are the token's times: when it was asked for, when it is due to be refreshed, and
	// when it expires. They are zero in StateNone.
	Issued, RefreshAt, Expires time.Time

	// DPoP is set if the token is bound to a key (RFC 9449).
	DPoP bool

	// Dead is set if the token serves no request although it has not expired: the API rejects it, and the token endpoint
	// refuses the credential. See Source.Ready.
	Dead bool

	// Fetching is set while a call is running.
	Fetching bool

	// Failure is why the last call failed; nil if it succeeded, or if no call was made. No request causes a call before
	// Failure.RetryAt, unless the proof changes.
	Failure *Error
}

// Status returns a picture of the source as it is now. It changes nothing.
func (s *Source) Status() Status {
	status := Status{State: StateNone, Fetching: s.flying.Load()}
	if f := s.failure.Load(); f != nil {
		status.Failure = f.err
	}
	t := s.current.Load()
	if t == nil {
		return status
	}
	now := time.Now()
	status.State, status.Dead = t.state(now), s.dead(t, now)
	status.Token, status.DPoP = t.value, t.provable()
	status.Issued, status.RefreshAt, status.Expires = t.issued, t.refreshAt, t.expires
	return status
}

func (t *Token) state(now time.Time) State {
	switch {
	case !t.alive(now):
		return StateExpired
	case t.rejected:
		return StateRejected
	case t.fresh(now):
		return StateFresh
	default:
		return StateStale
	}
}

// Idle reports whether the source has no valid token and is not fetching one. A source whose token is valid was used within
// that token's lifetime or the one before, because unused tokens are not replaced.
func (s *Source) Idle() bool { return !s.flying.Load() && !s.current.Load().alive(time.Now()) }

// Ready reports whether the source has a valid token, and starts a fetch if it has none. The error is why the last call
// failed, or nil. A call of Ready counts as use, so that regular readiness checks keep the token from expiring.
//
// A token that is dead does not count: one that the API has rejected for 10 s without accepting it, while the token endpoint
// refuses the credential. It takes 5 minutes of rejections if the API has accepted the token after an earlier rejection, as
// an API does with one path that rejects every token. The first request that the API accepts, and the next token, make the
// source ready again.
func (s *Source) Ready() (bool, *Error) {
	now := time.Now()
	if t := s.current.Load(); t.alive(now) {
		t.touch()
		if !t.fresh(now) && s.mayRefresh(now) {
			s.refreshInTurn()
		}
		if s.dead(t, now) {
			return false, errDead(s.failure.Load())
		}
		return true, nil
	}
	failed := s.backingOff(now)
	s.await(failed)
	if failed == nil || s.mayLook(now) {
		s.refreshInTurn()
	}
	if f := s.failure.Load(); f != nil { // also while the next call is under way, which may take long
		return false, f.err
	}
	return false, nil
}

// Refresh calls the token endpoint now, even if the token is fresh or calls are held back, and returns what came of it.
// A call that is running already counts. The token is served until there is another.
func (s *Source) Refresh(ctx context.Context) error {
	select {
	case result := <-s.group.DoChan("", s.forcedFlight):
		return result.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Purge forgets the token and the failure. The next request waits for a new token; with Policy.Prefetch, it is fetched
// in the background.
func (s *Source) Purge() {
	s.mu.Lock()
	s.current.Store(nil)
	s.failure.Store(nil)
	inForce := len(s.started) > 0
	s.mu.Unlock()
	if config := s.config.Load(); inForce && config.Policy.Prefetch {
		s.refreshInTurn()
	}
}
