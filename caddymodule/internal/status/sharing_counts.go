package status

import (
	"slices"
)

// shares counts what the configurations that share a credential have counted. Each configuration counts from zero, and a
// counter must not go back when one ends.
type shares struct {
	live                       []*member
	endedClaims, endedUnopened map[string]uint64
}

// member is a configuration in force that shares the credential.
type member struct{ now func() Sharing }

// join adds a configuration that came into force. The function now returns its counts.
func (s *shares) join(now func() Sharing) *member {
	m := &member{now}
	s.live = append(s.live, m)
	return m
}

// leave removes a configuration that ends, and keeps its counts. It has no effect on a configuration that has left before.
func (s *shares) leave(m *member) {
	i := slices.Index(s.live, m)
	if i < 0 {
		return
	}
	counts := m.now()
	s.endedClaims, s.endedUnopened = sum(s.endedClaims, counts.Claims), sum(s.endedUnopened, counts.UnopenedTotal)
	s.live = slices.Delete(s.live, i, i+1)
}

// inUse reports whether a configuration in force shares the credential.
func (s *shares) inUse() bool { return len(s.live) > 0 }

// counts returns the claims by outcome, and the values that could not be opened by reason, of all configurations.
func (s *shares) counts() (claims, unopened map[string]uint64) {
	claims, unopened = sum(s.endedClaims), sum(s.endedUnopened)
	for _, m := range s.live {
		now := m.now()
		claims, unopened = sum(claims, now.Claims), sum(unopened, now.UnopenedTotal)
	}
	return claims, unopened
}

// sum adds counters by their labels.
func sum(all ...map[string]uint64) map[string]uint64 {
	total := make(map[string]uint64)
	for _, counters := range all {
		for label, n := range counters {
			total[label] += n
		}
	}
	return total
}
