package token

import "sync"

// maxBackground is how many flights that nobody waits for may be under way to one token endpoint at a time. Some hundred
// credentials that are all due at once, at a start or after an outage, would be an onslaught, and providers limit how
// often they may be asked.
const maxBackground = 4

// background holds the sources that are due, by token endpoint.
var background = lanes{byEndpoint: make(map[string]*lane)}

// lanes lets the flights that nobody waits for take turns, in a lane for each token endpoint: one that hangs delays its
// own credentials only. A caller who needs a token takes no turn.
type lanes struct {
	mu         sync.Mutex
	byEndpoint map[string]*lane // those in use
}

// lane is what is under way to one token endpoint, and what comes next.
type lane struct {
	flying  int
	waiting []*Source
}

// add flies for a source now, or when its turn has come.
func (l *lanes) add(endpoint string, s *Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of, ok := l.byEndpoint[endpoint]
	if !ok {
		of = new(lane)
		l.byEndpoint[endpoint] = of
	}
	if of.flying == maxBackground {
		of.waiting = append(of.waiting, s)
		return
	}
	of.flying++
	go l.fly(endpoint, s)
}

// fly flies for a source, and then for the next: even if the provider ends this goroutine (runtime.Goexit).
func (l *lanes) fly(endpoint string, s *Source) {
	defer l.next(endpoint)
	s.takeTurn()
}

func (l *lanes) next(endpoint string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.byEndpoint[endpoint]
	if len(of.waiting) > 0 {
		s := of.waiting[0]
		of.waiting[0] = nil
		of.waiting = of.waiting[1:]
		go l.fly(endpoint, s)
		return
	}
	of.flying--
	if of.flying == 0 {
		delete(l.byEndpoint, endpoint)
	}
}

// refreshInTurn starts a flight that nobody waits for when the token endpoint's lane has room, unless one is running.
func (s *Source) refreshInTurn() {
	if !s.flying.Load() && s.queued.CompareAndSwap(false, true) {
		background.add(s.config.Load().Endpoint, s)
	}
}

// takeTurn flies, unless no configuration wants it any more. Whoever has needed a token meanwhile has got it: then there
// is nothing left to do.
func (s *Source) takeTurn() {
	s.queued.Store(false)
	s.mu.Lock()
	resting := s.resting
	s.mu.Unlock()
	if !resting {
		_, _, _ = s.group.Do("", s.flight)
	}
}
