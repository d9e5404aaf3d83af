package token

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// lead is how much sooner than the others the replica that called last looks for the next token: when it is due, one
	// replica calls, and the others find what it has saved.
	lead = 500 * time.Millisecond

	// spread is the time over which the other replicas look. Where the token endpoint revokes the previous token, all of
	// them have the new one after lead and spread.
	spread = 2 * time.Second

	// maxPatience bounds how long requests wait for another replica's call before this one calls too.
	maxPatience = 8 * time.Second

	// minPoll and maxPoll are the pauses between two looks while requests wait for another replica's call.
	minPoll, maxPoll = 50 * time.Millisecond, 150 * time.Millisecond

	// minLook and maxLook are the pauses between two looks while the token still serves: doubling.
	minLook, maxLook = 200 * time.Millisecond, 10 * time.Second

	// failedLook is the pause between two looks while calls are held back.
	failedLook = time.Second
)

// Sharing is what a source remembers of the replicas that it shares its token with.
type Sharing struct {
	shared Shared

	made     time.Time
	next     atomic.Int64           // when to look again: a time.Duration since made, which a stepped clock does not change
	rejected atomic.Pointer[Secret] // the token that the API has rejected last

	// What follows is touched by the flight only.
	pause   time.Duration
	claimed bool
	lost    bool // the flight has lost a claim, so another replica was calling
}

// NewSharing makes what a source needs to share its token.
func NewSharing(with Shared) *Sharing { return &Sharing{shared: with, made: time.Now()} }

// due reports whether the store may be looked into again.
func (s *Sharing) due(now time.Time) bool { return !now.Before(s.dueAt()) }

// dueAt returns when the store may be looked into again.
func (s *Sharing) dueAt() time.Time { return s.made.Add(time.Duration(s.next.Load())) }

// after returns the later of the time and that of the next look.
func (s *Sharing) after(at time.Time) time.Time {
	if s != nil && s.dueAt().After(at) {
		return s.dueAt()
	}
	return at
}

// lookAgain sets when the store may be looked into again.
func (s *Sharing) lookAgain(at time.Time) { s.next.Store(int64(at.Sub(s.made))) }

// improves reports whether a token that another replica has saved is to replace the present one. A token that the API has
// rejected here does not come back, and neither does an older one, which the token endpoint may have revoked.
func (s *Sharing) improves(t, present *Token, now time.Time) bool {
	if !t.alive(now) || s.wasRejected(t.value) {
		return false
	}
	if !present.alive(now) {
		return true
	}
	if t.issued.Before(present.issued) || (present.rejected || present.due) && present.value.Equal(t.value) {
		return false
	}
	return t.fresh(now) || present.rejected || present.due
}

func (s *Sharing) wasRejected(value Secret) bool {
	rejected := s.rejected.Load()
	return rejected != nil && rejected.Equal(value)
}

// save leaves the token for the other replicas, and lets go of the claim.
func (s *Sharing) save(t *Token, note string) {
	if s == nil {
		return
	}
	now := time.Now()
	if t.alive(now) {
		issued := t.content()
		issued.Note = note
		s.shared.Save(context.Background(), Found{
			Issued:    issued,
			Age:       now.Sub(t.issued),
			Lifetime:  t.expires.Sub(t.issued),
			RefreshIn: t.refreshAt.Sub(t.issued),
		})
	}
	s.release(0, Secret{})
}

// holdBack lets go of the claim after a failure. If the token endpoint itself has answered, the other replicas leave it
// alone for as long as this one does. If it was not reached, they may be luckier.
func (s *Sharing) holdBack(failed *Error, proof Secret) {
	if s == nil {
		return
	}
	var hold time.Duration
	if failed.Status != 0 {
		hold = time.Until(failed.RetryAt)
	}
	if !failed.lasting() {
		proof = Secret{}
	}
	s.release(hold, proof)
}

// giveUp lets go of the claim of a flight that makes no call.
func (s *Sharing) giveUp() {
	if s != nil {
		s.release(0, Secret{})
	}
}

func (s *Sharing) release(hold time.Duration, refused Secret) {
	if s.claimed {
		s.claimed = false
		s.shared.Release(context.Background(), hold, refused)
	}
}
