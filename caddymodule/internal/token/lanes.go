package token

import (
	"sync"
)

// maxBackground bounds the background flights that are under way to one token endpoint at a time. After a start or an
// outage, hundreds of credentials can be due at once, and providers limit the rate of token calls.
const maxBackground = 4

// background holds the sources that are due, by token endpoint.
var background = lanes{byEndpoint: make(map[string]*lane)}

// lanes lets background flights take turns, in a lane for each token endpoint. An endpoint that hangs delays only its
// own credentials. A request that needs a token does not wait for a turn.
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
