package dpop

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// maxServers bounds how many servers a client remembers. To forget one costs a request that the server answers with a
	// new nonce.
	maxServers = 64

	// maxNonce is the length of the longest nonce that is used. It goes into a header field of every request.
	maxNonce = 1024

	// maxName is the length of the longest name of a server that is remembered. The application can choose the host in it.
	maxName = 512

	// freshNonce is how long after the last answer of a server its nonce still counts as the current one.
	freshNonce = time.Minute
)

// servers is what servers have told a client about proofs: the nonces that they demand, and their clocks. The zero value is
// ready for use, and it is safe for concurrent use.
type servers struct {
	mu    sync.Mutex
	known map[string]server // by address and origin
	ahead time.Duration     // of the server that answered last
}

// server is what is known of one server.
type server struct {
	nonce    string
	ahead    time.Duration // by how much its clock is ahead of ours
	answered time.Time     // the last time
}

// mayDemandNonce reports whether the server may demand a nonce other than the one that is known.
func (s server) mayDemandNonce(now time.Time) bool {
	return s.answered.IsZero() || s.nonce != "" && now.Sub(s.answered) >= freshNonce
}

// differs reports whether a server can accept a proof that it would not have accepted by what was known before.
func (s server) differs(before server) bool {
	return s.nonce != before.nonce || (s.ahead-before.ahead).Abs() >= time.Second
}

// clock returns by how much the clock of the server that answered last is ahead of ours.
func (s *servers) clock() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ahead
}

// find returns what is known of a server.
func (s *servers) find(name string) (server, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.known[name]
	return found, ok
}

// learn does the work of Prover.Learn. It returns what is then known of the server.
func (s *servers) learn(from *Proof, answer http.Header, accepted bool) server {
	nonce := answer.Get("DPoP-Nonce")
	now := time.Now()
	ahead, hasClock := clockOf(answer, from.sent, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.known[from.server]
	if !ok {
		found = from.of
	}
	if isNonce(nonce) {
		found.nonce = nonce
	}
	if hasClock && !accepted {
		found.ahead, s.ahead = ahead, ahead
	}
	found.answered = now
	s.remember(from.server, found)
	return found
}

// remember stores what is known of a server. If that is one server too many, it forgets another one.
func (s *servers) remember(name string, of server) {
	if len(name) > maxName {
		return
	}
	if s.known == nil {
		s.known = make(map[string]server)
	}
	if _, ok := s.known[name]; !ok && len(s.known) >= maxServers {
		for other := range s.known {
			delete(s.known, other)
			break
		}
	}
	s.known[name] = of
}

// clockOf returns by how much the clock of a server is ahead of ours; it is negative if that clock is behind. Date has whole
// seconds and can be from any moment between the request and the answer. So it is 0 unless the clocks must differ. A cache
// answers with the Date of an earlier time and with Age (RFC 9111 section 5.1).
func clockOf(answer http.Header, sent, received time.Time) (time.Duration, bool) {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil || answer.Get("Age") != "" {
		return 0, false
	}
	switch end := date.Add(time.Second); {
	case date.After(received):
		return date.Sub(received), true
	case end.Before(sent):
		return end.Sub(sent), true
	default:
		return 0, true
	}
}

// isNonce reports whether a text is a nonce (RFC 9449 section 8.1).
func isNonce(s string) bool {
	if s == "" || len(s) > maxNonce {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) < 0
}
