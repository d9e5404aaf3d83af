package token

import "time"

const (
	// deadAfter is how long the API must have rejected a token without accepting it once, before the token counts as dead.
	deadAfter = 10 * time.Second

	// contestedDeadAfter is the same for a token that the API has accepted after it had rejected it. The API rejects such a
	// token on one path and accepts it on others, so a rejection alone means little.
	contestedDeadAfter = 5 * time.Minute
)

// dead reports whether t serves no request, although it has not expired, and the token endpoint issues no other token. Both of
// these must hold:
//
//   - The token endpoint has refused the credential, and has issued no token since. Other failures in between, and a changed
//     proof, do not matter.
//   - The API has rejected t for 10 s and has not accepted it once in that time. If the API has accepted t after an earlier
//     rejection, it must have rejected it for 5 minutes.
//
// So a token that the API accepts is not dead for the next 10 s, and for the next 5 minutes if the API had rejected it before.
// A path that rejects every token, beside paths that are in use, cannot make the state flap.
func (s *Source) dead(t *Token, now time.Time) bool {
	return s.refused.Load() && t.alive(now) && t.rejectedAlone(now)
}

// rejectedAlone reports whether the API has rejected the token for long enough without accepting it.
func (t *Token) rejectedAlone(now time.Time) bool {
	if t.rejections == nil || t.accepted.Load() {
		return false
	}
	patience := deadAfter
	if t.rejections.outlived {
		patience = contestedDeadAfter
	}
	return now.Sub(t.rejections.since) >= patience
}

// errDead is why a source with a dead token is not ready.
func errDead(f *failure) *Error {
	e := &Error{Kind: Refused, Reason: "the API rejects the token, and the token endpoint refuses the credential"}
	if f != nil && f.err.lasting() {
		e.Status, e.Code = f.err.Status, f.err.Code
	}
	return e
}
