package token

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestAdoptedTokenInItsLastMoment replaces a token that another replica has left just before its end. Unless the token endpoint
// fails, it is not handed out.
func TestAdoptedTokenInItsLastMoment(t *testing.T) {
	for name, tc := range map[string]struct {
		left   time.Duration
		claim  Claim
		answer answer
		saved  bool // another replica saves the next token a second later
		want   string
		calls  int
	}{
		"this replica calls":             {time.Millisecond, ClaimWon, grants(hour), false, "token-1", 1},
		"the store cannot be used":       {time.Millisecond, ClaimUnknown, grants(hour), false, "token-1", 1},
		"another replica calls":          {time.Millisecond, ClaimLost, grants(hour), true, "next", 0},
		"another replica calls for long": {time.Millisecond, ClaimLost, grants(hour), false, "token-1", 1},
		"the token endpoint refuses":     {400 * time.Millisecond, ClaimWon, fails(errRefused), false, "other", 1},
		"another replica was refused":    {400 * time.Millisecond, ClaimHeld, grants(hour), false, "other", 0},
		"more than a moment is left":     {time.Second, ClaimWon, grants(hour), false, "other", 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			e, r := newEndpoint(tc.answer), new(replicas)
			s := e.sharing(t, r, Policy{})
			r.leave("other", hour-tc.left, hour, 55*time.Minute)
			r.answerClaims(claim(tc.claim))
			if tc.saved {
				time.AfterFunc(time.Second, func() { r.leave("next", 0, hour, 55*time.Minute) })
			}
			if got := mustAcquire(t, s).Value().Reveal(); got != tc.want {
				t.Errorf("served %q, want %q", got, tc.want)
			}
			e.wantCalls(t, tc.calls)
		})
	}
}

// TestTokenThatEndsWhileClaiming makes the call although another replica has left a token since the last look, because that is in
// its last moment.
func TestTokenThatEndsWhileClaiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.answerClaims(func(func() Secret) Claim {
			r.leave("other", hour-time.Millisecond, hour, 55*time.Minute)
			return ClaimWon
		})
		wantServed(t, e.sharing(t, r, Policy{}), "token-1", 0)
		e.wantCalls(t, 1)
	})
}

// TestEndWhileAnotherReplicaCalls waits for the token of another replica in the last part of a token's life.
func TestEndWhileAnotherReplicaCalls(t *testing.T) {
	const maxWait = 4 * time.Second // less than maxPatience
	for name, tc := range map[string]struct {
		left  time.Duration
		saved bool
		want  string
		calls int
		most  time.Duration // of the wait
	}{
		"the next token comes":               {5 * time.Second, true, "next", 1, 1500 * time.Millisecond},
		"none comes":                         {5 * time.Second, false, "token-1", 1, endPatience},
		"the next one comes at the very end": {time.Millisecond, true, "next", 1, 1500 * time.Millisecond},
		"none comes at the very end":         {time.Millisecond, false, "token-2", 2, maxWait},
		"the end is far":                     {11 * time.Second, true, "token-1", 1, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			e, r := newEndpoint(grants(hour)), new(replicas)
			s := e.sharing(t, r, Policy{MaxWait: maxWait})
			mustAcquire(t, s)
			s.Rest() // only the request below is to look
			advance(hour - tc.left)
			r.answerClaims(claim(ClaimLost))
			if tc.saved {
				time.AfterFunc(time.Second, func() { r.leave("next", 0, hour, 55*time.Minute) })
			}
			wantServed(t, s, tc.want, tc.most)
			e.wantCalls(t, tc.calls)
		})
	}
}

// TestAdoptedTokenIsNotFreshAtItsEnd looks for the next token before a short one ends, although the other replicas look later than
// the one that called.
func TestAdoptedTokenIsNotFreshAtItsEnd(t *testing.T) {
	inBubble(t, "short", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.leave("other", 0, time.Second, 800*time.Millisecond)
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "other", 0)
		s.Rest()
		advance(950 * time.Millisecond)
		wantServed(t, s, "token-1", time.Second)
	})
	inBubble(t, "the token endpoint issues the same token until it ends", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.leave("other", 0, time.Second, time.Second)
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "other", 0)
		s.Rest()
		advance(950 * time.Millisecond)
		wantServed(t, s, "other", 0)
	})
}
